"""Category retrieval: how early items that share a label with the query come, over the whole gallery."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cmr_bench.evaluation import metrics
from cmr_bench.evaluation.bootstrap import Resamples
from cmr_bench.evaluation.metrics import Floats
from cmr_bench.evaluation.ranks import links
from cmr_bench.evaluation.scores import ArrayLike, ScoreSource, as_numpy, checked_block, full_precision, slices
from cmr_bench.evaluation.sharing import Sharing
from cmr_bench.support.errors import DataError

# Metric name -> value of every query; the name carries the definition.
PER_QUERY: dict[str, Callable[[metrics.RelevantItems], Floats]] = {
    "map": metrics.average_precision,
    "map_at_50_retrieved": lambda items: metrics.average_precision_retrieved(items, 50),
    "map_at_r": metrics.average_precision_at_r,
    "r_precision": metrics.r_precision,
}


@dataclass(frozen=True)
class CategoryScores:
    """Retrieval of everything relevant in one direction.

    ``values`` maps the names of the measures to ``(n_queries,)``, NaN where nothing in the gallery is relevant;
    ``precision`` is the mean interpolated precision at ``metrics.RECALL_LEVELS``; ``tied`` marks the queries of which a
    relevant item shares its score with one that is not.
    """

    values: dict[str, Floats]
    precision: Floats
    tied: NDArray[np.bool_]

    @property
    def excluded(self) -> int:
        """Number of queries without a relevant item; no mean includes them."""
        return int(np.isnan(self.values["map"]).sum())

    def take(self, which: NDArray[np.bool_]) -> CategoryScores:
        """Return the values of the queries of a mask (n_queries,); the mean curve stays that of all."""
        values = {name: one[which] for name, one in self.values.items()}
        return CategoryScores(values, self.precision, self.tied[which])


class Labels:
    """Category labels of the images, which their texts share.

    Args:
        labels: ``(n_images,)`` whole numbers, or multi-hot ``(n_images, n_classes)``: relevant is what shares a class.
        n_images: how many images there are.

    Raises:
        DataError: for another shape or other values.
    """

    def __init__(self, labels: ArrayLike, n_images: int) -> None:
        given = as_numpy(labels)
        if given.ndim not in (1, 2) or len(given) != n_images or given.size == 0:
            raise DataError(f"labels are ({n_images},) or multi-hot ({n_images}, n_classes), these have {given.shape}")
        with np.errstate(invalid="ignore"):
            whole = given.dtype.kind in "biuf" and np.array_equal(given, given.astype(np.int64))
        if not whole:
            raise DataError(f"labels are whole numbers or multi-hot 0/1, these are {given.dtype} values that are not")
        if given.ndim == 2 and not np.isin(given, (0, 1)).all():
            raise DataError("labels with two axes are multi-hot: only 0 and 1 are allowed")
        self.classes = given.astype(np.int64) if given.ndim == 1 else None
        self.multi_hot = given.astype(np.float32)

    def relevant(self, queries: NDArray[np.int64], gallery: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return which of the images ``gallery`` share a label with the images ``queries``, (queries, gallery)."""
        shared: NDArray[np.bool_]
        if self.classes is not None:
            shared = self.classes[queries][:, None] == self.classes[gallery]
        else:
            shared = self.multi_hot[queries] @ self.multi_hot[gallery].T > 0
        return shared


def category_scores(
    scores: ScoreSource,
    image_of_text: ArrayLike,
    labels: ArrayLike | Labels,
    *,
    asking: tuple[NDArray[np.bool_], NDArray[np.bool_]] | None = None,
    block: int = 2**22,
    sharing: Sharing | None = None,
) -> tuple[CategoryScores, CategoryScores]:
    """Score both directions: every image against all texts, every text against all images.

    Args:
        scores: what is scored.
        image_of_text: ``(n_texts,)`` row of the image that a text belongs to.
        labels: of the images, as for :class:`Labels`.
        asking: the images (n_images,) and texts (n_texts,) that ask; all of them where not given, each image then with
            a text.
        block: most scores to hold at a time; a single query always fits.
        sharing: how queries are spread over processes; if omitted, this one scores them all.

    Returns:
        i2t and t2i.

    Raises:
        DataError: for malformed links, labels or scores, and where no query has a relevant item.
    """
    owner = links(image_of_text, scores.n_images, scores.n_texts, distractors=asking is not None)
    classes = labels if isinstance(labels, Labels) else Labels(labels, scores.n_images)
    images = np.arange(scores.n_images)

    of_images, of_texts = (slice(None), slice(None)) if asking is None else asking
    given = (
        ("i2t", lambda part: classes.relevant(images[part], owner), of_images),
        ("t2i", lambda part: classes.relevant(owner[part], images), of_texts),
    )
    found = [
        relevance_scores(scores, way, relevant, PER_QUERY, asking=who, block=block, sharing=sharing)
        for way, relevant, who in given
    ]
    if any(np.isnan(one.values["map"]).all() for one in found):
        raise DataError("split without positives: no query shares a label with any item of the gallery")
    return found[0], found[1]


