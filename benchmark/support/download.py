"""Downloads that go on where a connection broke, and are kept only if they are what was asked for."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from cmr_bench.support.errors import CmrBenchError, DataError, first_line
from cmr_bench.support.files import write_atomic
from cmr_bench.version import __version__

_CHUNK = 2**20
_TIMEOUT = 30.0
_ATTEMPTS = 5
_PAUSE = 1.0  # seconds, doubled after every attempt that brought nothing
_BROKEN = (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError)

Progress = Callable[[int, int | None], None]


@dataclass(frozen=True)
class _Answer:
    """What a server says of the rest of a file: where it begins, how long the whole is, and which version it is."""

    start: int
    total: int | None
    version: str


def download(url: str, file: Path, checksum: str = "", progress: Progress | None = None, pause: float = _PAUSE) -> str:
    """Download a file, from where an earlier attempt or an earlier command stopped.

    What has come is kept beside it as ``.part``, with the version that the server named, so that parts of two versions
    are never put together.

    Args:
        url: Address, http or https.
        file: Where the file goes; its folder is made. One that is there already is only checked.
        checksum: ``md5:...`` or ``sha256:...`` that it must have; empty where none is known.
        progress: Called with the bytes that are there and the bytes of the whole, None where that is unknown.
        pause: Seconds to wait before the second attempt.

    Returns:
        The SHA-256 of the file.

    Raises:
        DataError: If the server does not have it, or it is not what the checksum says.
        CmrBenchError: If the connection cannot be had, or the disk is full.
    """
    if urlsplit(url).scheme not in ("http", "https"):
        raise DataError(f"{url} is no address of the web")
    if file.is_file():
        return _checked(file, url, checksum)
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_name(f"{file.name}.part")
    left = _ATTEMPTS
    while True:
        before = _size(part)
        try:
            _fetch(url, part, progress)
            break
        except _BROKEN as error:
            if isinstance(error, urllib.error.HTTPError) and error.code < 500 and error.code not in (408, 429):
                raise DataError(f"{url} cannot be downloaded: {error.code} {error.reason}") from error
            left = _ATTEMPTS if _size(part) > before else left - 1
            if left == 0:
                raise CmrBenchError(
                    f"{url} cannot be downloaded ({first_line(error)}); {_size(part):,} bytes are kept: the same "
                    "command resumes there"
                ) from error
            time.sleep(pause * 2 ** (_ATTEMPTS - 1 - left))
        except OSError as error:
            raise CmrBenchError(f"cannot write {part}: {error.strerror or error}") from error
    try:
        found = _checked(part, url, checksum)
        part.replace(file)
    finally:
        for rest in (part, _version_file(part)):
            rest.unlink(missing_ok=True)
    return found


def _fetch(url: str, part: Path, progress: Progress | None) -> None:
    """Ask for what is missing and append it; raises one of ``_BROKEN`` where the connection ends before the file."""
    have, version = _size(part), _known_version(part)
    headers = {"User-Agent": f"cmr-bench/{__version__}", "Accept-Encoding": "identity"}
    if have and version:
        headers |= {"Range": f"bytes={have}-", "If-Range": version}
    try:
        answer = urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=_TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code != 416:
            raise
        # All of it is here already, or it has shrunk: another request without a range tells.
        total = error.headers.get("Content-Range", "").rpartition("/")[2]
        if total.isdigit() and int(total) == have:
            return
        part.unlink()
        raise ConnectionError("the file on the server has changed") from error
    with answer:
        told = _read_answer(answer, have)
        if told.total is not None and told.total - told.start > shutil.disk_usage(part.parent).free:
            raise CmrBenchError(f"{url} has {told.total:,} bytes, more than there is room for in {part.parent}")
        with part.open("r+b" if told.start else "wb") as stream:
            if told.start == 0:
                # Not before the old part is gone, or it would pass for one of this version.
                write_atomic(_version_file(part), json.dumps({"version": told.version}))
            stream.seek(told.start)
            at = told.start
            while chunk := answer.read(_CHUNK):
                stream.write(chunk)
                at += len(chunk)
                if progress is not None:
                    progress(at, told.total)
            stream.truncate()
    if told.total is not None and at != told.total:
        raise http.client.IncompleteRead(b"", told.total - at)


def _read_answer(answer: Any, have: int) -> _Answer:
    version = answer.headers.get("ETag") or answer.headers.get("Last-Modified") or ""
    # A weak validator must not join parts.
    version = "" if version.startswith("W/") else version
    length = answer.headers.get("Content-Length", "")
    if answer.status == 206:
        first, _, total = answer.headers.get("Content-Range", "").removeprefix("bytes ").partition("/")
        if first.partition("-")[0] == str(have):
            return _Answer(have, int(total) if total.isdigit() else None, version)
        raise http.client.HTTPException("the server sent another part than was asked for")
    return _Answer(0, int(length) if length.isdigit() else None, version)


def _checked(part: Path, url: str, checksum: str) -> str:
    kind, _, expected = checksum.partition(":")
    digests = {name: hashlib.new(name) for name in {"sha256", *([kind] if kind else [])}}
    with part.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            for digest in digests.values():
                digest.update(chunk)
    if expected and digests[kind].hexdigest() != expected:
        raise DataError(
            f"what came from {url} has {kind} {digests[kind].hexdigest()}, not {expected}: try again later, or ask the "
            "host whether the file has changed"
        )
    return digests["sha256"].hexdigest()


def _version_file(part: Path) -> Path:
    return part.with_name(f"{part.name}.version")


def _known_version(part: Path) -> str:
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        return str(json.loads(_version_file(part).read_text(encoding="utf-8"))["version"])
    return ""


def _size(file: Path) -> int:
    return file.stat().st_size if file.is_file() else 0
