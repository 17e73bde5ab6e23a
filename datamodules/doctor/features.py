"""Stored features and arrays: complete, finite, aligned."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from cmr_bench.datamodules.doctor.findings import Finding, report
from cmr_bench.datamodules.images.making import find
from cmr_bench.datamodules.images.store import FeatureStore, missing
from cmr_bench.datamodules.module import RetrievalDataModule
from cmr_bench.datamodules.readers.featurefiles import FeatureFile
from cmr_bench.datamodules.split import Split
from cmr_bench.datamodules.views import ArrayView
from cmr_bench.support.encoders import feature_name
from cmr_bench.support.errors import CmrBenchError
from cmr_bench.support.places import stores_in

_CHUNK = 1 << 24  # values of an array held at once

Arrays = Mapping[str, Mapping[str, ArrayView]]


def check_features(
    datamodule: RetrievalDataModule, splits: Mapping[str, Split], thorough: bool = True
) -> Iterator[Finding]:
    """Examine the arrays that the data set ships and the stored image features: rows, ids, values and photographs.

    Args:
        datamodule: The data set.
        splits: What was read.
        thorough: Compare the contents of all photographs with those that stored features were made of.
    """
    for side in ("image", "text"):
        try:
            arrays = datamodule.image_arrays() if side == "image" else datamodule.text_arrays()
        except CmrBenchError as error:
            yield Finding("error", str(error), 1)
            continue
        for name, views in arrays.items():
            for split_name, view in views.items():
                split = splits.get(split_name)
                if split is None:
                    continue
                ids = split.image_ids if side == "image" else split.text_ids
                yield from check_array(f"{side} features {name}, {split_name}", view, ids)
    try:
        named = datamodule.feature_file()
        if named is not None:
            yield from check_file(named, splits)
        if datamodule.make_features and _to_be_made(datamodule):
            yield Finding("info", f"image features {datamodule.image_features}: not made yet; `run` makes them first")
            return
        folders = store_folders(datamodule)
    except CmrBenchError as error:
        yield Finding("error", str(error), 1)
        return
    for folder in folders:
        try:
            store = FeatureStore(folder)
        except CmrBenchError as error:
            yield Finding("error", str(error), 1)
            continue
        yield from check_store(store, splits, datamodule.image_features is not None, thorough)


def check_file(file: FeatureFile, splits: Mapping[str, Split]) -> Iterator[Finding]:
    """Compare a file of features by image id with the images that were read, and examine its values."""
    what = f"image features {file.file.name}"
    for name, split in splits.items():
        rows = file.rows(split.image_ids)
        gone = [split.image_ids[row] for row in np.flatnonzero(rows < 0).tolist()]
        yield from report("error", f"{what}: images of {name} without a row", gone)
        ids = [image for image, row in zip(split.image_ids, rows.tolist(), strict=True) if row >= 0]
        if ids:
            yield from check_array(f"{what}, {name}", ArrayView(file.array, file.file.name, rows[rows >= 0]), ids)


def _to_be_made(datamodule: RetrievalDataModule) -> bool:
    """Tell whether features are named by their encoder and none are stored."""
    name = feature_name(datamodule.image_features)
    return name is not None and find(datamodule, name) is None


def store_folders(datamodule: RetrievalDataModule) -> list[Path]:
    """The stores to examine: the one that is named, else all that are found."""
    name = datamodule.image_features
    if name is None:
        return stores_in(datamodule.store_places())
    if name in datamodule.image_arrays() or datamodule.feature_file() is not None:
        return []
    return [datamodule.feature_store().folder]


def check_store(
    store: FeatureStore, splits: Mapping[str, Split], named: bool = True, thorough: bool = True
) -> Iterator[Finding]:
    """Compare a store with the images that were read, and examine its values.

    Args:
        store: The store.
        splits: What was read.
        named: Whether the user asked for this one; others may be of another copy of the data set, which is no fault.
        thorough: Compare the contents of all photographs.
    """
    what = f"image features {store.name}"
    if not store.manifest.marks:
        yield Finding("warning", f"{what}: made by an earlier version, which did not record their photographs", 1)
    other = [name for split in splits.values() for name in store.replaced(split, thorough)]
    shared = sum(int((~missing(store, split)).sum()) for split in splits.values())
    if not named and 2 * len(other) >= shared:
        yield Finding(
            "info", f"{what} in {store.folder}: of other images than these, not examined", len(other), tuple(other[:3])
        )
        return
    yield from report("error", f"{what}: photographs have changed since; make them again: {store.remake}", other)
    try:
        store.require_same_array()
    except CmrBenchError as error:
        yield Finding("error", str(error), 1)
    known = set(store.manifest.skipped)
    for name, split in splits.items():
        gone = [split.image_ids[i] for i in np.flatnonzero(missing(store, split)).tolist()]
        yield from report("error", f"{what}: images of {name} without a row", (i for i in gone if i not in known))
        yield from report(
            "warning", f"{what}: images of {name} that were skipped when it was made", (i for i in gone if i in known)
        )
    images = {image for split in splits.values() for image in split.image_ids}
    yield from report(
        "warning", f"{what}: rows of images that this data does not have", sorted(store.row_of.keys() - images)
    )
    rows = np.array(sorted(row for image, row in store.row_of.items() if image in images), dtype=np.int64)
    ids = [store.manifest.ids[row] for row in rows.tolist()]
    if ids:
        yield from check_array(what, ArrayView(store.array, store.source, rows, store.boxes), ids)


def check_array(what: str, view: ArrayView, ids: Sequence[str]) -> Iterator[Finding]:
    """Compare the number of rows with the ids, and look for rows that are not finite or zero throughout.

    Args:
        what: What to call it.
        view: The features, one item per row.
        ids: The items.
    """
    if len(view) != len(ids):
        yield Finding("error", f"{what}: {len(view):,} rows for {len(ids):,} items", abs(len(view) - len(ids)))
        return
    rows = np.arange(len(view.array)) if view.rows is None else view.rows
    if rows.size and (rows.min() < 0 or rows.max() >= len(view.array)):
        yield Finding("error", f"{what}: points to rows outside the {len(view.array):,} of the array", 1)
        return
    step = max(1, _CHUNK // max(1, int(np.prod(view.array.shape[1:]))))
    broken: list[str] = []
    zero: list[str] = []
    for start in range(0, len(rows), step):
        values = np.asarray(view.array[rows[start : start + step]])
        values = values.reshape(len(values), -1)
        finite = np.isfinite(values).all(axis=1)
        broken += [ids[start + k] for k in np.flatnonzero(~finite).tolist()]
        zero += [ids[start + k] for k in np.flatnonzero(finite & ~values.any(axis=1)).tolist()]
    yield from report("error", f"{what}: rows with NaN or infinity", broken)
    yield from report("warning", f"{what}: all-zero rows", zero)
