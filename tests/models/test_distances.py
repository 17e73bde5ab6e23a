"""Distances by a matrix product are those of the definition, near pairs and their gradient too."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cmr_bench.models.distances import batch_distances
from cmr_bench.models.losses import euclidean


def rows(n: int, m: int, dim: int, seed: int, scale: float, shift: float, gap: float) -> tuple[torch.Tensor, ...]:
    """Two sets of rows around one point, of which some are equal and some ``gap`` apart, and weights of distances."""
    random = torch.Generator().manual_seed(seed)
    point = shift * torch.randn(dim, generator=random)
    a = point + scale * torch.randn(n, dim, generator=random)
    b = point + scale * torch.randn(m, dim, generator=random)
    few = min(n, m) // 8
    b[:few] = a[:few]
    b[few : 2 * few] = a[few : 2 * few] + gap * torch.randn(few, dim, generator=random)
    return a, b, torch.randn(n, m, generator=random)


@given(
    st.integers(1, 40),
    st.integers(1, 40),
    st.sampled_from([1, 63, 64, 200, 1024]),
    st.integers(0, 2**31),
    st.sampled_from([1e-3, 0.1, 1.0, 30.0]),
    st.sampled_from([0.0, 1.0, 20.0]),
    st.sampled_from([1e-6, 1e-3, 0.1, 0.5]),
)
def test_distances_and_gradient_are_those_of_the_definition(
    n: int, m: int, dim: int, seed: int, scale: float, shift: float, gap: float
) -> None:
    a, b, weights = rows(n, m, dim, seed, scale, shift, gap)
    exact = [side.double().requires_grad_() for side in (a, b)]
    expected = torch.cdist(*exact, compute_mode="donot_use_mm_for_euclid_dist")
    (expected * weights).sum().backward()
    found = [side.clone().requires_grad_() for side in (a, b)]
    distances = batch_distances(*found)
    (distances * weights).sum().backward()
    torch.testing.assert_close(distances.double(), expected, rtol=1e-6, atol=0)
    for mine, theirs in zip(found, exact, strict=True):
        assert mine.grad is not None
        assert theirs.grad is not None
        torch.testing.assert_close(mine.grad.double(), theirs.grad, rtol=1e-4, atol=2e-5 * float(n + m) ** 0.5)


@pytest.mark.parametrize("apart", [0.4, 0.44, 0.45, 0.5, 0.6, 1.0])
def test_pairs_on_both_sides_of_the_border_keep_their_digits(apart: float) -> None:
    random = torch.Generator().manual_seed(3)
    a = torch.nn.functional.normalize(torch.randn(128, 1024, generator=random), dim=1)
    step = torch.nn.functional.normalize(torch.randn(128, 1024, generator=random), dim=1)
    b = torch.nn.functional.normalize(a + apart * step, dim=1)
    exact = torch.cdist(a.double(), b.double(), compute_mode="donot_use_mm_for_euclid_dist")
    torch.testing.assert_close(batch_distances(a, b).double(), exact, rtol=1e-6, atol=0)


def test_a_row_is_at_no_distance_from_itself() -> None:
    items = torch.randn(200, 256, generator=torch.Generator().manual_seed(0)).requires_grad_()
    distances = batch_distances(items, items)
    assert bool((distances.diagonal() == 0).all())
    distances.diagonal().sum().backward()
    assert items.grad is not None
    assert bool((items.grad == 0).all())


def test_what_is_not_finite_stays_so() -> None:
    a, b = torch.randn(20, 64), torch.randn(20, 64)
    a[3, 5] = torch.nan
    distances = batch_distances(a, b)
    assert bool(distances[3].isnan().all())
    torch.testing.assert_close(distances[4:], euclidean(a, b)[4:], rtol=1e-5, atol=0)


def test_half_precision_around_it_changes_nothing() -> None:
    a, b, _ = rows(32, 32, 128, 1, 1.0, 0.0, 0.1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = batch_distances(a, b)
    torch.testing.assert_close(found, batch_distances(a, b), rtol=0, atol=0)
