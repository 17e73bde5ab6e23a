"""Splits drawn where a data set comes without any."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from cmr_bench.datamodules.views import Rows
from cmr_bench.support.errors import DataError


def stratified_slice(labels: npt.NDArray[np.int64], n_items: int, seed: int) -> Rows:
    """Draw items so that every category keeps its share; the same draw on every machine for a seed.

    Args:
        labels: Category of every item, (n,).
        n_items: Number of items to draw.
        seed: Seed of the draw.

    Returns:
        Rows of the items drawn, ascending, (n_items,). What a category is owed is rounded down, and the items left
        over go to the categories with the largest remainders.

    Raises:
        DataError: If there are fewer than ``n_items`` items.
    """
    if n_items > len(labels):
        raise DataError(f"cannot sample {n_items} items from {len(labels)}")
    classes, counts = np.unique(labels, return_counts=True)
    exact = counts * n_items / max(1, len(labels))
    share = np.floor(exact).astype(np.int64)
    share[np.argsort(share - exact, kind="stable")[: n_items - share.sum()]] += 1
    drawn = [
        np.random.default_rng([seed, k]).permutation(np.flatnonzero(labels == label))[: share[k]]
        for k, label in enumerate(classes)
    ]
    return np.sort(np.concatenate([np.zeros(0, np.int64), *drawn]))


def stratified_parts(
    labels: npt.NDArray[np.int64], sizes: Mapping[str, int], seed: int, never_test: Rows | None = None
) -> dict[str, Rows]:
    """Share items out to training, validation and test so that every category keeps its share in each.

    Args:
        labels: Category of every item, (n,).
        sizes: Number of items of ``train``, ``val`` and ``test``, n in all.
        seed: Seed of the draw.
        never_test: Rows that are not drawn for the test part, as settings were chosen on them.

    Returns:
        Rows of each part, ascending.

    Raises:
        DataError: If the sizes are not those of the items.
    """
    if sum(sizes.values()) != len(labels):
        raise DataError(f"cannot share {len(labels)} items out to parts of {sum(sizes.values())}")
    left = np.arange(len(labels))
    parts = {"train": left}
    for name in ("val", "test"):
        barred = never_test if name == "test" and never_test is not None else left[:0]
        open_rows = np.setdiff1d(left, barred)
        parts[name] = open_rows[stratified_slice(labels[open_rows], sizes[name], seed)]
        left = np.setdiff1d(left, parts[name])
    return parts | {"train": left}
