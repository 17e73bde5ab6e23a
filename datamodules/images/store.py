"""Stored image features: a manifest and one array on disk."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from cmr_bench.datamodules.split import Split
from cmr_bench.datamodules.views import ArrayView, Origin, View
from cmr_bench.support.errors import DataError, did_you_mean
from cmr_bench.support.files import write_atomic
from cmr_bench.support.places import MANIFEST as MANIFEST
from cmr_bench.support.places import list_stores as list_stores
from cmr_bench.support.places import store_folders as store_folders

if TYPE_CHECKING:
    pass


SCHEMA = 1
ARRAY, PARTIAL = "features.npy", "features.npy.partial"


@dataclass(frozen=True)
class Manifest:
    """What a store says of itself.

    Attributes:
        data: Name of the data set.
        encoder: The image encoder, ``library:name``.
        layer: fc7, pool or grid.
        weights: Name of the weights file, ``pretrained`` or ``random``.
        weights_sha256: Checksum of the weights file, or of the downloaded tensors.
        preprocessing: Size, resize, interpolation, crop fraction, mean and standard deviation.
        ids: Image id of every row.
        shape: Shape of the array.
        dtype: float16 or float32.
        grid: Rows and columns of the map that the regions are cells of; None for vectors.
        skipped: Ids of images that were left out: no file, or one that cannot be decoded.
        rows_done: Rows that are written.
        complete: False while the extraction is unfinished.
        command: The command that makes or resumes the store.
        schema: Version of this layout.
    """

    data: str
    encoder: str
    layer: str
    weights: str
    weights_sha256: str
    preprocessing: Mapping[str, Any]
    ids: Sequence[str]
    shape: Sequence[int]
    dtype: str
    grid: Sequence[int] | None = None
    skipped: Sequence[str] = field(default_factory=list)
    rows_done: int = 0
    complete: bool = False
    command: str = ""
    schema: int = SCHEMA

    def differences(self, other: Manifest) -> list[str]:
        """Names of the entries in which two extractions would write other numbers or other rows."""
        progress = {"skipped", "rows_done", "complete", "command", "schema"}
        mine, theirs = _plain(self), _plain(other)
        return [key for key in mine if key not in progress and mine[key] != theirs[key]]


def _plain(manifest: Manifest) -> dict[str, Any]:
    values: dict[str, Any] = json.loads(json.dumps(asdict(manifest)))
    return values


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Replace the manifest of a store in one step."""
    write_atomic(folder / MANIFEST, json.dumps(_plain(manifest), indent=1) + "\n")


def read_manifest(folder: Path) -> Manifest:
    """Read the manifest of a store.

    Raises:
        DataError: If it cannot be read or comes from a newer version of the program.
    """
    path = folder / MANIFEST
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        if values["schema"] > SCHEMA:
            raise DataError(
                f"{path} has schema {values['schema']}, newer than this program reads ({SCHEMA}); update it"
            )
        manifest = Manifest(**values)
        if not all(isinstance(name, str) for name in manifest.ids) or len(manifest.shape) not in (2, 3):
            raise ValueError("ids are not text, or the shape is not that of vectors or regions")
        if len(set(manifest.ids)) < len(manifest.ids):
            raise ValueError("an id stands for two rows")
        for name in ("data", "encoder", "layer", "weights", "weights_sha256", "dtype", "command"):
            if not isinstance(values.get(name, ""), str):
                raise ValueError(f"{name} is not text")
        for name, length in (("shape", len(manifest.shape)), ("grid", 2)):
            sides = values.get(name)
            if sides is not None and not (len(sides) == length and all(type(n) is int and n > 0 for n in sides)):
                raise ValueError(f"{name} {str(sides)[:60]} is none")
        return replace(manifest, ids=list(manifest.ids), rows_done=int(manifest.rows_done))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"cannot read {path}: {error}; remove the folder and make the features again") from error


def grid_boxes(rows: int, columns: int) -> npt.NDArray[np.float32]:
    """Boxes of the cells of a grid, row by row, (rows · columns, 4) as fractions x0, y0, x1, y1."""
    y, x = np.divmod(np.arange(rows * columns), columns)
    return np.stack([x / columns, y / rows, (x + 1) / columns, (y + 1) / rows], axis=1).astype(np.float32)


