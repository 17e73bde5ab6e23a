"""The losses of the pairwise family equal what their equations say, one term at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from cmr_bench.models.losses import (
    cosine_likelihood,
    label_regression,
    mean_distance,
    norm_softmax,
    project_onto,
    projection_matching,
    relation_error,
    same,
)

Matrix = NDArray[np.float64]


def unit(v: Matrix) -> Matrix:
    return v / np.sqrt(sum(x * x for x in v))


def slow_projection_matching(x: Matrix, z: Matrix, y: NDArray[np.bool_], epsilon: float = 1e-8) -> float:
    total = 0.0
    for a, b, match in ((x, z, y), (z, x, y.T)):
        for i in range(len(a)):
            scalar = np.array([a[i] @ unit(b[j]) for j in range(len(b))])
            p = np.exp(scalar) / np.exp(scalar).sum()
            for j in range(len(b)):
                q = float(match[i, j]) / sum(float(match[i, k]) for k in range(len(b)))
                total += p[j] * np.log(p[j] / (q + epsilon)) / len(a)
    return total


def slow_likelihood(a: Matrix, b: Matrix, s: NDArray[np.bool_]) -> float:
    total = 0.0
    for i in range(len(a)):
        for j in range(len(b)):
            half = float(unit(a[i]) @ unit(b[j])) / 2
            total += np.log(1 + np.exp(half)) - float(s[i, j]) * half
    return total / (len(a) * len(b))


@pytest.fixture
def pairs() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(4)
    images, texts = (3 * torch.randn(7, 5, generator=generator, dtype=torch.float64) for _ in range(2))
    return images, texts, torch.tensor([0, 1, 0, 2, 1, 3, 0])


@pytest.mark.parametrize("multi", [False, True])
def test_projection_matching_is_the_equation(pairs: tuple[Tensor, Tensor, Tensor], multi: bool) -> None:
    images, texts, labels = pairs
    match = same(torch.eye(4)[labels] + torch.eye(4)[labels.flip(0)] if multi else labels)
    expected = slow_projection_matching(images.numpy(), texts.numpy(), match.numpy())
    assert float(projection_matching(images, texts, match)) == pytest.approx(expected, rel=1e-5)


def test_projection_matching_counts_a_pair_without_any_label_as_matching(pairs: tuple[Tensor, Tensor, Tensor]) -> None:
    images, texts, _ = pairs
    found = projection_matching(images, texts, torch.zeros(7, 7, dtype=torch.bool))
    assert float(found) == pytest.approx(float(projection_matching(images, texts, torch.eye(7, dtype=torch.bool))))


def test_texts_of_one_image_are_no_negatives() -> None:
    images, texts = torch.tensor([[9.0, 0], [9.0, 0], [0, 9.0]]), torch.tensor([[9.0, 0], [9.0, 0], [0, 9.0]])
    good = projection_matching(images, texts, same(torch.tensor([5, 5, 6])))
    bad = projection_matching(images, texts, same(torch.tensor([4, 5, 6])))
    assert float(good) < 0.02
    assert float(bad) > 5


def test_projection_is_the_equation(pairs: tuple[Tensor, Tensor, Tensor]) -> None:
    images, texts, _ = pairs
    expected = [(x @ unit(z)) * unit(z) for x, z in zip(images.numpy(), texts.numpy(), strict=True)]
    np.testing.assert_allclose(project_onto(images, texts).numpy(), expected, rtol=1e-5)


def test_likelihood_is_the_equation(pairs: tuple[Tensor, Tensor, Tensor]) -> None:
    images, texts, labels = pairs
    for a, b in ((images, texts), (images, images), (texts, texts)):
        expected = slow_likelihood(a.numpy(), b.numpy(), same(labels).numpy())
        assert float(cosine_likelihood(a, b, same(labels))) == pytest.approx(expected, rel=1e-5)


def test_mean_distance_is_the_equation(pairs: tuple[Tensor, Tensor, Tensor]) -> None:
    images, texts, _ = pairs
    expected = np.mean([np.sqrt(((x - z) ** 2).sum()) for x, z in zip(images.numpy(), texts.numpy(), strict=True)])
    assert float(mean_distance(images, texts)) == pytest.approx(float(expected), rel=1e-5)


def test_relation_error_is_the_equation(pairs: tuple[Tensor, Tensor, Tensor]) -> None:
    images, texts, labels = pairs
    logits, match = images @ texts.T / 9, same(labels)
    errors: dict[bool, list[float]] = {True: [], False: []}
    for i in range(7):
        for j in range(7):
            kind = bool(match[i, j])
            errors[kind].append((1 / (1 + np.exp(-float(logits[i, j]))) - kind) ** 2)
    everything = errors[True] + errors[False]
    assert float(relation_error(logits, match)) == pytest.approx(np.mean(everything), rel=1e-5)
    halves = (np.mean(errors[True]) + np.mean(errors[False])) / 2
    assert float(relation_error(logits, match, balanced=True)) == pytest.approx(halves, rel=1e-5)


GENERATOR = torch.Generator().manual_seed(8)
CLASSES = torch.randn(4, 5, generator=GENERATOR)
CASES: dict[str, Callable[[Tensor, Tensor, Tensor], Any]] = {
    "projection_matching": lambda x, z, y: projection_matching(x, z, y),
    "project_onto": lambda x, z, _: project_onto(x, z).square().sum(),
    "cosine_likelihood": lambda x, z, y: cosine_likelihood(x, z, y),
    "norm_softmax": lambda x, z, _: norm_softmax(x, CLASSES, torch.arange(7) % 4) + z.float().sum(),
    "mean_distance": lambda x, z, _: mean_distance(x, z),
    "frobenius": lambda x, z, _: label_regression(x, z),
    "relation_error": lambda x, z, y: relation_error(x[:, :1] * z[:, 0], y),
    "relation_error_balanced": lambda x, z, y: relation_error(x[:, :1] * z[:, 0], y, balanced=True),
}


@pytest.mark.parametrize("name", CASES)
def test_finite_in_every_precision_and_at_the_edges(name: str, pairs: tuple[Tensor, Tensor, Tensor]) -> None:
    labels = pairs[2]
    for scale in (1.0, 0.0, 1e3):
        for kind in (torch.float32, torch.bfloat16):
            images, texts = (
                (scale * side).to(kind).requires_grad_() for side in (pairs[0], pairs[0] if scale == 0 else pairs[1])
            )
            with torch.autocast("cpu", torch.bfloat16, enabled=kind == torch.bfloat16):
                value = CASES[name](images, texts, same(labels))
            assert value.dtype == torch.float32, kind
            value.backward()
            for side in (images, texts):
                assert side.grad is not None
                assert bool(torch.isfinite(side.grad).all()), (scale, kind)


@pytest.mark.parametrize("name", CASES)
def test_autocast_does_not_reach_inside(name: str, pairs: tuple[Tensor, Tensor, Tensor]) -> None:
    images, texts, match = pairs[0].float(), pairs[1].float(), same(pairs[2])
    exact = CASES[name](images, texts, match)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(CASES[name](images, texts, match), exact, rtol=0, atol=0)


def test_norm_softmax_with_shares_of_classes(pairs: tuple[Tensor, Tensor, Tensor]) -> None:
    features, weight, labels = pairs
    shares = torch.eye(7)[labels]
    torch.testing.assert_close(norm_softmax(features, weight, labels), norm_softmax(features, weight, shares))
