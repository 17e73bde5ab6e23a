"""Boxes of regions beside their features, as fractions of the image whatever they were written as."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cmr_bench.support.errors import DataError

# What detectors round to may lie a little outside.
_SLACK = 0.02


def as_fractions(
    boxes: npt.NDArray[Any], sizes: npt.NDArray[Any] | None, file: Path, wanted: str
) -> npt.NDArray[np.float32]:
    """Return boxes x0, y0, x1, y1 as fractions of the image, (n, R, 4).

    Args:
        boxes: Boxes as fractions, or in pixels where some number is above 1, (n, R, 4).
        sizes: Width and height of each image in pixels, (n, 2); None where they are not known.
        file: Where the boxes lie, for an error.
        wanted: What would give the sizes, for an error.

    Raises:
        DataError: If boxes in pixels come without sizes, lie outside of their image, or end before they begin.
    """
    found = np.asarray(boxes, dtype=np.float32)
    if not np.isfinite(found).all():
        raise DataError(f"{file}: a box has NaN or infinity for a corner")
    if found.max(initial=0.0) > 1 + _SLACK:
        if sizes is None:
            raise DataError(f"{file}: boxes in pixels need the sizes of the images: {wanted}; or write fractions")
        if (np.asarray(sizes) <= 0).any():
            raise DataError(f"{file}: an image has no width or no height in {wanted}")
        found = found / np.tile(np.asarray(sizes, dtype=np.float32), 2)[:, None]
    wrong = (found < -_SLACK) | (found > 1 + _SLACK)
    wrong[..., 2:] |= found[..., 2:] < found[..., :2]
    if wrong.any():
        row = int(np.flatnonzero(wrong.any(axis=(1, 2)))[0])
        raise DataError(
            f"{file}: a box of row {row} lies outside of its image or ends before it begins; expected x0, y0, x1, y1"
        )
    clipped: npt.NDArray[np.float32] = found.clip(0.0, 1.0)
    return clipped
