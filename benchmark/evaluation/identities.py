"""Retrieval by identity: every image and text of whom or what the query shows is a match."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from cmr_bench.evaluation import metrics
from cmr_bench.evaluation.categories import CategoryScores, relevance_scores
from cmr_bench.evaluation.metrics import Floats, RelevantItems
from cmr_bench.evaluation.qrels import best_matches
from cmr_bench.evaluation.ranks import Ranks
from cmr_bench.evaluation.rerank import Directed
from cmr_bench.evaluation.scores import ArrayLike, as_numpy
from cmr_bench.evaluation.sharing import Sharing
from cmr_bench.evaluation.ties import BestMatches
from cmr_bench.support.errors import DataError

PREFIX = "identity_"
# Person search by text, as CUHK-PEDES is scored: AP over all images of the person, and the last of them (Ye et al.).
PER_QUERY: dict[str, Callable[[RelevantItems], Floats]] = {
    "map": metrics.average_precision,
    "minp": metrics.inverse_negative_penalty,
}
# Whole numbers, which float64 holds exactly.
_COUNTS: dict[str, Callable[[RelevantItems], Floats]] = {
    "better": lambda items: best_matches(items).better.astype(np.float64),
    "tied": lambda items: best_matches(items).tied.astype(np.float64),
    "matching": lambda items: best_matches(items).matching.astype(np.float64),
}
Index = NDArray[np.int64]


def identities(given: ArrayLike, n_images: int) -> Index:
    """Check the identities of the images and return them as ``(n_images,)`` int64.

    Raises:
        DataError: for another shape or other values.
    """
    values = as_numpy(given)
    if values.shape != (n_images,):
        raise DataError(f"identities are one for each of {n_images} images, these have shape {values.shape}")
    with np.errstate(invalid="ignore"):
        whole = values.astype(np.int64) if values.dtype.kind in "iuf" else None
    if whole is None or not np.array_equal(whole, values):
        raise DataError(f"identities are whole numbers, these are {values.dtype} values that are not")
    return whole


def identity_scores(
    scores: Directed, owner: Index, identity: Index, sharing: Sharing | None = None
) -> tuple[Ranks, dict[str, CategoryScores]]:
    """Rank the best match of every query by identity, and score how early all of them come.

    Args:
        scores: What images and what texts are ranked by.
        owner: Row of each text's image, (n_texts,).
        identity: Identity of each image, (n_images,).
        sharing: How queries are spread over processes; left out, this one scores them all.

    Returns:
        The ranks, and by direction the average precision and INP of every query; an image of an identity without a
        text counts no match in the ranks and is NaN in these.
    """
    of_text = identity[owner]
    relevant: dict[str, Callable[[slice], NDArray[np.bool_]]] = {
        "i2t": lambda part: identity[part][:, None] == of_text,
        "t2i": lambda part: of_text[part][:, None] == identity,
    }
    best, found = {}, {}
    for way, source in (("i2t", scores.images), ("t2i", scores.texts)):
        each = relevance_scores(source, way, relevant[way], _COUNTS | PER_QUERY, sharing=sharing)
        best[way] = BestMatches(*(each.values[name].astype(np.int64) for name in _COUNTS))
        found[way] = CategoryScores({name: each.values[name] for name in PER_QUERY}, each.precision, each.tied)
    return Ranks(images=best["i2t"], texts=best["t2i"]), found
