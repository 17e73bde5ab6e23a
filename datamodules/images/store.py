"""Stored image features: a manifest and one array on disk."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cmr_bench.datamodules.images.marks import changed, content_of, is_mark
from cmr_bench.datamodules.split import Split
from cmr_bench.datamodules.views import ArrayView, Origin, View
from cmr_bench.support import foreign
from cmr_bench.support.checksums import checksum, combined
from cmr_bench.support.errors import DataError, did_you_mean
from cmr_bench.support.files import write_atomic
from cmr_bench.support.places import MANIFEST as MANIFEST
from cmr_bench.support.places import list_stores as list_stores
from cmr_bench.support.places import store_folders as store_folders
from cmr_bench.support.places import stores_in

SCHEMA = 2
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
        skipped: Ids of images that were skipped: no file, or one that cannot be decoded.
        rows_done: Rows that are written.
        complete: False while the extraction is unfinished.
        command: The command that makes or resumes the store.
        marks: Mark of the photograph of every row, as far as rows are written; none in stores of schema 1.
        array_sha256: Checksum of the finished array; empty in stores of schema 1.
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
    marks: Sequence[str] = field(default_factory=list)
    array_sha256: str = ""
    schema: int = SCHEMA

    def differences(self, other: Manifest) -> list[str]:
        """Names of the entries in which two extractions would write other numbers or other rows."""
        progress = {"skipped", "rows_done", "complete", "command", "marks", "array_sha256", "schema"}
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
        values = foreign.read_json(path, foreign.ANNOTATION_BYTES)
        if values["schema"] > SCHEMA:
            raise DataError(
                f"{path} has schema {values['schema']}, newer than this program reads ({SCHEMA}); update it"
            )
        manifest = Manifest(**values)
        if not all(isinstance(name, str) for name in manifest.ids) or len(manifest.shape) not in (2, 3):
            raise ValueError("ids are not text, or the shape is not that of vectors or regions")
        if len(set(manifest.ids)) < len(manifest.ids):
            raise ValueError("an id stands for two rows")
        if not all(map(is_mark, manifest.marks)) or len(manifest.marks) > len(manifest.ids):
            raise ValueError("the marks are not those of its photographs")
        for name in ("data", "encoder", "layer", "weights", "weights_sha256", "dtype", "command", "array_sha256"):
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
    """Features of the images of one data set, memory-mapped, one row per image id.

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
                f"resume with `{self.manifest.command}`"
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

    @property
    def remake(self) -> str:
        """The command that makes the features again."""
        made = self.manifest
        return f"{made.command or f'cmr-bench data features {made.data} --encoder {made.encoder}'} --overwrite"

    def replaced(self, split: Split, thorough: bool = False) -> list[str]:
        """Return the ids of images of a split whose photograph is another than the one behind their features.

        Args:
            split: A split; images without a photograph or a row tell nothing.
            thorough: Compare the contents of all photographs, not only where size or time of change differ.
        """
        if split.image_files is None or not self.manifest.marks:
            return []
        pairs = zip(split.image_ids, split.image_files, strict=True)
        known = [(name, file) for name, file in pairs if name in self.row_of]
        marked = [self.manifest.marks[self.row_of[name]] for name, _ in known]
        return [known[row][0] for row in changed(marked, [file for _, file in known], thorough)]

    def require_same(self, splits: Iterable[Split]) -> None:
        """Refuse features of other photographs than those of the splits, and an array that was changed since.

        Raises:
            DataError: If a photograph, or the array, is another than when the features were made.
        """
        self.require_same_array()
        for split in splits:
            if other := self.replaced(split):
                raise DataError(
                    f"features '{self.name}' in {self.folder} are of other photographs: {len(other)} of the "
                    f"{split.n_images} of {split.name} have another content now, e.g. {other[0]}; put them back, make "
                    f"the features again with `{self.remake}`, or others with --name"
                )
        if not self.manifest.marks:
            warnings.warn(
                f"features '{self.name}' in {self.folder} come from an earlier version, which did not record their "
                "photographs: not verified",
                stacklevel=3,
            )

    def require_same_array(self) -> None:
        """Refuse an array that was changed after the features were made; raises DataError."""
        if self.manifest.array_sha256 and checksum(self.folder / ARRAY) != self.manifest.array_sha256:
            raise DataError(
                f"{self.folder / ARRAY} was changed after the features were made; make them again with `{self.remake}`"
            )


