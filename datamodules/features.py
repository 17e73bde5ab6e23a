"""Stored image features: extraction, the files on disk, and the views made from them.

A store is a folder ``NAME/`` with ``manifest.json`` (where the features come from) and ``features.npy`` ((n, d) vectors
or (n, R, d) regions, memory-mapped). While it is being made the array is called ``features.npy.partial`` and the
manifest says how many rows are done, so that a killed extraction goes on where it stopped.
"""

from __future__ import annotations

import json
import os
import time
from collections import deque
from collections.abc import Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal

import numpy as np
import numpy.typing as npt
import torch
from filelock import FileLock, Timeout
from torch import Tensor

from cmr_bench.datamodules.base import ArrayView, Origin, Split, View
from cmr_bench.datamodules.transforms import Resize, fit_photo, photo_bytes, read_photo
from cmr_bench.errors import DataError, did_you_mean
from cmr_bench.files import write_atomic
from cmr_bench.memory import keep_freed_memory
from cmr_bench.places import MANIFEST as MANIFEST
from cmr_bench.places import list_stores as list_stores
from cmr_bench.places import store_folders as store_folders

if TYPE_CHECKING:
    from cmr_bench.backbones import Backbone

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


@dataclass(frozen=True)
class Extraction:
    """How features are made.

    Attributes:
        size: Side in pixels that photographs are fitted to; 0 takes the encoder's own.
        resize: squash or crop, see :func:`cmr_bench.datamodules.transforms.fit_photo`.
        dtype: float16 or float32; None stores grids as float16 and vectors as float32.
        batch_size: Photographs encoded at once.
        workers: Threads that decode.
        device: Where the encoder runs.
        skip_missing: Leave out photographs that are missing or cannot be decoded.
        overwrite: Throw away what an earlier extraction left in the folder.
        progress: Show a progress bar.
    """

    size: int = 0
    resize: Resize = "squash"
    dtype: Literal["float16", "float32"] | None = None
    batch_size: int = 32
    workers: int = 2
    device: str = "cpu"
    skip_missing: bool = False
    overwrite: bool = False
    progress: bool = True


# Often enough that a kill costs little, seldom enough that a disk on the network keeps up.
FLUSH_SECONDS = 10.0


def photographs(data: str, splits: Mapping[str, Split]) -> dict[str, Path]:
    """Gather the photographs of all splits, each once, by image id.

    Raises:
        DataError: If a split has no photographs, or one id stands for two files.
    """
    files: dict[str, Path] = {}
    for split in splits.values():
        if split.image_files is None:
            raise DataError(f"{data} has no photographs here to make features from (split {split.name})")
        for name, file in zip(split.image_ids, split.image_files, strict=True):
            if files.setdefault(name, file) != file:
                raise DataError(f"{data}: image id {name} stands for {files[name]} and for {file}")
    return files


def extract(
    encoder: Backbone,
    data: str,
    splits: Mapping[str, Split],
    folder: Path,
    options: Extraction,
    command: str = "",
) -> FeatureStore:
    """Run an image encoder once over the photographs of a data set and store what it gives.

    An interrupted extraction goes on where it stopped; a finished one of the same encoder is opened as it is.

    Args:
        encoder: Cut network; gives (b, d) or (b, R, d) for RGB in 0..1.
        data: Name of the data set.
        splits: Its splits, with photographs.
        folder: Folder of the store.
        options: How the features are made.
        command: The command that resumes this, for messages.

    Returns:
        The finished store.

    Raises:
        DataError: If photographs are missing or broken, the folder holds other features, or values are not finite.
    """
    files = photographs(data, splits)
    absent = [name for name, file in files.items() if not file.is_file()]
    if absent and not options.skip_missing:
        raise DataError(
            f"{data}: {len(absent)} of {len(files)} photos missing, e.g. {files[absent[0]]}; "
            "pass --skip-missing to go on without them"
        )
    if len(absent) == len(files):
        raise DataError(f"{data}: none of {len(files)} photos is there, e.g. {next(iter(files.values()))}")
    planned = _plan(encoder, data, [name for name in files if name not in set(absent)], absent, options, command)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _sole_writer(folder):
            manifest = _begin(folder, planned, options.overwrite)
            if not manifest.complete:
                manifest = _fill(encoder, files, folder, manifest, options)
                _finish(folder, manifest)
    except OSError as error:
        raise DataError(f"cannot write features in {folder}: {error.strerror or error}") from error
    return FeatureStore(folder)


