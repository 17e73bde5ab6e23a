"""Retrieval metrics as pure functions of ranks or of relevant items.

Recalls are in percent, everything about precision in 0..1. Nothing here depends on the order in which items with equal
scores happen to stand: recalls and precisions are expectations over all orders of the tied items, ranks are mid-ranks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from cmr_bench.evaluation.ties import BestMatches

Floats = NDArray[np.float64]

RECALLS = tuple(f"{direction}_r{k}" for direction in ("i2t", "t2i") for k in (1, 5, 10))
RECALL_LEVELS = np.linspace(0.0, 1.0, 11)


def recall_at_k(matches: BestMatches, k: int) -> float:
    """Percent of the queries with a match among the first ``k``, expected over all orders of the tied items.

    For i2t: with *one* of the texts there.
    """
    return float(100.0 * np.sum(matches.hits(k)) / len(matches))


def median_rank(ranks: Floats) -> float:
    """Median of the mid-ranks, counted from 1; the mean of the middle two for an even number of queries."""
    return float(np.median(ranks))


def mean_rank(ranks: Floats) -> float:
    """Mean of the mid-ranks, counted from 1."""
    return float(np.mean(ranks))


def rsum(metrics: Mapping[str, float], prefix: str = "") -> float:
    """Sum of the six recalls in ``metrics``."""
    return float(sum(metrics[prefix + key] for key in RECALLS))


def mr(metrics: Mapping[str, float], prefix: str = "") -> float:
    """Mean of the six recalls in ``metrics``."""
    return rsum(metrics, prefix) / len(RECALLS)


@dataclass(frozen=True)
class RelevantItems:
    """Where the relevant items of every query stand in its ranking, best first: all that the precision metrics need.

    Arrays are ``(n_queries, most)`` with ``most`` the largest number of relevant items; ``valid`` marks real entries. A
    relevant item stands in a group of ``group`` items with equal scores, ``group_relevant`` of them relevant;
    ``above`` items score better, ``above_relevant`` of them relevant. Without ties ``group`` is 1.

    ``count`` (n_queries,) is the number of relevant items; where it is 0 every metric is NaN.
    """

    above: NDArray[np.int64]
    group: NDArray[np.int64]
    above_relevant: NDArray[np.int64]
    group_relevant: NDArray[np.int64]
    valid: NDArray[np.bool_]
    count: NDArray[np.int64]
    n_items: int

    @property
    def tied(self) -> NDArray[np.bool_]:
        """Whether an item that is not relevant shares the score of a relevant one, (n_queries,)."""
        tied: NDArray[np.bool_] = np.any((self.group > self.group_relevant) & self.valid, axis=1)
        return tied


def relevant_items(scores: NDArray[np.floating], relevant: NDArray[np.bool_]) -> RelevantItems:
    """Find the places of the relevant items.

    Args:
        scores: ``(n_queries, n_items)``, higher is closer, without NaN.
        relevant: ``(n_queries, n_items)``.
    """
    count = relevant.sum(axis=1)
    valid = np.arange(int(count.max(initial=0))) < count[:, None]
    cost = np.negative(scores, order="C")
    places = np.full(valid.shape, np.inf, dtype=cost.dtype)
    # Both masks are read row by row, so the relevant items of a query land in its own row.
    places[valid] = cost[relevant]
    places.sort(axis=1)
    cost.sort(axis=1)
    above, reached = _search(cost, places)
    above_relevant, reached_relevant = _search(places, places)
    # The padding is +inf and may tie with a score of -inf, but never with more than the relevant items there are.
    reached_relevant = np.minimum(reached_relevant, count[:, None])
    return RelevantItems(
        above=above,
        group=np.maximum(reached - above, 1),
        above_relevant=above_relevant,
        group_relevant=np.maximum(reached_relevant - above_relevant, 1),
        valid=valid,
        count=count,
        n_items=scores.shape[1],
    )


def _search(rows: NDArray[np.floating], values: NDArray[np.floating]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    haystack, needles = torch.from_numpy(rows), torch.from_numpy(values)
    below = torch.searchsorted(haystack, needles)
    return below.numpy(), torch.searchsorted(haystack, needles, right=True).numpy()


def average_precision(items: RelevantItems) -> Floats:
    """Average precision over the whole ranking: sum of the precisions at the relevant items / number of relevant items.

    Ties count as the expectation over all orders of the tied items (McSherry and Najork, ECIR 2008), so a constant
    scorer gets what a random ranking gets on average.

    Returns:
        ``(n_queries,)``.
    """
    return _over(_precision_sum(items, np.full(len(items.count), items.n_items)), items.count)


def average_precision_at_r(items: RelevantItems) -> Floats:
    """mAP@R: precisions at the relevant items among the first R, divided by R, the number of relevant items.

    Musgrave et al., A Metric Learning Reality Check, ECCV 2020. ``(n_queries,)``; ties as in average_precision.
    """
    return _over(_precision_sum(items, items.count), items.count)


def r_precision(items: RelevantItems) -> Floats:
    """Fraction of relevant items among the first R, the number of relevant items, ``(n_queries,)``."""
    return _over(_retrieved(items, items.count), items.count)


def inverse_negative_penalty(items: RelevantItems) -> Floats:
    """INP: number of relevant items / place of the last of them, the one that is hardest to find, ``(n_queries,)``.

    Ye et al., Deep Learning for Person Re-identification: A Survey and Outlook, TPAMI 2021, section 4.1; its mean over
    the queries is mINP. Ties count as the expectation over all orders of the tied items, exactly: of a group of ``n``
    items with ``r`` relevant, behind ``N``, the last relevant one stands at ``N + l`` with probability
    ``C(l - 1, r - 1) / C(n, r)``.
    """
    values = np.full(len(items.count), np.nan)
    known = np.flatnonzero(items.count > 0)
    if not len(known):
        return values
    last = items.count[known] - 1
    above, size, right = (table[known, last] for table in (items.above, items.group, items.group_relevant))
    expected, chance = np.zeros(len(known)), right / size
    for before in range(int((size - right).max()) + 1):
        # From the end of the group; what is left adds nothing any more.
        going = np.flatnonzero((before <= size - right) & (chance > np.finfo(np.float64).eps / 8))
        if not len(going):
            break
        place = size[going] - before
        expected[going] += chance[going] / (above[going] + place)
        chance[going] *= (place - right[going]) / np.maximum(place - 1, 1)
    values[known] = items.count[known] * expected
    return values


def average_precision_retrieved(items: RelevantItems, k: int) -> Floats:
    """AP over the first ``k`` only, divided by the relevant items *retrieved* there; 0 where none is, ``(n_queries,)``.

    The definition of ACMR and its followers (k = 50); it can lie far above the average precision over all. With ties:
    expected sum of precisions over expected number retrieved.
    """
    cutoff = np.full(len(items.count), k)
    retrieved = _retrieved(items, cutoff)
    values = np.divide(_precision_sum(items, cutoff), retrieved, out=np.zeros_like(retrieved), where=retrieved > 0)
    values[items.count == 0] = np.nan
    return values


def precision_recall_curve(items: RelevantItems, levels: Floats = RECALL_LEVELS) -> Floats:
    """Interpolated precision at each recall level: the best precision at that recall or a higher one.

    Tied items are retrieved together, so a constant scorer has the fraction of relevant items everywhere.

    Returns:
        ``(n_queries, len(levels))``.
    """
    if items.valid.shape[1] == 0:
        return np.full((len(items.count), len(levels)), np.nan)
    reached = items.above + items.group
    precision = np.where(items.valid, (items.above_relevant + items.group_relevant) / reached, 0.0)
    best = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    # Rounding guards against 0.3 * 10 = 3.0000000000000004 asking for a fourth item.
    needed = np.ceil(np.round(levels * items.count[:, None], 9)).astype(np.int64)
    curve = np.take_along_axis(best, np.clip(needed - 1, 0, best.shape[1] - 1), axis=1)
    curve[items.count == 0] = np.nan
    return curve


def _within(items: RelevantItems, cutoff: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return how many places of a relevant item's tie group lie within its query's cutoff."""
    return np.where(items.valid, np.clip(cutoff[:, None] - items.above, 0, items.group), 0)


