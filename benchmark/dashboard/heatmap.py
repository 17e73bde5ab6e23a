"""Methods by data sets: the best row of each method on every leaderboard, with its place among the methods."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from cmr_bench.dashboard.front import is_verified
from cmr_bench.leaderboard.board import MARKS, head
from cmr_bench.results.groups import LOWER_IS_BETTER

METRICS = ("rsum", "map")
# Letter of a fidelity in a cell, and what it stands for.
FIDELITIES = {
    "paper": ("P", "as in the paper"),
    "code": ("C", "as in the released program"),
    "reconstruction": ("R", "differs from paper and program in what is listed"),
    "external": ("X", "evaluated from external files, not verified and not ranked"),
}
_LEVELS = 8


def heat_map(boards: Sequence[Mapping[str, Any]], metric: str) -> dict[str, Any]:
    """Arrange the measured rows of all boards that have a metric.

    Args:
        boards: The boards, as :func:`cmr_bench.dashboard.board.board` arranges them.
        metric: rsum or map.

    Returns:
        ``columns``, the boards; ``rows``, the methods, those of the best mean place first, with a cell or None for each
        column; ``told``, what the page tells of each cell when it is pointed at, in the order of their ``id``;
        ``marks``, the marks in use with their meaning.
    """
    columns = []
    cells: dict[str, dict[str, dict[str, Any]]] = {}
    families: dict[str, str] = {}
    for shown in boards:
        best = _best(shown, metric)
        if best:
            columns.append({name: shown[name] for name in ("slug", "title", "data_name", "protocol")})
            for method, (row, rank) in best.items():
                cells.setdefault(method, {})[shown["slug"]] = _cell(row, metric, rank, _ranked(best))
                families.setdefault(method, row["family"])

    def place(method: str) -> tuple[bool, float, str]:
        there = [cell["share"] for cell in cells[method].values() if cell["rank"]]
        return (not there, statistics.fmean(there) if there else 0.0, method)

    rows: list[dict[str, Any]] = []
    told: list[dict[str, Any]] = []
    for method in sorted(cells, key=place):
        own = [cells[method].get(column["slug"]) for column in columns]
        for cell in own:
            if cell is not None:
                cell["id"] = len(told)
                told.append(cell.pop("about"))
        rows.append({"method": method, "family": families[method], "cells": own})
    marks = dict(mark for own in cells.values() for cell in own.values() for mark in cell["marks"])
    return {
        "key": metric,
        "head": head(metric)[1],
        "columns": columns,
        "rows": rows,
        "told": told,
        "marks": {mark: meaning for mark, meaning in marks.items() if mark != MARKS["external"][0]},
    }


def _best(shown: Mapping[str, Any], metric: str) -> dict[str, tuple[Mapping[str, Any], int]]:
    """Return the best row of every method and its place among them, 0 for one that may not lead."""
    sign = 1 if metric in LOWER_IS_BETTER else -1
    rows = [row for row in shown["rows"] if row["measured"] and metric in row["cells"]]
    rows.sort(key=lambda row: (not is_verified(row), sign * row["cells"][metric]["value"]))
    best: dict[str, Mapping[str, Any]] = {}
    for row in rows:
        best.setdefault(row["method"], row)
    values = [sign * row["cells"][metric]["value"] for row in best.values() if is_verified(row)]
    return {
        method: (
            row,
            1 + sum(value < sign * row["cells"][metric]["value"] for value in values) if is_verified(row) else 0,
        )
        for method, row in best.items()
    }


def _ranked(best: Mapping[str, tuple[Mapping[str, Any], int]]) -> int:
    return sum(rank > 0 for _, rank in best.values())


def _cell(row: Mapping[str, Any], metric: str, rank: int, n_ranked: int) -> dict[str, Any]:
    cell = row["cells"][metric]
    share = (rank - 1) / max(1, n_ranked - 1) if rank else 1.0
    seeds = f"{row['n_seeds']} seed{'' if row['n_seeds'] == 1 else 's'}"
    return {
        "value": cell["value"],
        "text": cell["text"],
        "spread": cell["spread"],
        "rank": rank,
        "n_ranked": n_ranked,
        "share": share,
        "level": 1 + round((_LEVELS - 1) * (1 - share)) if rank else "none",
        "letter": FIDELITIES.get(row["fidelity"], ("", ""))[0],
        "meaning": FIDELITIES.get(row["fidelity"], ("", ""))[1],
        "marks": row["marks"],
        "about": {
            "title": row["title"],
            "facts": [
                f"{head(metric)[1]} {cell['text']}" + (f" ± {cell['spread']}" if cell["spread"] else "") + f", {seeds}",
                f"rank {rank} of {n_ranked} methods" if rank else "not ranked",
                *([f"{row['fidelity']}: {FIDELITIES[row['fidelity']][1]}"] if row["fidelity"] in FIDELITIES else []),
                *(f"{mark}: {meaning}" for mark, meaning in row["marks"]),
            ],
            "deviations": list(row["deviations"]),
        },
    }  # fmt: skip
