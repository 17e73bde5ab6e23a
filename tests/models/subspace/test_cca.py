"""CCA against its definition and against scikit-learn."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from cmr_bench.datamodules.batches import ImageBatch, TextBatch
from cmr_bench.models.subspace.cca import CCA
from cmr_bench.models.subspace.solving import Whitened, canonical, covariances
from cmr_bench.support.errors import UsageError


def pairs(n: int = 200, seed: int = 0) -> tuple[Any, Any]:
    random = np.random.default_rng(seed)
    hidden = random.normal(size=(n, 3))
    x = hidden @ random.normal(size=(3, 6)) + 0.5 * random.normal(size=(n, 6))
    y = hidden @ random.normal(size=(3, 4)) + 0.5 * random.normal(size=(n, 4))
    return x + 2, y - 1


def solve(x: Any, y: Any, image_ridge: float = 0.0, text_ridge: float = 0.0, owner: Any = None) -> tuple[Any, Any]:
    owner = np.arange(len(x)) if owner is None else owner
    found = covariances(x, y, owner)
    image, text = Whitened(found.image), Whitened(found.text)
    cross = image.vectors.T @ found.cross @ text.vectors
    return found, canonical(image, text, cross, image_ridge, text_ridge)


def test_components_have_unit_variance_and_are_correlated_only_with_their_partner() -> None:
    x, y = pairs()
    found, solution = solve(x, y)
    u, v = (x - found.image_mean) @ solution.image, (y - found.text_mean) @ solution.text
    np.testing.assert_allclose(u.T @ u / len(x), np.eye(4), atol=1e-9)
    np.testing.assert_allclose(v.T @ v / len(x), np.eye(4), atol=1e-9)
    np.testing.assert_allclose(u.T @ v / len(x), np.diag(solution.values), atol=1e-9)
    assert (np.diff(solution.values) <= 0).all()


def test_agrees_with_scikit_learn() -> None:
    from sklearn import cross_decomposition

    x, y = pairs()
    found, solution = solve(x, y)
    u, v = (x - found.image_mean) @ solution.image, (y - found.text_mean) @ solution.text
    reference = cross_decomposition.CCA(n_components=3, max_iter=5000, tol=1e-12).fit_transform(x, y)
    for k in range(3):
        for ours, theirs in ((u[:, k], reference[0][:, k]), (v[:, k], reference[1][:, k])):
            assert abs(np.corrcoef(ours, theirs)[0, 1]) == pytest.approx(1, abs=1e-4)


def test_several_texts_an_image_are_repeated_pairs() -> None:
    x, y = pairs()
    owner = np.sort(np.random.default_rng(1).integers(0, 80, len(y)))
    direct, _ = solve(x[owner], y)
    grouped, _ = solve(x[:80], y, owner=owner)
    for name in ("image_mean", "text_mean", "image", "text", "cross"):
        np.testing.assert_allclose(getattr(grouped, name), getattr(direct, name), atol=1e-10)


def test_ridge_is_in_units_of_the_mean_variance() -> None:
    x, y = pairs()
    _, solution = solve(x, y, 0.3, 0.1)
    covariance = np.cov(x.T, bias=True)
    ridged = covariance + 0.3 * np.trace(covariance) / 6 * np.eye(6)
    np.testing.assert_allclose(solution.image.T @ ridged @ solution.image, np.eye(4), atol=1e-9)


def test_more_features_than_pairs_and_constant_features_stay_finite() -> None:
    random = np.random.default_rng(0)
    x, y = random.normal(size=(10, 30)), random.normal(size=(10, 20))
    x[:, 3] = 5
    _, solution = solve(x, y)
    assert np.isfinite(solution.image).all()
    assert np.isfinite(solution.text).all()
    assert solution.values[:9] == pytest.approx(np.ones(9), abs=1e-6)


@pytest.mark.parametrize("standardise", ["none", "each"])
def test_chosen_on_validation(toy: Callable[..., Any], standardise: Any) -> None:
    data, module = toy(n_train=40), CCA(standardise=standardise)
    module.attach(data)
    module.fit_split(data.splits["train"], data.splits["val"])
    best = module.chosen["value"]
    for width in (2, 4):
        fixed = CCA(standardise=standardise, n_components=width, image_ridge=1e-3, text_ridge=1e-3)
        fixed.attach(data)
        fixed.fit_split(data.splits["train"], data.splits["val"])
        assert fixed.image_projection.shape == (12, width)
        assert fixed.chosen["value"] <= best + 1e-9 or width not in (4, 8, 16)


def test_scale_of_the_features_does_not_matter_when_standardised(toy: Callable[..., Any]) -> None:
    scores = []
    for factor in (1.0, 50.0):
        data, module = toy(n_train=40), CCA(standardise="each", n_components=4, image_ridge=0.1, text_ridge=0.1)
        spec = data.load("vector", "vector")
        for split in data.splits.values():
            split.images.array[:, 0] *= factor
        module.build(spec)
        module.fit_split(data.splits["train"], data.splits["val"])
        rows = np.arange(10)
        test = data.splits["test"]
        scores.append(
            module.similarity(
                module.encode_images(ImageBatch(torch.arange(10), **test.images.fetch(rows))),
                module.encode_texts(TextBatch(torch.arange(10), **test.texts.fetch(rows))),
            )
        )
    torch.testing.assert_close(scores[0], scores[1], rtol=1e-3, atol=1e-4)


def test_negative_options_are_refused() -> None:
    for option in ("n_components", "image_ridge", "text_ridge"):
        with pytest.raises(UsageError, match=option):
            CCA(**{option: -1})
