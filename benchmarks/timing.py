"""Fair times for the benchmarks: rows are timed in turn, once a round, and the median of the rounds counts."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Hashable, Mapping
from typing import Any, NamedTuple, TypeVar

Row = TypeVar("Row", bound=Hashable)


class Seconds(NamedTuple):
    """Seconds of the clock and of the processor."""

    wall: float
    cpu: float


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
    walls: dict[Row, list[float]] = {row: [] for row in rows}
    cpus: dict[Row, list[float]] = {row: [] for row in rows}
    found = {}
    for _ in range(rounds):
        for row, function in rows.items():
            started, used = time.perf_counter(), time.process_time()
            result = function()
            walls[row].append(time.perf_counter() - started)
            cpus[row].append(time.process_time() - used)
            found[row] = keep(result)
            # Gigabytes of a result are not to weigh on the row after it.
            del result
    return {row: Seconds(statistics.median(walls[row]), statistics.median(cpus[row])) for row in rows}, found
