"""CAN: eigenvalues against scipy's, projections, and who learns from which discriminator."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cmr_bench.models.adversarial.can import CAN, log_eigenvalues, scatters, side_by_side
from cmr_bench.support.errors import UsageError
from tests.support.trainers import fit


def problem(seed: int = 0, n: int = 20, d: int = 5, multi: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    random = np.random.default_rng(seed)
    members = np.eye(4)[random.integers(0, 3, n)]
    if multi:
        members[::2, 3] = 1
    return torch.from_numpy(members @ random.normal(size=(4, d)) + random.normal(size=(n, d)) + 2), torch.from_numpy(
        members
    )


def slow_scatters(items: Any, members: Any) -> tuple[Any, Any]:
    d = items.shape[1]
    total = members.sum()
    mean = sum(items[i] * members[i].sum() for i in range(len(items))) / total
    between, within = np.zeros((d, d)), np.zeros((d, d))
    for c in range(members.shape[1]):
        own = items[members[:, c] > 0]
        if not len(own):
            continue
        between += len(own) * np.outer(own.mean(0) - mean, own.mean(0) - mean) / total
        within += sum(np.outer(x - own.mean(0), x - own.mean(0)) for x in own) / total
    return between, within


@pytest.mark.parametrize("multi", [False, True])
def test_scatters_by_definition(multi: bool) -> None:
    items, members = problem(multi=multi)
    for found, wanted in zip(scatters(items, members), slow_scatters(items.numpy(), members.numpy()), strict=True):
        np.testing.assert_allclose(found.numpy(), wanted, atol=1e-10)


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 10**6), st.integers(2, 15), st.floats(1e-3, 1.0), st.booleans())
def test_loss_is_that_of_the_eigenvalues_that_scipy_finds(seed: int, n: int, ridge: float, multi: bool) -> None:
    items, members = problem(seed, n, multi=multi)
    between, within = slow_scatters(items.numpy(), members.numpy())
    values = scipy.linalg.eigh(between, within + ridge * np.eye(5), eigvals_only=True)
    wanted = float(np.log1p(np.maximum(values, 0)).sum())
    assert float(log_eigenvalues(items, members, ridge)) == pytest.approx(wanted, rel=1e-6, abs=1e-8)


def test_gradient_of_the_loss_also_where_eigenvalues_coincide() -> None:
    items, members = problem(n=9)
    assert torch.autograd.gradcheck(lambda x: log_eigenvalues(x, members, 0.1), (items.requires_grad_(),))
    equal = torch.ones(6, 3, requires_grad=True)
    log_eigenvalues(equal, torch.eye(2).repeat(3, 1), 0.1).backward()
    assert equal.grad is not None
    assert bool(torch.isfinite(equal.grad).all())


def test_loss_keeps_its_precision_under_autocast() -> None:
    items, members = problem()
    with torch.autocast("cpu", torch.bfloat16):
        found = log_eigenvalues(items.float(), members, 0.01)
    torch.testing.assert_close(found, log_eigenvalues(items, members, 0.01).float(), rtol=1e-4, atol=1e-4)


def made(data: Any, **options: Any) -> CAN:
    torch.manual_seed(0)
    module = CAN(**{"hidden": 8, "dim": 4, "discriminators": (5,)} | options)
    module.attach(data)
    return module


@pytest.mark.parametrize("multi", [False, True])
def test_projections_are_the_discriminant_directions_of_both_sides(multi: bool, toy: Callable[..., Any]) -> None:
    data = toy(multi_label=multi)
    module, train = made(data), data.splits["train"]
    outputs = module.training_outputs(train)
    module.fit_top(train)
    labels = train.labels[train.image_of_text]
    hot = torch.from_numpy(labels if multi else np.eye(3)[labels]).double()
    stacked = side_by_side(torch.from_numpy(outputs.images[outputs.owner]), torch.from_numpy(outputs.texts))
    between, within = slow_scatters(stacked.numpy(), torch.cat([hot, hot]).numpy())
    values, vectors = scipy.linalg.eigh(between, within + module.ridge * np.eye(8))
    found = np.concatenate([module.image_top.numpy(), module.text_top.numpy()])
    for k in range(2):
        np.testing.assert_allclose(np.abs(found[:, k]), np.abs(vectors[:, -1 - k]), rtol=1e-3, atol=1e-3)
    assert found.shape == (8, 2)
    assert values[-1] > values[-3]


def test_a_network_learns_from_its_own_discriminator_only(toy: Callable[..., Any]) -> None:
    data = toy()
    module = made(data, beta=0.3)
    batch = next(iter(data.train_dataloader()))
    u, v = (
        outputs.detach().requires_grad_()
        for outputs in (module.image_outputs(batch.images), module.text_outputs(batch.texts))
    )
    module.adversarial_loss(u, v).backward()
    plain = u.detach().requires_grad_()
    torch.nn.functional.softplus(-module.image_discriminator(plain)).mean().backward()
    assert plain.grad is not None
    torch.testing.assert_close(u.grad, -0.3 * plain.grad)
    other = v.detach().requires_grad_()
    torch.nn.functional.softplus(module.text_discriminator(other)).mean().backward()
    assert other.grad is not None
    torch.testing.assert_close(v.grad, -0.3 * other.grad)


def test_without_the_adversary_there_is_none(toy: Callable[..., Any]) -> None:
    data = toy()
    module = made(data, adversarial=False)
    assert not any("discriminator" in name for name, _ in module.named_parameters())
    assert set(module.loss(next(iter(data.train_dataloader())))) == {"eigenvalues", "loss"}
    fit(module, data)


def test_data_without_categories_is_refused(toy: Callable[..., Any]) -> None:
    with pytest.raises(UsageError, match="CAN needs category labels"):
        made(toy(n_classes=0))


def test_ridge_of_zero_is_refused() -> None:
    with pytest.raises(UsageError, match="ridge"):
        CAN(ridge=0)
