"""Recall against the size of the gallery and the length of the caption, from the stored outcomes of queries."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from cmr_bench.evaluation.per_query import PerQuery
from cmr_bench.evaluation.subgalleries import recall_in_subgalleries, sizes_up_to

if TYPE_CHECKING:
    from numpy.typing import NDArray

_KS = (1, 5, 10)
_BINS = 6


def breakdown(outcomes: Sequence[PerQuery]) -> dict[str, Any]:
    """Average the recalls of runs of one experiment over galleries and captions of different sizes.

    Args:
        outcomes: Outcomes of the runs; those without ranks, or of another test split than the first, are passed over.

    Returns:
        ``gallery``: by direction ``sizes`` and by K the recall at each; ``length``: ``bins`` of words in words, ``n``
        captions in each, and by K their text-query recall. Either is missing where no run has kept what it needs.
    """
    ranked = [one for one in outcomes if {"i2t", "t2i"} <= one.matches.keys()]
    if not ranked:
        return {}
    shape = (ranked[0].n_images, len(ranked[0].image_of_text))
    ranked = [one for one in ranked if (one.n_images, len(one.image_of_text)) == shape]
    found: dict[str, Any] = {"gallery": _mean([_gallery(one) for one in ranked])}
    worded = [one for one in ranked if len(one.words) and np.array_equal(one.words, ranked[0].words)]
    if worded:
        found["length"] = _mean([_length(one) for one in worded])
    return found


def _gallery(one: PerQuery) -> dict[str, Any]:
    # Images and texts of one identity all match each other.
    of_image = np.unique(one.identity, return_inverse=True)[1] if len(one.identity) else np.arange(one.n_images)
    of_text = of_image[one.image_of_text]
    ways = {
        "i2t": (np.maximum(np.bincount(of_text, minlength=one.n_images)[of_image], 1), len(of_text)),
        "t2i": (np.bincount(of_image)[of_text], one.n_images),
    }
    found = {}
    for way, (own, n_items) in ways.items():
        sizes = sizes_up_to(n_items)
        recalls = recall_in_subgalleries(one.matches[way], own, n_items, _KS, sizes)
        each = {str(k): _listed(values) for k, values in zip(_KS, recalls, strict=True)}
        found[way] = {"sizes": sizes, **each}
    return found


def _length(one: PerQuery) -> dict[str, Any]:
    edges = np.unique(np.quantile(one.words, np.linspace(0, 1, _BINS + 1)[1:], method="lower"))
    place = np.searchsorted(edges, one.words)
    n = np.bincount(place, minlength=len(edges))
    lows = [int(one.words.min()), *(int(edge) + 1 for edge in edges[:-1])]
    names = [str(low) if low == high else f"{low}–{high}" for low, high in zip(lows, edges.tolist(), strict=True)]
    recalls = {str(k): 100 * np.bincount(place, one.matches["t2i"].hits(k), minlength=len(edges)) / n for k in _KS}
    return {"bins": names, "n": n.tolist(), **{k: _listed(values) for k, values in recalls.items()}}


def _listed(values: NDArray[np.float64]) -> list[float]:
    return [float(f"{value:.5g}") for value in values]


def _mean(each: Sequence[Any]) -> Any:
    """Average what is a list of recalls, of parts that are alike in everything else."""
    first = each[0]
    if isinstance(first, dict):
        return {
            key: _mean([one[key] for one in each]) if key not in ("bins", "n", "sizes") else first[key] for key in first
        }
    return _listed(np.mean(each, axis=0))
