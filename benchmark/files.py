"""Files that are whole or absent: written under another name, flushed, then renamed."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from cmr_bench.errors import CmrBenchError


def write_atomic(path: Path, content: str | bytes) -> None:
    """Write a file so that a reader never meets half of it.

    Args:
        path: Where the file goes; its folder is made.
        content: Text (UTF-8) or bytes.

    Raises:
        CmrBenchError: If the folder cannot be written or the disk is full; nothing half-written is left.
    """
    data = content.encode() if isinstance(content, str) else content
    temporary: str | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
        with os.fdopen(handle, "wb") as file:
            file.write(data)
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
