"""Rows of a table to images with their captions, whatever the columns are called."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from cmr_bench.datamodules.readers.cells import (
    Embedded,
    clean_caption,
    is_absolute,
    is_missing,
    label_names,
    listed,
    relative_path,
)
from cmr_bench.datamodules.readers.columns import Columns, Found, find_columns
from cmr_bench.datamodules.readers.delimited import Row
from cmr_bench.datamodules.readers.finder import PhotoFinder
from cmr_bench.datamodules.readers.items import Item
from cmr_bench.datamodules.readers.parts import Parts
from cmr_bench.datamodules.readers.paths import Paths
from cmr_bench.datamodules.readers.report import Report
from cmr_bench.support.errors import DataError


class Gatherer:
    """Gathers the rows of one or several tables image by image.

    Args:
        columns: What the columns are called.
        paths: Makes paths of what names a photograph.
        finder: Finds the photographs.
        parts: Knows the names of splits.
        report: Takes remarks and rows that cannot be read.
        separator: Text between the categories of an image that has several.

    Attributes:
        items: The images by id.
    """

    def __init__(
        self,
        columns: Columns,
        paths: Paths,
        finder: PhotoFinder,
        parts: Parts,
        report: Report,
        separator: str | None = None,
    ) -> None:
        self.columns, self.paths, self.finder, self.parts = columns, paths, finder, parts
        self.report, self.separator = report, separator
        self.items: dict[str, Item] = {}
        self._skipped: set[str] = set()
        self._names: dict[str, str] = {}  # an image has several rows, and its path is made once

    def add(self, rows: Iterable[tuple[str, Row]], file: Path, part: str | None = None) -> None:
        """Add the rows of a table.

        Args:
            rows: What to name in an error, and the row by column.
            file: The table.
            part: Split of all rows, where the table has no column for it.

        Raises:
            DataError: If there are no rows, or a column is not found.
        """
        found: Found | None = None
        refused = self.report.count
        for where, row in rows:
            if found is None:
                found = find_columns(row, self.columns, file, self.report)
            try:
                self._row(row, found, where, part)
            except DataError as problem:
                self.report.invalid(problem)
        if found is None and self.report.count == refused:
            raise DataError(f"{file} has no rows")

    def finish(self) -> dict[str, Item]:
        """Return the images by id, without those of which no caption could be read."""
        return {name: item for name, item in self.items.items() if item.captions}

    def _row(self, row: Row, found: Found, where: str, part: str | None) -> None:
        name, file = self._image(row.get(found.image), where)
        here = f"{where} ({name})"
        if found.split is not None:
            value = row.get(found.split)
            if is_missing(value) or not str(value).strip():
                raise DataError(f"{here}: no split")
            part = str(value)
        split = None
        if part is not None:
            split = self.parts.split_of(part, count=name not in self._skipped)
            if split is None:
                self._skipped.add(name)
                return
            if name in self._skipped:
                raise DataError(f"{here}: its image is of another split, which is skipped")
        labels = None
        if found.label is not None:
            labels = label_names(row.get(found.label), self.separator, here)
        item = self.items.setdefault(name, Item(name, split, file, labels=labels, where=where))
        if (item.split, item.labels) != (split, labels):
            raise DataError(f"{where}: image {name} has another split or label than at {item.where}")
        for caption in self._captions(row, found, here):
            try:
                clean = clean_caption(caption, here)
            except DataError as problem:
                self.report.invalid(problem)
                continue
            item.captions.append(clean)
            item.text_ids.append(f"{name}#{len(item.text_ids)}")

    def _captions(self, row: Row, found: Found, where: str) -> list[object]:
        values = [caption for column in found.captions for caption in listed(row.get(column))]
        if len(found.captions) > 1:
            # in a table with a column for each caption, an image with fewer of them has empty cells
            filled = [value for value in values if not is_missing(value) and str(value).strip()]
            values = filled or values[:1]
        if not values:
            raise DataError(f"{where}: no caption")
        return values

    def _image(self, value: object, where: str) -> tuple[str, Path]:
        """Return the id of an image and where its photograph lies."""
        if isinstance(value, Embedded):
            return self._embedded(value, where), value.file
        name = self._names.get(value) if isinstance(value, str) else None
        if name is None:
            name = self.paths.relative(value, where)
            if isinstance(value, str):
                self._names[value] = name
        known = self.items.get(name)
        return name, known.file if known is not None else self.finder.find(name)

    def _embedded(self, photo: Embedded, where: str) -> str:
        """Return an id for a photograph inside a table: its name there, told apart from others with the same name."""
        table = re.split(r", (?:row|sample) ", where)[0]
        stem = Path(table).stem
        name = f"{stem}/{photo.file.stem}"
        if photo.name:
            plain = photo.name.replace("\\", "/")
            name = relative_path(plain.rpartition("/")[2] if is_absolute(plain) else plain, where)
            known = self.items.get(name)
            if known is not None and known.file != photo.file and not _same(known.file, photo.file):
                name = f"{stem}/{name}"
        return name


def _same(one: Path, other: Path) -> bool:
    try:
        return one.stat().st_size == other.stat().st_size and one.read_bytes() == other.read_bytes()
    except OSError:
        return False
