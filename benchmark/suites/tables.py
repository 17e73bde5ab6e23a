"""The tables that a suite asks for: rows in a paper's order."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from cmr_bench import registry
from cmr_bench.results.groups import GROUPS
from cmr_bench.results.published import load_published
from cmr_bench.support.errors import UsageError, did_you_mean

_ENTRIES = {"title", "source", "data", "protocol", "columns", "rows"}
_ROW_ENTRIES = {"method", "variant", "title"}
_SUBSETS = re.compile(r"[1-9]\d*x[1-9]\d+")
_PROTOCOLS = {"whole": None, "5x1k": 5, "draws": None}


@dataclass(frozen=True)
class TableRow:
    """One row: a method, a variant of it, and what the paper calls it."""

    method: str
    variant: str = ""
    title: str = ""


@dataclass(frozen=True)
class Table:
    """One table of a suite.

    Attributes:
        title: What it is called; empty for a table that follows from the runs.
        data: Name of the data set.
        source: Key of the publication, or empty.
        folds: Number of folds that the figures are means over; None for the whole test split.
        columns: Metrics and groups of metrics; None chooses by what was measured.
        rows: The rows in order.
        draws: Whether the figures are means over draws of the test split.
        subsets: Draws of pairs that the figures are means over, such as 10x1000; empty for none.
    """

    title: str
    data: str
    source: str
    folds: int | None
    columns: tuple[str, ...] | None
    rows: tuple[TableRow, ...]
    draws: bool = False
    subsets: str = ""


def read_tables(suite: Mapping[str, Any], where: str) -> list[Table]:
    """Read ``tables`` of a suite; without them, make one table for each data set of its runs.

    Args:
        suite: Content of the suite's file.
        where: Its name, for messages.

    Raises:
        UsageError: If an entry is malformed or names what does not exist.
    """
    if suite.get("tables") is None:
        return _tables_of_runs(suite)
    if not isinstance(suite["tables"], list):
        raise UsageError(f"{where}: 'tables' is a list of entries with 'data' and 'rows'")
    methods = {*registry.METHODS, *(row.method for row in load_published().rows)}
    methods |= {str(name) for entry in suite["runs"] for name in _listed(entry["method"])}
    return [_table(entry, methods, f"{where}: table {number}") for number, entry in enumerate(suite["tables"], 1)]


def _table(entry: Any, methods: set[str], where: str) -> Table:
    if not isinstance(entry, dict) or not entry.get("data") or not isinstance(entry.get("rows"), list):
        raise UsageError(f"{where} needs 'data' and a list 'rows' of entries with 'method'")
    _known(entry, _ENTRIES, "entry", where)
    source, protocol = str(entry.get("source") or ""), str(entry.get("protocol") or "whole")
    if source:
        _known([source], load_published().sources, "source", where)
    subsets = protocol if _SUBSETS.fullmatch(protocol) else ""
    if not subsets:
        _known([protocol], _PROTOCOLS, "protocol", where)
    rows = []
    for row in entry["rows"]:
        if not isinstance(row, dict) or not row.get("method"):
            raise UsageError(f"{where}: a row needs 'method': {row}")
        _known(row, _ROW_ENTRIES, "entry", where)
        _known([row["method"]], methods, "method", where)
        rows.append(TableRow(*(str(row.get(name) or "") for name in ("method", "variant", "title"))))
    columns = tuple(str(name) for name in _listed(entry["columns"])) if entry.get("columns") else None
    if columns:
        _known(columns, {*GROUPS, *(name for group in GROUPS.values() for name in group)}, "column", where)
    title, folds, drawn = str(entry.get("title") or ""), _PROTOCOLS.get(protocol), protocol == "draws"
    return Table(title, str(entry["data"]), source, folds, columns, tuple(rows), drawn, subsets)


def split_seeds(suite: Mapping[str, Any], entry: Mapping[str, Any]) -> list[int | None]:
    """Return the seeds of the splits that an entry of a suite is run on; None is the data set's own split."""
    return _listed(entry.get("split_seeds", suite.get("split_seeds")))


def _known(names: Iterable[Any], there: Iterable[str], what: str, where: str) -> None:
    there = list(there)
    for name in names:
        if name not in there:
            raise UsageError(f"{where}: no {what} '{name}'.{did_you_mean(str(name), there)}")


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list) else [value]


def _tables_of_runs(suite: Mapping[str, Any]) -> list[Table]:
    rows: dict[tuple[str, bool], dict[TableRow, None]] = defaultdict(dict)
    for entry in suite["runs"]:
        for data in _listed(entry["data"]):
            for drawn in {seed is not None: None for seed in split_seeds(suite, entry)}:
                for method in _listed(entry["method"]):
                    for variant in _listed(entry.get("variants") or ""):
                        rows[str(data), drawn][TableRow(str(method), str(variant or ""))] = None
    return [Table("", data, "", None, None, tuple(found), drawn) for (data, drawn), found in rows.items()]