class FeatureStore:
    """Features of the images of one data set, memory-mapped, one row an image id.

    Args:
        folder: Folder with manifest and array.

    Attributes:
        manifest: Where the features come from.
        array: The features, (n, d) or (n, R, d).
        boxes: Boxes of grid cells, (R, 4) as fractions; None for vectors.
        row_of: Row of every image id.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.manifest = read_manifest(folder)
        if not self.manifest.complete:
            raise DataError(
                f"features in {folder} are unfinished ({self.manifest.rows_done} of {len(self.manifest.ids)} images); "
                f"go on with `{self.manifest.command}`"
            )
        self.array = open_array(folder / ARRAY)
        if list(self.array.shape) != list(self.manifest.shape) or len(self.array) != len(self.manifest.ids):
            raise DataError(
                f"{folder / ARRAY} has shape {self.array.shape} but its manifest says {tuple(self.manifest.shape)} for "
                f"{len(self.manifest.ids)} images; make the features again"
            )
        self.row_of = {name: row for row, name in enumerate(self.manifest.ids)}
        self.boxes = None if self.manifest.grid is None else grid_boxes(*self.manifest.grid)

    @property
    def name(self) -> str:
        """Name of the store's folder."""
        return self.folder.name

    @property
    def source(self) -> str:
        """One line for results: encoder, layer and the beginning of the weights' checksum."""
        return f"{self.manifest.encoder}/{self.manifest.layer}@{self.manifest.weights_sha256[:8]}"


def open_array(path: Path) -> npt.NDArray[Any]:
    """Memory-map an array; one clear line if it is missing or cut short."""
    try:
        array: npt.NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # a damaged header can fail in any way
        raise DataError(f"cannot read features {path}: {error}; make them again") from error
    return array


def open_store(name: str, data: str, root: str | Path | None = None) -> FeatureStore:
    """Open stored features by name, looked for beside the data and in the cache, or by folder.

    Args:
        name: Name of the store, or its folder.
        data: Name of the data set.
        root: Value of ``--data.root``; None falls back on ``CMR_BENCH_DATA``.

    Returns:
        The store.

    Raises:
        DataError: If there is none of this name, or it is unfinished.
    """
    places = [place / name for place in store_folders(data, root)]
    given = Path(name).expanduser()
    for folder in [*places, given]:
        if (folder / MANIFEST).is_file():
            return FeatureStore(folder)
    there = list(dict.fromkeys(folder.name for folder in list_stores(data, root)))
    looked = ", ".join(str(place.parent) for place in places)
    found = f"there are {', '.join(there)}" if there else "there are none"
    raise DataError(
        f"no features '{name}' for {data}: looked in {looked}; {found}."
        f"{did_you_mean(name, there)} Make some with `cmr-bench data features {data} --encoder torchvision:resnet152`"
    )


def missing(store: FeatureStore, split: Split) -> npt.NDArray[np.bool_]:
    """Tell which images of a split, (n_images,), have no row in the store."""
    return np.fromiter((name not in store.row_of for name in split.image_ids), dtype=bool, count=split.n_images)


class StoredView(ArrayView):
    """A view of stored features that data workers map again instead of receiving a copy of the array."""

    def __init__(self, store: FeatureStore, rows: npt.NDArray[np.int64]) -> None:
        super().__init__(store.array, store.source, rows, store.boxes)
        self.path = store.folder / ARRAY

    def origin(self) -> Origin:
        """Return the manifest, without the names of the images."""
        return Origin("features", _plain(replace(read_manifest(self.path.parent), ids=[], skipped=[])))

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "array": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.array = open_array(self.path)


def stored_view(store: FeatureStore, split: Split) -> View:
    """Return the images of a split as a view of stored features, rows matched by image id."""
    absent = missing(store, split)
    if absent.any():
        example = split.image_ids[int(np.flatnonzero(absent)[0])]
        raise DataError(f"{split.name}: {int(absent.sum())} images have no row in {store.folder}, e.g. {example}")
    return StoredView(store, np.array([store.row_of[name] for name in split.image_ids], dtype=np.int64))
