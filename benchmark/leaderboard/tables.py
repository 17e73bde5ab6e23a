"""Tables of a suite: what was measured beside what the paper reports."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from cmr_bench.leaderboard.naming import flags_of
from cmr_bench.leaderboard.rows import Row, Section, explain, sections
from cmr_bench.results.published import Published, PublishedRow, model_of
from cmr_bench.results.record import Result
from cmr_bench.suites.tables import Table


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
    kept = [result for result in results if not _flagged(result)]
    found = [
        section
        for section in sections(kept, data=table.data)
        if (section.folds, section.subsets) == (table.folds, table.subsets) and bool(section.draws) == table.draws
    ]
    paper = published if table.source else None
    test: Mapping[str, Any] = paper.tests.get(table.data, {}) if paper is not None else {}
    if paper is not None:
        found.sort(key=lambda section: not paper.fits(table.data, section.n_images, section.n_texts))
    if not found or (paper is not None and not paper.fits(table.data, found[0].n_images, found[0].n_texts)):
        sizes = int(test.get("images", 0)), int(test.get("texts", 0))
        found.insert(0, Section(table.data, table.folds, *sizes, subsets=table.subsets))
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
    found[0].left_out = sum(1 for result in results if _flagged(result) and result.data == table.data)
    found = [section for section in found if section.rows]
    explain(found)
    return found


def _flagged(result: Result) -> bool:
    """Whether a result has no place in a table of a suite; one that trained less keeps it, with its mark."""
    return bool(set(flags_of(result)) - {"shortened", "skipped", "unseen_classes"})


def _beside(row: Row, published: Published | None, table: Table) -> Row:
    entry = _published(row, published, table) if published is not None else None
    if entry is None:
        return row
    flags = (*row.flags, *(f"published_{flag}" for flag in entry.flags))
    family = row.family or entry.family
    return replace(row, published=entry.metrics, published_spread=entry.spread, flags=flags, family=family)


def _published(row: Row, published: Published, table: Table) -> PublishedRow | None:
    wanted = (row.method, model_of(row.variant), table.data, table.source, table.folds, table.subsets)
    same = (
        entry
        for entry in published.rows
        if (entry.method, entry.variant, entry.data, entry.source, entry.folds, entry.subsets) == wanted
    )
    # A paper that reports a single model and an ensemble is compared by the single model.
    return min(same, key=lambda entry: len(entry.flags), default=None)
