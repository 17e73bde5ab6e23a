"""Files that are whole or absent: written under another name, flushed, then renamed."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from cmr_bench.support.errors import CmrBenchError

LOCK = ".lock"  # in a folder that one process at a time works in
_LEFT_BEHIND = (".DS_Store", "Thumbs.db", "desktop.ini")


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Open a file that becomes ``path`` at the end of the block, so that a reader never meets half of it.

    Args:
        path: Where the file goes; its folder is made.

    Yields:
        A stream of bytes to write to.

    Raises:
        CmrBenchError: If the folder cannot be written or the disk is full; what was there before stays.
    """
    temporary: str | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)  # noqa: PTH101
        os.replace(temporary, path)  # noqa: PTH105
    except BaseException as error:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
        if not isinstance(error, OSError):
            raise
        raise CmrBenchError(f"cannot write {path}: {error.strerror or error}") from error


def write_atomic(path: Path, content: str | bytes) -> None:
    """Write a file so that a reader never meets half of it.

    Args:
        path: Where the file goes; its folder is made.
        content: Text (UTF-8) or bytes.

    Raises:
        CmrBenchError: If the folder cannot be written or the disk is full; nothing half-written is left.
    """
    with replacing(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)


def is_leftover(path: Path) -> bool:
    """Whether a file is what macOS or Windows leaves beside data: ``._photo.jpg``, ``__MACOSX``, ``Thumbs.db``."""
    return path.name.startswith("._") or path.name in _LEFT_BEHIND or "__MACOSX" in path.parts


def sweep(folder: Path) -> None:
    """Delete what writers that were killed have left half-written in a folder and below; nobody may be writing."""
    for left in folder.rglob(".*.tmp"):
        left.unlink(missing_ok=True)
