"""Losses of the survey's methods against slow versions written from their definitions."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from cmr_bench.models.interaction.saem import angular_loss, largest_response
from cmr_bench.models.losses import hinge_ranking
from cmr_bench.models.pairwise.dprcm import multi_label_cross_entropy
from cmr_bench.models.pairwise.nan import AttentionPool, neighbour_ranking

Array = npt.NDArray[np.float64]


def unit(rows: int, dim: int, seed: int) -> Tensor:
    values = torch.randn(rows, dim, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return F.normalize(values, dim=1)


def made(n: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return images, texts and which pairs are of the same image; some images come twice."""
    identity = torch.randint(0, max(2, n - 1), (n,), generator=torch.Generator().manual_seed(seed))
    return unit(n, 6, seed), unit(n, 6, seed + 1), identity[:, None] == identity[None, :]


def nearest_hinge(scores: Array, siblings: npt.NDArray[np.bool_], margin: float, k: int) -> float:
    n = len(scores)
    total = 0.0
    for one in range(n):
        for line in (scores[one], scores[:, one]):
            costs = [
                max(0.0, margin - scores[one, one] + line[o]) for o in range(n) if o != one and not siblings[one, o]
            ]
            total += sum(sorted(costs, reverse=True)[:k])
    return total / n


@given(n=st.integers(1, 9), k=st.integers(1, 12), seed=st.integers(0, 10**6))
@settings(deadline=None)
def test_nearest_negatives_by_definition(n: int, k: int, seed: int) -> None:
    images, texts, siblings = made(n, seed)
    scores = images @ texts.T
    found = hinge_ranking(scores, siblings, 0.2, "nearest", k)
    assert float(found) == pytest.approx(nearest_hinge(scores.numpy(), siblings.numpy(), 0.2, k), abs=1e-6)


def test_one_nearest_negative_is_the_hardest_and_all_of_them_the_sum() -> None:
    images, texts, siblings = made(8, 3)
    scores = images @ texts.T
    torch.testing.assert_close(
        hinge_ranking(scores, siblings, 0.2, "nearest", 1), hinge_ranking(scores, siblings, 0.2, "hardest")
    )
    torch.testing.assert_close(
        hinge_ranking(scores, siblings, 0.2, "nearest", 7), hinge_ranking(scores, siblings, 0.2, "sum")
    )


def slow_neighbours(items: Array, partners: Array, siblings: npt.NDArray[np.bool_], k: int, margin: float) -> float:
    costs = []
    for one in range(len(items)):
        others = [o for o in range(len(items)) if o != one and not siblings[one, o]]
        near = sorted(others, key=lambda o: -float(partners[one] @ partners[o]))[:k]
        far = [o for o in others if o not in near]
        if near and far:
            mean = np.mean([items[one] @ items[o] for o in near])
            costs.append(max(0.0, margin - mean + max(items[one] @ items[o] for o in far)))
    return float(np.mean(costs)) if costs else 0.0


@given(n=st.integers(1, 9), k=st.integers(1, 5), seed=st.integers(0, 10**6))
@settings(deadline=None)
def test_neighbours_rank_above_others_by_definition(n: int, k: int, seed: int) -> None:
    items, partners, siblings = made(n, seed)
    found = neighbour_ranking(items, partners, siblings, k, 0.1)
    assert float(found) == pytest.approx(
        slow_neighbours(items.numpy(), partners.numpy(), siblings.numpy(), k, 0.1), abs=1e-6
    )


def test_partners_get_no_gradient_from_the_neighbours() -> None:
    items, partners, siblings = made(8, 5)
    items.requires_grad_()
    partners.requires_grad_()
    neighbour_ranking(items, partners, siblings, 3, 0.5).backward()
    assert items.grad is not None
    assert items.grad.abs().sum() > 0
    assert partners.grad is None


