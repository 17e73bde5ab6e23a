"""Cells that name a photograph to paths below the image folder."""

from __future__ import annotations

import re
from pathlib import Path

from cmr_bench.datamodules.readers.cells import is_absolute, is_missing, relative_path, short
from cmr_bench.datamodules.readers.report import Report
from cmr_bench.support.errors import DataError, UsageError


class Paths:
    """Makes paths of what annotation files say: names, numbers, absolute paths, Windows' separators.

    Args:
        images: The image folder.
        pattern: Format that makes a path of a name or number, such as ``{:012d}.jpg``.
        strip_prefix: What stands in front of every path and is not part of it here.
        report: Takes remarks.
    """

    def __init__(
        self,
        images: Path,
        pattern: str | None = None,
        strip_prefix: str | None = None,
        report: Report | None = None,
    ) -> None:
        self.images, self.pattern, self.report = images, pattern, report or Report()
        self._prefix = None if strip_prefix is None else strip_prefix.replace("\\", "/").rstrip("/") + "/"
        self._fronts = [f"{place.as_posix().rstrip('/')}/" for place in (images.absolute(), images.resolve())]

    def relative(self, value: object, where: str) -> str:
        """Return the path of a photograph below the image folder.

        Args:
            value: What stands in the file.
            where: What to name in the error: the file and the entry.

        Raises:
            DataError: If it leads out of the image folder, is a number without a pattern, or no path at all.
        """
        if isinstance(value, dict):  # Hugging Face without the bytes
            value = value.get("path")
        if isinstance(value, float) and value.is_integer():
            value = int(value)  # pandas turns whole numbers with a gap into floating point
        if is_missing(value):
            raise DataError(f"{where}: no image")
        if self.pattern is not None:
            value = _patterned(self.pattern, value)
        elif isinstance(value, int) and not isinstance(value, bool):
            raise DataError(
                f"{where}: the image is the number {value}; say what its file is called: --data.pattern '{{:012d}}.jpg'"
            )
        return relative_path(self._below(value, where) if isinstance(value, str) else value, where)

    def _below(self, path: str, where: str) -> str:
        plain = path.replace("\\", "/").removeprefix("file://")
        if plain != path and "\\" in path:
            self.report.note("back-slashes in paths are read as Windows' separator")
        for front in (self._prefix, *(self._fronts if is_absolute(plain) else ())):
            if front is not None and plain.startswith(front):
                return plain[len(front) :].lstrip("/")
        if is_absolute(plain) and ".." not in plain.split("/"):
            advice = "" if self.report.count else f"; {self._advice(plain)}"
            raise DataError(f"{where}: {short(path)} is absolute and leads out of {self.images}{advice}")
        return plain

    def _advice(self, path: str) -> str:
        """Say which prefix to take away, where the photograph is then there."""
        parts = path.split("/")
        for at in range(1, len(parts)):
            rest = "/".join(parts[at:])
            if rest and "\0" not in rest and (self.images / rest).is_file():
                return f"pass --data.strip_prefix {'/'.join(parts[:at]) or '/'} (then it is {rest} there)"
        return "pass --data.strip_prefix PREFIX, the part in front of what lies there"


def _patterned(pattern: str, value: object) -> str:
    """Make a path of a cell; digits are a number where the pattern asks for one."""
    digits = isinstance(value, str) and re.fullmatch(r"\s*\d+\s*", value) is not None
    for given in (value, int(str(value)) if digits else value):
        try:
            return pattern.format(given)
        except (ValueError, TypeError, KeyError, IndexError, AttributeError):
            continue
    raise UsageError(f"--data.pattern {pattern!r} does not fit the image {short(value)}; such as '{{:012d}}.jpg'")
