"""Protocols: what is scored against what, and the numbers that come of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from cmr_bench.evaluation import metrics
from cmr_bench.evaluation.bootstrap import Resamples, interval
from cmr_bench.evaluation.categories import CategoryScores, Labels, category_scores
from cmr_bench.evaluation.metrics import Floats
from cmr_bench.evaluation.postprocess import postprocess
from cmr_bench.evaluation.ranks import Ranks, folds_of_images, links, retrieval_ranks
from cmr_bench.evaluation.scores import ArrayLike, ScoreSource, materialise
from cmr_bench.evaluation.sharing import Sharing
from cmr_bench.support.errors import DataError, UsageError

# The whole matrix of MSCOCO's 5,000 x 25,000 test scores; below this, protocols that need several passes keep it.
_KEPT_BYTES = 512 * 10**6

_DEFINITIONS = {
    "r1": "percent of queries with a match at rank 1",
    "r5": "percent of queries with a match at rank 5 or better",
    "r10": "percent of queries with a match at rank 10 or better",
    "medr": "median rank of the match, counted from 1",
    "meanr": "mean rank of the match, counted from 1",
    "mr": "mean of the six recalls",
    "rsum": "sum of the six recalls",
    "map": "mean average precision over the whole ranking, AP divided by the number of relevant items",
    "map_at_50_retrieved": "mean average precision of the first 50, AP divided by the relevant items retrieved there",
    "map_at_r": "precisions at the relevant items among the first R, divided by R, the number of relevant items",
    "r_precision": "share of relevant items among the first R, the number of relevant items",
}
_UNITS = {"r1": "percent", "r5": "percent", "r10": "percent", "mr": "percent", "rsum": "sum of percent"} | {
    "medr": "rank",
    "meanr": "rank",
}
_DIRECTIONS = {
    "i2t_": "image query, all texts; an image ranks by its best text: ",
    "t2i_": "text query, all images: ",
}


@dataclass(frozen=True)
class Protocol:
    """What is scored.

    Args:
        folds: score also this many equal folds of consecutive images, and report the mean over folds; 5 for MSCOCO 1K.
        bootstrap: resamples for the confidence intervals, 0 for none.
        category: whether to score category retrieval; left out, wherever there are labels.
        instance: whether to score instance retrieval.
        postprocess: csls or inverted_softmax; such a result is transductive.
        confidence: share of the resamples inside an interval.
        seed: of the resamples.
    """

    folds: int | None = None
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
        if not self.instance and self.category is False:
            raise UsageError("nothing to score: instance and category retrieval are both off")


@dataclass
class Evaluation:
    """Everything measured in one evaluation, unrounded.

    ``metrics`` by name, with ``units`` and ``definitions`` for each; ``tie_rate`` is the share of queries whose match
    shares its score with another item; ``intervals`` are bootstrap percentiles (low, high); ``curves`` hold the
    precision-recall curves; ``excluded`` counts the category queries without a relevant item, per direction; ``flags``
    say what a reader must know (``transductive``). ``ranks`` and ``categories`` keep the values of every query, for
    paired tests.
    """

    metrics: dict[str, float]
    tie_rate: float
    n_images: int
    n_texts: int
    protocol: Protocol
    intervals: dict[str, tuple[float, float]] = field(default_factory=dict)
    curves: dict[str, list[float]] = field(default_factory=dict)
    excluded: dict[str, int] = field(default_factory=dict)
    flags: tuple[str, ...] = ()
    ranks: Ranks | None = None
    categories: dict[str, CategoryScores] = field(default_factory=dict)

    @property
    def units(self) -> dict[str, str]:
        """Unit of every metric."""
        return {key: _UNITS.get(_parts(key)[2], "fraction") for key in self.metrics}

    @property
    def definitions(self) -> dict[str, str]:
        """Definition of every metric in words."""
        return {key: _define(key) for key in self.metrics}


def evaluate(
    scores: ScoreSource,
    image_of_text: ArrayLike,
    labels: ArrayLike | None = None,
    *,
    protocol: Protocol | None = None,
    sharing: Sharing | None = None,
) -> Evaluation:
    """Score a split under a protocol.

    Args:
        scores: what is scored.
        image_of_text: ``(n_texts,)`` row of the image that a text belongs to.
        labels: category labels of the images, ``(n_images,)`` or multi-hot ``(n_images, n_classes)``.
        protocol: what is scored; the default is both kinds of retrieval, as far as there are labels.
        sharing: how the work is spread over processes, every one of which gets the whole evaluation.

    Raises:
        DataError: for malformed links, labels or scores, an image without a text, labels that are missing.
        UsageError: for folds that do not divide the images, an unknown post-processing.
    """
    protocol = Protocol() if protocol is None else protocol
    owner = links(image_of_text, scores.n_images, scores.n_texts)
    classes = None if labels is None or protocol.category is False else Labels(labels, scores.n_images)
    if protocol.category and classes is None:
        raise DataError("category retrieval needs labels of the images, and this data has none: pass labels")
    if classes is None and not protocol.instance:
        raise UsageError("nothing to score: instance retrieval is off and there are no labels")
    if protocol.folds is not None:
        folds_of_images(scores.n_images, protocol.folds)
    if classes is not None or protocol.postprocess:
        scores = materialise(scores, _KEPT_BYTES, sharing=sharing)
    if protocol.postprocess:
        scores = postprocess(protocol.postprocess, scores)

    result = Evaluation({}, 0.0, scores.n_images, scores.n_texts, protocol)
    result.flags = ("transductive",) if protocol.postprocess else ()
    if protocol.instance:
        result.ranks = retrieval_ranks(scores, owner, folds=protocol.folds, sharing=sharing)
        result.tie_rate = result.ranks.tie_rate
        result.metrics |= instance_metrics(result.ranks, owner)
    if classes is not None:
        result.categories = dict(
            zip(("i2t", "t2i"), category_scores(scores, owner, classes, sharing=sharing), strict=True)
        )
        result.metrics |= category_metrics(result.categories)
        result.excluded = {direction: found.excluded for direction, found in result.categories.items()}
        result.curves = {"recall": metrics.RECALL_LEVELS.tolist()}
        result.curves |= {f"{name}_precision": found.precision.tolist() for name, found in result.categories.items()}
        if not protocol.instance:
            result.tie_rate = float(np.mean(np.concatenate([found.tied for found in result.categories.values()])))
    if protocol.bootstrap:
        result.intervals = _intervals(result, owner)
    return result


def instance_metrics(ranks: Ranks, image_of_text: NDArray[np.int64]) -> dict[str, float]:
    """Recalls, median and mean rank, mr and rsum; with folds also their means over folds, as ``fold<n>_...``.

    The mr and rsum of the folds are computed from the mean recalls beside them.
    """
    found = _rank_metrics(ranks.i2t, ranks.t2i)
    for prefix, folds in _fold_ranks(ranks, image_of_text):
        each = [_rank_metrics(i2t, t2i) for i2t, t2i in folds]
        mean = {prefix + key: float(np.mean([one[key] for one in each])) for key in each[0]}
        found |= mean | {f"{prefix}mr": metrics.mr(mean, prefix), f"{prefix}rsum": metrics.rsum(mean, prefix)}
    return found


def category_metrics(categories: dict[str, CategoryScores]) -> dict[str, float]:
    """Means over the queries that have something relevant, for each direction and for the mean of both."""
    found: dict[str, float] = {}
    for name in categories["i2t"].values:
        both = {f"{direction}_{name}": float(np.nanmean(one.values[name])) for direction, one in categories.items()}
        found |= both | {name: float(np.mean(list(both.values())))}
    return found


def _rank_metrics(i2t: Floats, t2i: Floats) -> dict[str, float]:
    found: dict[str, float] = {}
    for direction, ranks in (("i2t", i2t), ("t2i", t2i)):
        found |= {f"{direction}_r{k}": metrics.recall_at_k(ranks, k) for k in (1, 5, 10)}
        found |= {f"{direction}_medr": metrics.median_rank(ranks), f"{direction}_meanr": metrics.mean_rank(ranks)}
    return found | {"mr": metrics.mr(found), "rsum": metrics.rsum(found)}


def _fold_ranks(ranks: Ranks, image_of_text: NDArray[np.int64]) -> Iterator[tuple[str, list[tuple[Floats, Floats]]]]:
    if ranks.fold_of_image is None or ranks.i2t_in_fold is None or ranks.t2i_in_fold is None:
        return
    fold_of_text = ranks.fold_of_image[image_of_text]
    folds = range(int(ranks.fold_of_image.max()) + 1)
    yield (
        f"fold{len(folds)}_",
        [(ranks.i2t_in_fold[ranks.fold_of_image == fold], ranks.t2i_in_fold[fold_of_text == fold]) for fold in folds],
    )


def _intervals(result: Evaluation, image_of_text: NDArray[np.int64]) -> dict[str, tuple[float, float]]:
    """Percentile intervals of every metric over resampled images, whose texts stay with them."""
    protocol = result.protocol
    draws: dict[str, Floats] = {}
    whole = Resamples(result.n_images, image_of_text, protocol.bootstrap, protocol.seed)
    if result.ranks is not None:
        draws |= _rank_draws(whole, result.ranks.i2t, result.ranks.t2i)
        draws |= _fold_draws(result.ranks, image_of_text, protocol)
    if result.categories:
        for name in result.categories["i2t"].values:
            i2t = whole.mean_of_images(result.categories["i2t"].values[name])
            t2i = whole.mean_of_texts(result.categories["t2i"].values[name])
            draws |= {f"i2t_{name}": i2t, f"t2i_{name}": t2i, name: (i2t + t2i) / 2}
    return {key: interval(values, protocol.confidence) for key, values in draws.items()}


def _fold_draws(ranks: Ranks, image_of_text: NDArray[np.int64], protocol: Protocol) -> dict[str, Floats]:
    draws: dict[str, Floats] = {}
    for prefix, folds in _fold_ranks(ranks, image_of_text):
        each = []
        first = 0
        for number, (i2t, t2i) in enumerate(folds):
            within = (image_of_text >= first) & (image_of_text < first + len(i2t))
            resamples = Resamples(
                len(i2t), image_of_text[within] - first, protocol.bootstrap, protocol.seed + 1 + number
            )
            each.append(_rank_draws(resamples, i2t, t2i))
            first += len(i2t)
        draws |= {prefix + key: np.mean([one[key] for one in each], axis=0) for key in each[0]}
    return draws


def _rank_draws(resamples: Resamples, i2t: Floats, t2i: Floats) -> dict[str, Floats]:
    draws: dict[str, Floats] = {}
    for k in (1, 5, 10):
        draws[f"i2t_r{k}"] = 100.0 * resamples.mean_of_images((i2t <= k).astype(np.float64))
        draws[f"t2i_r{k}"] = 100.0 * resamples.mean_of_texts((t2i <= k).astype(np.float64))
    draws |= {"i2t_medr": resamples.median_of_images(i2t), "t2i_medr": resamples.median_of_texts(t2i)}
    draws |= {"i2t_meanr": resamples.mean_of_images(i2t), "t2i_meanr": resamples.mean_of_texts(t2i)}
    draws["rsum"] = np.sum([draws[key] for key in metrics.RECALLS], axis=0)
    draws["mr"] = draws["rsum"] / len(metrics.RECALLS)
    return draws


def _parts(key: str) -> tuple[str, str, str]:
    """Split a metric's name into fold prefix, direction prefix and the rest."""
    fold, _, rest = key.partition("_") if key.startswith("fold") else ("", "", key)
    direction = next((one for one in _DIRECTIONS if rest.startswith(one)), "")
    return fold, direction, rest.removeprefix(direction)


def _define(key: str) -> str:
    fold, direction, name = _parts(key)
    both = "" if direction or name in ("mr", "rsum") else "mean of both directions: "
    within = f"mean over {fold.removeprefix('fold')} folds of consecutive images, " if fold else ""
    return within + (_DIRECTIONS[direction] if direction else both) + _DEFINITIONS[name]
