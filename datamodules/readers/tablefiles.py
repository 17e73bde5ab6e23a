"""Which files of a folder are the tables of a data set, and which split each holds."""

from __future__ import annotations

import glob
import re
from collections.abc import Sequence
from pathlib import Path

from cmr_bench.datamodules.readers.parts import part_of_file
from cmr_bench.datamodules.readers.report import Report
from cmr_bench.datamodules.readers.tables import SUFFIXES
from cmr_bench.support.errors import DataError
from cmr_bench.support.files import is_leftover

# Text files are tables only where their names say so: folders hold notes and lists as well.
TEXT_TABLES = ("captions*.txt", "results*.txt", "*token*.txt")
_ORDER = ("train", "restval", "val", "test", None)
MARKERS = (*(f"*{suffix}" for suffix in SUFFIXES), *TEXT_TABLES)


def patterns(given: str) -> list[str]:
    """Return the names and patterns that ``--data.file`` holds, separated by commas."""
    return [part for part in (part.strip() for part in given.split(",")) if part]


def markers(given: str) -> list[str]:
    """Return glob patterns, relative to the folder, of which one must match for the files given to be there."""
    return [marker for part in [given, *patterns(given)] for marker in (glob.escape(part), part)]


def named_files(folder: Path, given: str) -> list[Path]:
    """Return the files that ``--data.file`` names in a folder: one, several separated by commas, or a pattern.

    Raises:
        DataError: If one is not there.
    """
    whole = folder / Path(given).expanduser()
    if whole.is_file():
        return [whole]
    found: list[Path] = []
    for part in patterns(given):
        place = folder / Path(part).expanduser()
        matches = [place] if place.is_file() else [Path(name) for name in sorted(glob.glob(str(place)))]  # noqa: PTH207
        matches = [file for file in matches if file.is_file() and not is_leftover(file)]
        if not matches:
            raise DataError(f"--data.file: no file {part} in {folder}")
        found += [file for file in matches if file not in found]
    if not found:
        raise DataError(f"--data.file {given!r} names no file")
    return found


def tables_in(folder: Path) -> list[Path]:
    """Return the table of a folder, or its tables where each names its split or they are numbered shards.

    Raises:
        DataError: If there is none, or several of which it is not clear that they belong together.
    """
    there = [file for file in sorted(folder.iterdir()) if file.is_file() and not is_leftover(file)]
    found = [file for file in there if file.name.lower().endswith(SUFFIXES)]
    found = found or [file for file in there if any(file.match(pattern) for pattern in TEXT_TABLES)]
    if len(found) == 1 or (found and _belong_together(found)):
        return found
    names = ", ".join(file.name for file in found[:5]) or "none"
    raise DataError(f"{len(found)} tables in {folder} ({names}); pass --data.file NAME, or several as NAME,NAME")


def _belong_together(files: Sequence[Path]) -> bool:
    if len({file.suffix.lower() for file in files}) > 1:
        return False
    shards = {re.sub(r"\d+", "#", file.name) for file in files}
    return len(shards) == 1 or all(part_of_file(Path(file.name)) for file in files)


def parts_of(files: Sequence[Path], folder: Path, report: Report) -> dict[Path, str | None]:
    """Return the split that every table holds, training first; None where its rows are to say it, or chance.

    A single training table says nothing, unless others with the splits it lacks lie beside it.

    Raises:
        DataError: If only some of several tables name a split.
    """
    parts = {file: part_of_file(_relative(file, folder)) for file in files}
    told = {part for part in parts.values() if part is not None}
    beside = _siblings(files, folder) if len(told) == 1 else []
    if told == {"train"} and not beside:
        return dict.fromkeys(files)
    if told and None in parts.values():
        unclear = next(file.name for file, part in parts.items() if part is None)
        named = next(file.name for file, part in parts.items() if part is not None)
        raise DataError(f"{folder}: {named} names its split and {unclear} does not; name all alike, or --data.file one")
    if len(told) == 1:
        only = next(iter(told))
        advice = (
            f"; {', '.join(file.name for file in beside[:3])} lie beside it: --data.file NAME,NAME" if beside else ""
        )
        report.note(f"{files[0].name}: all of its rows are of the split that its name says, {only}{advice}")
    return dict(sorted(parts.items(), key=lambda entry: _ORDER.index(entry[1])))


def _siblings(files: Sequence[Path], folder: Path) -> list[Path]:
    """Other tables of the same kind in the folder, which name another split."""
    mine = part_of_file(_relative(files[0], folder))
    return [
        file
        for file in sorted(files[0].parent.iterdir())
        if file not in files
        and file.suffix.lower() == files[0].suffix.lower()
        and not is_leftover(file)
        and part_of_file(_relative(file, folder)) not in (None, mine)
    ]


def _relative(file: Path, folder: Path) -> Path:
    return file.relative_to(folder) if file.is_relative_to(folder) else Path(file.name)
