"""Text tables with a separator: CSV, TSV, Kaggle's ``captions.txt`` and ``results.csv``, Flickr's ``.token``."""

from __future__ import annotations

import codecs
import csv
import io
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cmr_bench.datamodules.readers.report import Report
from cmr_bench.support.errors import DataError, UsageError

Row = dict[str, Any]

_SEPARATORS = (",", "\t", ";", "|")
_NAMED = {"tab": "\t", "\\t": "\t", "comma": ",", "semicolon": ";", "pipe": "|"}
_SPOKEN = {"\t": "tab"}
_TOKEN = re.compile(r"([^\t#]*\.\w{2,5})#\d+[\t ]+(.+)")
_LONGEST = 1000  # lines of one record, so that a quotation mark that is never closed does not swallow the file
_FALLBACK = "cp1252"


@dataclass(frozen=True)
class TextFormat:
    """How a text table is written; what is not said is found out and reported.

    Attributes:
        separator: Sign between the columns, or its name.
        encoding: Name of the text encoding.
    """

    separator: str | None = None
    encoding: str | None = None

    @property
    def sign(self) -> str | None:
        """The separator as one character; raises UsageError where it is none."""
        if self.separator is None:
            return None
        sign = _NAMED.get(self.separator.strip().lower(), self.separator)
        if len(sign) != 1 or sign in '"\r\n\0':
            raise UsageError(f"--data.separator {self.separator!r} is not one character; such as ';', '|' or tab")
        return sign


def delimited_rows(file: Path, form: TextFormat, usual: Collection[str], report: Report) -> Iterator[tuple[str, Row]]:
    """Read a text table, a row at a time.

    Args:
        file: The file. Its first line names the columns, unless its lines are ``photo.jpg#0<tab>caption``.
        form: Separator and encoding.
        usual: Names of columns to expect, which help to find the separator.
        report: Takes remarks and rows that cannot be read.

    Yields:
        What to name in an error, and the row by column; blanks around names and before values are removed.

    Raises:
        DataError: If the file cannot be read as text, or two columns have the same name.
    """
    lines = list(io.StringIO(_decoded(file, form.encoding, report), newline=""))
    first = next((line for line in lines if line.strip()), "")
    if _TOKEN.match(first):
        yield from _token_rows(file, lines, report)
        return
    separator = form.sign or _sniffed(file, first, usual, report)
    names: list[str] | None = None
    mended: list[int] = []
    for number, fields in _records(file, lines, separator, report, mended):
        if names is None:
            names = [name.strip() for name in fields]
            if len(set(names)) != len(names):
                raise DataError(f"{file}: two columns have the same name; the header is {', '.join(names)}")
        elif len(fields) != len(names):
            advice = "is missing" if len(fields) < len(names) else "inside a caption needs quotes around it"
            report.invalid(
                f"{file}, line {number}: the row does not have the {len(names)} fields of the header but "
                f"{len(fields)}: {_spoken(separator)} {advice}"
            )
        else:
            yield f"{file}, line {number}", dict(zip(names, fields, strict=True))
    if mended:
        report.note(
            f"{file.name}: {len(mended):,} row(s) with quotation marks that are not doubled, read as they stand (line "
            f"{mended[0]})"
        )


def _decoded(file: Path, encoding: str | None, report: Report) -> str:
    content = file.read_bytes()
    marked = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        return content.decode(encoding or ("utf-16" if marked else "utf-8-sig"))
    except LookupError:
        raise UsageError(f"--data.encoding {encoding}: no such encoding; such as utf-8, cp1252, gb18030") from None
    except UnicodeError as error:
        if encoding is not None or marked:
            raise DataError(f"{file} is not text in {encoding or 'UTF-16'}: {error}; pass --data.encoding") from None
        start = error.start if isinstance(error, UnicodeDecodeError) else 0
    line = content[:start].count(b"\n") + 1
    try:
        text = content.decode(_FALLBACK)
    except UnicodeDecodeError:
        raise DataError(f"{file}, line {line}: neither UTF-8 nor {_FALLBACK} text; pass --data.encoding NAME") from None
    report.note(
        f"{file.name}: not UTF-8 (line {line}), read as {_FALLBACK}; if letters are wrong pass --data.encoding NAME"
    )
    return text


def _sniffed(file: Path, header: str, usual: Collection[str], report: Report) -> str:
    """Find the separator with which the header has most of the usual columns, and say it where it is not expected."""
    expected = "\t" if file.suffix.lower() == ".tsv" else ","

    def quality(separator: str) -> tuple[int, bool, int]:
        names = [name.strip().strip('"').casefold() for name in header.split(separator)]
        return sum(name in usual for name in names), separator == expected and len(names) > 1, len(names)

    separator = max((expected, *_SEPARATORS), key=quality)
    if separator != expected:
        report.note(f"{file.name}: columns are separated by {_spoken(separator)}; pass --data.separator to choose")
    return separator


def _spoken(separator: str) -> str:
    return _SPOKEN.get(separator, f"'{separator}'")


def _records(
    file: Path, lines: Sequence[str], separator: str, report: Report, mended: list[int]
) -> Iterator[tuple[int, list[str]]]:
    """Yield the records with the number of their first line; a line with broken quotes does not end the reading."""
    at, width = 0, 0
    while at < len(lines):
        line, number = lines[at], at + 1
        if not line.strip():
            at += 1
            continue
        if '"' not in line:
            at += 1
            fields = [value.lstrip(" ") for value in line.rstrip("\r\n").split(separator)]
        else:
            ahead = (lines[k] for k in range(at, min(len(lines), at + _LONGEST)))
            reader = csv.reader(ahead, delimiter=separator, skipinitialspace=True, strict=True)
            try:
                fields = next(reader)
                at += reader.line_num
            except csv.Error as error:
                at += 1
                fields = [value.lstrip(" ") for value in line.rstrip("\r\n").split(separator)]
                if line.count('"') % 2 or len(fields) != width:
                    report.invalid(
                        f"{file}, line {number}: broken quotation marks ({error}); double those inside a caption"
                    )
                    continue
                mended.append(number)
        width = width or len(fields)
        yield number, fields


def _token_rows(file: Path, lines: Sequence[str], report: Report) -> Iterator[tuple[str, Row]]:
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        match = _TOKEN.fullmatch(line.strip())
        if match is None:
            report.invalid(f"{file}, line {number}: expected PHOTO#NUMBER, a tab and a caption")
            continue
        yield f"{file}, line {number}", {"image": match[1].strip(), "caption": match[2]}
