"""The page of measured results: the leaderboard of every data set, and what the idea of each method is worth."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from cmr_bench import registry
from cmr_bench.leaderboard.board import number
from cmr_bench.leaderboard.columns import by_map, order
from cmr_bench.leaderboard.entries import Row, Section
from cmr_bench.leaderboard.formats import escape_markdown, render
from cmr_bench.leaderboard.rows import sections
from cmr_bench.results.published import load_published

_HEAD = """# Measured results

Every figure here was measured with this package: the weights are chosen on the validation split and the test split is
scored once. The records themselves, with seed, options, versions and seconds, are in `docs/results` of the repository;
`cmr-bench leaderboard --runs docs/results` prints these tables, and `cmr-bench compare` tells two runs apart. A row
names the options that differ from the method's recipe."""
_NONE = "No results are stored with these pages. `cmr-bench suite survey_synthetic` makes some in minutes a method."
_WORTH = """The same network without the part that names the method, same data, options and seeds. One seed tells
little: differences of two or three points of rsum, or a hundredth of mAP, are noise."""


def page(results: Sequence[Any]) -> str:
    """Return the page.

    Args:
        results: Stored results.
    """
    found = sections(results, load_published())
    parts = [_HEAD] if results else [_HEAD, _NONE]
    for data in dict.fromkeys(section.data for section in found):
        about = registry.DATASETS[data].about if data in registry.DATASETS else ""
        parts.append(f"## {data}\n\n{about[:1].upper()}{about[1:]}." if about else f"## {data}")
        for section in (one for one in found if one.data == data and any(row.measured for row in one.rows)):
            main = _main(section)
            section.rows = order(section.rows, [main])
            parts.append(render("markdown", [section]))
            worth = "\n".join(_worth(section, main))
            if worth:
                parts.append(f"#### What each idea is worth\n\n{_WORTH}\n\n{worth}")
    return "\n\n".join(parts) + "\n"


def _main(section: Section) -> str:
    return "map" if by_map(section) else "rsum"


def _worth(section: Section, main: str) -> Iterator[str]:
    """Yield the lines of a table of each method beside its variants, where both were run alike."""
    rows = [row for row in section.rows if row.measured and main in row.metrics]
    defaults = {(row.method, row.features, row.detail, row.repeats): row for row in rows if not row.variant}
    pairs = [
        (whole, row)
        for row in sorted(rows, key=lambda row: (row.method, row.variant))
        if row.variant and (whole := defaults.get((row.method, row.features, row.detail, row.repeats))) is not None
    ]
    if pairs:
        yield f"| method | variant | {main}, whole | {main}, variant | worth |"
        yield "| --- | --- | ---: | ---: | ---: |"
    for whole, without in pairs:
        yield f"| {whole.method} | {escape_markdown(without.variant)} | {_figures(whole, without, main)} |"


def _figures(whole: Row, without: Row, main: str) -> str:
    one, other = whole.metrics[main], without.metrics[main]
    sign = "-" if one < other else "+"
    return f"{number(main, one)} | {number(main, other)} | {sign}{number(main, abs(one - other))}"
