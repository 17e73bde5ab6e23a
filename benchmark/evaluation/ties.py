"""Where the best match of every query stands, and what ties make of its rank and of its hits."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]


@dataclass(frozen=True)
class BestMatches:
    """The best-scored match of every query, by the items that score better than it or the same.

    The order within a group of equal scores is anybody's guess, and the first match of the group decides: nothing else
    about the ranking matters to R@K or to the rank. A query may have any number of matches.

    Attributes:
        better: Items that score better than the best match, (n_queries,).
        tied: Items that score the same, the best match itself among them, (n_queries,).
        matching: Those of ``tied`` that match, (n_queries,), 1 or more.
    """

    better: Counts
    tied: Counts
    matching: Counts

    def __len__(self) -> int:
        return len(self.better)

    def take(self, which: NDArray[np.bool_] | NDArray[np.int64]) -> BestMatches:
        """Return the queries of a mask (n_queries,) or of an index."""
        return BestMatches(self.better[which], self.tied[which], self.matching[which])

    @property
    def others(self) -> Counts:
        """Items that score the same and do not match, (n_queries,)."""
        return self.tied - self.matching

    @cached_property
    def rank(self) -> Floats:
        """Mid-rank of the best match, (n_queries,): 1 + ``better`` + half of ``others``."""
        ranks: Floats = 1.0 + (2 * self.better + self.others) / 2.0
        return ranks

    def hits(self, k: int) -> Floats:
        """Return the share of all orders of the tied items in which a match is among the first ``k``, (n_queries,)."""
        return expected_hits(self.better, self.tied, self.matching, k)


def expected_hits(better: Counts, tied: Counts, matching: Counts, k: int) -> Floats:
    """Return the chance of a match among the first ``k`` items, were the tied ones shuffled.

    McSherry and Najork, Computing Information Retrieval Performance Measures Efficiently in the Presence of Tied
    Scores, ECIR 2008. With ``s = min(max(k - better, 0), tied)`` places of the group within the first ``k``, the chance
    is ``1 - C(tied - matching, s) / C(tied, s)``. It is summed over the place of the first match, so that nothing
    cancels; without ties it is 0 or 1 exactly, with one match ``s / tied`` exactly.

    Args:
        better: Items that score better than the group, (n,).
        tied: Items in the group, (n,).
        matching: Those of the group that match, (n,); a query without a match has no group, 0 and 0.
        k: Length of the list that is looked at.
    """
    if np.array_equal(tied, matching):  # no ties
        return ((better < k) & (tied > 0)).astype(np.float64)
    inside = np.clip(k - better, 0, tied)
    hits = np.where(inside > 0, 1.0, 0.0)
    # Where fewer items are outside than match, one of the matches is inside however they fall.
    open_ = np.flatnonzero((inside > 0) & (inside + matching <= tied))
    if len(open_):
        hits[open_] = _chance(inside[open_], matching[open_], tied[open_])
    return hits


def _chance(inside: Counts, matching: Counts, tied: Counts) -> Floats:
    """Return ``1 - C(tied - matching, inside) / C(tied, inside)`` where it lies strictly between 0 and 1.

    The formula is the same with ``inside`` and ``matching`` exchanged, and the smaller of the two is how many terms
    the sum has: places that may hold the first match, or matches that may be the first to fall inside.
    """
    few, many = np.minimum(inside, matching), np.maximum(inside, matching)
    hits, missed = np.zeros(len(tied)), np.ones(len(tied))
    for term in range(int(few.max())):
        # What is left to miss changes no bit any more.
        going = np.flatnonzero((term < few) & (missed > np.finfo(np.float64).eps / 8))
        if not len(going):
            break
        left = tied[going] - term
        hits[going] += missed[going] * (many[going] / left)
        missed[going] *= (left - many[going]) / left
    return np.minimum(hits, 1.0)
