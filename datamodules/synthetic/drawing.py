"""Pictures of the synthetic data."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from cmr_bench.datamodules.synthetic.scenes import (
    CELL,
    MAX_OBJECTS,
    SHAPES,
    SIDE,
    Bytes,
    Scenes,
)


def shape_mask(shape: int, radius: int) -> npt.NDArray[np.bool_]:
    """Rasterise a shape in whole numbers, (CELL, CELL), centred: the same pixels on every machine."""
    y, x = np.indices((CELL, CELL)) - CELL // 2
    square = np.maximum(abs(x), abs(y)) <= radius
    disc = x * x + y * y <= radius * radius + radius // 2
    masks = (
        disc,
        np.maximum(abs(x), abs(y)) <= radius - radius // 6,
        square & (2 * abs(x) <= y + radius),
        abs(x) + abs(y) <= radius,
        square & (np.minimum(abs(x), abs(y)) <= radius // 3),
        disc & (4 * (x * x + y * y) > radius * radius),
        square & (abs(y) <= radius // 2),
        disc & ((2 * x - radius) ** 2 + 4 * y * y > 3 * radius * radius),
    )
    return masks[shape]


def textures() -> npt.NDArray[np.int16]:
    """Brightness patterns of the settings, (n_settings, 2 * SIDE, 2 * SIDE)."""
    y, x = np.indices((2 * SIDE, 2 * SIDE))
    grain = np.random.default_rng(7).integers(0, 256, (2 * SIDE, 2 * SIDE))
    coarse = grain[y // 2, x // 2]
    patterns = (
        grain[y // 8, x] // 5 - 25,  # blades
        abs((y + grain[0, x // 6] // 64) % 8 - 4) * 11 - 22,  # waves
        grain // 4 - 32,  # sand
        np.where(coarse > 235, -40, 5),  # lumps
        np.where(grain > 249, 170, 0),  # stars
        np.where((x % 32 < 4) & (y % 16 < 10), 60, coarse // 10 - 12),  # road marks
        np.where((y % 8 == 0) | ((x + y // 8 % 2 * 8) % 16 == 0), 45, -6),  # bricks
        np.where((y // 8 + x // 8) % 2 == 0, 18, -18),  # tiles
    )
    return np.stack(patterns).astype(np.int16)


def paint(scenes: Scenes, noise: int, rng: np.random.Generator) -> Bytes:
    """Draw the pictures, (n, SIDE, SIDE, 3), in integer arithmetic.

    Args:
        scenes: What to draw.
        noise: Largest change of a pixel's brightness by noise, 0..255.
        rng: Source of the noise.
    """
    n = len(scenes)
    patterns = textures()
    canvas = np.empty((n, SIDE, SIDE, 3), dtype=np.int16)
    for row, (setting, (top, left)) in enumerate(zip(scenes.setting.tolist(), scenes.offset.tolist(), strict=True)):
        canvas[row] = patterns[setting, top : top + SIDE, left : left + SIDE, None]
    canvas += scenes.ground.astype(np.int16)[:, None, None]
    masks = np.array([[shape_mask(shape, radius) for radius in range(CELL // 2 + 1)] for shape in range(len(SHAPES))])
    for slot in range(MAX_OBJECTS):
        image = np.flatnonzero(scenes.shape[:, slot] >= 0)
        shape, radius = scenes.shape[image, slot], scenes.radius[image, slot]
        inside = masks[shape, radius]
        item, y, x = np.nonzero(inside)
        rim = inside[item, y, x] & ~masks[shape, radius - 1][item, y, x]
        at = scenes.centre[image, slot][item] - CELL // 2 + np.stack([y, x], axis=1)
        rgb = scenes.rgb[image, slot][item]
        canvas[image[item], at[:, 0], at[:, 1]] = np.where(rim[:, None], rgb * 5 // 8, rgb)
    canvas += rng.integers(-noise, noise + 1, (n, SIDE, SIDE, 1), dtype=np.int16)
    return np.clip(canvas, 0, 255).astype(np.uint8)
