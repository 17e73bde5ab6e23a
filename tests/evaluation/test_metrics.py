from __future__ import annotations

import itertools
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score

from cmr_bench.evaluation import metrics
from cmr_bench.evaluation.ties import BestMatches


def rankings(scores: list[int], relevant: list[bool]) -> list[list[bool]]:
    """Relevance along every ranking that agrees with the scores, each tied order once per permutation."""
    order = sorted(range(len(scores)), key=lambda item: -scores[item])
    groups = [list(group) for _, group in itertools.groupby(order, key=lambda item: scores[item])]
    return [
        [relevant[item] for group in choice for item in group]
        for choice in itertools.product(*(itertools.permutations(group) for group in groups))
    ]


def precision_sum(ranking: list[bool], cutoff: int) -> Fraction:
    hits, total = 0, Fraction(0)
    for place, hit in enumerate(ranking[:cutoff], start=1):
        hits += hit
        total += Fraction(hits, place) if hit else 0
    return total


def mean(values: list[Fraction]) -> float:
    return float(sum(values, Fraction(0)) / len(values))


@st.composite
def queries(draw: st.DrawFn) -> tuple[list[int], list[bool]]:
    n_items = draw(st.integers(1, 6))
    scores = draw(st.lists(st.integers(0, 3), min_size=n_items, max_size=n_items))
    return scores, draw(st.lists(st.booleans(), min_size=n_items, max_size=n_items).filter(any))


@settings(max_examples=80, deadline=None)
@given(queries(), st.integers(1, 7))
def test_precision_metrics_are_expectations_over_tied_orders(query: tuple[list[int], list[bool]], k: int) -> None:
    scores, relevant = query
    items = metrics.relevant_items(np.array([scores], dtype=np.float32), np.array([relevant]))
    every = rankings(scores, relevant)
    count = sum(relevant)
    assert metrics.average_precision(items)[0] == pytest.approx(
        mean([precision_sum(one, len(one)) / count for one in every])
    )
    assert metrics.average_precision_at_r(items)[0] == pytest.approx(
        mean([precision_sum(one, count) / count for one in every])
    )
    assert metrics.r_precision(items)[0] == pytest.approx(mean([Fraction(sum(one[:count]), count) for one in every]))
    last = [len(one) - one[::-1].index(True) for one in every]
    assert metrics.inverse_negative_penalty(items)[0] == pytest.approx(mean([Fraction(count, place) for place in last]))
    retrieved = mean([Fraction(sum(one[:k])) for one in every])
    expected = mean([precision_sum(one, k) for one in every]) / retrieved if retrieved else 0.0
    assert metrics.average_precision_retrieved(items, k)[0] == pytest.approx(expected)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 12), st.integers(2, 60))
def test_average_precision_agrees_with_scikit_learn(seed: int, n_queries: int, n_items: int) -> None:
    rng = np.random.default_rng(seed)
    scores = rng.permuted(np.tile(np.arange(n_items, dtype=np.float32), (n_queries, 1)), axis=1)
    relevant = rng.random((n_queries, n_items)) < rng.random()
    relevant[np.arange(n_queries), rng.integers(0, n_items, n_queries)] = True
    found = metrics.average_precision(metrics.relevant_items(scores - n_items, relevant))
    np.testing.assert_allclose(
        found, [average_precision_score(hit, score) for hit, score in zip(relevant, scores, strict=True)], rtol=1e-12
    )


def test_a_constant_scorer_is_at_chance_for_every_precision_metric() -> None:
    rng = np.random.default_rng(0)
    relevant = np.zeros((1, 40), dtype=bool)
    relevant[0, :7] = True
    constant = metrics.relevant_items(np.zeros((1, 40), dtype=np.float32), relevant)
    draws = np.tile(relevant, (20_000, 1))
    shuffled = metrics.relevant_items(rng.random((20_000, 40)), draws)
    for function in (metrics.average_precision, metrics.average_precision_at_r, metrics.r_precision):
        values = function(shuffled)
        assert abs(function(constant)[0] - values.mean()) < 4 * values.std() / np.sqrt(len(values))
    assert metrics.r_precision(constant)[0] == pytest.approx(7 / 40)
    np.testing.assert_allclose(metrics.precision_recall_curve(constant), 7 / 40)


