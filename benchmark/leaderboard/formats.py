"""The leaderboard in every format: table, Markdown, LaTeX, CSV."""

from __future__ import annotations

import csv
import io
import re
import sys
from collections.abc import Callable, Sequence

from rich.console import Console

from cmr_bench.leaderboard.board import Board, board_of, clean, head, legend, marks
from cmr_bench.leaderboard.rows import Row, Section
from cmr_bench.leaderboard.terminal import print_tables
from cmr_bench.support import environment


def render(kind: str, found: Sequence[Section], wanted: Sequence[str] | None = None, width: int = 10_000) -> str:
    """Write sections as ``table``, ``markdown``, ``csv`` or ``latex``.

    Args:
        kind: The format.
        found: The sections.
        wanted: Names of metrics and groups; None chooses for every section.
        width: Columns that a table may take.

    Returns:
        Text that ends with a line break.
    """
    boards = [board_of(section, wanted) for section in found]
    if kind == "csv":
        return _csv(boards)
    if kind == "table":
        console = Console(file=io.StringIO(), width=width, color_system=None, highlight=False)
        with console.capture() as captured:
            print_tables(console, boards)
        return "\n".join(line.rstrip() for line in captured.get().splitlines()) + "\n"
    write = _markdown if kind == "markdown" else _latex
    return "\n".join(write(board) for board in boards)


def escape_markdown(text: str) -> str:
    """Return text on one line that Markdown and HTML leave as it is, also in a cell of a table."""
    text = re.sub(r"([\\`*\[\]|~])", r"\\\1", clean(text)).replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"(?<!\w)_|_(?!\w)", r"\\_", text)


def _markdown(board: Board) -> str:
    shown = board.columns()
    lines = [["method", "features or source", "seeds", *(" ".join(column.lines()) for column in shown)]]
    for row in board.rows:
        label = escape_markdown(row.label) + "".join(f"<sup>{escape_markdown(mark)}</sup>" for mark in marks(row))
        lines.append([label, escape_markdown(row.source or row.features), row.repeats])
        for column in shown:
            cell = board.cell(row, column)
            text = f"{cell.text} {cell.second}".rstrip().replace("±", "± ")
            lines[-1].append(f"**{text}**" if cell.is_best else text)
    widths = [max(3, *map(len, column)) for column in zip(*lines, strict=True)]
    rule = ["-" * width if at < 2 else "-" * (width - 1) + ":" for at, width in enumerate(widths)]
    padded = [[cell.ljust(width) for cell, width in zip(line, widths, strict=True)] for line in lines]
    body = [f"| {' | '.join(line)} |" for line in (padded[0], rule, *padded[1:])]
    notes = [escape_markdown(note) for note in board.notes()]
    notes += [f"{board.best_note('Bold: ')}."] if board.has_best else []
    notes += [f"<sup>{mark}</sup> {meaning}." for mark, meaning in legend(board.rows)]
    notes += [f"{escape_markdown(key)}: {escape_markdown(title)}." for key, title in board.sources().items()]
    parts = [f"### {escape_markdown(board.section.title)}", "", *body]
    if board.section.note:
        parts[1:1] = ["", escape_markdown(board.section.note)]
    return "\n".join([*parts, *([""] if notes else []), "  \n".join(notes)]).rstrip("\n") + "\n"


_LATEX = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "±": r"$\pm$",
}


def _escape_latex(text: str) -> str:
    return "".join(_LATEX.get(char, char) for char in clean(text))


