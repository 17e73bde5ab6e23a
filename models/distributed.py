"""Batches that span processes: gathering with gradient, whatever the shard sizes."""

from __future__ import annotations

from typing import Any, TypeVar

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

T = TypeVar("T")


class _Gather(torch.autograd.Function):
    """All-gather of equally shaped tensors whose backward sums the gradients of a shard over all processes."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        """Return the shards of all processes, (world, ...)."""
        shares = [torch.empty_like(tensor) for _ in range(dist.get_world_size())]
        dist.all_gather(shares, tensor.contiguous())
        return torch.stack(shares)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        """Return the gradient of this process's shard, summed over the losses of all processes."""
        total = grads[0].contiguous().clone()
        dist.all_reduce(total)
        return total[dist.get_rank()]


def world_size() -> int:
    """Return the number of processes, 1 outside of distributed training."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def everywhere(pieces: list[T]) -> list[T]:
    """Concatenate the pieces of all processes in rank order."""
    if world_size() == 1:
        return pieces
    shares: list[list[T]] = [[] for _ in range(world_size())]
    dist.all_gather_object(shares, pieces)
    return [piece for share in shares for piece in share]


def gather(tensor: Tensor) -> Tensor:
    """Concatenate the shards of all processes along the first dimension, in rank order.

    The loss of the whole batch, computed by every process, then has under DDP, which averages gradients, the gradient
    that one process would compute on the whole batch.

    Args:
        tensor: This process's shard, (b, ...); b, and the second dimension, may differ between processes.

    Returns:
        All shards, (sum of b, ...), zero-padded where the second dimension was shorter.
    """
    world = world_size()
    if world == 1:
        return tensor
    shape = torch.tensor(tensor.shape[:2], device=tensor.device)
    shapes = [torch.empty_like(shape) for _ in range(world)]
    dist.all_gather(shapes, shape)
    sizes = torch.stack(shapes)
    longest = sizes.max(dim=0).values.tolist()
    wanted = [most - have for most, have in zip(longest, tensor.shape, strict=False)]
    padding = [0, 0] * max(tensor.ndim - 2, 0) + [n for extra in reversed(wanted) for n in (0, extra)]
    padded = F.pad(tensor, padding)
    everything = (
        _Gather.apply(padded)  # type: ignore[no-untyped-call]
        if tensor.is_floating_point()
        else _stack(padded)
    )
    return torch.cat([everything[rank, : int(sizes[rank, 0])] for rank in range(world)])


def _stack(tensor: Tensor) -> Tensor:
    shares = [torch.empty_like(tensor) for _ in range(dist.get_world_size())]
    dist.all_gather(shares, tensor.contiguous())
    return torch.stack(shares)
