"""Recall in parts of the gallery, against counting every part."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from cmr_bench.evaluation.subgalleries import recall_in_subgalleries, sizes_up_to
from cmr_bench.evaluation.ties import BestMatches


def slowly(scores: np.ndarray, matching: set[int], size: int, k: int) -> float:
    """Share of all parts that keep the matches, in all orders of tied items, with a match in the first k."""
    others = [item for item in range(len(scores)) if item not in matching]
    hits, total = 0, 0
    for drawn in itertools.combinations(others, size - len(matching)):
        items = [*drawn, *matching]
        for order in itertools.permutations(items):
            ranked = sorted(order, key=lambda item: -scores[item])
            hits += bool(set(ranked[:k]) & matching)
            total += 1
    return 100 * hits / total


def best(scores: np.ndarray, matching: set[int]) -> tuple[int, int, int]:
    top = max(scores[item] for item in matching)
    tied = [item for item in range(len(scores)) if scores[item] == top]
    return int((scores > top).sum()), len(tied), len(matching & set(tied))


@pytest.mark.parametrize("levels", [2, 3, 20])
@pytest.mark.parametrize(("matching", "k"), [({2}, 1), ({2}, 2), ({1, 4}, 1), ({1, 4}, 2)])
def test_it_is_the_mean_over_all_parts_and_orders(levels: int, matching: set[int], k: int) -> None:
    rng = np.random.default_rng(levels)
    queries = [rng.integers(0, levels, 6).astype(float) for _ in range(3)]
    counts = np.array([best(scores, matching) for scores in queries])
    sizes = [len(matching), 4, 5]
    found = recall_in_subgalleries(BestMatches(*counts.T), np.full(3, len(matching)), 6, [k], sizes)[0]
    expected = [np.mean([slowly(scores, matching, size, k) for scores in queries]) for size in sizes]
    assert found.tolist() == pytest.approx(expected, abs=1e-9)


def test_the_whole_gallery_gives_the_recall_and_smaller_ones_are_easier() -> None:
    rng = np.random.default_rng(0)
    tied = rng.integers(1, 40, 300)
    matches = BestMatches(rng.integers(0, 900, 300), tied, np.minimum(tied, rng.integers(1, 6, 300)))
    own = matches.matching + rng.integers(0, 2, 300)
    ks = (1, 5, 10)
    for k, found in zip(ks, recall_in_subgalleries(matches, own, 1000, ks, sizes_up_to(1000)), strict=True):
        assert found[-1] == pytest.approx(100 * matches.hits(k).mean(), abs=1e-6)
        assert (np.diff(found) <= 1e-9).all()


def test_sizes_end_with_the_whole() -> None:
    assert sizes_up_to(100) == [10, 20, 50, 100]
    assert sizes_up_to(7) == [7]
