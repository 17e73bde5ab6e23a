"""A check as a terminal table, as Markdown and as JUnit XML."""

from __future__ import annotations

from collections.abc import Iterator
from xml.etree import ElementTree

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from cmr_bench.leaderboard.board import clean, head, number
from cmr_bench.leaderboard.formats import escape_markdown
from cmr_bench.regression.compare import Comparison, Report, Row

_HEADS = ("method", "metric", "expected", "found", "difference", "allowed", "verdict")
_STYLES = {"as expected": "green", "fell": "bold red", "suspiciously better": "yellow"}


def cells(one: Comparison) -> list[str]:
    """Return metric, expected, found, difference, allowed and verdict of a comparison as text."""
    direction, name = head(one.name)
    difference = number(one.name, one.difference)
    return [
        f"{direction} {name}".strip(),
        f"{number(one.name, one.expected.mean)} ± {number(one.name, one.expected.sd)}",
        number(one.name, one.found),
        difference if difference.startswith("-") else f"+{difference}",
        number(one.name, one.allowed),
        one.verdict if one.judged or one.verdict == "as expected" else f"({one.verdict})",
    ]


def explanation(report: Report) -> str:
    """Explain the columns and the false-alarm rate."""
    return (
        "expected: mean ± standard deviation over the recorded seeds. allowed: prediction interval of one more run, "
        f"at least one query. At most {report.false_alarms:.1%} of checks of unchanged code with new seeds fail by "
        f"chance, over all {report.n_judged} scores."
    )


def show(report: Report, console: Console) -> None:
    """Print a check: the scores that decide, and every metric of a method that fell or rose."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for position, name in enumerate(_HEADS):
        table.add_column(name, justify="right" if 2 <= position <= 5 else "left")
    for row in report.rows:
        shown = row.comparisons if row.have("fell") or row.have("suspiciously better") else row.judged
        for position, one in enumerate(shown):
            style = _STYLES[one.verdict] if one.judged else "dim"
            table.add_row(
                Text("" if position else clean(row.title)), *cells(one)[:-1], Text(cells(one)[-1], style=style)
            )
        if row.problem:
            table.add_row(Text(clean(row.title)), "", "", "", "", "", Text("not compared", style="bold red"))
    console.print(table)
    for line in (*report.problems, *report.notes, explanation(report)):
        console.print(Text(clean(line)), soft_wrap=True)
    console.print(Text(report.summary, style="bold green" if report.passed else "bold red"), soft_wrap=True)


def markdown(report: Report) -> str:
    """Return a check as Markdown for the summary of a job: what decides as a table, the rest folded away."""
    lines = [f"### Recall@K: {escape_markdown(report.summary)}", ""]
    lines += [f"- **not compared** {escape_markdown(problem)}" for problem in report.problems]
    lines += ["", *_markdown_table([(row, one) for row in report.rows for one in row.judged])]
    lines += ["", "<details><summary>Every metric</summary>", ""]
    lines += [*_markdown_table([(row, one) for row in report.rows for one in row.comparisons]), "", "</details>", ""]
    lines += [f"- {escape_markdown(note)}" for note in report.notes]
    return "\n".join([*lines, "", escape_markdown(explanation(report)), ""])


def _markdown_table(listed: list[tuple[Row, Comparison]]) -> Iterator[str]:
    yield f"| {' | '.join(_HEADS)} |"
    yield f"| {' | '.join('---:' if 2 <= position <= 5 else '---' for position in range(len(_HEADS)))} |"
    for row, one in listed:
        texts = [escape_markdown(text) for text in (row.title, *cells(one))]
        if one.judged and one.verdict != "as expected":
            texts[-1] = f"**{texts[-1]}**"
        yield f"| {' | '.join(texts)} |"


def junit(report: Report) -> str:
    """Return a check as JUnit XML: a test suite with a test case for each score that decides."""
    top = ElementTree.Element("testsuites")
    whole = ElementTree.SubElement(top, "testsuite", name=f"cmr-bench check {clean(report.suite)}")
    counts = {"tests": 0, "failures": 0, "errors": 0, "skipped": 0}
    for row in report.rows:
        place = ".".join(clean(part) for part in ("cmr-bench", row.data, row.method, row.variant) if part)
        if row.problem:
            case = ElementTree.SubElement(whole, "testcase", classname=place, name="result")
            ElementTree.SubElement(case, "error", message=clean(row.problem))
            counts["tests"] += 1
            counts["errors"] += 1
        for one in row.judged:
            case = ElementTree.SubElement(whole, "testcase", classname=place, name=one.name)
            counts["tests"] += 1
            text = ", ".join(f"{name} {value}" for name, value in zip(_HEADS[2:], cells(one)[1:], strict=True))
            if one.verdict == "fell" or (report.fail_on_rise and one.verdict != "as expected"):
                ElementTree.SubElement(case, "failure", message=text)
                counts["failures"] += 1
            else:
                ElementTree.SubElement(case, "system-out").text = text
    for name, value in counts.items():
        whole.set(name, str(value))
    ElementTree.indent(top)
    return ElementTree.tostring(top, encoding="unicode", xml_declaration=True) + "\n"
