"""Deep CCA: the loss, the nets and the linear analysis on top."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.linalg
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from cmr_bench.models.losses import canonical_correlation
from cmr_bench.models.subspace.cca import CCA
from cmr_bench.models.subspace.dcca import DCCA
from cmr_bench.support.errors import UsageError
from tests.support.trainers import fit


def sides(n: int = 50, seed: int = 0) -> tuple[Any, Any]:
    random = np.random.default_rng(seed)
    hidden = random.normal(size=(n, 2))
    return (
        hidden @ random.normal(size=(2, 5)) + random.normal(size=(n, 5)) + 3,
        hidden @ random.normal(size=(2, 4)) + random.normal(size=(n, 4)) - 1,
    )


def slow_correlation(a: Any, b: Any, ridge_a: float, ridge_b: float) -> float:
    """Eq. 10 with symmetric inverse roots."""
    x, y = a - a.mean(0), b - b.mean(0)
    n = len(x) - 1
    left = scipy.linalg.inv(scipy.linalg.sqrtm(x.T @ x / n + ridge_a * np.eye(x.shape[1])))
    right = scipy.linalg.inv(scipy.linalg.sqrtm(y.T @ y / n + ridge_b * np.eye(y.shape[1])))
    return float(np.linalg.svd(left @ (x.T @ y / n) @ right, compute_uv=False).sum())


@pytest.mark.parametrize(("ridge_a", "ridge_b"), [(1e-6, 1e-6), (0.1, 2.0)])
@pytest.mark.parametrize("n", [50, 5])
def test_loss_equals_the_definition(n: int, ridge_a: float, ridge_b: float) -> None:
    a, b = sides(n)
    found = canonical_correlation(torch.from_numpy(a), torch.from_numpy(b), ridge_a, ridge_b)
    assert float(found) == pytest.approx(slow_correlation(a, b, ridge_a, ridge_b), rel=1e-6)


def test_loss_is_the_sum_of_the_correlations_that_scikit_learn_finds() -> None:
    from sklearn import cross_decomposition

    a, b = sides(200)
    u, v = cross_decomposition.CCA(n_components=4, max_iter=5000, tol=1e-12).fit_transform(a, b)
    wanted = sum(np.corrcoef(u[:, k], v[:, k])[0, 1] for k in range(4))
    found = canonical_correlation(torch.from_numpy(a), torch.from_numpy(b), 1e-9, 1e-9)
    assert float(found) == pytest.approx(wanted, rel=1e-3)


def test_gradient_of_the_loss() -> None:
    a, b = (torch.from_numpy(side).requires_grad_() for side in sides(12))
    assert torch.autograd.gradcheck(lambda x, y: canonical_correlation(x, y, 0.1, 0.2), (a, b))


def test_gradient_is_finite_where_eigenvalues_coincide() -> None:
    a = torch.cat([torch.eye(4), -torch.eye(4)]).requires_grad_()
    canonical_correlation(a, torch.roll(a.detach(), 1, 1), 1e-3, 1e-3).backward()
    assert a.grad is not None
    assert bool(torch.isfinite(a.grad).all())


def test_loss_keeps_its_precision_under_autocast() -> None:
    a, b = (torch.from_numpy(side).float().requires_grad_() for side in sides())
    plain = canonical_correlation(a, b, 1e-3, 1e-3)
    with torch.autocast("cpu", torch.bfloat16):
        found = canonical_correlation(a, b, 1e-3, 1e-3)
        half = canonical_correlation(a.bfloat16(), b.bfloat16(), 1e-3, 1e-3)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, plain)
    torch.testing.assert_close(half, plain, rtol=0.02, atol=0.02)
    half.backward()
    assert a.grad is not None
    assert bool(torch.isfinite(a.grad).all())


def built(data: Any, **options: Any) -> DCCA:
    torch.manual_seed(0)
    module = DCCA(**{"hidden": 16, "dim": 4} | options)
    module.attach(data)
    return module


def test_top_equals_linear_analysis_where_the_nets_are_linear_maps(toy: Callable[..., Any]) -> None:
    data = toy(n_train=40)
    module = built(data, layers=0, dim=12, image_ridge=1e-8, text_ridge=1e-8)
    module.fit_top(data.splits["train"])
    linear = CCA(n_components=12, image_ridge=1e-9, text_ridge=1e-9)
    linear.attach(data)
    linear.fit_split(data.splits["train"], data.splits["val"])
    images, texts = (next(iter(loader)) for loader in data.test_dataloader())
    with torch.no_grad():
        found, wanted = (m.similarity(m.encode_images(images), m.encode_texts(texts)) for m in (module, linear))
    torch.testing.assert_close(found, wanted, rtol=1e-2, atol=1e-2)


def test_top_makes_the_outputs_uncorrelated_but_with_their_partner(toy: Callable[..., Any]) -> None:
    data = toy(n_train=40)
    module = built(data, image_ridge=1e-9, text_ridge=1e-9)
    train = data.splits["train"]
    module.fit_top(train)
    from cmr_bench.datamodules.batches import image_batch, text_batch

    with torch.no_grad():
        u = module.encode_images(image_batch(train, train.image_of_text)).numpy()
        v = module.encode_texts(text_batch(train, np.arange(train.n_texts))).numpy()
    np.testing.assert_allclose(u.T @ u / len(u), np.eye(4), atol=1e-3)
    np.testing.assert_allclose(v.T @ v / len(v), np.eye(4), atol=1e-3)
    cross = u.T @ v / len(u)
    np.testing.assert_allclose(cross, np.diag(np.diag(cross)), atol=1e-3)


def test_top_follows_the_nets_and_is_kept_with_them(toy: Callable[..., Any], tmp_path: Path) -> None:
    data = toy(n_train=40)
    module = built(data)
    trainer = fit(module, data, epochs=2)
    kept = module.image_top.clone()
    assert not torch.equal(kept, torch.eye(4))
    module.fit_top(data.splits["train"])
    torch.testing.assert_close(module.image_top, kept)
    trainer.save_checkpoint(tmp_path / "last.ckpt", weights_only=True)
    fresh = built(data)
    fresh.load_state(torch.load(tmp_path / "last.ckpt", weights_only=True)["state_dict"])
    torch.testing.assert_close(fresh.image_top, kept, rtol=0, atol=0)
    torch.testing.assert_close(fresh.text_top_mean, module.text_top_mean, rtol=0, atol=0)


def test_part_of_a_large_split_is_enough_for_the_top(toy: Callable[..., Any]) -> None:
    data = toy(n_train=60)
    module = built(data, top_images=20)
    module.fit_top(data.splits["train"])
    assert bool(torch.isfinite(module.image_top).all())
    assert not torch.equal(module.image_top, torch.eye(4))


def test_small_batches_are_pointed_out(toy: Callable[..., Any]) -> None:
    data = toy()
    module = built(data, dim=8)
    with pytest.warns(UserWarning, match="batch of 8 pairs cannot estimate the correlations of 8 outputs"):
        fit(module, data)


def test_ridge_of_zero_is_refused() -> None:
    with pytest.raises(UsageError, match="text_ridge"):
        DCCA(text_ridge=0)


def _fit_share(rank: int, folder: str, toy: Callable[..., Any]) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    data = toy(n_train=9)
    module = built(data)
    module.fit_top(data.splits["train"])
    torch.save(module.image_top, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.slow
def test_processes_fit_the_top_of_the_whole_split(tmp_path: Path, toy: Callable[..., Any]) -> None:
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    mp.spawn(_fit_share, args=(str(tmp_path), toy), nprocs=2)
    data = toy(n_train=9)
    module = built(data)
    module.fit_top(data.splits["train"])
    for rank in range(2):
        torch.testing.assert_close(torch.load(tmp_path / f"{rank}.pt", weights_only=True), module.image_top)
