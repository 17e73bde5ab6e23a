"""Stored image features: extraction, the files on disk, and the views made from them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from cmr_bench.datamodules.base import Split, View


class FeatureStore:
    """Features of the images of one data set, memory-mapped, one row an image id."""


def open_store(name: str, data: str, root: str | Path | None = None) -> FeatureStore:
    """Open stored features by name, looked for beside the data and in the cache, or by folder."""
    raise NotImplementedError


def missing(store: FeatureStore, split: Split) -> npt.NDArray[np.bool_]:
    """Tell which images of a split, (n_images,), have no row in the store."""
    raise NotImplementedError


def stored_view(store: FeatureStore, split: Split) -> View:
    """Return the images of a split as a view of stored features."""
    raise NotImplementedError
