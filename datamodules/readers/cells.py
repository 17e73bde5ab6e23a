"""What stands in one cell of an annotation file: a path, a caption, a category."""

from __future__ import annotations

import ast
import json
import math
from dataclasses import dataclass
from pathlib import Path

from cmr_bench.support.errors import DataError

_LONGEST_NAME = 255  # bytes in one part of a path, on every common file system


@dataclass(frozen=True)
class Embedded:
    """A photograph that a table or archive keeps inside, unpacked.

    Attributes:
        name: Its name there; None where it has none.
        file: The unpacked file.
    """

    name: str | None
    file: Path


def relative_path(text: object, where: str) -> str:
    """Return a path written in an annotation file, if it stays below the folder it is meant for.

    What lies in that folder is the user's own: a link there is followed, wherever it leads, as large photographs are
    often kept elsewhere.

    Args:
        text: The path as it was written, with ``/`` or Windows' back-slashes between its parts.
        where: What to name in the error: the file and the entry.

    Returns:
        The path with ``/`` between its parts and without empty ones.

    Raises:
        DataError: If it is no text, is absolute, climbs with ``..`` or cannot be the name of a file.
    """
    if not isinstance(text, str):
        raise DataError(f"{where}: the path of the image is {short(text)}, not text")
    # a file may be written on one system and read on another: a backslash and a drive count everywhere
    plain = text.replace("\\", "/")
    if is_absolute(plain) or ".." in plain.split("/"):
        raise DataError(f"{where}: path {short(text)} leads out of the image folder; write it relative, without '..'")
    parts = [part for part in plain.split("/") if part not in ("", ".")]
    unusable = not parts or not encodes(text) or "\0" in text or text.splitlines() != [text]
    if unusable or any(len(part.encode()) > _LONGEST_NAME for part in parts):
        raise DataError(f"{where}: {short(text)} cannot be the name of a file")
    return "/".join(parts)


def is_absolute(path: str) -> bool:
    """Whether a path with ``/`` between its parts starts at a root or a drive."""
    return path[:1] == "/" or path[1:2] == ":"


def clean_caption(text: object, where: str, what: str = "caption") -> str:
    """Return a sentence with whitespace collapsed to single blanks.

    Args:
        text: The sentence as it was written.
        where: What to name in the error: the file and the entry.
        what: What the text is.

    Raises:
        DataError: If it is no text, is empty, or holds half a surrogate pair.
    """
    if is_missing(text):
        raise DataError(f"{where}: empty {what}; remove it from the file or write one")
    if not isinstance(text, str):
        raise DataError(f"{where}: a {what} is {short(text)}, not text")
    clean = " ".join(text.split())
    if not clean:
        raise DataError(f"{where}: empty {what}; remove it from the file or write one")
    if not encodes(clean):
        raise DataError(f"{where}: {what} {short(text)} is not valid Unicode")
    return clean


def is_missing(value: object) -> bool:
    """Whether a cell is null or NaN, as pandas writes what is not there."""
    return value is None or (isinstance(value, float) and math.isnan(value))


def listed(value: object) -> list[object]:
    """Return the entries of a cell that holds one or several.

    A text such as ``["a dog", "a cat"]`` or ``['a dog', 'a cat']``, as lists are written into CSV files, is a list.
    """
    if isinstance(value, list):
        return value
    if isinstance(value, str) and value.lstrip()[:1] == "[" and value.rstrip()[-1:] == "]":
        for read in (json.loads, ast.literal_eval):
            try:
                entries = read(value.strip())
            except (ValueError, SyntaxError, RecursionError, MemoryError):
                continue
            if isinstance(entries, list) and entries and all(isinstance(entry, str) for entry in entries):
                return list(entries)
    return [value]


def label_names(value: object, separator: str | None, where: str) -> tuple[str, ...]:
    """Return the categories in a cell, sorted; NaN, also as the text that it is often written as, is none.

    Raises:
        DataError: If there is none, or one is empty.
    """
    if isinstance(value, list):
        if not value:
            # Of an image that can have several, an empty list says that it has none.
            return ()
        parts = [part if isinstance(part, str) else str(part) for part in value if not is_missing(part)]
    elif is_missing(value):
        parts = []
    elif separator:
        parts = str(value).split(separator)
    else:
        parts = [str(value)]
    parts = [part for part in parts if part.strip() not in ("nan", "NaN")]
    names = {clean_caption(part, where, "label") for part in parts}
    if not names:
        raise DataError(f"{where}: no label; every image needs one, or leave the column out")
    return tuple(sorted(names))


def encodes(text: str) -> bool:
    """Whether a text can be written as UTF-8: half a surrogate pair cannot."""
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def short(value: object) -> str:
    """Return a value as it may stand in an error message."""
    text = ascii(value)
    return text if len(text) <= 60 else text[:57] + "..."
