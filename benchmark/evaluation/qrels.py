"""Relevance judgments beyond the pairs of a data set: any images and texts may be relevant to each other.

A caption of one image often describes others too, which R@K by pairs counts as mistakes. Judgments such as those of
ECCV Caption (Chun et al., ECCV 2022) and CrissCrossed Captions (Parekh et al., EACL 2021) say which.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cmr_bench.evaluation import metrics
from cmr_bench.evaluation.bootstrap import Resamples
from cmr_bench.evaluation.categories import CategoryScores, relevance_scores
from cmr_bench.evaluation.metrics import Floats, RelevantItems
from cmr_bench.evaluation.scores import ScoreSource
from cmr_bench.evaluation.sharing import Sharing
from cmr_bench.evaluation.ties import BestMatches, expected_hits
from cmr_bench.support.errors import DataError

PREFIX = "qrels_"
_DEPTH = 10


@dataclass(frozen=True)
class Qrels:
    """The relevant items of the queries of one direction.

    Attributes:
        queries: Row of the query of every relevant pair, (n_pairs,), ascending.
        items: Row of the item that is relevant to it, (n_pairs,).
        n_queries: Number of queries, judged or not.
        n_items: Size of the gallery.
        judged: Number of pairs that were judged, relevant or not.
        lacking: Rows of queries, and how many relevant items of each are not in the gallery: they count as relevant and
            are never found.
    """

    queries: NDArray[np.int64]
    items: NDArray[np.int64]
    n_queries: int
    n_items: int
    judged: int
    lacking: tuple[NDArray[np.int64], NDArray[np.int64]] | None = None

    def missing(self) -> NDArray[np.int64]:
        """Return how many relevant items of every query are not in the gallery, (n_queries,)."""
        found = np.zeros(self.n_queries, dtype=np.int64)
        if self.lacking is not None:
            found[self.lacking[0]] = self.lacking[1]
        return found

    def relevant(self, part: slice) -> NDArray[np.bool_]:
        """Return the relevant items of some queries, (queries, n_items)."""
        start, stop, _ = part.indices(self.n_queries)
        first, last = np.searchsorted(self.queries, [start, stop])
        found = np.zeros((stop - start, self.n_items), dtype=np.bool_)
        found[self.queries[first:last] - start, self.items[first:last]] = True
        return found

    def first_items(self) -> NDArray[np.int64]:
        """Return the first relevant item of every query, (n_queries,), 0 for a query without one."""
        found = np.zeros(self.n_queries, dtype=np.int64)
        query, first = np.unique(self.queries, return_index=True)
        found[query] = self.items[first]
        return found

    @property
    def asked(self) -> int:
        """Number of queries with a relevant item; no mean includes the others."""
        return len(np.unique(self.queries))


def qrels(queries: NDArray[np.int64], items: NDArray[np.int64], grades: Floats, size: tuple[int, int]) -> Qrels:
    """Make the judgments of one direction from judged pairs; a pair is relevant where its grade is above 0.

    Args:
        queries: Row of the query of every judged pair, (n_judged,).
        items: Row of the item, (n_judged,).
        grades: Grade of the pair, (n_judged,).
        size: Number of queries and of items.

    Raises:
        DataError: If nothing is relevant, or a pair is judged twice and differently.
    """
    key = queries * size[1] + items
    order = np.argsort(key, kind="stable")
    key, relevant = key[order], grades[order] > 0
    first = np.concatenate([[True], key[1:] != key[:-1]]) if len(key) else np.zeros(0, dtype=np.bool_)
    again = np.flatnonzero(~first & (relevant != np.concatenate([[False], relevant[:-1]])))
    if len(again):
        query, item = divmod(int(key[again[0]]), size[1])
        raise DataError(f"query {query} and item {item} are judged twice, as relevant and as not")
    kept = key[first & relevant]
    if not len(kept):
        raise DataError("no pair is judged relevant")
    return Qrels(kept // size[1], kept % size[1], *size, judged=int(first.sum()))


def best_matches(items: RelevantItems) -> BestMatches:
    """Return where the best relevant item of every query stands; without one, as if it stood first and alone."""
    if items.valid.shape[1] == 0:
        nothing = np.zeros(len(items.count), dtype=np.int64)
        return BestMatches(nothing, nothing + 1, nothing + 1)
    return BestMatches(items.above[:, 0], items.group[:, 0], items.group_relevant[:, 0])


def recall(items: RelevantItems, k: int) -> Floats:
    """Return the percent of all orders of tied items in which a relevant one is among the first ``k``, (n_queries,)."""
    best = best_matches(items)
    return _known(100.0 * expected_hits(best.better, best.tied, best.matching, k), items)


def ndcg(items: RelevantItems, k: int = _DEPTH) -> Floats:
    """Return nDCG of the first ``k`` for items that are relevant or not, (n_queries,).

    Järvelin and Kekäläinen, TOIS 2002, with the discount ``1 / log2(1 + place)``. A relevant item that is tied stands
    at each place of its group equally often.
    """
    discounts = np.concatenate([[0.0], np.cumsum(1.0 / np.log2(np.arange(2, k + 2)))])
    start, stop = np.minimum(items.above, k), np.minimum(items.above + items.group, k)
    gains = np.where(items.valid, (discounts[stop] - discounts[start]) / items.group, 0.0).sum(axis=1)
    ideal = discounts[np.minimum(items.count, k)]
    values: Floats = np.divide(gains, ideal, out=np.full(len(gains), np.nan), where=items.count > 0)
    return values


def _known(values: Floats, items: RelevantItems) -> Floats:
    return np.where(items.count > 0, values, np.nan)


PER_QUERY: dict[str, Callable[[RelevantItems], Floats]] = {
    "r1": lambda items: recall(items, 1),
    "r5": lambda items: recall(items, 5),
    "r10": lambda items: recall(items, 10),
    "map": metrics.average_precision,
    "map_at_r": metrics.average_precision_at_r,
    "r_precision": metrics.r_precision,
    "ndcg_at_10": ndcg,
}


def qrels_scores(
    scores: Mapping[str, ScoreSource],
    judged: Mapping[str, Qrels],
    asking: Mapping[str, NDArray[np.bool_]] | None = None,
    *,
    block: int = 2**22,
    sharing: Sharing | None = None,
) -> dict[str, CategoryScores]:
    """Score the directions that are judged by their relevant items.

    Args:
        scores: What is scored, by direction, i2t and t2i.
        judged: Judgments by direction; one of the two may be missing.
        asking: The queries that count, by direction; all where not given.
        block: Most scores to hold at a time.
        sharing: How queries are spread over processes; if omitted, this one scores them all.

    Raises:
        DataError: If none of the queries that count has a relevant item.
    """
    found = {}
    for way, given in judged.items():
        who = slice(None) if asking is None else asking[way]
        found[way] = relevance_scores(
            scores[way],
            way,
            given.relevant,
            PER_QUERY,
            missing=given.missing(),
            asking=who,
            block=block,
            sharing=sharing,
        )
        if np.isnan(found[way].values["map"]).all():
            raise DataError(f"qrels: no {way} query has a relevant item")
    return found


def qrels_metrics(found: Mapping[str, CategoryScores]) -> dict[str, float]:
    """Return the means over the queries with a relevant item, by names such as ``qrels_i2t_r1``."""
    return {
        f"{PREFIX}{way}_{name}": float(np.nanmean(values))
        for way, scores in found.items()
        for name, values in scores.values.items()
    }


def qrels_draws(resamples: Resamples, found: Mapping[str, CategoryScores]) -> dict[str, Floats]:
    """Return the same means in every resample of the images, whose texts stay with them, (resamples,) each."""
    means = {"i2t": resamples.mean_of_images, "t2i": resamples.mean_of_texts}
    return {
        f"{PREFIX}{way}_{name}": means[way](values)
        for way, scores in found.items()
        for name, values in scores.values.items()
    }