def open_array(path: Path) -> npt.NDArray[Any]:
    """Memory-map an array; one clear line if it is missing or cut short."""
    try:
        array: npt.NDArray[Any] = np.load(foreign.checked(path), mmap_mode="r", allow_pickle=False)
    except Exception as error:  # a damaged header can fail in any way
        raise DataError(f"cannot read features {path}: {error}; make them again") from error
    return array


def open_store(
    name: str,
    data: str,
    root: str | Path | None = None,
    folders: Sequence[Path] | None = None,
    given: str = "",
) -> FeatureStore:
    """Open stored features by name, looked for beside the data and in the cache, or by folder.

    Args:
        name: Name of the store, or its folder.
        data: Name of the data set.
        root: Value of ``--data.root``; None falls back on ``CMR_BENCH_DATA``.
        folders: Where to look; None takes those of the data set's name.
        given: Options of the data set, for the command that the error offers.

    Returns:
        The store.

    Raises:
        DataError: If there is none of this name, or it is unfinished.
    """
    looked_in = store_folders(data, root) if folders is None else folders
    places = [place / name for place in looked_in]
    for folder in [*places, Path(name).expanduser()]:
        if (folder / MANIFEST).is_file():
            return FeatureStore(folder)
    there = list(dict.fromkeys(folder.name for folder in stores_in(looked_in)))
    looked = ", ".join(str(place.parent) for place in places)
    found = f"there are {', '.join(there)}" if there else "there are none"
    raise DataError(
        f"no features '{name}' for {data}: looked in {looked}; {found}."
        f"{did_you_mean(name, there)} Make some with `cmr-bench data features {data}{given} --encoder "
        "torchvision:resnet152`"
    )


def missing(store: FeatureStore, split: Split) -> npt.NDArray[np.bool_]:
    """Return which images of a split, (n_images,), have no row in the store."""
    return np.fromiter((name not in store.row_of for name in split.image_ids), dtype=bool, count=split.n_images)


class StoredView(ArrayView):
    """A view of stored features that data workers map again instead of receiving a copy of the array."""

    def __init__(self, store: FeatureStore, rows: npt.NDArray[np.int64]) -> None:
        super().__init__(store.array, store.source, rows, store.boxes)
        self.path = store.folder / ARRAY

    def origin(self) -> Origin:
        """Return the manifest, without the names and marks of the images."""
        return Origin("features", _plain(replace(read_manifest(self.path.parent), ids=[], skipped=[], marks=[])))

    def content(self) -> str:
        """Checksum over how the features were made and the photographs behind the rows.

        Features made again of the same photographs, on another machine too, have the same; where the manifest does not
        know the photographs, the values count.
        """
        manifest, rows = read_manifest(self.path.parent), [] if self.rows is None else self.rows.tolist()
        contents = [content_of(manifest.marks[row]) for row in rows] if manifest.marks else [""]
        if not all(contents):
            return super().content()
        made = [manifest.encoder, manifest.layer, manifest.weights_sha256, manifest.preprocessing, manifest.dtype]
        return combined({"made": json.dumps(made, sort_keys=True), "photographs": " ".join(contents)})

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "array": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.array = open_array(self.path)


def stored_view(store: FeatureStore, split: Split) -> View:
    """Return the images of a split as a view of stored features, rows matched by image id.

    Raises:
        DataError: If images have no row, or the features are of other photographs than those of the split.
    """
    store.require_same([split])
    absent = missing(store, split)
    if absent.any():
        example = split.image_ids[int(np.flatnonzero(absent)[0])]
        raise DataError(f"{split.name}: {int(absent.sum())} images have no row in {store.folder}, e.g. {example}")
    return StoredView(store, np.array([store.row_of[name] for name in split.image_ids], dtype=np.int64))
