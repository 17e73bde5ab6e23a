"""Parquet tables, with paths of photographs or, as the Hugging Face hub has them, the photographs themselves."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cmr_bench.datamodules.readers.cells import Embedded
from cmr_bench.datamodules.readers.unpacking import Unpacking, unpacking
from cmr_bench.support import foreign
from cmr_bench.support.errors import DataError, one_line

_BATCH = 256  # rows in memory at once; they may hold photographs


def parquet_rows(file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Read a Parquet table, a row at a time.

    A photograph in the table, an object of ``bytes`` and ``path`` or plain bytes, is unpacked into the cache and
    becomes :class:`Embedded`.

    Args:
        file: The table.

    Yields:
        What to name in an error, and the row by column.

    Raises:
        DataError: If pyarrow is not installed, or the file is not Parquet.
    """
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise DataError(f"reading {file} needs pyarrow: pip install 'cmr-bench[parquet]'") from None
    try:
        table = parquet.ParquetFile(foreign.checked(file))
        groups = [table.metadata.row_group(number) for number in range(table.metadata.num_row_groups)]
        foreign.check_growth(sum(group.total_byte_size for group in groups), file.stat().st_size, file)
        schema = table.schema_arrow
        inside = [
            field.name
            for field in schema
            if pyarrow.types.is_binary(field.type)
            or pyarrow.types.is_large_binary(field.type)
            or (pyarrow.types.is_struct(field.type) and field.type.get_field_index("bytes") >= 0)
        ]
        if not inside:
            yield from _plain_rows(file, table)
        else:
            yield from _rows_with_photos(file, table, inside)
    except pyarrow.ArrowException as error:
        raise DataError(f"cannot read {file} as Parquet: {one_line(error)}") from None


def _plain_rows(file: Path, table: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    number = 0
    for batch in table.iter_batches():
        for row in batch.to_pylist():
            yield f"{file}, row {number}", row
            number += 1


def _rows_with_photos(file: Path, table: Any, inside: list[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    if len(inside) > 1:
        raise DataError(f"{file}: photographs in {len(inside)} columns ({', '.join(inside)}); keep one of them")
    column = inside[0]
    with unpacking(file) as photos:
        number = 0
        for batch in table.iter_batches(_BATCH, columns=_light(table, column) if photos.complete else None):
            for row in batch.to_pylist():
                row[column] = photo_of(row.get(column), number, photos)
                yield f"{file}, row {number}", row
                number += 1


def _light(table: Any, column: str) -> list[str]:
    """The columns without the bytes of the photographs, which need not be read again."""
    leaves = [table.schema.column(k).path for k in range(len(table.schema))]
    return [leaf for leaf in leaves if leaf not in (column, f"{column}.bytes")]


def photo_of(value: Any, number: int, photos: Unpacking) -> Any:
    """Return a photograph of a table, unpacked, or what the table calls it where it does not hold it.

    Args:
        value: An object of ``bytes`` and ``path``, or plain bytes.
        number: Number of the row.
        photos: Where photographs are unpacked.
    """
    name = value.get("path") if isinstance(value, dict) else None
    content = value.get("bytes") if isinstance(value, dict) else value
    if isinstance(content, bytes):
        return Embedded(name, photos.write(number, content))
    if photos.complete and photos.place(number).is_file():
        return Embedded(name, photos.place(number))
    return name
