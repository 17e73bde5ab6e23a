"""Zero-shot splits: classes that are tested on and never trained on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from cmr_bench.datamodules.split import Split
from cmr_bench.support.errors import DataError, UsageError


def hold_out_classes(splits: Mapping[str, Split], n_classes: int, seed: int, data: str) -> dict[str, Split]:
    """Keep some classes for the test split, and the others for training and validation.

    No item changes its split: training and validation lose the items of the unseen classes, the test split all others,
    so that what a recipe was chosen on stays out of the test. Where an item has several classes, it is kept where all
    of them belong. The classes are numbered anew on either side, so that training knows of no unseen one.

    Args:
        splits: The splits of the data set.
        n_classes: Number of classes that are never seen in training, drawn among those of the test split; more include
            fewer.
        seed: Of the draw, the same on every machine.
        data: Name of the data set, for errors.

    Raises:
        UsageError: If there are too few classes, or no labels.
        DataError: If nothing is left of a split.
    """
    if any(split.labels is None for split in splits.values()):
        raise UsageError(f"--data.unseen_classes {n_classes}: {data} has no categories to hold out")
    there = {name: np.flatnonzero(_hot(split).any(axis=0)) for name, split in splits.items()}
    tested = there["test"]
    unseen = np.sort(np.random.default_rng(seed).permutation(tested)[:n_classes])
    seen = np.setdiff1d(there["train"], unseen)
    if n_classes < 2 or len(tested) < n_classes or len(seen) < 2:
        raise UsageError(
            f"--data.unseen_classes {n_classes}: the test split of {data} has {len(tested)} categories; hold out at "
            "least two, and leave two for training"
        )
    return {name: _of_classes(split, unseen if name == "test" else seen, data) for name, split in splits.items()}


def _hot(split: Split) -> npt.NDArray[np.bool_]:
    """Return which classes every image has, (n_images, n_classes)."""
    assert split.labels is not None
    if split.labels.ndim == 2:
        return np.asarray(split.labels > 0)
    n_classes = max(len(split.class_names), int(split.labels.max(initial=-1)) + 1)
    return np.asarray(split.labels[:, None] == np.arange(n_classes))


def _of_classes(split: Split, classes: npt.NDArray[np.int64], data: str) -> Split:
    hot = _hot(split)
    inside = np.isin(np.arange(hot.shape[1]), classes)
    kept = split.keep_images(np.asarray(hot[:, inside].any(axis=1) & ~hot[:, ~inside].any(axis=1)))
    if kept.n_images == 0:
        raise DataError(f"--data.unseen_classes: no image of the {split.name} split of {data} is left")
    assert kept.labels is not None
    labels = kept.labels[:, inside] if kept.labels.ndim == 2 else np.searchsorted(classes, kept.labels)
    return replace(kept, labels=labels, class_names=[split.class_names[k] for k in classes.tolist()])
