"""JRL against its objective written out over the pairs and neighbours."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cmr_bench.models.subspace.jrl import (
    JRL,
    class_posterior,
    half_step,
    joint_maps,
    neighbour_graph,
    objective,
    smoothness,
)
from cmr_bench.models.subspace.reweighted import ROW_ROUNDING, Moments, ridge_start
from cmr_bench.support.errors import UsageError

WEIGHTS = {"coupling": 0.4, "graph": 0.7, "sparsity": 0.05}


def problem(seed: int = 0, n: int = 30, k: int = 4) -> tuple[Any, Any, Any, Moments, Any]:
    random = np.random.default_rng(seed)
    labels = np.eye(3)[random.integers(0, 3, n)]
    x = labels @ random.normal(size=(3, 5)) + random.normal(size=(n, 5))
    y = labels @ random.normal(size=(3, 4)) + random.normal(size=(n, 4))
    x -= x.mean(0)
    y -= y.mean(0)
    moments = Moments(
        (x.T @ x / n, y.T @ y / n), x.T @ y / n, (x.T @ labels / n, y.T @ labels / n), float((labels**2).sum() / n)
    )
    return x, y, labels, moments, (smoothness(x, neighbour_graph(x, k)), smoothness(y, neighbour_graph(y, k)))


def slow_smoothness(items: Any, k: int) -> tuple[Any, Any]:
    n = len(items)
    graph = np.zeros((n, n))
    for i in range(n):
        others = sorted((j for j in range(n) if j != i), key=lambda j: ((items[i] - items[j]) ** 2).sum())
        graph[i, others[:k]] = 1
    graph = np.maximum(graph, graph.T)
    degrees = graph.sum(1)
    total = np.zeros((items.shape[1],) * 2)
    for i in range(n):
        for j in range(n):
            step = items[i] / np.sqrt(degrees[i]) - items[j] / np.sqrt(degrees[j])
            total += graph[i, j] * np.outer(step, step) / 2
    return graph, total / n


def slow_objective(x: Any, y: Any, labels: Any, p: Any, q: Any, k: int) -> float:
    n = len(x)
    pairs = ((x @ p - y @ q) ** 2).sum() / n
    fit = (((x @ p - labels) ** 2).sum() + ((y @ q - labels) ** 2).sum()) / n
    smooth = np.trace(p.T @ slow_smoothness(x, k)[1] @ p) + np.trace(q.T @ slow_smoothness(y, k)[1] @ q)
    rows = sum(np.sqrt((row**2).sum() + ROW_ROUNDING) for row in (*p, *q))
    return float(WEIGHTS["coupling"] * pairs + fit + WEIGHTS["graph"] * smooth + WEIGHTS["sparsity"] * rows)


@pytest.mark.parametrize("k", [1, 4, 29])
def test_graph_links_nearest_items_both_ways(k: int) -> None:
    x, *_ = problem()
    graph, smooth = slow_smoothness(x, k)
    np.testing.assert_array_equal(neighbour_graph(x, k).toarray(), graph)
    np.testing.assert_allclose(smoothness(x, neighbour_graph(x, k)), smooth, atol=1e-12)


def test_few_items_and_more_neighbours_than_items() -> None:
    assert neighbour_graph(np.zeros((1, 2)), 5).toarray().tolist() == [[0.0]]
    assert neighbour_graph(np.arange(3.0)[:, None], 5).toarray().sum() == 6
    assert np.isfinite(smoothness(np.ones((1, 2)), neighbour_graph(np.ones((1, 2)), 5))).all()


def test_objective_is_that_of_the_pairs() -> None:
    x, y, labels, moments, graphs = problem()
    random = np.random.default_rng(1)
    p, q = random.normal(size=(5, 3)), random.normal(size=(4, 3))
    assert objective(moments, graphs, (p, q), **WEIGHTS) == pytest.approx(slow_objective(x, y, labels, p, q, 4))


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10**6), st.floats(0.001, 10), st.floats(0.0, 10), st.floats(1e-4, 1.0))
def test_objective_falls_at_every_half_step(seed: int, coupling: float, graph: float, sparsity: float) -> None:
    *_, moments, graphs = problem(seed)
    maps = ridge_start(moments, sparsity)
    values = [objective(moments, graphs, maps, coupling, graph, sparsity)]
    for step in range(8):
        side = step % 2
        solved = half_step(moments, graphs, maps, side, coupling, graph, sparsity)
        maps = (solved, maps[1]) if side == 0 else (maps[0], solved)
        values.append(objective(moments, graphs, maps, coupling, graph, sparsity))
    assert np.diff(values).max() <= 1e-9 * values[0]


def test_half_step_is_the_published_update() -> None:
    x, y, labels, moments, graphs = problem()
    random = np.random.default_rng(2)
    p, q = random.normal(size=(5, 3)), random.normal(size=(4, 3))
    n = len(x)
    diagonal = np.diag(1 / (2 * np.linalg.norm(p, axis=1)))
    left = (
        WEIGHTS["sparsity"] * diagonal
        + WEIGHTS["graph"] * slow_smoothness(x, 4)[1]
        + (WEIGHTS["coupling"] + 1) * x.T @ x / n
    )
    right = WEIGHTS["coupling"] * x.T @ y @ q / n + x.T @ labels / n
    found = half_step(moments, graphs, (p, q), 0, **WEIGHTS)
    np.testing.assert_allclose(found, np.linalg.solve(left, right), atol=1e-6)


def test_minimum_has_no_slope() -> None:
    *_, moments, graphs = problem()
    maps, history = joint_maps(moments, graphs, iterations=500, tolerance=1e-14, **WEIGHTS)
    assert np.diff(history).max() <= 1e-12
    random = np.random.default_rng(3)
    for _ in range(5):
        step = [1e-4 * random.normal(size=side.shape) for side in maps]
        moved = objective(moments, graphs, (maps[0] + step[0], maps[1] + step[1]), **WEIGHTS)
        assert moved >= history[-1] - 1e-10


def slow_posterior(codes: Any, known: Any, labels: Any, k: int) -> Any:
    found = []
    for code in codes:
        lengths = np.sqrt(((known - code) ** 2).sum(1))
        near = np.argsort(lengths)[:k]
        votes = sum(labels[i] / (1 + np.exp(lengths[i])) for i in near)
        found.append(votes / votes.sum())
    return np.array(found)


@pytest.mark.parametrize("k", [1, 5, 100])
def test_posterior_by_definition(k: int) -> None:
    random = np.random.default_rng(0)
    codes, known, labels = random.normal(size=(4, 3)), random.normal(size=(20, 3)), np.eye(3)[np.arange(20) % 3]
    found = class_posterior(*(torch.from_numpy(part) for part in (codes, known, labels)), k)
    np.testing.assert_allclose(found.numpy(), slow_posterior(codes, known, labels, k), atol=1e-12)


def solved(module: JRL, data: Any) -> JRL:
    module.attach(data)
    module.fit_split(data.splits["train"], data.splits["val"])
    return module


@pytest.mark.parametrize("score", ["cosine", "posterior"])
def test_no_test_item_is_in_the_graph(score: Any, toy: Callable[..., Any]) -> None:
    data, other = toy(), toy()
    first = solved(JRL(score=score), data)
    second = JRL(score=score)
    second.attach(other)
    test = other.splits["test"]
    for view in (test.images, test.texts):
        view.array[:] = 100.0
    second.fit_split(other.splits["train"], other.splits["val"])
    for name, value in first.state_dict().items():
        torch.testing.assert_close(second.state_dict()[name], value, rtol=0, atol=0)
    assert ("known_codes" in first.state_dict()) == (score == "posterior")


def test_graph_changes_the_solution_and_can_be_left_out(toy: Callable[..., Any]) -> None:
    given = {"coupling": 1.0, "graph": 10.0, "sparsity": 0.01}
    with_graph, without = (solved(JRL(neighbours=k, **given), toy()) for k in (3, 0))
    assert not torch.allclose(with_graph.image_projection, without.image_projection, rtol=0.01)


@pytest.mark.parametrize(
    "options",
    [{"coupling": -1}, {"graph": -1}, {"sparsity": -1}, {"neighbours": -1}, {"iterations": 0}, {"voters": 0}],
)
def test_options_out_of_range_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=next(iter(options))):
        JRL(**options)
