"""Checksums of files, remembered in the user's cache for as long as the files stay as they are."""

from __future__ import annotations

import contextlib
import hashlib
import os
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from cmr_bench.support.errors import DataError
from cmr_bench.support.places import cache_dir

_AT_ONCE = 500  # names a query; SQLite takes 999 in its oldest builds
_FRESH = 2.0  # seconds in which a file can change again and keep its times, on the coarsest file systems


def checksums(files: Sequence[Path]) -> list[str]:
    """Return the SHA-256 of the content of each file, in hexadecimal digits.

    A file is read once: what it gave is remembered with its path, inode, size and times of change, as git does in its
    index, and read again only where one of these has changed.

    Raises:
        DataError: If a file cannot be read.
    """
    found = []
    for value in readable_checksums(files):
        if isinstance(value, DataError):
            raise value
        found.append(value)
    return found


def readable_checksums(files: Sequence[Path]) -> list[str | DataError]:
    """Return the same as :func:`checksums`, and in the place of a file that cannot be read the reason."""
    states = [_state(file) for file in files]
    there = {state.name: (state, file) for state, file in zip(states, files, strict=True) if isinstance(state, _State)}
    with _memory() as memory:
        known = _recall(memory, list(there))
        found: dict[bytes, str | DataError] = {
            name: known[name][1] for name, (state, _) in there.items() if known.get(name, ("", ""))[0] == state.text
        }
        unknown = {name: file for name, (_, file) in there.items() if name not in found}
        if unknown:
            started = time.time()
            with ThreadPoolExecutor(min(8, os.cpu_count() or 1), thread_name_prefix="checksum") as pool:
                found |= zip(unknown, pool.map(_read, unknown.values()), strict=True)
            settled = [name for name in unknown if there[name][0].changed < started - _FRESH]
            new = [(name, there[name][0].text, value) for name in settled if isinstance(value := found[name], str)]
            _remember(memory, new)
    return [found[state.name] if isinstance(state, _State) else state for state in states]


def checksum(file: Path) -> str:
    """Return the SHA-256 of the content of one file, see :func:`checksums`."""
    return checksums([file])[0]


def read_checksum(file: Path) -> str:
    """Read a file for its SHA-256, in hexadecimal digits, without remembering it.

    Raises:
        DataError: If it cannot be read.
    """
    try:
        with file.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"cannot read {file}: {error.strerror or error}") from error


def folder_checksum(folder: Path) -> str:
    """Return one checksum over the names and contents of the files of a folder and those below it; hidden files aside.

    Raises:
        DataError: If a file cannot be read.
    """
    names = sorted(file.relative_to(folder) for file in folder.rglob("*") if file.is_file())
    shown = [name for name in names if not any(part.startswith(".") for part in name.parts)]
    return combined(zip(map(Path.as_posix, shown), checksums([folder / name for name in shown]), strict=True))


def combined(parts: Mapping[str, str] | Iterator[tuple[str, str]]) -> str:
    """Return one checksum over named values, in their order."""
    digest = hashlib.sha256()
    for name, value in parts.items() if isinstance(parts, Mapping) else parts:
        digest.update(f"{name}\0{value}\0".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


@dataclass(frozen=True)
class _State:
    """A file as it is: its path, what changes with its content, and when that changed last, in seconds."""

    name: bytes
    text: str
    changed: float


def _state(file: Path) -> _State | DataError:
    try:
        found = file.stat()
    except OSError as error:
        return DataError(f"cannot read {file}: {error.strerror or error}")
    text = f"{found.st_dev} {found.st_ino} {found.st_size} {found.st_mtime_ns} {found.st_ctime_ns}"
    return _State(os.fsencode(os.path.abspath(file)), text, max(found.st_mtime, found.st_ctime))  # noqa: PTH100


def _read(file: Path) -> str | DataError:
    try:
        return read_checksum(file)
    except DataError as error:
        return error


@contextlib.contextmanager
def _memory() -> Iterator[sqlite3.Connection | None]:
    memory = None
    # Without a place to keep them, checksums are computed anew.
    with contextlib.suppress(OSError, sqlite3.Error):
        folder = cache_dir("checksums")
        folder.mkdir(parents=True, exist_ok=True)
        memory = sqlite3.connect(folder / "files.sqlite", timeout=60)
        memory.execute("PRAGMA journal_mode=WAL")
        memory.execute("CREATE TABLE IF NOT EXISTS files (name BLOB PRIMARY KEY, state TEXT, checksum TEXT)")
    try:
        yield memory
    finally:
        if memory is not None:
            memory.close()


def _recall(memory: sqlite3.Connection | None, names: Sequence[bytes]) -> dict[bytes, tuple[str, str]]:
    found: dict[bytes, tuple[str, str]] = {}
    if memory is None:
        return found
    with contextlib.suppress(sqlite3.Error):
        for start in range(0, len(names), _AT_ONCE):
            part = names[start : start + _AT_ONCE]
            query = f"SELECT name, state, checksum FROM files WHERE name IN ({','.join('?' * len(part))})"
            found |= {name: (state, value) for name, state, value in memory.execute(query, part)}
    return found


def _remember(memory: sqlite3.Connection | None, rows: Sequence[tuple[bytes, str, str]]) -> None:
    if memory is not None and rows:
        with contextlib.suppress(sqlite3.Error), memory:
            memory.executemany("INSERT OR REPLACE INTO files VALUES (?, ?, ?)", rows)
