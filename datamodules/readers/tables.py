"""Tables of images and captions: CSV, TSV, JSON lines, Parquet."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cmr_bench.support import foreign
from cmr_bench.support.errors import DataError

SUFFIXES = (".csv", ".tsv", ".jsonl", ".parquet", ".json", ".json.gz")

Row = dict[str, Any]


def read_rows(file: Path) -> Iterator[tuple[str, Row]]:
    """Read a table, a row at a time.

    Args:
        file: A ``.csv`` or ``.tsv`` with a header, a ``.jsonl`` with an object a line, or a ``.parquet``.

    Yields:
        What to name in an error, and the row by column.

    Raises:
        DataError: If the file cannot be read as what its suffix says.
    """
    suffix = file.suffix.lower()
    reader = {".csv": _csv_rows, ".tsv": _csv_rows, ".jsonl": _jsonl_rows, ".parquet": _parquet_rows}.get(suffix)
    if reader is None:
        raise DataError(f"{file}: unknown kind of table '{suffix}'; expected one of {', '.join(SUFFIXES)}")
    try:
        yield from reader(foreign.checked(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"cannot read {file}: {' '.join(str(error).split())}") from None


def _csv_rows(file: Path) -> Iterator[tuple[str, Row]]:
    with file.open(encoding="utf-8-sig", newline="") as stream:
        reader = csv.DictReader(stream, delimiter="\t" if file.suffix.lower() == ".tsv" else ",", strict=True)
        names = reader.fieldnames or []
        if len(set(names)) != len(names):
            raise DataError(f"{file}: two columns have the same name; the header is {', '.join(names)}")
        for row in reader:
            where = f"{file}, line {reader.line_num}"
            if None in row or None in row.values():
                raise DataError(f"{where}: the row does not have the {len(names)} fields of the header; quote commas")
            yield where, dict(row)


def _jsonl_rows(file: Path) -> Iterator[tuple[str, Row]]:
    with file.open("rb") as stream:
        for number, line in enumerate(stream, start=1):
            where = f"{file}, line {number}"
            if not line.strip():
                continue
            try:
                row = foreign.parse_json(line, where)
            except UnicodeDecodeError as error:
                raise DataError(f"{where} is not JSON: {error}") from None
            if not isinstance(row, dict):
                raise DataError(f"{where}: expected an object with the columns as keys")
            yield where, row


def _parquet_rows(file: Path) -> Iterator[tuple[str, Row]]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise DataError(f"reading {file} needs pyarrow: pip install 'cmr-bench[parquet]'") from None
    try:
        number = 0
        for batch in parquet.ParquetFile(file).iter_batches():
            for row in batch.to_pylist():
                yield f"{file}, row {number}", row
                number += 1
    except pyarrow.ArrowException as error:
        raise DataError(f"cannot read {file} as Parquet: {' '.join(str(error).split())}") from None