def _latex(board: Board) -> str:
    shown = board.columns()
    # What the columns of a group have in common stands above them.
    groups = [" ".join(column.lines()[:-1]) if board.compares else head(column.metric)[0] for column in shown]
    spans = [(group, groups.index(group) + 4, groups.count(group)) for group in dict.fromkeys(groups)]
    contiguous = all(groups[start - 4 : start - 4 + count] == [group] * count for group, start, count in spans)
    lines = [
        "% needs \\usepackage{booktabs}",
        r"\begin{table}",
        r"\centering\small\setlength{\tabcolsep}{4pt}",
        rf"\caption{{{_escape_latex(' '.join([board.section.title + '.', board.section.note]))}}}",
        rf"\begin{{tabular}}{{@{{}}llr{'r' * len(shown)}@{{}}}}",
        r"\toprule",
    ]
    if contiguous and any(groups):
        over = [rf"\multicolumn{{{count}}}{{c}}{{{_escape_latex(group)}}}" for group, _, count in spans]
        rules = [rf"\cmidrule(lr){{{start}-{start + count - 1}}}" for group, start, count in spans if group]
        lines += [rf"& & & {' & '.join(over)} \\", " ".join(rules)]
        heads = [column.lines()[-1] for column in shown]
    else:
        heads = [" ".join(column.lines()) for column in shown]
    lines += [" & ".join(["method", "features or source", "seeds", *map(_escape_latex, heads)]) + r" \\", r"\midrule"]
    for row, previous in zip(board.rows, [None, *board.rows], strict=False):
        if previous is not None and previous.measured and not row.measured:
            lines.append(r"\midrule")
        mark = rf"\textsuperscript{{{_escape_latex(','.join(marks(row)))}}}" if row.flags else ""
        cells = [_escape_latex(row.label) + mark, _escape_latex(row.source or row.features), row.repeats]
        for column in shown:
            cell = board.cell(row, column)
            text = _escape_latex(f"{cell.text} {cell.second}".replace("±", "± "))
            text = re.sub("^-", "$-$", text)  # a hyphen is no minus sign in print
            cells.append(rf"\textbf{{{text}}}" if cell.is_best else text)
        lines.append(" & ".join(cells) + r" \\")
    lines += [r"\bottomrule", r"\end{tabular}"]
    notes = [_escape_latex(note) for note in board.notes()]
    notes += [f"{board.best_note('Bold: ')}."] if board.has_best else []
    notes += [rf"\textsuperscript{{{mark}}} {_escape_latex(meaning)}." for mark, meaning in legend(board.rows)]
    notes += [f"{_escape_latex(key)}: {_escape_latex(title)}." for key, title in board.sources().items()]
    lines += [rf"\par\smallskip{{\footnotesize {note}\par}}" for note in notes]
    return "\n".join([*lines, r"\end{table}"]) + "\n"


def _csv(boards: Sequence[Board]) -> str:
    names = list(dict.fromkeys(name for board in boards for name in board.names))
    about: dict[str, Callable[[Section, Row], object]] = {
        "data": lambda section, row: section.data,
        "protocol": lambda section, row: section.part,
        "test_images": lambda section, row: section.n_images or "",
        "test_texts": lambda section, row: section.n_texts or "",
        "fingerprint": lambda section, row: section.fingerprint if row.measured else "",
        "kind": lambda section, row: ("measured" if row.metrics else "not run") if row.measured else "published",
        "source": lambda section, row: row.source or section.paper,
        "family": lambda section, row: row.family,
        "method": lambda section, row: row.method,
        "variant": lambda section, row: row.variant,
        "detail": lambda section, row: row.detail,
        "features": lambda section, row: row.features if row.metrics else "",
        "fidelity": lambda section, row: row.fidelity,
        "deviations": lambda section, row: "; ".join(row.deviations),
        "flags": lambda section, row: ";".join(row.flags),
        "n_seeds": lambda section, row: row.n_seeds if row.n_seeds is not None else "",
        "draws": lambda section, row: ";".join(map(str, row.draws)),
        "seeds": lambda section, row: ";".join("" if seed is None else str(seed) for seed in row.seeds),
    }
    if any(board.section.heading for board in boards):
        about = {"table": lambda section, row: section.heading, "row": lambda section, row: row.label, **about}
    figures: dict[str, Callable[[Row, str], object]] = {
        "{}": lambda row, name: row.metrics.get(name, ""),
        "{}_sd": lambda row, name: row.spread.get(name, ""),
    }
    if any(board.compares for board in boards):
        figures |= {
            "{}_published": lambda row, name: row.published.get(name, ""),
            "{}_published_sd": lambda row, name: row.published_spread.get(name, ""),
            "{}_difference": lambda row, name: _or_blank(row.difference(name)),
            "{}_inside_two_sd": lambda row, name: _or_blank(row.inside(name)),
        }
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*about, *(heading.format(name) for name in names for heading in figures)])
    for board in boards:
        for row in board.rows:
            cells = [
                _cell(clean(value)) if isinstance(value := tell(board.section, row), str) else value
                for tell in about.values()
            ]
            for name in names:
                cells += [tell(row, name) if name in board.names else "" for tell in figures.values()]
            writer.writerow(cells)
    return text.getvalue()


def _cell(text: str) -> str:
    """Return text that a spreadsheet does not take for a formula, whatever name a run has; numbers stay as they are."""
    if not text.startswith(("=", "+", "-", "@", "\t", "\r")) or re.fullmatch(r"[+-]?\d[\d.]*(;[+-]?\d[\d.]*)*", text):
        return text
    return f"'{text}"


def _or_blank(value: float | bool | None) -> float | str:
    """Return a value for a cell: nothing where there is none, yes or no for a truth value."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "" if value is None else value


def show(found: Sequence[Section], wanted: Sequence[str] | None) -> None:
    """Print sections as tables as wide as the terminal; a pipe has no width, so there they are as wide as they need."""
    if not sys.stdout.isatty() and not (environment.has_width() or environment.wants_colour()):
        print(render("table", found, wanted), end="")
        return
    print_tables(Console(highlight=False), [board_of(section, wanted) for section in found])
