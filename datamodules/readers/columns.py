"""Columns of a table: what they are called, and which they are."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cmr_bench.datamodules.readers.finder import PHOTO_SUFFIXES
from cmr_bench.datamodules.readers.report import Report
from cmr_bench.support.errors import DataError, did_you_mean

IMAGE_NAMES = (
    *("image", "image_name", "image_path", "image_file", "filename", "file_name", "filepath", "file_path", "file"),
    *("path", "img", "img_name", "img_path", "photo"),
)
CAPTION_NAMES = (
    *("caption", "captions", "comment", "title", "text", "sentence", "sentences", "description", "caption_str"),
)
USUAL = frozenset((*IMAGE_NAMES, *CAPTION_NAMES, "split", "label"))
_NUMBERED = re.compile(r"((?:caption|sentence|comment|text|description)s?)[ _-]?\d{1,3}", re.ASCII)


@dataclass(frozen=True)
class Columns:
    """What the user calls the columns of a table; what is not said is looked for among the usual names.

    Attributes:
        image: Path or number of the photograph.
        caption: Caption, or several columns joined by commas.
        split: Split.
        label: Category.
    """

    image: str | None = None
    caption: str | None = None
    split: str | None = None
    label: str | None = None


@dataclass(frozen=True)
class Found:
    """The columns of one table.

    Attributes:
        image: Path, number or content of the photograph.
        captions: Captions.
        split: Split; None where there is none.
        label: Category; None where there is none.
    """

    image: str
    captions: tuple[str, ...]
    split: str | None
    label: str | None


def find_columns(row: Mapping[str, Any], columns: Columns, file: Path, report: Report) -> Found:
    """Find the columns of a table by the names given, else by usual ones, whatever their case.

    Args:
        row: A row of the table.
        columns: Names that the user gave.
        file: The table, for messages.
        report: Takes remarks on names that were guessed.

    Raises:
        DataError: If a column is not there, or several may be the one.
    """
    folded = {str(name).strip().casefold(): str(name) for name in row}
    image = _column(row, columns.image, IMAGE_NAMES, "image", file)
    wanted = columns.caption
    numbered = [name for name in folded if _NUMBERED.fullmatch(name)]
    if wanted is not None and wanted not in row and "," in wanted:
        captions = [_column(row, part.strip(), (), "caption", file) for part in wanted.split(",")]
    elif wanted is None and numbered and not any(name in folded for name in CAPTION_NAMES):
        numbered.sort(key=lambda name: int(re.sub(r"\D", "", name)))
        captions = [folded[name] for name in numbered]
    else:
        captions = [_column(row, wanted, CAPTION_NAMES, "caption", file)]
    for what, given, column in (("image", columns.image, image), ("caption", wanted, ", ".join(captions))):
        if given is None and column.casefold() != what:
            report.note(f"{file.name}: {column} read as the {what} column; pass --data.{what}_column to choose")
    return Found(
        image,
        tuple(captions),
        _optional(row, columns.split, "split", file),
        _optional(row, columns.label, "label", file),
    )


def _optional(row: Mapping[str, Any], wanted: str | None, usual: str, file: Path) -> str | None:
    if wanted is None:
        return next((str(name) for name in row if str(name).strip().casefold() == usual), None)
    return _column(row, wanted, (), usual, file)


def _column(row: Mapping[str, Any], wanted: str | None, usual: Sequence[str], what: str, file: Path) -> str:
    folded = {str(name).strip().casefold(): str(name) for name in row}
    if wanted is not None:
        if wanted in row:
            return wanted
        if wanted.strip().casefold() in folded:
            return folded[wanted.strip().casefold()]
    elif what in folded:
        return folded[what]
    else:
        there = [folded[name] for name in usual if name in folded]
        if len(there) == 1:
            return there[0]
        if there:
            raise DataError(f"{file}: {_listing(there)} may each be the {what}; pass --data.{what}_column NAME")
    if any(str(name).lower().strip().endswith(PHOTO_SUFFIXES) for name in row):
        raise DataError(f"{file}: its first line is {_listing(row)}; it must name the columns, such as image,caption")
    name = wanted or what
    raise DataError(
        f"{file}: no column '{name}', only {_listing(row)}; pass --data.{what}_column NAME."
        f"{did_you_mean(name, map(str, row))}"
    )


def _listing(names: Iterable[object]) -> str:
    return ", ".join(" ".join(str(name).split()) for name in names)
