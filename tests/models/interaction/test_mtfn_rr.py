"""Tensor fusion against the sum over its terms, folded and stacked, and their gradients."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cmr_bench.datamodules.views import DataSpec, ViewSpec
from cmr_bench.models.interaction.mtfn_rr import MTFNRR


def made(rank: int) -> MTFNRR:
    torch.manual_seed(rank)
    module = MTFNRR(dim=5, hidden=4, rank=rank, text_view="vector")
    module.build(DataSpec(ViewSpec("vector", (6,), "made up"), ViewSpec("vector", (7,), "made up"), 0, False, 4, 4))
    return module.double().eval()


def slow(module: MTFNRR, x: np.ndarray, y: np.ndarray) -> float:
    a, b = module.image_factors, module.text_factors
    fused = np.zeros(5)
    for r in range(module.rank):
        own = slice(5 * r, 5 * r + 5)
        left = a.weight[own].detach().numpy() @ x + a.bias[own].detach().numpy()
        fused += left * (b.weight[own].detach().numpy() @ y + b.bias[own].detach().numpy())
    return float(module.output.weight[0].detach().numpy() @ fused + module.output.bias[0].detach().numpy())


@pytest.mark.parametrize("rank", [1, 3])
def test_stacked_and_folded_scores_by_the_definition(rank: int) -> None:
    module = made(rank)
    x, y = torch.randn(4, 5, dtype=torch.float64).tanh(), torch.randn(3, 5, dtype=torch.float64).tanh()
    expected = [[slow(module, one.numpy(), other.numpy()) for other in y] for one in x]
    np.testing.assert_allclose(module.similarity(x, y).detach().numpy(), expected, rtol=1e-10)
    found = module.float().scores(x.float(), y.float()).block(slice(0, 4), slice(0, 3))
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-4, atol=1e-5)


def test_gradients_agree_with_finite_differences() -> None:
    module = made(3)
    x, y = (torch.randn(n, 5, dtype=torch.float64, requires_grad=True) for n in (4, 3))
    assert torch.autograd.gradcheck(lambda a, b: module.similarity(a, b).sigmoid(), (x, y))
