"""Protocols: what is scored against what, and the numbers that come of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cmr_bench.evaluation import metrics
from cmr_bench.evaluation.bootstrap import Resamples, interval
from cmr_bench.evaluation.categories import CategoryScores, Labels, category_draws, category_metrics, category_scores
from cmr_bench.evaluation.definitions import definition, unit
from cmr_bench.evaluation.identities import PREFIX as IDENTITY
from cmr_bench.evaluation.identities import identities
from cmr_bench.evaluation.metrics import Floats
from cmr_bench.evaluation.parts import Ranker
from cmr_bench.evaluation.postprocess import flags_of
from cmr_bench.evaluation.qrels import Qrels, qrels_draws, qrels_metrics, qrels_scores
from cmr_bench.evaluation.queries import Queries
from cmr_bench.evaluation.ranks import Ranks, folds_of_images, links
from cmr_bench.evaluation.rerank import Directed
from cmr_bench.evaluation.scores import ArrayLike, ScoreSource, materialise
from cmr_bench.evaluation.sharing import Sharing
from cmr_bench.evaluation.subsets import SEED, Part, Subsets
from cmr_bench.evaluation.ties import BestMatches
from cmr_bench.support.errors import DataError, UsageError

# The whole matrix of MSCOCO's 5,000 x 25,000 test scores; below this, protocols that need several passes keep it.
_KEPT_BYTES = 512 * 10**6


@dataclass(frozen=True)
class Protocol:
    """What is scored.

    Args:
        folds: score also this many equal folds of consecutive images, and report the mean over folds; 5 for MSCOCO 1K.
        subsets: score also such draws of pairs, and report the mean over draws; 10 of 1,000 and of 10,000 for Recipe1M.
        bootstrap: resamples for the confidence intervals, 0 for none.
        category: whether to score category retrieval; if omitted, wherever there are labels.
        instance: whether to score instance retrieval.
        postprocess: name of a post-processing, see :data:`~cmr_bench.evaluation.postprocess.POSTPROCESSES`; such a
            result is transductive.
        confidence: fraction of the resamples inside an interval.
        seed: of the resamples.
    """

    folds: int | None = None
    subsets: tuple[Subsets, ...] = ()
    bootstrap: int = 0
    category: bool | None = None
    instance: bool = True
    postprocess: str | None = None
    confidence: float = 0.95
    seed: int = 0

    def __post_init__(self) -> None:
        if self.folds is not None and self.folds < 1:
            raise UsageError(f"folds must be 1 or more, not {self.folds}")
        if self.bootstrap < 0:
            raise UsageError(f"bootstrap is a number of resamples, 0 for none, not {self.bootstrap}")
        if not 0 < self.confidence < 1:
            raise UsageError(f"confidence lies between 0 and 1, not {self.confidence}")
        if self.subsets and not self.instance:
            raise UsageError("subsets need instance retrieval, which is off")
        if not self.instance and self.category is False:
            raise UsageError("nothing to score: instance and category retrieval are both off")


@dataclass
class Evaluation:
    """Everything measured in one evaluation, unrounded.

    ``metrics`` by name, with ``units`` and ``definitions`` for each; ``tie_rate`` is the share of queries whose match
    shares its score with another item; ``n_queries`` are
    the images and texts that ask; ``intervals`` are bootstrap percentiles (low, high); ``curves`` hold the
    precision-recall curves; ``excluded`` counts the category queries without a relevant item, per direction; ``flags``
    say what a reader must know (``transductive``). ``ranks``, ``categories``, ``identities`` and ``qrels`` keep the
    values of every query, for paired tests, and ``subsets`` those of every draw; ``identity`` is that of the images
    that ask, where images share one.
    """

    metrics: dict[str, float]
    tie_rate: float
    n_images: int
    n_texts: int
    protocol: Protocol
    n_queries: tuple[int, int] = (0, 0)
    intervals: dict[str, tuple[float, float]] = field(default_factory=dict)
    curves: dict[str, list[float]] = field(default_factory=dict)
    excluded: dict[str, int] = field(default_factory=dict)
    flags: tuple[str, ...] = ()
    ranks: Ranks | None = None
    categories: dict[str, CategoryScores] = field(default_factory=dict)
    qrels: dict[str, CategoryScores] = field(default_factory=dict)
    identity: NDArray[np.int64] | None = None
    identities: dict[str, CategoryScores] = field(default_factory=dict)
    subsets: dict[str, list[tuple[Part, Ranks]]] = field(default_factory=dict)

    @property
    def units(self) -> dict[str, str]:
        """Unit of every metric."""
        return {key: unit(key) for key in self.metrics}

    @property
    def definitions(self) -> dict[str, str]:
        """Definition of every metric in words."""
        return {key: definition(key, self.identity is not None) for key in self.metrics}

    def record(self) -> dict[str, Any]:
        """Return the conditions of the evaluation as the result of a run keeps them."""
        return {
            "folds": self.protocol.folds,
            **({"subsets": [*map(str, self.protocol.subsets)], "subset_seed": SEED} if self.protocol.subsets else {}),
            "bootstrap": self.protocol.bootstrap,
            "postprocess": self.protocol.postprocess,
            **({} if self.identity is None else {"identities": len(np.unique(self.identity))}),
            "definitions": self.definitions,
            "excluded": self.excluded,
        }


def evaluate(
    scores: ScoreSource,
    image_of_text: ArrayLike,
    labels: ArrayLike | None = None,
    *,
    identity: ArrayLike | None = None,
    protocol: Protocol | None = None,
    queries: Queries | None = None,
    judged: Mapping[str, Qrels] | None = None,
    sharing: Sharing | None = None,
) -> Evaluation:
    """Score a split under a protocol.

    Args:
        scores: what is scored.
        image_of_text: ``(n_texts,)`` row of the image that a text belongs to.
        labels: category labels of the images, ``(n_images,)`` or multi-hot ``(n_images, n_classes)``.
        identity: identity of each image, ``(n_images,)``: images and texts of one match each other; if omitted, an
            image and its own texts do.
        protocol: what is scored; the default is both kinds of retrieval, as far as there are labels.
        queries: who asks; left out, everybody does, and every image has a text.
        judged: relevance judgments by direction, i2t and t2i; their metrics are named ``qrels_...``.
        sharing: how the work is spread over processes, every one of which gets the whole evaluation.

    Raises:
        DataError: for malformed links, labels, identities or scores, an image without a text, labels that are missing.
        UsageError: for folds that do not divide the images, subsets of more than there are, an unknown post-processing.
    """
    protocol = Protocol() if protocol is None else protocol
    owner = links(image_of_text, scores.n_images, scores.n_texts, distractors=queries is not None)
    classes = None if labels is None or protocol.category is False else Labels(labels, scores.n_images)
    of_images = None if identity is None or not protocol.instance else identities(identity, scores.n_images)
    _check(protocol, scores.n_images, classes is not None, bool(judged))
    parts = {each.prefix: each.draw(owner, None if queries is None else queries.texts) for each in protocol.subsets}
    if classes is not None or of_images is not None or protocol.postprocess or judged or parts:
        scores = materialise(scores, _KEPT_BYTES, sharing=sharing)
    asked = owner if queries is None else queries.links(owner)
    result = Evaluation({}, 0.0, scores.n_images, scores.n_texts, protocol)
    result.n_queries = (scores.n_images if queries is None else int(queries.images.sum()), len(asked))
    result.flags = flags_of(protocol.postprocess)
    asking = None if queries is None else (queries.images, queries.texts)
    ranker = Ranker(protocol.postprocess, of_images, queries is not None, sharing)
    ranked = _add_instance(result, scores, owner, ranker, queries)
    for prefix, draws in parts.items():
        found = [(part, ranker.part(scores, part)) for part in draws]
        result.metrics |= subset_metrics(prefix, [ranks for _, ranks in found])
        result.subsets[prefix] = found if queries is None else [(queries.part(part), ranks) for part, ranks in found]
    if classes is not None:
        _add_categories(result, _categories(ranked, owner, classes, asking, sharing))
        if not protocol.instance:
            result.tie_rate = float(np.mean(np.concatenate([found.tied for found in result.categories.values()])))
    if judged:
        who = None if asking is None else dict(zip(("i2t", "t2i"), asking, strict=True))
        _add_qrels(result, qrels_scores({"i2t": ranked.images, "t2i": ranked.texts}, judged, who, sharing=sharing))
    if protocol.bootstrap:
        result.intervals = _intervals(result, asked)
    return result


def _check(protocol: Protocol, n_images: int, labelled: bool, judged: bool) -> None:
    """Refuse a protocol that the data cannot give."""
    if protocol.category and not labelled:
        raise DataError("category retrieval needs labels of the images, and this data has none: pass labels")
    if not (labelled or protocol.instance or judged):
        raise UsageError("nothing to score: instance retrieval is off and there are no labels")
    if protocol.folds is not None:
        folds_of_images(n_images, protocol.folds)


def _add_instance(
    result: Evaluation, scores: ScoreSource, owner: NDArray[np.int64], ranker: Ranker, queries: Queries | None
) -> Directed:
    """Rank the whole split and its folds; return what it is ranked by."""
    protocol, identity = result.protocol, ranker.identity
    if not (protocol.postprocess or protocol.instance):
        return Directed(scores, scores)
    ranked, ranks, matched = ranker.whole(scores, owner, protocol.folds)
    if protocol.instance:
        result.ranks = ranks if queries is None else queries.ranks(ranks)
        result.tie_rate = result.ranks.tie_rate
        result.metrics |= instance_metrics(result.ranks, owner if queries is None else queries.links(owner))
    if identity is not None:
        result.identity, result.identities = identity, matched
        if queries is not None:
            result.identity = identity[queries.images]
            result.identities = {"i2t": matched["i2t"].take(queries.images), "t2i": matched["t2i"].take(queries.texts)}
        result.metrics |= category_metrics(result.identities, IDENTITY)
    return ranked


def _add_qrels(result: Evaluation, found: dict[str, CategoryScores]) -> None:
    result.qrels = found
    result.metrics |= qrels_metrics(found)
    result.excluded |= {f"qrels {way}": scores.excluded for way, scores in found.items()}
    if result.ranks is None and not result.categories:
        result.tie_rate = float(np.mean(np.concatenate([scores.tied for scores in found.values()])))


def _categories(
    scores: Directed,
    owner: NDArray[np.int64],
    classes: Labels,
    asking: tuple[NDArray[np.bool_], NDArray[np.bool_]] | None,
    sharing: Sharing | None,
) -> dict[str, CategoryScores]:
    i2t, t2i = category_scores(scores.images, owner, classes, asking=asking, sharing=sharing)
    if scores.texts is not scores.images:
        _, t2i = category_scores(scores.texts, owner, classes, asking=asking, sharing=sharing)
    return {"i2t": i2t, "t2i": t2i}


def _add_categories(result: Evaluation, categories: dict[str, CategoryScores]) -> None:
    result.categories = categories
    result.metrics |= category_metrics(categories)
    result.excluded = {direction: found.excluded for direction, found in categories.items()}
    result.curves = {"recall": metrics.RECALL_LEVELS.tolist()}
    result.curves |= {f"{name}_precision": found.precision.tolist() for name, found in categories.items()}


def instance_metrics(ranks: Ranks, image_of_text: NDArray[np.int64]) -> dict[str, float]:
    """Recalls, median and mean rank, mr and rsum; with folds also their means over folds, as ``fold<n>_...``.

    The mr and rsum of the folds are computed from the mean recalls beside them.
    """
    found = _rank_metrics(ranks.images, ranks.texts)
    for prefix, folds in _fold_ranks(ranks, image_of_text):
        found |= _mean(prefix, [_rank_metrics(images, texts) for images, texts in folds])
    return found


def subset_metrics(prefix: str, draws: list[Ranks]) -> dict[str, float]:
    """Means over draws of recalls, median and mean rank; mr and rsum of the mean recalls."""
    return _mean(prefix, [_rank_metrics(ranks.images, ranks.texts) for ranks in draws])


def _mean(prefix: str, each: list[dict[str, float]]) -> dict[str, float]:
    mean = {prefix + key: float(np.mean([one[key] for one in each])) for key in each[0]}
    return mean | {f"{prefix}mr": metrics.mr(mean, prefix), f"{prefix}rsum": metrics.rsum(mean, prefix)}


def _rank_metrics(images: BestMatches, texts: BestMatches) -> dict[str, float]:
    found: dict[str, float] = {}
    for direction, matches in (("i2t", images), ("t2i", texts)):
        found |= {f"{direction}_r{k}": metrics.recall_at_k(matches, k) for k in (1, 5, 10)}
        found[f"{direction}_medr"] = metrics.median_rank(matches.rank)
        found[f"{direction}_meanr"] = metrics.mean_rank(matches.rank)
    return found | {"mr": metrics.mr(found), "rsum": metrics.rsum(found)}


def _fold_ranks(
    ranks: Ranks, image_of_text: NDArray[np.int64]
) -> Iterator[tuple[str, list[tuple[BestMatches, BestMatches]]]]:
    images, texts, fold_of_image = ranks.images_in_fold, ranks.texts_in_fold, ranks.fold_of_image
    if fold_of_image is None or images is None or texts is None:
        return
    fold_of_text = fold_of_image[image_of_text]
    folds = range(int(fold_of_image.max()) + 1)
    yield (
        f"fold{len(folds)}_",
        [(images.take(fold_of_image == fold), texts.take(fold_of_text == fold)) for fold in folds],
    )


def _intervals(result: Evaluation, image_of_text: NDArray[np.int64]) -> dict[str, tuple[float, float]]:
    """Percentile intervals of every metric over resampled images, whose texts stay with them."""
    protocol = result.protocol
    draws: dict[str, Floats] = {}
    whole = Resamples(result.n_queries[0], image_of_text, protocol.bootstrap, protocol.seed, result.identity)
    if result.ranks is not None:
        draws |= _rank_draws(whole, result.ranks.images, result.ranks.texts)
        draws |= _fold_draws(result.ranks, image_of_text, protocol, result.identity)
    for prefix, parts in result.subsets.items():
        # Draws share images, so all of them see one resample of the split.
        each = [
            _rank_draws(whole.within(part.images, image_of_text[part.texts]), ranks.images, ranks.texts)
            for part, ranks in parts
        ]
        draws |= {prefix + key: np.mean([one[key] for one in each], axis=0) for key in each[0]}
    draws |= category_draws(whole, result.identities, IDENTITY) | category_draws(whole, result.categories)
    draws |= qrels_draws(whole, result.qrels)
    return {key: interval(values, protocol.confidence) for key, values in draws.items()}


def _fold_draws(
    ranks: Ranks, image_of_text: NDArray[np.int64], protocol: Protocol, identity: NDArray[np.int64] | None
) -> dict[str, Floats]:
    draws: dict[str, Floats] = {}
    for prefix, folds in _fold_ranks(ranks, image_of_text):
        each = []
        first = 0
        for number, (images, texts) in enumerate(folds):
            within = (image_of_text >= first) & (image_of_text < first + len(images))
            resamples = Resamples(
                len(images),
                image_of_text[within] - first,
                protocol.bootstrap,
                protocol.seed + 1 + number,
                None if identity is None else identity[first : first + len(images)],
            )
            each.append(_rank_draws(resamples, images, texts))
            first += len(images)
        draws |= {prefix + key: np.mean([one[key] for one in each], axis=0) for key in each[0]}
    return draws


def _rank_draws(resamples: Resamples, images: BestMatches, texts: BestMatches) -> dict[str, Floats]:
    draws: dict[str, Floats] = {}
    for way, matches, means, median in (
        ("i2t", images, resamples.mean_of_images, resamples.median_of_images),
        ("t2i", texts, resamples.mean_of_texts, resamples.median_of_texts),
    ):
        found = means(np.stack([*(matches.hits(k) for k in (1, 5, 10)), matches.rank], axis=1))
        draws |= {f"{way}_r{k}": 100.0 * found[:, place] for place, k in enumerate((1, 5, 10))}
        draws |= {f"{way}_medr": median(matches.rank), f"{way}_meanr": found[:, 3]}
    draws["rsum"] = np.sum([draws[key] for key in metrics.RECALLS], axis=0)
    draws["mr"] = draws["rsum"] / len(metrics.RECALLS)
    return draws
