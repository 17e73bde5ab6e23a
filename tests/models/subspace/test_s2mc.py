"""Soft maximal correlation and deep autoencoders against their definitions, and against what they reduce to."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from cmr_bench.models.subspace.dcca import DCCA
from cmr_bench.models.subspace.dccae import DCCAE, restoring_error
from cmr_bench.models.subspace.s2mc import S2MC, soft_hgr
from cmr_bench.support.errors import UsageError
from tests.support.trainers import fit


def sides(n: int = 12, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    random = np.random.default_rng(seed)
    a = random.normal(size=(n, 4)) + 3
    return torch.from_numpy(a), torch.from_numpy(np.tanh(a) + random.normal(size=(n, 4)))


def slow_soft_hgr(a: Any, b: Any) -> float:
    n, d = a.shape
    x, y = a - a.mean(0), b - b.mean(0)
    together = sum(float(x[i] @ y[i]) for i in range(n)) / (n - 1)
    covariances = [sum(np.outer(side[i], side[i]) for i in range(n)) / (n - 1) for side in (x, y)]
    return together - 0.5 * sum(float(covariances[0][i] @ covariances[1][:, i]) for i in range(d))


@pytest.mark.parametrize("n", [2, 12])
def test_soft_hgr_by_definition(n: int) -> None:
    a, b = sides(n)
    assert float(soft_hgr(a, b)) == pytest.approx(slow_soft_hgr(a.numpy(), b.numpy()), rel=1e-5)


def test_gradient_of_soft_hgr_is_that_of_finite_differences() -> None:
    a, b = (side.requires_grad_() for side in sides(8))
    soft_hgr(a, b).backward()
    for side, other, first in ((a, b, True), (b, a, False)):
        direction = torch.randn(side.shape, dtype=side.dtype, generator=torch.Generator().manual_seed(1))
        moved = [side.detach() + step * direction for step in (1e-4, -1e-4)]
        values = [
            slow_soft_hgr(*((m.numpy(), other.detach().numpy()) if first else (other.detach().numpy(), m.numpy())))
            for m in moved
        ]
        assert side.grad is not None
        assert float((side.grad * direction).sum()) == pytest.approx((values[0] - values[1]) / 2e-4, rel=1e-4)


def test_optimum_is_half_the_sum_of_the_squared_correlations() -> None:
    """Whitened canonical directions, each weighed by the root of its correlation, are the optimum (Wang et al.)."""
    a, b = sides(60)
    x, y = (side.numpy() - side.numpy().mean(0) for side in (a, b))
    n = len(x) - 1
    left, right = (np.linalg.inv(np.linalg.cholesky(side.T @ side / n)) for side in (x, y))
    u, values, vt = np.linalg.svd(left @ (x.T @ y / n) @ right.T)
    best = [torch.from_numpy(side) for side in (x @ left.T @ u * values**0.5, y @ right.T @ vt.T * values**0.5)]
    assert float(soft_hgr(*best)) == pytest.approx(0.5 * (values**2).sum(), rel=1e-5)
    assert float(soft_hgr(1.1 * best[0], best[1])) < float(soft_hgr(*best))


def made(kind: type[Any], data: Any, **options: Any) -> Any:
    torch.manual_seed(0)
    module = kind(**{"hidden": 8, "dim": 4} | options)
    module.attach(data)
    return module, next(iter(data.train_dataloader()))


@pytest.mark.parametrize("multi", [False, True])
def test_whole_loss_by_its_parts(multi: bool, toy: Callable[..., Any]) -> None:
    module, batch = made(S2MC, toy(multi_label=multi), supervision=0.7)
    u, v = module.image_outputs(batch.images).detach().numpy(), module.text_outputs(batch.texts).detach().numpy()
    hot = batch.labels.numpy() if multi else np.eye(3)[batch.labels]
    vectors = hot @ module.classes.detach().numpy()
    wanted = -(slow_soft_hgr(u, v) + 0.7 * (slow_soft_hgr(u, vectors) + slow_soft_hgr(v, vectors))) / 4
    assert module.loss(batch)["loss"].item() == pytest.approx(wanted, rel=1e-4)


def test_without_supervision_no_label_counts(toy: Callable[..., Any]) -> None:
    module, batch = made(S2MC, toy(), supervision=0.0)
    first = float(module.loss(batch)["loss"])
    batch.labels = batch.labels.flip(0)
    assert float(module.loss(batch)["loss"]) == first
    assert not any(name == "classes" for name, _ in module.named_parameters())


def test_outputs_are_centred_before_they_are_ranked(toy: Callable[..., Any]) -> None:
    data = toy()
    module, _ = made(S2MC, data)
    train = data.splits["train"]
    module.fit_top(train)
    outputs = module.training_outputs(train)
    np.testing.assert_allclose(module.text_top_mean.numpy(), outputs.texts.mean(0), atol=1e-6)
    np.testing.assert_allclose(module.image_top_mean.numpy(), outputs.images[outputs.owner].mean(0), atol=1e-6)


def test_reconstruction_of_zero_is_dcca(toy: Callable[..., Any]) -> None:
    found = []
    for kind, options in ((DCCA, {}), (DCCAE, {"reconstruction": 0.0})):
        data = toy(n_train=40)
        module, _ = made(kind, data, **options)
        fit(module, data, epochs=2)
        found.append(module.state_dict())
    assert found[0].keys() == found[1].keys()
    for name, value in found[0].items():
        torch.testing.assert_close(found[1][name], value, rtol=0, atol=0)


def test_networks_of_dccae_begin_as_those_of_dcca(toy: Callable[..., Any]) -> None:
    plain, _ = made(DCCA, toy())
    module, batch = made(DCCAE, toy(), reconstruction=0.5)
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(module.state_dict()[name], value, rtol=0, atol=0)
    terms = module.loss(batch)
    wanted = 0.0
    for features, net, decoder in (
        (module.image_features(batch.images), module.image_net, module.image_decoder),
        (module.text_features(batch.texts), module.text_net, module.text_decoder),
    ):
        restored, target = decoder(net(features)).detach().numpy(), features.detach().numpy()
        wanted += (
            sum((restored[i, j] - target[i, j]) ** 2 for i in range(len(target)) for j in range(target.shape[1]))
            / target.size
        )
    assert float(terms["reconstruction"]) == pytest.approx(wanted, rel=1e-4)
    assert float(terms["correlation"]) == pytest.approx(float(plain.loss(batch)["loss"]), rel=1e-6)
    assert float(terms["loss"]) == pytest.approx(float(terms["correlation"]) + 0.5 * wanted, rel=1e-4)


def test_error_of_features_that_are_restored_is_zero() -> None:
    a, _ = sides()
    assert float(restoring_error(a, a)) == 0.0


@pytest.mark.parametrize(("kind", "option"), [(DCCAE, "reconstruction"), (S2MC, "supervision")])
def test_negative_weights_are_refused(kind: type[Any], option: str) -> None:
    with pytest.raises(UsageError, match=option):
        kind(**{option: -1.0})
