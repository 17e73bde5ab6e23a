"""Downloads the parts of a data set and unpacks them into the layout that its reader expects."""

from __future__ import annotations

import json
import shutil
import stat
import zipfile
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cmr_bench.datamodules.acquire.sources import Archive
from cmr_bench.datamodules.readers.cells import relative_path
from cmr_bench.support import foreign
from cmr_bench.support.download import Progress, download
from cmr_bench.support.errors import DataError
from cmr_bench.support.files import write_atomic

RECORD = "downloads.json"


def get(
    archive: Archive, folder: Path, keep: bool = False, progress: Callable[[str], Progress] | None = None
) -> tuple[int, str]:
    """Download an archive and unpack it; what was done before is not done again.

    Args:
        archive: What to get.
        folder: Folder of the data set.
        keep: Whether the archive stays.
        progress: Makes what is told of the bytes that have come, from the name of the archive.

    Returns:
        Number of files that were unpacked now, and the SHA-256 of the archive.

    Raises:
        DataError: If it cannot be had, is not what it was or should be, or holds what does not belong there.
    """
    record = _read_record(folder)
    name = archive.url.rpartition("/")[2]
    known = record.get(_key(archive), {})
    if known.get("unpacked"):
        return 0, str(known["sha256"])
    file = folder / name
    checksum = archive.checksum or (f"sha256:{known['sha256']}" if known.get("sha256") else "")
    if not known.get("sha256") or not file.is_file():
        sha256 = download(archive.url, file, checksum, None if progress is None else progress(name))
        known = {
            "url": archive.url,
            "sha256": sha256,
            "bytes": file.stat().st_size,
            "terms": archive.terms,
            "downloaded": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        _write_record(folder, archive, known)
    count = unpack(file, folder, archive)
    if not keep:
        file.unlink()
    _write_record(folder, archive, {**known, "unpacked": count})
    return count, str(known["sha256"])


def unpack(file: Path, folder: Path, archive: Archive) -> int:
    """Unpack what is wanted of a zip file, and nothing outside of the folder; returns the number of files.

    Raises:
        DataError: If it is damaged, lacks what is wanted, or holds links or paths that lead out.
    """
    try:
        foreign.check_zip(foreign.checked(file))
        with zipfile.ZipFile(file) as content:
            wanted = [(entry, place) for entry in content.infolist() if (place := _place(entry, archive, file))]
            if not wanted:
                raise DataError(f"{file} holds none of {', '.join(archive.members) or 'the files that are wanted'}")
            for entry, place in wanted:
                target = folder / place
                if target.is_file() and target.stat().st_size == entry.file_size:
                    continue
                target.parent.mkdir(parents=True, exist_ok=True)
                half = target.with_name(f".{target.name}.tmp")
                with content.open(entry) as source, half.open("wb") as stream:
                    shutil.copyfileobj(source, stream, 2**20)
                half.replace(target)
    except (OSError, EOFError, zipfile.BadZipFile, NotImplementedError, RuntimeError) as error:
        raise DataError(f"{file} cannot be unpacked ({error}); remove it and get it again") from error
    return len(wanted)


def _place(entry: zipfile.ZipInfo, archive: Archive, file: Path) -> str:
    """Return where an entry goes, relative to the data set's folder; empty for what is not wanted."""
    name = entry.filename
    if entry.is_dir() or "__MACOSX/" in name or name.rpartition("/")[2].startswith("._"):
        return ""
    if archive.members:
        start = next((start for start in archive.members if name == start or _below(name, start)), None)
        if start is None:
            return ""
        name = archive.members[start] + name[len(start) :]
    if stat.S_ISLNK(entry.external_attr >> 16):
        raise DataError(f"{file}: {name!a} is a symbolic link; it is not unpacked")
    return relative_path(name, str(file))


def _below(name: str, start: str) -> bool:
    return start.endswith("/") and name.startswith(start)


def _key(archive: Archive) -> str:
    return " ".join([archive.url, *archive.members])


def _read_record(folder: Path) -> dict[str, Any]:
    try:
        found = foreign.read_json(folder / RECORD)
    except (OSError, DataError):
        return {}
    kept = found.items() if isinstance(found, dict) else ()
    return {key: value for key, value in kept if isinstance(value, dict)}


def _write_record(folder: Path, archive: Archive, entry: dict[str, Any]) -> None:
    record = {**_read_record(folder), _key(archive): entry}
    write_atomic(folder / RECORD, json.dumps(record, indent=1, ensure_ascii=False) + "\n")