def _plan(
    encoder: Backbone, data: str, ids: Sequence[str], absent: Sequence[str], options: Extraction, command: str
) -> Manifest:
    spec = encoder.spec
    size = spec.size if spec.fixed_size else options.size or spec.size
    grid = encoder.grid_shape(size)
    return Manifest(
        data=data,
        encoder=spec.encoder,
        layer=spec.layer,
        weights=spec.weights,
        weights_sha256=spec.sha256,
        preprocessing={
            "size": size,
            "resize": options.resize,
            "interpolation": spec.interpolation,
            "crop_fraction": spec.crop_fraction if options.resize == "crop" else 1.0,
            "mean": spec.mean,
            "std": spec.std,
        },
        ids=ids,
        shape=[len(ids), *encoder.output_shape(size)],
        dtype=options.dtype or ("float32" if grid is None else "float16"),
        grid=grid,
        skipped=absent,
        command=command,
    )


@contextmanager
def _sole_writer(folder: Path) -> Iterator[None]:
    lock = FileLock(folder / ".lock", timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise DataError(f"another process is making the features in {folder}") from None
    try:
        yield
    finally:
        lock.release()


def _begin(folder: Path, planned: Manifest, overwrite: bool) -> Manifest:
    """Return the manifest to go on from: that of an earlier extraction of the same, or the planned one."""
    if (folder / MANIFEST).is_file() and not overwrite:
        earlier = read_manifest(folder)
        other = earlier.differences(planned)
        if earlier.complete and set(other) <= {"ids", "shape"}:
            # Photographs that turned out broken are no longer among the ids of a finished store.
            kept = set(earlier.ids)
            if kept | set(earlier.skipped) == set(planned.ids) | set(planned.skipped) and kept <= set(planned.ids):
                return earlier
        if other:
            raise DataError(
                f"{folder} holds other features (they differ in {', '.join(other)}): pass --overwrite to replace them, "
                "or --name for another store"
            )
        if earlier.complete or (folder / PARTIAL).is_file() or (folder / ARRAY).is_file():
            return replace(earlier, command=planned.command)
    for name in (ARRAY, PARTIAL):
        (folder / name).unlink(missing_ok=True)
    with (folder / PARTIAL).open("wb") as stream:
        _write_header(stream, planned.shape, planned.dtype)
    write_manifest(folder, planned)
    return planned


def _write_header(stream: BinaryIO, shape: Sequence[int], dtype: str) -> None:
    np.lib.format.write_array_header_1_0(
        stream, {"descr": np.lib.format.dtype_to_descr(np.dtype(dtype)), "fortran_order": False, "shape": tuple(shape)}
    )


def _fill(
    encoder: Backbone, files: Mapping[str, Path], folder: Path, manifest: Manifest, options: Extraction
) -> Manifest:
    """Encode the photographs that are not done yet, writing rows in place; returns the manifest with all rows done."""
    n, done, skipped = len(manifest.ids), manifest.rows_done, list(manifest.skipped)
    if done == n:
        return manifest
    if options.device == "cpu":
        keep_freed_memory()
    encoder = encoder.to(options.device).eval()
    encoder.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # absent from torch's annotations
    row_bytes = int(np.prod(manifest.shape[1:])) * np.dtype(manifest.dtype).itemsize
    decoded = _decoded([files[name] for name in manifest.ids[done:]], manifest.preprocessing, options)
    with (
        closing(decoded) as batches,
        (folder / PARTIAL).open("r+b") as stream,
        _progress(manifest, options) as advance,
    ):
        np.lib.format.read_magic(stream)
        np.lib.format.read_array_header_1_0(stream)
        stream.seek(stream.tell() + done * row_bytes)

        def checkpoint() -> Manifest:
            stream.flush()
            os.fsync(stream.fileno())
            state = replace(manifest, rows_done=done, skipped=skipped)
            write_manifest(folder, state)
            return state

        saved = time.monotonic()
        try:
            for batch in batches:
                here = [files[name] for name in manifest.ids[done : done + len(batch)]]
                values, broken = _encode(encoder, batch, here, manifest)
                if broken and not options.skip_missing:
                    raise DataError(
                        f"{batch[broken[0]]}, or pass --skip-missing; the command then goes on where it stopped"
                    )
                stream.write(values.tobytes())
                skipped += [manifest.ids[done + at] for at in broken]
                done += len(batch)
                advance(len(batch))
                if time.monotonic() - saved > FLUSH_SECONDS:
                    checkpoint()
                    saved = time.monotonic()
        finally:
            state = checkpoint()
    return state


def read_pixels(file: Path, preprocessing: Mapping[str, Any]) -> Tensor:
    """Decode a photograph and fit it to the square of an extraction, uint8 (3, size, size); raises DataError."""
    size, fraction = preprocessing["size"], preprocessing["crop_fraction"]
    photo = read_photo(file, at_least=round(size / fraction))
    return photo_bytes(fit_photo(photo, size, preprocessing["resize"], preprocessing["interpolation"], fraction))


def encode_pixels(encoder: Backbone, pixels: Tensor, dtype: str) -> npt.NDArray[Any]:
    """Return the features of photographs, uint8 (b, 3, size, size), in the precision in which a store keeps them."""
    batch = pixels.to(encoder.mean.device).float().div_(255).contiguous(memory_format=torch.channels_last)
    with torch.inference_mode():
        values: npt.NDArray[Any] = encoder(batch).float().cpu().numpy()
    return values.astype(dtype)


@torch.inference_mode()
def _encode(
    encoder: Backbone, batch: Sequence[Tensor | DataError], files: Sequence[Path], manifest: Manifest
) -> tuple[npt.NDArray[Any], list[int]]:
    """Return the features of a batch, zeros for photographs that did not decode, and the places of those."""
    good = [at for at, photo in enumerate(batch) if isinstance(photo, Tensor)]
    broken = [at for at, photo in enumerate(batch) if not isinstance(photo, Tensor)]
    stored = np.zeros((len(batch), *manifest.shape[1:]), dtype=manifest.dtype)
    if not good:
        return stored, broken
    values = encode_pixels(encoder, torch.stack([photo for photo in batch if isinstance(photo, Tensor)]), "float32")
    finite = np.isfinite(values.reshape(len(values), -1)).all(axis=1)
    if not finite.all():
        file = files[good[int(np.flatnonzero(~finite)[0])]]
        raise DataError(f"{manifest.encoder} gives NaN or infinity for {file}; check the weights ({manifest.weights})")
    with np.errstate(over="ignore"):
        stored[good] = values
    if not np.isfinite(stored).all():
        raise DataError(
            f"features of {manifest.encoder} reach {np.abs(values).max():.3g}, too large for {manifest.dtype}; "
            "pass --dtype float32"
        )
    return stored, broken


def _decode(file: Path, preprocessing: Mapping[str, Any]) -> Tensor | DataError:
    try:
        return read_pixels(file, preprocessing)
    except DataError as error:
        return error


def _decoded(
    files: Sequence[Path], preprocessing: Mapping[str, Any], options: Extraction
) -> Generator[list[Tensor | DataError]]:
    """Decode photographs in threads (Pillow lets go of the interpreter lock), two batches ahead of the encoder."""
    with ThreadPoolExecutor(max(1, options.workers), thread_name_prefix="decode") as pool:
        waiting = iter(files)
        running: deque[Future[Tensor | DataError]] = deque(
            pool.submit(_decode, file, preprocessing) for file in islice(waiting, 2 * options.batch_size)
        )
        try:
            while running:
                batch = []
                for _ in range(min(options.batch_size, len(running))):
                    batch.append(running.popleft().result())
                    running.extend(pool.submit(_decode, file, preprocessing) for file in islice(waiting, 1))
                yield batch
        finally:
            pool.shutdown(cancel_futures=True)


@contextmanager
def _progress(manifest: Manifest, options: Extraction) -> Iterator[Any]:
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, disable=not options.progress) as bar:
        task = bar.add_task(
            f"{manifest.data}, {manifest.encoder}", total=len(manifest.ids), completed=manifest.rows_done
        )
        yield lambda rows: bar.advance(task, rows)


def _finish(folder: Path, manifest: Manifest) -> None:
    """Give the array its final name, without the rows of photographs that could not be decoded."""
    skipped = set(manifest.skipped)
    kept = [row for row, name in enumerate(manifest.ids) if name not in skipped]
    if not kept:
        raise DataError(f"{manifest.data}: none of {len(manifest.ids)} photos can be decoded")
    if len(kept) == len(manifest.ids):
        # The array already has its name if the last attempt was stopped between these two steps.
        if (folder / PARTIAL).is_file():
            (folder / PARTIAL).replace(folder / ARRAY)
        write_manifest(folder, replace(manifest, complete=True))
        return
    whole = open_array(folder / PARTIAL)
    shape = [len(kept), *manifest.shape[1:]]
    temporary = folder / f"{ARRAY}.tmp"
    with temporary.open("wb") as stream:
        _write_header(stream, shape, manifest.dtype)
        for start in range(0, len(kept), 256):
            stream.write(whole[kept[start : start + 256]].tobytes())
    temporary.replace(folder / ARRAY)
    ids = [manifest.ids[row] for row in kept]
    write_manifest(folder, replace(manifest, complete=True, ids=ids, shape=shape, rows_done=len(ids)))
    (folder / PARTIAL).unlink()
