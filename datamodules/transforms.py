"""Photographs to tensors."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from cmr_bench.datamodules.base import Rows, View


class PixelView(View):
    """Photographs as RGB in 0..1, (3, size, size)."""

    def __init__(self, files: Sequence[Path], size: int, augment: bool, seed: int) -> None:
        raise NotImplementedError

    def __len__(self) -> int:
        raise NotImplementedError

    def fetch(self, rows: Rows, epoch: int | None = None) -> dict[str, Tensor]:
        """Decode, resize and, in training epochs, augment."""
        raise NotImplementedError
