"""Which metrics a table shows, in which order its rows stand, and what is best."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    pass
from cmr_bench.leaderboard.naming import NEVER_BEST
from cmr_bench.leaderboard.rows import Row, Section
from cmr_bench.results.groups import GROUPS, LOWER_IS_BETTER


def columns(section: Section, wanted: Sequence[str] | None) -> list[str]:
    """Choose the metrics to show.

    Args:
        section: The rows.
        wanted: Names of metrics and groups; None takes the section's own, else the group by which the methods were
            selected, and with it what was scored by identity and by relevance judgments; of draws of pairs MedR first.

    Returns:
        Names of metrics that at least one row has, or that the section asks for.
    """
    there = section.names()
    if wanted is None and section.columns is not None:
        return list(dict.fromkeys(name for word in section.columns for name in GROUPS.get(word, (word,))))
    if wanted is None:
        wanted = () if not section.subsets else ("i2t_medr", "t2i_medr")
        wanted += ("map",) if "map" in there and (by_map(section) or "i2t_r1" not in there) else ("recall",)
        if not any(name in there for name in GROUPS[wanted[-1]]):
            wanted = ("all",)
        else:
            wanted += tuple(group for group in ("identity", "qrels") if any(name in there for name in GROUPS[group]))
    chosen: dict[str, None] = {}
    for name in wanted:
        chosen |= dict.fromkeys(there if name == "all" else GROUPS.get(name, (name,)))
    return [name for name in chosen if name in there]


def best(rows: Iterable[Row], names: Iterable[str]) -> dict[str, float]:
    """Return the best value of every metric among the measured rows, where there are at least two to compare.

    Rows whose weights were chosen on the test split, that use which test captions belong together, or that train less
    than their recipe, take no part.
    """
    ranked = [row.metrics for row in rows if row.measured and not set(row.flags) & set(NEVER_BEST)]
    return best_of(ranked, names)


def best_of(figures: Sequence[Mapping[str, float]], names: Iterable[str]) -> dict[str, float]:
    """Return the best value of every metric that at least two of the figures have."""
    found = {}
    for name in names:
        values = [metrics[name] for metrics in figures if name in metrics]
        if len(values) > 1:
            found[name] = min(values) if name in LOWER_IS_BETTER else max(values)
    return found


def order(rows: Iterable[Row], keys: Sequence[str]) -> list[Row]:
    """Sort rows by a metric (best first, blanks last), or by ``method``, ``family`` or ``seeds``.

    Measured rows come before published ones, except by method, where the same method stands together.

    Args:
        rows: The rows.
        keys: What to sort by; a later key decides among rows that are equal in, or lack, the earlier ones.

    Returns:
        The rows in order.
    """

    def rank(row: Row, key: str) -> tuple[bool, float]:
        if key == "seeds":
            return (row.n_seeds is None, -(row.n_seeds or 0))
        if key not in row.metrics:
            return (True, 0.0)
        return (False, row.metrics[key] if key in LOWER_IS_BETTER else -row.metrics[key])

    def place(row: Row) -> tuple[Any, ...]:
        words = {"method": (row.method,), "family": (not row.measured, row.family or "~")}
        first = next((words[key] for key in keys if key in words), (not row.measured,))
        ranks = [rank(row, key) for key in keys if key not in words]
        return (*first, not row.measured, ranks, row.method, row.source, row.variant, row.detail, row.features)

    return sorted(rows, key=place)


def by_map(section: Section) -> bool:
    """Return whether the methods of a section were selected by mAP."""
    return any(row.criterion == "map" for row in section.rows)
