"""The files of a store while it is made: who writes, where an earlier attempt stopped, and the last step."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

import numpy as np
from filelock import FileLock, Timeout

from cmr_bench.datamodules.images.marks import changed
from cmr_bench.datamodules.images.store import ARRAY, PARTIAL, Manifest, open_array, read_manifest, write_manifest
from cmr_bench.support.checksums import checksum
from cmr_bench.support.errors import DataError
from cmr_bench.support.places import MANIFEST


@contextmanager
def sole_writer(folder: Path, wait: bool = False) -> Iterator[None]:
    """Keep other processes out of a store while it is written; where one is at work, wait for it or raise DataError."""
    lock = FileLock(folder / ".lock", timeout=-1 if wait else 0)
    try:
        lock.acquire()
    except Timeout:
        raise DataError(f"another process is making the features in {folder}") from None
    try:
        yield
    finally:
        lock.release()


def begin(folder: Path, planned: Manifest, files: Mapping[str, Path], overwrite: bool) -> Manifest:
    """Return the manifest to go on from: that of an earlier extraction of the same, or the planned one.

    Args:
        folder: Folder of the store.
        planned: What is to be made.
        files: The photographs, by image id.
        overwrite: Throw away what is there.

    Raises:
        DataError: If the folder holds other features, or features of other photographs.
    """
    if (folder / MANIFEST).is_file() and not overwrite:
        earlier = read_manifest(folder)
        other = earlier.differences(planned)
        if earlier.complete and set(other) <= {"ids", "shape"}:
            # Photographs that turned out broken are no longer among the ids of a finished store.
            kept = set(earlier.ids)
            if kept | set(earlier.skipped) == set(planned.ids) | set(planned.skipped) and kept <= set(planned.ids):
                _require_same(folder, earlier, files)
                return earlier
        if other:
            raise DataError(
                f"{folder} holds other features (they differ in {', '.join(other)}): pass --overwrite to replace them, "
                "or --name for another store"
            )
        if earlier.complete or (folder / PARTIAL).is_file() or (folder / ARRAY).is_file():
            _require_same(folder, earlier, files)
            # Rows that an earlier version wrote have no mark.
            marks = [*earlier.marks, *[""] * (earlier.rows_done - len(earlier.marks))]
            return replace(earlier, command=planned.command, marks=marks, schema=planned.schema)
    for name in (ARRAY, PARTIAL):
        (folder / name).unlink(missing_ok=True)
    with (folder / PARTIAL).open("wb") as stream:
        _write_header(stream, planned.shape, planned.dtype)
    write_manifest(folder, planned)
    return planned


def _require_same(folder: Path, earlier: Manifest, files: Mapping[str, Path]) -> None:
    """Refuse to go on from features of other photographs, or to open them as if they were of these."""
    marked = earlier.ids[: len(earlier.marks)]
    other = changed(earlier.marks, [files[name] for name in marked])
    if other:
        raise DataError(
            f"{folder} holds features of other photographs ({len(other)} of {len(marked)} have another content now, "
            f"e.g. {files[marked[other[0]]]}): pass --overwrite to replace them, or --name for another store"
        )


def _write_header(stream: BinaryIO, shape: Sequence[int], dtype: str) -> None:
    np.lib.format.write_array_header_1_0(
        stream, {"descr": np.lib.format.dtype_to_descr(np.dtype(dtype)), "fortran_order": False, "shape": tuple(shape)}
    )


def finish(folder: Path, manifest: Manifest) -> None:
    """Give the array its final name, without the rows of photographs that could not be decoded."""
    skipped = set(manifest.skipped)
    kept = [row for row, name in enumerate(manifest.ids) if name not in skipped]
    if not kept:
        raise DataError(f"{manifest.data}: none of {len(manifest.ids)} images can be decoded")
    if len(kept) == len(manifest.ids):
        # The array already has its name if the last attempt was stopped between these two steps.
        if (folder / PARTIAL).is_file():
            (folder / PARTIAL).replace(folder / ARRAY)
        write_manifest(folder, replace(manifest, complete=True, array_sha256=checksum(folder / ARRAY)))
        return
    whole = open_array(folder / PARTIAL)
    shape = [len(kept), *manifest.shape[1:]]
    temporary = folder / f"{ARRAY}.tmp"
    with temporary.open("wb") as stream:
        _write_header(stream, shape, manifest.dtype)
        for start in range(0, len(kept), 256):
            stream.write(whole[kept[start : start + 256]].tobytes())
    temporary.replace(folder / ARRAY)
    write_manifest(
        folder,
        replace(
            manifest,
            complete=True,
            ids=[manifest.ids[row] for row in kept],
            shape=shape,
            rows_done=len(kept),
            marks=[manifest.marks[row] for row in kept] if manifest.marks else [],
            array_sha256=checksum(folder / ARRAY),
        ),
    )
    (folder / PARTIAL).unlink()
