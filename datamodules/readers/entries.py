"""JSON files that are one list of objects, read an object at a time: some are larger than the memory of a laptop."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from cmr_bench.support import foreign
from cmr_bench.support.errors import DataError, one_line

_CHUNK, _LONGEST = 2**22, 2**24  # characters that are read at once, and of one entry at most
_BLANKS = re.compile(r"[ \t\n\r]*")
_DECODER = json.JSONDecoder()


def read_entries(file: Path) -> Iterator[dict[str, Any]]:
    """Read the objects of a list one after the other; no more than a few megabytes of the file are held.

    Args:
        file: The JSON file, a list of objects.

    Raises:
        DataError: If it cannot be read, or is something else; the message names the entry.
    """
    try:
        with foreign.checked(file).open(encoding="utf-8") as stream:
            yield from _entries(_Window(stream), file)
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read {file} as JSON: {one_line(error)}") from None


class _Window:
    """What follows in a text that is read piece by piece."""

    def __init__(self, stream: TextIO) -> None:
        self.stream, self.text, self.at = stream, "", 0

    def more(self) -> bool:
        """Read on, and tell whether there was anything."""
        part = self.stream.read(_CHUNK)
        self.text, self.at = self.text[self.at :] + part, 0
        return bool(part)

    def mark(self) -> str:
        """Return the next character that is no blank; nothing at the end."""
        while True:
            blanks = _BLANKS.match(self.text, self.at)
            self.at = blanks.end() if blanks else self.at
            if self.at < len(self.text) or not self.more():
                return self.text[self.at : self.at + 1]

    def value(self) -> Any:
        """Return the next value; raises ValueError where it is no JSON."""
        while True:
            try:
                value, self.at = _DECODER.raw_decode(self.text, self.at)
                return value
            except ValueError:
                # it may only be cut off
                if len(self.text) - self.at > _LONGEST or not self.more():
                    raise


def _entries(window: _Window, file: Path) -> Iterator[dict[str, Any]]:
    if window.mark() != "[":
        raise DataError(f"{file} is not a JSON list of objects")
    number, mark = 0, ","
    while mark == ",":
        window.at += 1
        if number == 0 and window.mark() == "]":
            break
        if window.mark() != "{":
            raise DataError(f"{file}, entry {number}: not an object, or the file breaks off")
        try:
            yield window.value()
        except RecursionError:
            raise DataError(f"{file}, entry {number}: nested too deep") from None
        except ValueError as error:
            what = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
            raise DataError(f"{file}, entry {number}: not JSON ({' '.join(what.split())})") from None
        number, mark = number + 1, window.mark()
    if window.mark() != "]":
        raise DataError(f"{file}: no comma or end of the list after entry {number - 1}")
