"""Recall in galleries smaller than the one that was ranked, expected over which items are left out."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from cmr_bench.evaluation.ties import BestMatches, Counts, Floats

SIZES = (10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 20_000, 50_000)


def sizes_up_to(n_items: int) -> list[int]:
    """Return round sizes of a gallery below that of the whole one, and that one."""
    return [*(size for size in SIZES if size < n_items), n_items]


def recall_in_subgalleries(
    matches: BestMatches, own: Counts, n_items: int, ks: Sequence[int], sizes: Sequence[int]
) -> Floats:
    """Return R@K in random parts of the gallery, in percent, (ks, sizes).

    The matches of a query stay in the gallery, the rest of it is drawn without replacement. Of the other items, those
    that score better than the best match are ``better``; in a draw of ``n`` their number is hypergeometric, and the
    query is a hit where it is below K. Items that score the same stand in every order equally often, as in
    :meth:`BestMatches.hits`; of the whole gallery the result is the recall itself.

    Args:
        matches: Where the best match of every query stands in the whole gallery.
        own: Items that match each query, (n_queries,).
        n_items: Size of the whole gallery.
        ks: Lengths of the list that is looked at.
        sizes: Sizes of the parts.
    """
    total = np.zeros((len(ks), len(sizes)))
    for count in np.unique(own).tolist():
        weight = _expected(matches.take(own == count), n_items - count)
        drawn = tuple(max(0, min(size, n_items) - count) for size in sizes)
        total += [_hits(n_items - count, k, drawn) @ weight for k in ks]
    return 100.0 * total / max(1, len(matches))


def _expected(matches: BestMatches, others: int) -> Floats:
    """Return how many queries have so many better items before the first match, as expected, (others + 1,)."""
    alone = matches.tied == matches.matching
    found = np.bincount(np.minimum(matches.better[alone], others), minlength=others + 1).astype(np.float64)
    if alone.all():
        return found
    tied = matches.take(~alone)
    kinds, each = np.unique(np.stack([tied.better, tied.tied, tied.matching], axis=1), axis=0, return_counts=True)
    for (better, size, matching), count in zip(kinds.tolist(), each.tolist(), strict=True):
        ahead = np.arange(size - matching)
        # Chance that more than so many of the tied items stand before the first match.
        behind = np.concatenate([[1.0], np.cumprod((size - ahead - matching) / (size - ahead)), [0.0]])
        places = np.minimum(better + np.arange(size - matching + 1), others)
        np.add.at(found, places, count * -np.diff(behind))
    return found


@functools.lru_cache(maxsize=32)
def _hits(others: int, k: int, drawn: tuple[int, ...]) -> NDArray[np.float64]:
    """Return the chance of fewer than ``k`` better items in a draw, by size of the draw and better items of ``others``.

    Returns:
        (sizes, others + 1).
    """
    log = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, others + 1)))])
    better = np.arange(others + 1)
    found = np.zeros((len(drawn), others + 1))
    for row, n in enumerate(drawn):
        whole = log[others] - log[n] - log[others - n]
        for there in range(min(k - 1, n) + 1):
            able = (better >= there) & (others - better >= n - there)
            b = better[able]
            ways = log[b] - log[there] - log[b - there]
            ways = ways + log[others - b] - log[n - there] - log[others - b - n + there]
            found[row, able] += np.exp(ways - whole)
    return np.minimum(found, 1.0)