def test_known_values_of_the_variants() -> None:
    # Hits at places 1, 3 and 6 of 8.
    relevant = np.array([[True, False, True, False, False, True, False, False]])
    items = metrics.relevant_items(-np.arange(8.0)[None], relevant)
    assert metrics.average_precision(items)[0] == pytest.approx((1 + 2 / 3 + 3 / 6) / 3)
    assert metrics.average_precision_at_r(items)[0] == pytest.approx((1 + 2 / 3) / 3)
    assert metrics.r_precision(items)[0] == pytest.approx(2 / 3)
    assert metrics.average_precision_retrieved(items, 4)[0] == pytest.approx((1 + 2 / 3) / 2)
    assert metrics.average_precision_retrieved(items, 50)[0] == pytest.approx((1 + 2 / 3 + 3 / 6) / 3)
    curve = metrics.precision_recall_curve(items)[0]
    np.testing.assert_allclose(curve, [1, 1, 1, 1] + [2 / 3] * 3 + [0.5] * 4)


def test_metrics_do_not_depend_on_shift_scale_or_order() -> None:
    rng = np.random.default_rng(1)
    scores = rng.integers(-5, 5, (9, 30)).astype(np.float32)
    relevant = rng.random((9, 30)) < 0.3
    relevant[:, 0] = True
    order = rng.permutation(30)
    one = metrics.relevant_items(scores, relevant)
    for other in (
        metrics.relevant_items(scores[:, order], relevant[:, order]),
        metrics.relevant_items(scores - 100, relevant),
        metrics.relevant_items(scores.astype(np.float64) / 7, relevant),
    ):
        np.testing.assert_array_equal(metrics.average_precision(one), metrics.average_precision(other))
        np.testing.assert_array_equal(metrics.precision_recall_curve(one), metrics.precision_recall_curve(other))


def slow_curve(scores: NDArray[np.float32], relevant: NDArray[np.bool_]) -> list[float]:
    points = []
    for threshold in np.unique(scores):
        retrieved = scores >= threshold
        hits = (retrieved & relevant).sum()
        points.append((hits / relevant.sum(), hits / retrieved.sum()))
    return [max(p for r, p in points if r >= level - 1e-9) for level in metrics.RECALL_LEVELS]


def test_the_curve_is_the_best_precision_at_a_recall_or_more() -> None:
    rng = np.random.default_rng(2)
    scores = rng.integers(0, 12, (20, 25)).astype(np.float32)
    relevant = rng.random((20, 25)) < rng.random((20, 1))
    relevant[:, 3] = True
    found = metrics.precision_recall_curve(metrics.relevant_items(scores, relevant))
    np.testing.assert_allclose(found, [slow_curve(*pair) for pair in zip(scores, relevant, strict=True)])


def test_queries_without_relevant_items_have_no_value() -> None:
    relevant = np.array([[False, False, False], [True, False, False]])
    for hits in (relevant, relevant[:1]):
        items = metrics.relevant_items(np.arange(3.0 * len(hits)).reshape(len(hits), 3), hits)
        for values in (
            metrics.average_precision(items),
            metrics.average_precision_at_r(items),
            metrics.average_precision_retrieved(items, 2),
            metrics.r_precision(items),
            metrics.precision_recall_curve(items)[:, 0],
        ):
            assert np.isnan(values).tolist() == [True, False][: len(hits)]


def test_scores_of_minus_infinity_tie_among_themselves() -> None:
    scores = np.array([[-np.inf, -np.inf, 1.0], [-np.inf, 2.0, 1.0]])
    relevant = np.array([[True, False, False], [True, True, True]])
    finite = np.where(np.isinf(scores), -9.0, scores)
    np.testing.assert_allclose(
        metrics.average_precision(metrics.relevant_items(scores, relevant)),
        metrics.average_precision(metrics.relevant_items(finite, relevant)),
    )


def test_rank_metrics() -> None:
    matches = BestMatches(np.array([0, 0, 4, 9, 2]), np.array([1, 2, 1, 2, 1]), np.ones(5, dtype=np.int64))
    ranks = matches.rank
    assert ranks.tolist() == [1.0, 1.5, 5.0, 10.5, 3.0]
    assert [metrics.recall_at_k(matches, k) for k in (1, 5, 10)] == [30.0, 80.0, 90.0]
    assert metrics.median_rank(ranks) == 3.0
    assert metrics.median_rank(ranks[:4]) == 3.25
    assert metrics.mean_rank(ranks) == pytest.approx(4.2)
    row = {key: float(value) for value, key in enumerate(metrics.RECALLS, start=10)}
    assert metrics.rsum(row) == 75.0
    assert metrics.mr(row) == 12.5
