"""What `cmr-bench data check` reports."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

Level = Literal["error", "warning", "info"]
LEVELS: tuple[Level, ...] = ("error", "warning", "info")

EXAMPLES = 20


@dataclass(frozen=True)
class Finding:
    """One thing that the check has to say.

    Attributes:
        level: error (a run would fail or be wrong), warning (read it before you report numbers) or info.
        what: One line.
        count: How many items it is about.
        examples: Some of them.
    """

    level: Level
    what: str
    count: int = 0
    examples: tuple[str, ...] = ()


def report(level: Level, what: str, items: Iterable[str]) -> Iterator[Finding]:
    """Yield a finding about the items, or nothing where there are none."""
    items = list(items)
    if items:
        yield Finding(level, what, len(items), tuple(items[:EXAMPLES]))
