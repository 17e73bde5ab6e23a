"""Losses against slow loops written from their equations."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cmr_bench.models import losses


def rand(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).float()


def slow_hinge(s: np.ndarray[Any, Any], identity: list[int], margin: float, kind: str) -> float:
    n, total = len(s), 0.0
    for k in range(n):
        texts = [max(0.0, margin - s[k, k] + s[k, t]) for t in range(n) if identity[t] != identity[k]]
        images = [max(0.0, margin - s[k, k] + s[i, k]) for i in range(n) if identity[i] != identity[k]]
        for costs in (texts, images):
            if costs:
                total += {"hardest": max(costs), "mean": sum(costs) / len(costs), "sum": sum(costs)}[kind]
    return total / n


@pytest.mark.parametrize("kind", ["hardest", "mean", "sum"])
@given(seed=st.integers(0, 10**6), n=st.integers(1, 7), groups=st.integers(1, 5), margin=st.floats(0, 2))
@settings(max_examples=40, deadline=None)
def test_hinge_ranking_equals_the_loop(kind: losses.Negatives, seed: int, n: int, groups: int, margin: float) -> None:
    random = np.random.default_rng(seed)
    identity = random.integers(0, groups, n).tolist()
    scores = random.normal(size=(n, n)).astype(np.float32)
    found = losses.hinge_ranking(torch.from_numpy(scores), losses.same(torch.tensor(identity)), margin, kind)
    assert float(found) == pytest.approx(slow_hinge(scores, identity, margin, kind), rel=1e-5, abs=1e-6)


def test_hinge_ranking_of_a_collapsed_batch_is_twice_the_margin() -> None:
    equal = torch.full((6, 6), 0.7)
    for kind in ("hardest", "mean"):
        assert float(losses.hinge_ranking(equal, losses.same(torch.arange(6)), 0.2, kind)) == pytest.approx(0.4)


def test_captions_of_one_image_are_no_negatives() -> None:
    scores = torch.tensor([[0.9, 1.0], [1.0, 0.9]])
    for kind in ("hardest", "mean", "sum"):
        assert float(losses.hinge_ranking(scores, losses.same(torch.tensor([4, 4])), 0.2, kind)) == 0.0
        assert float(losses.hinge_ranking(scores, losses.same(torch.tensor([4, 5])), 0.2, kind)) > 0.0


def test_same_compares_single_and_multiple_labels() -> None:
    single, several = torch.tensor([0, 1, 0]), torch.tensor([[1, 0, 0], [0, 1, 1], [1, 1, 0]])
    assert losses.same(single).tolist() == [[True, False, True], [False, True, False], [True, False, True]]
    assert losses.same(several).tolist() == [[True, False, True], [False, True, True], [True, True, True]]
    assert losses.same(single[:1], single).tolist() == [[True, False, True]]


def slow_triplets(d: Any, positive: Any, negative: Any, margin: float, mining: str) -> float:
    costs = []
    for a in range(len(d)):
        near = [d[a][n] for n in range(len(d[a])) if negative[a][n]]
        far = [d[a][p] for p in range(len(d[a])) if positive[a][p]]
        if mining == "hardest" and near and far:
            costs.append(max(0.0, margin + max(far) - min(near)))
        if mining == "all":
            costs += [max(0.0, margin + p - n) for p in far for n in near]
    return sum(costs) / len(costs) if costs else 0.0


@pytest.mark.parametrize("mining", ["all", "hardest"])
@given(seed=st.integers(0, 10**6), a=st.integers(1, 5), c=st.integers(1, 6), margin=st.floats(0, 2))
@settings(max_examples=40, deadline=None)
def test_triplets_equal_the_loop(mining: losses.Mining, seed: int, a: int, c: int, margin: float) -> None:
    random = np.random.default_rng(seed)
    distances = np.abs(random.normal(size=(a, c))).astype(np.float32)
    positive = random.random((a, c)) < 0.4
    negative = ~positive & (random.random((a, c)) < 0.8)
    found = losses.triplet_hinge(*(torch.from_numpy(x) for x in (distances, positive, negative)), margin, mining)
    assert float(found) == pytest.approx(slow_triplets(distances, positive, negative, margin, mining), abs=1e-5)


@pytest.mark.parametrize("mining", ["all", "hardest"])
def test_triplets_of_equal_items_have_a_finite_gradient(mining: losses.Mining) -> None:
    items = torch.ones(4, 3, requires_grad=True)
    labels = losses.same(torch.tensor([0, 0, 1, 1]))
    losses.triplet_hinge(losses.euclidean(items, items), labels, ~labels, 1.0, mining).backward()
    assert items.grad is not None
    assert bool(torch.isfinite(items.grad).all())


def test_euclidean_distances() -> None:
    a, b = rand(3, 5), rand(4, 5, seed=1)
    expected = [[math.dist(x.tolist(), y.tolist()) for y in b] for x in a]
    np.testing.assert_allclose(losses.euclidean(a, b).numpy(), expected, rtol=1e-5)


def test_label_regression_is_a_frobenius_norm_over_n() -> None:
    predictions, targets = rand(4, 3), torch.eye(3)[[0, 1, 2, 0]]
    expected = math.sqrt(sum((p - t) ** 2 for p, t in zip(predictions.flatten(), targets.flatten(), strict=True))) / 4
    assert float(losses.label_regression(predictions, targets)) == pytest.approx(expected, rel=1e-5)


def test_norm_softmax_ignores_the_length_of_the_class_vectors() -> None:
    features, weight, classes = rand(5, 4), rand(3, 4, seed=1), torch.tensor([0, 2, 1, 1, 0])
    total = 0.0
    for x, c in zip(features.double().numpy(), classes.tolist(), strict=True):
        logits = [float(x @ w / np.linalg.norm(w)) for w in weight.double().numpy()]
        total -= logits[c] - math.log(sum(math.exp(v) for v in logits))
    for scale in (1.0, 7.0):
        assert float(losses.norm_softmax(features, weight * scale, classes)) == pytest.approx(total / 5, rel=1e-5)


def test_modality_cross_entropy_is_the_negative_of_the_value_function() -> None:
    images, texts = rand(6), rand(6, seed=1)
    sigmoid = lambda v: 1 / (1 + math.exp(-v))  # noqa: E731
    value = sum(math.log(sigmoid(float(v))) for v in images) / 6
    value += sum(math.log(1 - sigmoid(float(v))) for v in texts) / 6
    assert float(losses.modality_cross_entropy(images, texts)) == pytest.approx(-value, rel=1e-5)


def test_reversed_gradient() -> None:
    x = rand(3).requires_grad_()
    y = losses.reverse_gradient(x, 0.25)
    assert torch.equal(y, x)
    (y * torch.tensor([1.0, 2.0, 3.0])).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [-0.25, -0.5, -0.75]


def test_losses_under_bfloat16_autocast_stay_close_to_float32() -> None:
    images, texts = (torch.nn.functional.normalize(rand(8, 16, seed=s), dim=1) for s in (0, 1))
    mask = losses.same(torch.arange(8) % 3)
    weight = rand(5, 16, seed=2)

    def every() -> list[torch.Tensor]:
        return [
            losses.hinge_ranking(images @ texts.T, mask, 0.2),
            losses.triplet_hinge(losses.euclidean(images, texts), mask, ~mask, 1.0),
            losses.norm_softmax(images, weight, torch.arange(8) % 5),
            losses.label_regression(images @ weight.T, torch.eye(5)[torch.arange(8) % 5]),
            losses.modality_cross_entropy(images[:, 0], texts[:, 0]),
        ]

    plain = every()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = every()
    for one, other in zip(plain, mixed, strict=True):
        assert other.dtype == torch.float32
        torch.testing.assert_close(other, one, rtol=0.03, atol=0.03)