def _retrieved(items: RelevantItems, cutoff: NDArray[np.int64]) -> Floats:
    """Return the expected number of relevant items within the cutoff."""
    return _row_sums(_within(items, cutoff) / items.group)


def _precision_sum(items: RelevantItems, cutoff: NDArray[np.int64]) -> Floats:
    """Return the expected sum of the precisions at the relevant items within the cutoff.

    Place ``i`` of a group of ``n`` items, ``r`` of them relevant, behind ``N`` items, ``M`` of them relevant, holds a
    relevant item with probability ``r / n``, and then ``M + 1 + (i - 1) (r - 1) / (n - 1)`` are expected up to there.
    The sum over places has a closed form in harmonic numbers; each of the ``r`` items gets an equal part of it.
    """
    harmonic = np.concatenate([[0.0], np.cumsum(1.0 / np.arange(1, items.n_items + 1))])
    places = _within(items, cutoff)
    inverse = (
        harmonic[np.minimum(items.above + places, items.n_items)] - harmonic[np.minimum(items.above, items.n_items)]
    )
    share = np.where(items.group > 1, (items.group_relevant - 1) / np.maximum(items.group - 1, 1), 0.0)
    sums = (items.above_relevant + 1) * inverse + share * (places - (items.above + 1) * inverse)
    return _row_sums(np.where(items.valid, sums / items.group, 0.0))


def _row_sums(values: Floats) -> Floats:
    """Sum from left to right: NumPy's own sum would round differently with other padding, that is, other blocks."""
    return np.cumsum(values, axis=1)[:, -1] if values.shape[1] else np.zeros(len(values))


def _over(values: Floats, count: NDArray[np.int64]) -> Floats:
    quotient: Floats = np.divide(values, count, out=np.full(len(count), np.nan), where=count > 0)
    return quotient
