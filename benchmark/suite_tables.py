"""Tables of a suite: rows in a paper's order, what was measured beside what the paper reports."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from cmr_bench import registry
from cmr_bench.errors import UsageError, did_you_mean
from cmr_bench.leaderboard import GROUPS, Row, Section, explain, sections
from cmr_bench.published import Published, PublishedRow, load_published
from cmr_bench.results import Result

_ENTRIES = {"title", "source", "data", "protocol", "columns", "rows"}
_ROW_ENTRIES = {"method", "variant", "title"}
_PROTOCOLS = {"whole": None, "5x1k": 5}


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
    """

    title: str
    data: str
    source: str
    folds: int | None
    columns: tuple[str, ...] | None
    rows: tuple[TableRow, ...]


def read_tables(suite: Mapping[str, Any], where: str) -> list[Table]:
    """Read ``tables`` of a suite; without them, make one table for each data set of its runs.

    Args:
        suite: Content of the suite's file.
        where: Its name, for messages.

    Raises:
        UsageError: If an entry is malformed or names what does not exist.
    """
    if suite.get("tables") is None:
        return _tables_of_runs(suite["runs"])
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
    return Table(str(entry.get("title") or ""), str(entry["data"]), source, _PROTOCOLS[protocol], columns, tuple(rows))


def _known(names: Iterable[Any], there: Iterable[str], what: str, where: str) -> None:
    there = list(there)
    for name in names:
        if name not in there:
            raise UsageError(f"{where}: no {what} '{name}'.{did_you_mean(str(name), there)}")


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list) else [value]


def _tables_of_runs(runs: Iterable[Mapping[str, Any]]) -> list[Table]:
    rows: dict[str, dict[TableRow, None]] = defaultdict(dict)
    for entry in runs:
        for data in _listed(entry["data"]):
            for method in _listed(entry["method"]):
                for variant in _listed(entry.get("variants") or ""):
                    rows[str(data)][TableRow(str(method), str(variant or ""))] = None
    return [Table("", data, "", None, None, tuple(found)) for data, found in rows.items()]


def table_sections(tables: Iterable[Table], results: Sequence[Result], published: Published | None) -> list[Section]:
    """Fill tables with results.

    Results that may not be compared never share a section: another test split or other definitions of metrics make a
    section of their own after the table. Experiments that differ in anything but the seed never share a row.

    Args:
        tables: The tables.
        results: Results of the suite's runs.
        published: Figures of papers; None leaves them out.

    Returns:
        One section for each table or more; the first has every row of the table, blank where nothing was run.
    """
    return [section for table in tables for section in _filled(table, results, published)]


def _filled(table: Table, results: Sequence[Result], published: Published | None) -> list[Section]:
    kept = [result for result in results if not result.flags]
    found = [section for section in sections(kept, data=table.data) if section.folds == table.folds]
    paper = published if table.source else None
    test: Mapping[str, Any] = paper.tests.get(table.data, {}) if paper is not None else {}
    if paper is not None:
        found.sort(key=lambda section: not paper.fits(table.data, section.n_images, section.n_texts))
    if not found or (paper is not None and not paper.fits(table.data, found[0].n_images, found[0].n_texts)):
        found.insert(0, Section(table.data, table.folds, int(test.get("images", 0)), int(test.get("texts", 0))))
    for number, section in enumerate(found):
        measured: dict[tuple[str, str], list[Row]] = defaultdict(list)
        for row in section.rows:
            measured[row.method, row.variant].append(row)
        beside = paper if paper and paper.fits(table.data, section.n_images, section.n_texts) else None
        section.rows = []
        for wanted in table.rows:
            blank = [Row(wanted.method, wanted.variant, features="not run")] if number == 0 else []
            for row in measured.get((wanted.method, wanted.variant), blank):
                section.rows.append(_beside(replace(row, title=wanted.title), beside, table))
        section.heading, section.columns, section.note = table.title, table.columns, ""
        section.paper = table.source if beside is not None else ""
        section.remark = str(test.get("remark", "")) if beside is not None else ""
    found[0].left_out = sum(1 for result in results if result.flags and result.data == table.data)
    found = [section for section in found if section.rows]
    explain(found)
    return found


def _beside(row: Row, published: Published | None, table: Table) -> Row:
    entry = _published(row, published, table) if published is not None else None
    if entry is None:
        return row
    flags = (*row.flags, *(f"published_{flag}" for flag in entry.flags))
    family = row.family or entry.family
    return replace(row, published=entry.metrics, published_spread=entry.spread, flags=flags, family=family)


def _published(row: Row, published: Published, table: Table) -> PublishedRow | None:
    wanted = (row.method, row.variant, table.data, table.source, table.folds)
    same = (
        entry
        for entry in published.rows
        if (entry.method, entry.variant, entry.data, entry.source, entry.folds) == wanted
    )
    # A paper that reports a single model and an ensemble is compared by the single model.
    return min(same, key=lambda entry: len(entry.flags), default=None)
