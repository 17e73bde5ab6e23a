"""Kernel CCA against its definition as one dense eigenproblem, against cca-zoo and against linear CCA."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cmr_bench.datamodules.batches import image_batch, text_batch
from cmr_bench.models.subspace import kernels
from cmr_bench.models.subspace.cca import CCA
from cmr_bench.models.subspace.kcca import KCCA
from cmr_bench.models.subspace.kernels import (
    exact_map,
    kernel_rows,
    mapped_covariances,
    median_distance,
    merged,
    nystrom_map,
)
from cmr_bench.models.subspace.solving import CanonicalProblem, covariances
from cmr_bench.support.errors import DataError, UsageError

N, RATE = 30, 0.4


def pairs(n: int = N, seed: int = 0) -> tuple[Any, Any]:
    random = np.random.default_rng(seed)
    hidden = random.normal(size=(n, 2))
    x = np.concatenate([hidden, random.normal(size=(n, 2))], axis=1)
    return x, np.sin(hidden) @ random.normal(size=(2, 3)) + 0.3 * random.normal(size=(n, 3))


def rbf(a: Any, b: Any) -> Any:
    return np.exp(-RATE * ((a[:, None] - b[None]) ** 2).sum(-1))


def solve(x: Any, y: Any, ridges: tuple[float, float], new: tuple[Any, Any], rank: int = 1000) -> tuple[Any, Any, Any]:
    maps = exact_map(x, "rbf", RATE, rank), exact_map(y, "rbf", RATE, rank)
    found, *_ = mapped_covariances(*maps, x, y, np.arange(len(x)))
    solution = CanonicalProblem(found, unit=1.0).solve(*ridges)
    u = (maps[0](new[0]) - found.image_mean) @ solution.image
    v = (maps[1](new[1]) - found.text_mean) @ solution.text
    return u, v, solution.values


def dense(x: Any, y: Any, ridges: tuple[float, float], new: tuple[Any, Any]) -> tuple[Any, Any, Any]:
    """The stacked problem of both sides, with the constant direction, which centring removes, projected out."""
    n = len(x)
    centring = np.eye(n) - 1 / n
    basis = scipy.linalg.null_space(np.ones((1, n)))
    kx, ky = (basis.T @ centring @ rbf(side, side) @ centring @ basis for side in (x, y))
    zero = np.zeros_like(kx)
    a = np.block([[zero, kx @ ky], [ky @ kx, zero]])
    b = scipy.linalg.block_diag(kx @ kx + ridges[0] * n * kx, ky @ ky + ridges[1] * n * ky)
    values, vectors = scipy.linalg.eigh(a, b)
    sides = []
    for part, side, fresh in ((vectors[: n - 1], x, new[0]), (vectors[n - 1 :], y, new[1])):
        rows = (rbf(fresh, side) - rbf(side, side).mean(0)) @ centring
        # A column of the stacked problem has the length 1 in both sides together, n rows of variance 1 in each of ours.
        sides.append(rows @ basis @ part[:, ::-1] * np.sqrt(2 * n))
    return sides[0], sides[1], values[::-1]


@pytest.mark.parametrize("ridges", [(0.01, 0.01), (0.1, 0.003)])
def test_equals_the_dense_eigenproblem_on_new_items(ridges: tuple[float, float]) -> None:
    x, y = pairs()
    new = pairs(8, seed=1)
    found, wanted = solve(x, y, ridges, new), dense(x, y, ridges, new)
    np.testing.assert_allclose(found[2][:10], wanted[2][:10], atol=1e-6)
    for k in range(5):
        sign = np.sign(found[0][:, k] @ wanted[0][:, k])
        for side in (0, 1):
            np.testing.assert_allclose(found[side][:, k], sign * wanted[side][:, k], atol=1e-6)


def test_equals_cca_zoo_on_new_items() -> None:
    zoo = pytest.importorskip("cca_zoo.nonparametric")
    x, y = pairs()
    new = pairs(8, seed=1)
    # Theirs adds c / (1 - c) to covariances of n - 1.
    shrinkage = 0.05
    ridge = shrinkage / (1 - shrinkage) * (N - 1) / N
    theirs = zoo.KCCA(n_components=4, kernel="rbf", gamma=RATE, shrinkage=shrinkage).fit([x, y])
    # Its views are centred first, which the distances do not notice.
    u, v = theirs.transform(list(new))
    found = solve(x, y, (ridge, ridge), new)
    for k in range(4):
        for ours, other in ((found[0][:, k], u[:, k]), (found[1][:, k], v[:, k])):
            scale = (ours @ other) / (other @ other)
            np.testing.assert_allclose(ours, scale * other, atol=1e-6)


@pytest.mark.parametrize("kernel", ["rbf", "chi2", "linear", "cosine"])
def test_kernels_are_those_of_scikit_learn(kernel: Any) -> None:
    from sklearn.metrics import pairwise

    random = np.random.default_rng(0)
    a, b = np.abs(random.normal(size=(6, 4))), np.abs(random.normal(size=(5, 4)))
    a[0] = b[0] = 0.0
    wanted = {
        "rbf": lambda: pairwise.rbf_kernel(a, b, gamma=0.7),
        "chi2": lambda: pairwise.chi2_kernel(a, b, gamma=0.7),
        "linear": lambda: pairwise.linear_kernel(a, b),
        "cosine": lambda: pairwise.cosine_similarity(a, b),
    }[kernel]()
    found = kernel_rows(torch.from_numpy(a), torch.from_numpy(b), kernel, 0.7).numpy()
    np.testing.assert_allclose(found, wanted, atol=1e-12)


def test_inner_products_of_the_coordinates_are_the_kernel() -> None:
    x, _ = pairs()
    centring = np.eye(N) - 1 / N
    whole = rbf(x, x)
    exact, landmarks = exact_map(x, "rbf", RATE, N)(x), nystrom_map(x, "rbf", RATE, N)(x)
    np.testing.assert_allclose(centring @ exact @ exact.T @ centring, centring @ whole @ centring, atol=1e-6)
    np.testing.assert_allclose(landmarks @ landmarks.T, whole, atol=1e-5)


def test_median_is_over_different_items() -> None:
    x = np.array([[0.0], [1.0], [3.0]])
    assert median_distance(x, "rbf") == pytest.approx(4.0)
    assert median_distance(np.zeros((4, 2)), "rbf") == 1.0
    assert median_distance(x[:1], "rbf") == 1.0


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 10**6), st.lists(st.integers(1, 12), min_size=1, max_size=4))
def test_moments_of_parts_are_those_of_the_whole(seed: int, sizes: list[int]) -> None:
    random = np.random.default_rng(seed)
    n = sum(sizes)
    x, y = random.normal(size=(n, 3)) + 5, random.normal(size=(n, 2))
    whole = covariances(x, y, np.arange(n))
    parts, start = [], 0
    for size in sizes:
        rows = slice(start, start + size)
        parts.append((size, covariances(x[rows], y[rows], np.arange(size))))
        start += size
    for name in ("image_mean", "text_mean", "image", "text", "cross"):
        np.testing.assert_allclose(getattr(merged(parts), name), getattr(whole, name), atol=1e-9)


def test_chunks_and_unsorted_texts_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = pairs(12)
    owner = np.random.default_rng(0).integers(0, 5, 12)
    maps = exact_map(x, "rbf", RATE, 4), exact_map(y, "rbf", RATE, 4)
    whole = mapped_covariances(*maps, x, y, owner)
    monkeypatch.setattr(kernels, "CHUNK", 5)
    parts = mapped_covariances(*maps, x, y, owner)
    for name in ("image_mean", "text_mean", "image", "text", "cross"):
        np.testing.assert_allclose(getattr(parts[0], name), getattr(whole[0], name), atol=1e-12)
    np.testing.assert_allclose(whole[1], rbf(x[owner], x).mean(0), atol=1e-12)
    for part, other in zip(parts[1:], whole[1:], strict=True):
        np.testing.assert_allclose(part, other, atol=1e-12)


def scored(module: Any, data: Any) -> Any:
    module.attach(data)
    torch.manual_seed(0)
    module.fit_split(data.splits["train"], data.splits["val"])
    test = data.splits["test"]
    images, texts = image_batch(test, np.arange(test.n_images)), text_batch(test, np.arange(test.n_texts))
    return module.similarity(module.encode_images(images), module.encode_texts(texts))


@pytest.mark.parametrize("options", [{}, {"standardise": "each", "weighting": "correlation"}])
def test_linear_kernel_is_linear_analysis(options: Any, toy: Callable[..., Any]) -> None:
    given = {"image_ridge": 0.1, "text_ridge": 0.1, "n_components": 3} | options
    found = scored(KCCA(kernel="linear", **given), toy(n_train=60))
    torch.testing.assert_close(found, scored(CCA(**given), toy(n_train=60)), rtol=1e-3, atol=1e-4)


def test_all_items_as_landmarks_are_the_exact_solution(toy: Callable[..., Any]) -> None:
    given = {"image_ridge": 0.1, "text_ridge": 0.1, "n_components": 3, "bandwidth": 1.0}
    exact = scored(KCCA(**given), toy())
    near = scored(KCCA(max_exact=1, **given), toy())
    # A landmark more than there are coordinates: the constant direction, which the exact form has centred away.
    torch.testing.assert_close(near, exact, rtol=0.02, atol=0.02)
    module = KCCA(max_exact=30, landmarks=20, **given)
    assert torch.isfinite(scored(module, toy())).all()
    assert (len(module.image_landmarks), len(module.text_landmarks)) == (24, 20)


def test_options_of_zero_are_selected(toy: Callable[..., Any]) -> None:
    module = KCCA()
    scored(module, toy())
    assert set(module.chosen) == {"image_ridge", "text_ridge", "bandwidth", "n_components", "value"}
    assert module.chosen["value"] > 0.8


def test_histograms_are_not_negative(toy: Callable[..., Any]) -> None:
    with pytest.raises(DataError, match="chi2"):
        scored(KCCA(kernel="chi2"), toy())


@pytest.mark.parametrize("options", [{"bandwidth": -1}, {"rank": 0}, {"landmarks": 0}, {"max_exact": 0}])
def test_options_out_of_range_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=next(iter(options))):
        KCCA(**options)
