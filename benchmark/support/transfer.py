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


class Side:
    """The items of one side of the pairs, as a device reads them: some at a time.

    A CUDA device that does not hold them gets a slice and, while it computes with that, the next of its length. It
    keeps both until another slice is asked for.

    Args:
        parts: Tensors of equal length, each on the device or on the host.
        device: Device that reads them.
    """

    def __init__(self, parts: Sequence[Tensor], device: torch.device) -> None:
        self.parts, self.device = tuple(parts), device
        far = device.type == "cuda" and any(part.device.type != "cuda" for part in parts)
        self._stream = torch.cuda.Stream(device) if far else None
        self._copies: list[tuple[int, int, tuple[Tensor, ...]]] = []

    def take(self, rows: slice | Tensor) -> tuple[Tensor, ...]:
        """Return the parts of some items on the device; a slice has a start and a stop."""
        if isinstance(rows, Tensor):
            return tuple(part[rows.to(part.device)].to(self.device) for part in self.parts)
        if self._stream is None:
            return tuple(part[rows].to(self.device) for part in self.parts)
        return self._take_ahead(rows.start, rows.stop, self._stream)

    def _take_ahead(self, start: int, stop: int, stream: torch.cuda.Stream) -> tuple[Tensor, ...]:
        there = [at for at, (low, high, _) in enumerate(self._copies) if low <= start and stop <= high]
        self._copies = self._copies[there[-1] :] if there else [self._copy(start, stop, stream)]
        low, _, parts = self._copies[0]
        n_items = len(self.parts[0])
        if len(self._copies) == 1:
            # Before the next is on its way: what is computed with this copy again is not to wait for that one.
            current = torch.cuda.current_stream(self.device)
            current.wait_stream(stream)
            for part in parts:
                part.record_stream(current)
            if stop - start < n_items:
                # Slices of one pass differ by one item at most, and another pass starts from the first.
                first = stop % n_items
                self._copies.append(self._copy(first, min(first + stop - start + 1, n_items), stream))
        return tuple(part[start - low : stop - low] for part in parts)

    def _copy(self, start: int, stop: int, stream: torch.cuda.Stream) -> tuple[int, int, tuple[Tensor, ...]]:
        with torch.cuda.stream(stream):
            copies = (pinned(part[start:stop]).to(self.device, non_blocking=True) for part in self.parts)
            return start, stop, tuple(copies)


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
