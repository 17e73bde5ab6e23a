"""Copies between the memory of an accelerator and that of its host."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

# The rest is for what is computed with them.
_SHARE = 0.5


def resident(tensors: Sequence[Tensor], device: torch.device) -> tuple[Tensor, ...]:
    """Return tensors in the memory of a device, or as they are where half of what is free there does not hold them.

    Args:
        tensors: Tensors that will be read many times.
        device: Device that reads them.
    """
    if device.type != "cuda":
        return tuple(tensors) if device.type == "cpu" else tuple(tensor.to(device) for tensor in tensors)
    coming = sum(tensor.nbytes for tensor in tensors if tensor.device != device)
    free, _ = torch.cuda.mem_get_info(device)
    if coming > _SHARE * free:
        return tuple(tensors)
    return tuple(pinned(tensor).to(device, non_blocking=True) for tensor in tensors)


def pinned(tensor: Tensor) -> Tensor:
    """Return a tensor in page-locked memory, from which a CUDA device copies while the host goes on."""
    return tensor.pin_memory() if tensor.device.type == "cpu" else tensor


def to_host(tensor: Tensor) -> Tensor:
    """Begin to copy a tensor to the host; from a CUDA device the copy is there after :func:`wait`."""
    if tensor.device.type != "cuda":
        return tensor.cpu()
    copy = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    return copy.copy_(tensor, non_blocking=True)


def wait(device: torch.device) -> None:
    """Wait for the copies from a device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
