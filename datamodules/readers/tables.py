"""Tables of images and captions in every format that is read."""

from __future__ import annotations

import csv
from collections.abc import Collection, Iterator
from pathlib import Path

from cmr_bench.datamodules.readers.columnar import parquet_rows
from cmr_bench.datamodules.readers.delimited import Row, TextFormat, delimited_rows
from cmr_bench.datamodules.readers.documents import document_rows
from cmr_bench.datamodules.readers.karpathy import load_json
from cmr_bench.datamodules.readers.report import Report
from cmr_bench.datamodules.readers.shards import shard_rows
from cmr_bench.support import foreign
from cmr_bench.support.errors import DataError, one_line

JSON_SUFFIXES = (".json", ".json.gz")
_TEXT_SUFFIXES = (".csv", ".tsv", ".token", ".txt")
SUFFIXES = (".csv", ".tsv", ".token", ".jsonl", ".parquet", ".tar", *JSON_SUFFIXES)


def read_rows(
    file: Path, form: TextFormat | None = None, usual: Collection[str] = (), report: Report | None = None
) -> Iterator[tuple[str, Row]]:
    """Read a table, a row at a time.

    Args:
        file: A text table with a header (``.csv``, ``.tsv``, ``.txt``), a ``.token``, a ``.jsonl`` with an object a
            line, a ``.json`` with a list of objects or in COCO's layout, a ``.parquet`` or a ``.tar`` of samples.
        form: Separator and encoding of a text table; found out where not given.
        usual: Names of columns to expect.
        report: Takes remarks and rows that cannot be read.

    Yields:
        What to name in an error, and the row by column.

    Raises:
        DataError: If the file cannot be read as what its suffix says.
    """
    report = report or Report()
    suffix = file.suffix.lower()
    try:
        foreign.checked(file)
        if suffix in _TEXT_SUFFIXES:
            yield from delimited_rows(file, form or TextFormat(), usual, report)
        elif suffix == ".jsonl":
            yield from _jsonl_rows(file, report)
        elif suffix == ".parquet":
            yield from parquet_rows(file)
        elif suffix == ".tar":
            yield from shard_rows(file, report)
        elif file.name.lower().endswith(JSON_SUFFIXES):
            yield from document_rows(file, load_json(file), report)
        else:
            known = ", ".join((*SUFFIXES, ".txt"))
            raise DataError(f"{file}: unknown kind of table '{suffix}'; expected one of {known}")
    except (OSError, csv.Error) as error:
        raise DataError(f"cannot read {file}: {one_line(error)}") from None


def _jsonl_rows(file: Path, report: Report) -> Iterator[tuple[str, Row]]:
    with file.open("rb") as stream:
        for number, line in enumerate(stream, start=1):
            where = f"{file}, line {number}"
            if not line.strip():
                continue
            try:
                row = foreign.parse_json(line, where)
            except (DataError, UnicodeDecodeError) as error:
                report.invalid(str(error) if isinstance(error, DataError) else f"{where} is not JSON: {error}")
                continue
            if isinstance(row, dict):
                yield where, row
            else:
                report.invalid(f"{where}: expected an object with the columns as keys")
