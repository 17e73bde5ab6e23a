"""Square photographs as SigLIP 2 with native aspect ratios (NaFlex) reads them: a sequence of patches."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor


def square_side(vision: Any) -> int:
    """Side in pixels of the largest square that a vision configuration reads: ``num_patches`` patches in all."""
    return math.isqrt(int(vision.num_patches)) * int(vision.patch_size)


def patch_inputs(pixels: Tensor, patch: int) -> dict[str, Tensor]:
    """Cut normalised pixels into patches (Tschannen et al., SigLIP 2, 2025, section 2.4.2).

    Args:
        pixels: (b, 3, H, W), both sides multiples of ``patch``.
        patch: Side of a patch in pixels.

    Returns:
        ``pixel_values`` (b, rows · columns, patch · patch · 3), the channels of a pixel beside each other, a full
        ``pixel_attention_mask`` (b, rows · columns) and ``spatial_shapes`` (b, 2), rows and columns.
    """
    rows, columns = pixels.shape[-2] // patch, pixels.shape[-1] // patch
    cells = pixels.unflatten(3, (columns, patch)).unflatten(2, (rows, patch))
    values = cells.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)
    shape = pixels.new_tensor([rows, columns]).long()
    return {
        "pixel_values": values.contiguous(),
        "pixel_attention_mask": values.new_ones(values.shape[:2]).long(),
        "spatial_shapes": shape.expand(len(pixels), 2),
    }
