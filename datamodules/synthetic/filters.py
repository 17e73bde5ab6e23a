"""Features of the drawn pictures by a fixed filter bank."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce

import numpy as np

from cmr_bench.datamodules.synthetic.scenes import SIDE, Bytes, Floats

GRID = 7
WINDOW, STEP = 6, 4  # of a region, in filter positions; 2 pixels lie between two positions
N_EDGE, N_COLOUR = 96, 32
# Pictures at once, whose responses stay in the processor's cache.
_AT_ONCE = 8


def filter_bank() -> Floats:
    """Fixed random filters over 3x3 blocks of 2x2 pixels, (27, N_EDGE + N_COLOUR).

    The first look for a spatial pattern along a direction of colour, the last for a colour. Whole numbers, small
    enough for every sum to be exact in float32: features do not depend on the order in which a machine adds.
    """
    rng = np.random.default_rng(11)
    pattern = 9 * rng.integers(-2, 3, (N_EDGE, 9))
    pattern -= pattern.sum(axis=1, keepdims=True) // 9
    edges = pattern[:, :, None] * rng.integers(-2, 3, (N_EDGE, 3))[:, None]
    wanted = 9 * rng.integers(-2, 3, (N_COLOUR, 3))
    wanted *= np.where((wanted <= 0).all(axis=1, keepdims=True), -1, 1)  # no picture has less than no colour
    colours = np.zeros((N_COLOUR, 9, 3), dtype=np.int64)
    colours[:, 4] = wanted
    return np.concatenate([edges, colours]).reshape(-1, 27).T.astype(np.float32)


def region_features(pixels: Bytes) -> Floats:
    """Filter the pictures and pool the responses over a grid of overlapping windows, (n, GRID * GRID, n_filters).

    A feature is the root of the summed size of a filter's responses in the window, of the positive ones for colours.
    """
    bank = filter_bank()
    return np.concatenate([_pooled(pixels[at : at + _AT_ONCE], bank) for at in range(0, len(pixels), _AT_ONCE)])


def _pooled(pixels: Bytes, bank: Floats) -> Floats:
    n, half = len(pixels), SIDE // 2
    # By slices: NumPy's sum over two of six axes takes ten times as long.
    rows_of_two = pixels[:, ::2].astype(np.uint16) + pixels[:, 1::2]
    blocks = (rows_of_two[:, :, ::2] + rows_of_two[:, :, 1::2]).astype(np.float32)
    patches = np.lib.stride_tricks.sliding_window_view(blocks, (3, 3), axis=(1, 2)).transpose(0, 1, 2, 4, 5, 3)
    responses = patches.reshape(-1, 27) @ bank
    np.abs(responses[:, :N_EDGE], out=responses[:, :N_EDGE])
    np.maximum(responses[:, N_EDGE:], 0, out=responses[:, N_EDGE:])
    responses = responses.reshape(n, half - 2, half - 2, -1)
    last = (GRID - 1) * STEP + 1
    rows = reduce(np.add, (responses[:, at : at + last : STEP] for at in range(WINDOW)))
    cells: Floats = reduce(np.add, (rows[:, :, at : at + last : STEP] for at in range(WINDOW)))
    scaled: Floats = np.sqrt(cells.reshape(n, GRID * GRID, -1) / np.float32(2**16))
    return scaled


def vector_features(pictures: Bytes) -> Floats:
    """Pool the regions of a picture to mean and spread, (n, 2 * n_filters): what is there, not what goes together."""
    regions = region_features(pictures)
    return np.concatenate([regions.mean(axis=1), regions.std(axis=1)], axis=1)


def feature_scale(features: Floats) -> tuple[Floats, Floats]:
    """Return mean and deviation of each number over the training pictures, (n_filters,) or (2 * n_filters,)."""
    axes = tuple(range(features.ndim - 1))
    centre, spread = (f(axes, dtype=np.float64).astype(np.float32) for f in (features.mean, features.std))
    return centre, np.maximum(spread, np.float32(1e-6))


FEATURES: dict[str, Callable[[Bytes], Floats]] = {"regions": region_features, "vector": vector_features}


def grid_boxes() -> Floats:
    """Boxes of the regions as fractions x0, y0, x1, y1, (GRID * GRID, 4)."""
    corner = np.arange(GRID) * STEP * 2
    extent = 2 * (WINDOW + 2)
    y, x = (part.ravel() for part in np.meshgrid(corner, corner, indexing="ij"))
    return (np.stack([x, y, x + extent, y + extent], axis=1) / SIDE).astype(np.float32)
