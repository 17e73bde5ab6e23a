"""Extract image features of a data set, resumable."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from cmr_bench.datamodules.images.marks import mark
from cmr_bench.datamodules.images.photos import Photo, Resize, fit_photo, photo_bytes, read_photo
from cmr_bench.datamodules.split import Split
from cmr_bench.support.errors import DataError
from cmr_bench.support.memory import keep_freed_memory
from cmr_bench.support.places import MANIFEST as MANIFEST
from cmr_bench.support.places import list_stores as list_stores
from cmr_bench.support.places import store_folders as store_folders

if TYPE_CHECKING:
    from cmr_bench.datamodules.images.backbones import Backbone
from cmr_bench.datamodules.images.store import PARTIAL, FeatureStore, Manifest, write_manifest
from cmr_bench.datamodules.images.writing import begin, finish, sole_writer


@dataclass(frozen=True)
class Extraction:
    """How features are made.

    Attributes:
        size: Side in pixels that photographs are fitted to; 0 takes the encoder's own.
        resize: squash or crop, see :func:`cmr_bench.datamodules.images.photos.fit_photo`.
        dtype: float16 or float32; None stores grids as float16 and vectors as float32.
        batch_size: Batch size.
        workers: Number of decoding threads.
        device: Where the encoder runs.
        skip_missing: Skip images that are missing or cannot be decoded.
        overwrite: Discard what an earlier extraction left in the folder.
        progress: Show a progress bar.
        skip_option: The option that skips such images, for messages.
        wait: Wait for another process that is at work in the folder, in place of an error.
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
    skip_option: str = "--skip-missing"
    wait: bool = False


# A photograph, or why there is none, and its mark.
Decoded = tuple[Tensor | DataError, str]

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
            raise DataError(f"{data} has no images to extract features from (split {split.name})")
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
    """Extract the image features of a data set and store them.

    An interrupted extraction is resumed; a finished one of the same encoder is reused.

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
            f"{data}: {len(absent)} of {len(files)} images missing, e.g. {files[absent[0]]}; "
            f"pass {options.skip_option} to skip them"
        )
    if len(absent) == len(files):
        raise DataError(f"{data}: none of {len(files)} images exists, e.g. {next(iter(files.values()))}")
    planned = _plan(encoder, data, [name for name in files if name not in set(absent)], absent, options, command)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with sole_writer(folder, options.wait):
            manifest = begin(folder, planned, files, options.overwrite)
            if not manifest.complete:
                manifest = _fill(encoder, files, folder, manifest, options)
                finish(folder, manifest)
    except OSError as error:
        raise DataError(f"cannot write features in {folder}: {error.strerror or error}") from error
    store = FeatureStore(folder)
    store.require_same_array()
    return store


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


def _fill(
    encoder: Backbone, files: Mapping[str, Path], folder: Path, manifest: Manifest, options: Extraction
) -> Manifest:
    """Encode the photographs that are not done yet, writing rows in place; returns the manifest with all rows done."""
    n, done, skipped, marks = len(manifest.ids), manifest.rows_done, list(manifest.skipped), list(manifest.marks)
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
            state = replace(manifest, rows_done=done, skipped=skipped, marks=list(marks))
            write_manifest(folder, state)
            return state

        saved = time.monotonic()
        try:
            for decoded_batch in batches:
                batch = [photo for photo, _ in decoded_batch]
                here = [files[name] for name in manifest.ids[done : done + len(batch)]]
                values, broken = _encode(encoder, batch, here, manifest)
                if broken and not options.skip_missing:
                    raise DataError(f"{batch[broken[0]]}, or pass {options.skip_option}; repeat the command to resume")
                stream.write(values.tobytes())
                skipped += [manifest.ids[done + at] for at in broken]
                marks += [text for _, text in decoded_batch]
                done += len(batch)
                advance(len(batch))
                if time.monotonic() - saved > FLUSH_SECONDS:
                    checkpoint()
                    saved = time.monotonic()
        finally:
            state = checkpoint()
    return state


def read_pixels(file: Photo, preprocessing: Mapping[str, Any]) -> Tensor:
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
        raise DataError(
            f"{manifest.encoder} outputs NaN or infinity for {file}; check the weights ({manifest.weights})"
        )
    with np.errstate(over="ignore"):
        stored[good] = values
    if not np.isfinite(stored).all():
        raise DataError(
            f"features of {manifest.encoder} reach {np.abs(values).max():.3g}, too large for {manifest.dtype}; "
            "pass --dtype float32"
        )
    return stored, broken


def _decode(file: Path, preprocessing: Mapping[str, Any]) -> Decoded:
    try:
        # Marked first: a photograph that is replaced in between is then noticed, not taken for the one that was read.
        text = mark(file)
        return read_pixels(file, preprocessing), text
    except DataError as error:
        return error, ""


def _decoded(files: Sequence[Path], preprocessing: Mapping[str, Any], options: Extraction) -> Generator[list[Decoded]]:
    """Decode photographs in threads (Pillow lets go of the interpreter lock), two batches ahead of the encoder."""
    with ThreadPoolExecutor(max(1, options.workers), thread_name_prefix="decode") as pool:
        waiting = iter(files)
        running: deque[Future[Decoded]] = deque(
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
