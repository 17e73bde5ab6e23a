"""Photographs inside tables and archives, unpacked into the cache once."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import filelock

from cmr_bench.support.errors import DataError
from cmr_bench.support.places import cache_dir

_DONE = "complete"
_ENDS = 1 << 16  # bytes at either end of an archive that tell it from another, with its size and time of change


class Unpacking:
    """A folder with the photographs of one file, each under its number.

    Args:
        source: The table or archive.
        key: What tells its content from another; None looks at the file.

    Attributes:
        complete: Whether they have been unpacked before.
    """

    def __init__(self, source: Path, key: str | None = None) -> None:
        self.folder = cache_dir("custom") / "photos" / (key or _key(source))
        self.complete = (self.folder / _DONE).is_file()

    def place(self, number: int) -> Path:
        """Where photograph ``number`` is or will be; names inside the archive have no influence on it."""
        return self.folder / f"{number // 10000:04d}" / f"{number:08d}.img"

    def write(self, number: int, content: bytes) -> Path:
        """Write a photograph unless it has been unpacked before, and return its place."""
        place = self.place(number)
        if not self.complete:
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(content)
        return place


@contextmanager
def unpacking(source: Path, key: str | None = None) -> Iterator[Unpacking]:
    """Open the unpacked photographs of a file; other processes wait while they are written.

    Raises:
        DataError: If they cannot be written.
    """
    there = Unpacking(source, key)
    if there.complete:
        yield there
        return
    try:
        there.folder.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(there.folder / ".lock"):
            there.complete = (there.folder / _DONE).is_file()
            yield there
            (there.folder / _DONE).touch()
    except OSError as error:
        raise DataError(
            f"cannot unpack the photographs of {source} into {there.folder}: {error.strerror or error}; name another "
            "folder by CMR_BENCH_CACHE"
        ) from error


def _key(source: Path) -> str:
    stat = source.stat()
    digest = hashlib.sha256(f"{source.name} {stat.st_size} {stat.st_mtime_ns}".encode())
    with source.open("rb") as stream:
        digest.update(stream.read(_ENDS))
        stream.seek(max(0, stat.st_size - _ENDS))
        digest.update(stream.read(_ENDS))
    return f"{source.stem[:40]}-{digest.hexdigest()[:20]}"