def slow_angular(images: Array, texts: Array, siblings: npt.NDArray[np.bool_]) -> float:
    total = 0.0
    for a, b in ((images, texts), (texts, images)):
        for i in range(len(a)):
            others = [j for j in range(len(a)) if j != i and not siblings[i, j]]
            if others:
                x = [4 * (a[i] @ b[j] + b[i] @ b[j]) - 4 * a[i] @ b[i] for j in others]
                total += np.log1p(np.exp(max(x)))
    return total


@given(n=st.integers(1, 9), seed=st.integers(0, 10**6))
@settings(deadline=None)
def test_angular_loss_by_definition(n: int, seed: int) -> None:
    images, texts, siblings = made(n, seed)
    found = angular_loss(images, texts, siblings)
    assert float(found) == pytest.approx(
        slow_angular(images.numpy(), texts.numpy(), siblings.numpy()), rel=1e-5, abs=1e-6
    )


def test_gradients_agree_with_finite_differences() -> None:
    images, texts, siblings = made(6, 11)
    for loss in (
        lambda a, b: angular_loss(a, b, siblings),
        lambda a, b: hinge_ranking(a @ b.T, siblings, 0.2, "nearest", 2),
        lambda a, b: neighbour_ranking(a, b, siblings, 2, 0.3) + 0 * b.sum(),
    ):
        a, b = images.clone().requires_grad_(), texts.clone().requires_grad_()
        loss(a, b).backward()
        assert a.grad is not None
        direction = unit(6, 6, 99)
        step = 1e-3
        with torch.no_grad():
            change = (loss(images + step * direction, texts) - loss(images - step * direction, texts)) / (2 * step)
        assert float((a.grad * direction).sum()) == pytest.approx(float(change), rel=2e-2, abs=2e-3)


@given(lengths=st.lists(st.integers(1, 5), min_size=1, max_size=4), padding=st.integers(0, 4), size=st.integers(1, 3))
@settings(deadline=None)
def test_largest_response_sees_real_words_only(lengths: list[int], padding: int, size: int) -> None:
    torch.manual_seed(0)
    convolution = nn.Conv1d(3, 4, size)
    width = max(lengths) + padding
    features = torch.randn(len(lengths), width, 3)
    found = largest_response(convolution, features, torch.tensor(lengths))
    assert convolution.bias is not None
    weight, bias = convolution.weight.detach(), convolution.bias.detach()
    for row, length in enumerate(lengths):
        words = torch.cat([features[row, :length], torch.zeros(size, 3)])
        windows = range(max(1, length - size + 1))
        slow = [
            max(max(0.0, float((weight[f] * words[at : at + size].T).sum() + bias[f])) for at in windows)
            for f in range(4)
        ]
        np.testing.assert_allclose(found[row].detach().numpy(), slow, rtol=1e-4, atol=1e-5)


def test_attention_pools_real_fragments_only() -> None:
    torch.manual_seed(1)
    pool = AttentionPool(4, 8)
    features, mask = torch.randn(2, 5, 4), torch.tensor([[True] * 5, [True, True, False, False, False]])
    wider = torch.cat([features, 9 * torch.ones(2, 3, 4)], dim=1)
    torch.testing.assert_close(pool(wider, F.pad(mask, (0, 3))), pool(features, mask))
    torch.testing.assert_close(AttentionPool(4, 0, uniform=True)(features, mask)[1], features[1, :2].mean(0))


def test_binary_cross_entropy_of_each_class() -> None:
    logits, targets = (
        torch.randn(5, 3, dtype=torch.float64),
        torch.tensor([[1, 0, 1], [0, 0, 0], [1, 1, 1], [0, 1, 0], [1, 0, 0]]),
    )
    slow = [
        -np.log(1 / (1 + np.exp(-x))) if y else -np.log(1 - 1 / (1 + np.exp(-x)))
        for x, y in zip(logits.flatten().tolist(), targets.flatten().tolist(), strict=True)
    ]
    assert float(multi_label_cross_entropy(logits, targets)) == pytest.approx(np.mean(slow), rel=1e-5)