def relevance_scores(
    scores: ScoreSource,
    way: str,
    relevant: Callable[[slice], NDArray[np.bool_]],
    measures: Mapping[str, Callable[[metrics.RelevantItems], Floats]],
    *,
    missing: NDArray[np.int64] | None = None,
    asking: slice | NDArray[np.bool_] = slice(None),
    block: int = 2**22,
    sharing: Sharing | None = None,
) -> CategoryScores:
    """Score one direction by any relevance, the values of ``measures`` by name.

    Args:
        scores: What is scored.
        way: Direction: i2t, every image against all texts; or t2i.
        relevant: Returns the relevant items of some of the queries, (queries, gallery).
        measures: Value of every query from the places of its relevant items, NaN where it has none.
        missing: Relevant items of each query that are not in the gallery, (n_queries,); none where not given.
        asking: The queries that count.
        block: Most scores to hold at a time; a single query always fits.
        sharing: How queries are spread over processes; if omitted, this one scores them all.
    """
    n_queries, n_gallery = (scores.n_images, scores.n_texts)[:: 1 if way == "i2t" else -1]
    shared = sharing or Sharing()
    values = {name: np.zeros(n_queries) for name in measures}
    curves = np.zeros((n_queries, len(metrics.RECALL_LEVELS)))
    tied = np.zeros(n_queries, dtype=np.uint8)

    def score(part: slice) -> Tensor:
        if way == "i2t":
            return checked_block(scores, part, slice(0, scores.n_texts))
        return checked_block(scores, slice(0, scores.n_images), part).T

    def fill(part: slice, scored: NDArray[np.floating]) -> None:
        items = metrics.relevant_items(scored, relevant(part))
        every = items if missing is None else replace(items, count=items.count + missing[part])
        for name, function in measures.items():
            values[name][part] = function(every)
        curves[part], tied[part] = metrics.precision_recall_curve(items), items.tied

    def fill_mine() -> tuple[NDArray[Any], ...]:
        workers = torch.get_num_threads()
        with full_precision(), ThreadPoolExecutor(workers) as pool:
            for number, part in enumerate(slices(n_queries, max(1, block // n_gallery))):
                if not shared.mine(number):
                    continue
                scored = score(part).contiguous().cpu().numpy()
                jobs = [pool.submit(fill, *job) for job in _shares(part, scored, workers)]
                for job in jobs:
                    job.result()
        return (*values.values(), curves, tied)

    *found, curves, tied = shared.total(fill_mine)
    values = {name: one[asking] for name, one in zip(measures, found, strict=True)}
    curve = curves[asking]
    known = curve[~np.isnan(curve[:, 0])]
    precision = known.mean(axis=0) if len(known) else np.full(curve.shape[1], np.nan)
    return CategoryScores(values, precision, tied[asking].astype(np.bool_))


def _shares(part: slice, scored: NDArray[np.floating], workers: int) -> Iterator[tuple[slice, NDArray[np.floating]]]:
    for share in slices(len(scored), -(-len(scored) // workers)):
        yield slice(part.start + share.start, part.start + share.stop), scored[share]


def category_metrics(found: Mapping[str, CategoryScores], prefix: str = "") -> dict[str, float]:
    """Return the means over the queries that have something relevant, for each direction and for the mean of both."""
    means: dict[str, float] = {}
    for name in found["i2t"].values:
        both = {f"{prefix}{way}_{name}": float(np.nanmean(one.values[name])) for way, one in found.items()}
        means |= both | {f"{prefix}{name}": float(np.mean(list(both.values())))}
    return means


def category_draws(resamples: Resamples, found: Mapping[str, CategoryScores], prefix: str = "") -> dict[str, Floats]:
    """Return the same means in every resample, (resamples,) each; nothing where nothing was scored."""
    draws: dict[str, Floats] = {}
    for name in found["i2t"].values if found else ():
        i2t = resamples.mean_of_images(found["i2t"].values[name])
        t2i = resamples.mean_of_texts(found["t2i"].values[name])
        draws |= {f"{prefix}i2t_{name}": i2t, f"{prefix}t2i_{name}": t2i, f"{prefix}{name}": (i2t + t2i) / 2}
    return draws
