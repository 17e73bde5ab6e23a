"""Coupled feature spaces against the objective of the paper, written out over the pairs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import scipy.optimize
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cmr_bench.models.subspace.lcfs import LCFS, TRACE_ROUNDING, coupled_maps, objective
from cmr_bench.models.subspace.reweighted import ROW_ROUNDING, Moments
from cmr_bench.support.errors import UsageError


def problem(seed: int = 0, n: int = 40, n_classes: int = 3) -> tuple[Any, Any, Any, Moments]:
    random = np.random.default_rng(seed)
    labels = np.eye(n_classes)[random.integers(0, n_classes, n)]
    x = labels @ random.normal(size=(n_classes, 6)) + random.normal(size=(n, 6))
    z = labels @ random.normal(size=(n_classes, 4)) + random.normal(size=(n, 4))
    x -= x.mean(0)
    z -= z.mean(0)
    moments = Moments(
        (x.T @ x / n, z.T @ z / n), x.T @ z / n, (x.T @ labels / n, z.T @ labels / n), float((labels**2).sum() / n)
    )
    return x, z, labels, moments


def slow_objective(x: Any, z: Any, y: Any, u: Any, v: Any, lambda1: float, lambda2: float) -> float:
    n = len(y)
    squares = 0.5 * ((x @ u - y) ** 2).sum() / n + 0.5 * ((z @ v - y) ** 2).sum() / n
    rows = sum(np.sqrt((row**2).sum() + ROW_ROUNDING) for row in (*u, *v))
    singular = np.linalg.svd(np.hstack([x @ u, z @ v]) / np.sqrt(n), compute_uv=False)
    return float(squares + lambda1 * rows + lambda2 * np.sqrt(singular**2 + TRACE_ROUNDING).sum())


def test_objective_is_that_of_the_pairs() -> None:
    x, z, y, moments = problem()
    random = np.random.default_rng(1)
    u, v = random.normal(size=(6, 3)), random.normal(size=(4, 3))
    assert objective(moments, (u, v), 0.3, 0.7) == pytest.approx(slow_objective(x, z, y, u, v, 0.3, 0.7))


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10**6), st.floats(1e-4, 1.0), st.floats(1e-4, 1.0))
def test_objective_never_grows(seed: int, lambda1: float, lambda2: float) -> None:
    _, _, _, moments = problem(seed)
    _, history = coupled_maps(moments, lambda1, lambda2, iterations=30, tolerance=0.0)
    assert np.diff(history).max() <= 1e-7 * history[0]


@pytest.mark.parametrize(("lambda1", "lambda2"), [(0.01, 0.01), (0.05, 0.002), (0.002, 0.1)])
def test_reaches_the_minimum_that_a_general_optimiser_finds(lambda1: float, lambda2: float) -> None:
    x, z, y, moments = problem()
    (u, v), history = coupled_maps(moments, lambda1, lambda2, iterations=3000, tolerance=1e-13)

    def flat(values: Any) -> float:
        return slow_objective(x, z, y, values[:18].reshape(6, 3), values[18:].reshape(4, 3), lambda1, lambda2)

    start = np.random.default_rng(0).normal(size=30) * 0.1
    found = scipy.optimize.minimize(flat, start, method="BFGS", options={"gtol": 1e-7, "maxiter": 3000})
    assert history[-1] == pytest.approx(found.fun, rel=1e-5)
    assert history[-1] == pytest.approx(slow_objective(x, z, y, u, v, lambda1, lambda2), rel=1e-9)


def test_a_round_equals_the_closed_form_with_the_matrices_written_out() -> None:
    x, z, y, moments = problem()
    lambda1, lambda2, n, c = 0.02, 0.03, len(y), 3
    start = [
        np.linalg.solve(g + lambda1 * np.eye(len(g)), t) for g, t in zip(moments.grams, moments.targets, strict=True)
    ]
    predicted = np.hstack([x @ start[0], z @ start[1]]) / np.sqrt(n)
    values, vectors = np.linalg.eigh(predicted.T @ predicted + TRACE_ROUNDING * np.eye(2 * c))
    weights = lambda2 * vectors @ np.diag(values**-0.5) @ vectors.T
    maps = list(start)
    for side, data, other_data in ((0, x, z), (1, z, x)):
        own, off = slice(side * c, side * c + c), slice((1 - side) * c, (1 - side) * c + c)
        diagonal = np.diag(lambda1 / np.sqrt((start[side] ** 2).sum(1) + ROW_ROUNDING))
        system = np.kron(np.eye(c), data.T @ data / n + diagonal) + np.kron(weights[own, own].T, data.T @ data / n)
        right = data.T @ y / n - data.T @ other_data @ maps[1 - side] @ weights[off, own] / n
        maps[side] = np.linalg.solve(system, right.T.ravel()).reshape(c, -1).T
    found, _ = coupled_maps(moments, lambda1, lambda2, iterations=1)
    for side in (0, 1):
        np.testing.assert_allclose(found[side], maps[side], atol=1e-5)


def test_useless_features_are_dropped_and_the_rank_falls() -> None:
    x, z, y, _ = problem(n=400)
    noise = np.random.default_rng(2).normal(size=(400, 3))
    x = np.hstack([x, noise - noise.mean(0)])
    n = len(y)
    moments = Moments((x.T @ x / n, z.T @ z / n), x.T @ z / n, (x.T @ y / n, z.T @ y / n), float((y**2).sum() / n))
    (u, _), _ = coupled_maps(moments, 0.05, 1e-4, iterations=200, tolerance=1e-9)
    lengths = np.linalg.norm(u, axis=1)
    assert lengths[6:].max() < 1e-3 < 0.02 < lengths[:6].max()
    spread = []
    for lambda2 in (1e-4, 0.4):
        (u, v), _ = coupled_maps(moments, 1e-3, lambda2, iterations=200, tolerance=1e-9)
        singular = np.linalg.svd(np.hstack([x @ u, z @ v]), compute_uv=False)
        spread.append(singular.sum() / singular[0])
    assert spread[1] < 0.9 * spread[0]


def solved(module: LCFS, data: Any) -> LCFS:
    module.build(data.spec)
    module.selection = data.selection
    module.fit_split(data.splits["train"], data.splits["val"])
    return module


@pytest.mark.parametrize("multi_label", [False, True])
def test_separable_data_is_solved_perfectly(multi_label: bool, toy: Callable[..., Any]) -> None:
    data = toy(n_train=60, multi_label=multi_label)
    data.load("vector", "vector")
    random = np.random.default_rng(0)
    for split in data.splits.values():
        classes = split.labels if multi_label else np.eye(3)[split.labels]
        for view, hot in ((split.images, classes), (split.texts, classes[split.image_of_text])):
            view.array[:] = hot @ np.eye(3, 12) + 0.003 * random.normal(size=(len(hot), 12))
    module = solved(LCFS(), data)
    assert module.chosen["value"] == pytest.approx(1.0)


def test_scale_of_the_features_does_not_matter(toy: Callable[..., Any]) -> None:
    data = toy(n_train=40)
    data.load("vector", "vector")
    first = solved(LCFS(lambda1=0.01, lambda2=0.01), data)
    for split in data.splits.values():
        split.images.array[:] *= 30
    second = solved(LCFS(lambda1=0.01, lambda2=0.01), data)
    torch.testing.assert_close(second.image_projection * 30, first.image_projection, rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(second.text_projection, first.text_projection, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("options", [{"lambda1": -1}, {"lambda2": -0.1}, {"iterations": 0}])
def test_options_out_of_range_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=next(iter(options))):
        LCFS(**options)
