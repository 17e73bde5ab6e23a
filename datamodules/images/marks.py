"""Marks of photographs: what tells later whether stored features were made of these or of others."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cmr_bench.support.checksums import checksums, read_checksum

_DIGITS = 32
_MARK = re.compile(rf"(\d+ \d+ [0-9a-f]{{{_DIGITS}}})?")
_SAMPLE = 16  # photographs whose content is compared though their size and time of change agree


def mark(file: Path) -> str:
    """Return the mark of a photograph: its size, its time of change and the checksum of its content.

    Raises:
        DataError: If it cannot be read.
    """
    content = read_checksum(file)
    return f"{_stat(file)} {content[:_DIGITS]}"


def is_mark(text: object) -> bool:
    """Tell whether a text of a manifest is a mark; an empty one stands for a photograph of which nothing is known."""
    return isinstance(text, str) and _MARK.fullmatch(text) is not None


def content_of(marked: str) -> str:
    """Return the checksum in a mark; empty where nothing is known."""
    return marked.rpartition(" ")[2]


def changed(marked: Sequence[str], files: Sequence[Path], thorough: bool = False) -> list[int]:
    """Find the photographs that are others than those that were marked.

    Size and time of change are looked at first. A photograph in which they differ was copied, moved or replaced: its
    content decides. The contents of a few in which they agree are compared too, since archives give whole data sets one
    time. A photograph that is not there, or has an empty mark, tells nothing.

    Args:
        marked: Mark of each photograph.
        files: Where it lies now.
        thorough: Compare the content of every photograph.

    Returns:
        Rows of those with another content.
    """
    rows = [row for row, text in enumerate(marked) if text]
    there = [(row, stat) for row in rows if (stat := _stat(files[row]))]
    agreeing = {row for row, stat in there if marked[row].rpartition(" ")[0] == stat}
    sample = sorted(agreeing)
    if sample and not thorough:
        sample = [sample[at] for at in np.unique(np.linspace(0, len(sample) - 1, _SAMPLE).astype(int)).tolist()]
    suspects = sorted({row for row, _ in there if row not in agreeing}.union(sample))
    contents = checksums([files[row] for row in suspects])
    return [
        row for row, content in zip(suspects, contents, strict=True) if content[:_DIGITS] != content_of(marked[row])
    ]


def _stat(file: Path) -> str:
    try:
        found = file.stat()
    except OSError:
        return ""
    return f"{found.st_size} {found.st_mtime_ns}"
