"""Euclidean distances inside a batch by one matrix product, exact where the product alone would not be."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from cmr_bench.models.losses import euclidean, full_precision

# Squared distances below this part of the two squared lengths lose digits to cancellation: they are computed anew.
_NEAR = 0.2
# Of narrower rows, and where more than this part of the pairs is near, the plain way is as fast.
_LEAST_DIM, _MANY_NEAR = 64, 1 / 16


@full_precision
def batch_distances(a: Tensor, b: Tensor) -> Tensor:
    """Euclidean distances (a, b) of rows (a, d) and (b, d) for a loss; the gradient of a distance of zero is zero.

    They agree with :func:`cmr_bench.models.losses.euclidean` to a few units of single precision, equal rows exactly.
    The last bits depend on the other rows, so scores are computed by that function and not by this one.
    """
    a, b = a.float(), b.float()
    if a.device.type != "cpu" or a.shape[1] < _LEAST_DIM or not len(a) or not len(b):
        return euclidean(a, b)
    with torch.no_grad():
        middle = b.mean(0)  # the nearer to the origin, the less is lost
        x, y = a - middle, b - middle
        lengths = x.square().sum(1)[:, None] + y.square().sum(1)
        squared = torch.addmm(lengths, x, y.T, alpha=-2)
        near = squared < _NEAR * lengths
        many = int(near.count_nonzero()) > _MANY_NEAR * near.numel()
    if many:
        return euclidean(a, b)
    distances: Tensor = _Distances.apply(a, b, x, y, squared, near)  # type: ignore[no-untyped-call]
    return distances


class _Distances(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, x: Tensor, y: Tensor, squared: Tensor, near: Tensor) -> Tensor:
        rows, columns = near.nonzero(as_tuple=True)
        differences = a[rows] - b[columns]
        squared[rows, columns] = differences.square().sum(1)
        distances = squared.sqrt()
        ctx.save_for_backward(x, y, distances, rows, columns, differences)
        return distances

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None, None, None, None]:
        # Moved rows have the same differences, with less to cancel.
        x, y, distances, rows, columns, differences = ctx.saved_tensors
        weights = torch.where(distances > 0, gradient / distances, 0.0)
        own = weights[rows, columns][:, None] * differences
        weights[rows, columns] = 0.0
        of_a = torch.addmm(weights.sum(1, keepdim=True) * x, weights, y, alpha=-1).index_add_(0, rows, own)
        of_b = torch.addmm(weights.sum(0)[:, None] * y, weights.T, x, alpha=-1).index_add_(0, columns, own, alpha=-1)
        return of_a, of_b, None, None, None, None
