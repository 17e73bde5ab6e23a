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


def recall_in_subgalleries(matches: BestMatches, own: Counts, n_items: int, k: int, sizes: Sequence[int]) -> Floats:
    """Return R@K in random parts of the gallery, in percent, (sizes,).

    The matches of a query stay in the gallery, the rest of it is drawn without replacement. Of ``other`` items, those
    that score better than the best match are ``better``; in a draw of ``n`` their number is hypergeometric, and the
    query is a hit where it is below ``k``. Items that score the same stand in every order equally often, as in
    :meth:`BestMatches.hits`; of the whole gallery the result is the recall itself.

    Args:
        matches: Where the best match of every query stands in the whole gallery.
        own: Items that match each query, (n_queries,).
        n_items: Size of the whole gallery.
        k: Length of the list that is looked at.
        sizes: Sizes of the parts.
    """
    total = np.zeros(len(sizes))
    for count in np.unique(own).tolist():
        better, weight = _places(matches.take(own == count))
        table = _hits(n_items - count, k, tuple(max(0, min(size, n_items) - count) for size in sizes))
        total += table[:, np.minimum(better, n_items - count)] @ weight
    return 100.0 * total / max(1, len(matches))


def _places(matches: BestMatches) -> tuple[Counts, Floats]:
    """Return numbers of better items that a first match may have, and how many queries have each, as expected."""
    kinds, each = np.unique(
        np.stack([matches.better, matches.tied, matches.matching], axis=1), axis=0, return_counts=True
    )
    alone = kinds[:, 1] == kinds[:, 2]
    places, weights = [kinds[alone, 0]], [each[alone].astype(np.float64)]
    for (better, tied, matching), count in zip(kinds[~alone].tolist(), each[~alone].tolist(), strict=True):
        ahead = np.arange(tied - matching)
        # Chance that more than so many of the tied items stand before the first match.
        behind = np.concatenate([[1.0], np.cumprod((tied - ahead - matching) / (tied - ahead)), [0.0]])
        places.append(better + np.arange(tied - matching + 1))
        weights.append(count * -np.diff(behind))
    return np.concatenate(places), np.concatenate(weights)


@functools.lru_cache(maxsize=64)
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
