"""Fair times for the benchmarks: rows are timed in turn, once a round, and the median of the rounds counts."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

Row = TypeVar("Row", bound=Hashable)


class Seconds(NamedTuple):
    """Seconds of the clock and of the processor."""

    wall: float
    cpu: float


def spent(work: Callable[[], Any]) -> tuple[Seconds, Any]:
    """Return the seconds of a piece of work, and its result."""
    started, used = time.perf_counter(), time.process_time()
    result = work()
    return Seconds(time.perf_counter() - started, time.process_time() - used), result


def median(taken: Sequence[Seconds]) -> Seconds:
    """Return the median of the clock's seconds and that of the processor's."""
    return Seconds(statistics.median(each.wall for each in taken), statistics.median(each.cpu for each in taken))


def in_turn(
    rows: Mapping[Row, Callable[[], Any]], rounds: int, keep: Callable[[Any], Any] = lambda value: value
) -> tuple[dict[Row, Seconds], dict[Row, Any]]:
    """Time rows so that a busy machine disturbs all alike.

    Args:
        rows: What to time.
        rounds: How often each is timed.
        keep: What of a result is to be kept.

    Returns:
        The median seconds of each row, and what is kept of its last result.
    """
    taken: dict[Row, list[Seconds]] = {row: [] for row in rows}
    found = {}
    for _ in range(rounds):
        for row, work in rows.items():
            seconds, result = spent(work)
            taken[row].append(seconds)
            found[row] = keep(result)
            # Gigabytes of a result are not to weigh on the row after it.
            del result
    return {row: median(each) for row, each in taken.items()}, found
