"""The leaderboard as a terminal table, Markdown, CSV and LaTeX."""

from __future__ import annotations

import csv
import io
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from cmr_bench.leaderboard import Row, Section, best, best_of, columns
from cmr_bench.published import load_published

# Flag -> mark in a row and its meaning in the legend; a flag that is not here stands in the row in full.
MARKS = {
    "transductive": ("t", "transductive: scores were corrected with the whole test set at hand"),
    "selected_on_test": ("!", "the weights were chosen on the test split, as a released program does"),
    "ensemble": ("e", "ensemble of several models"),
    "uses_test_groups": ("g", "uses which captions of the test set belong together"),
    "external": ("x", "scored from files that a user brought; the content of the test split is not verified"),
    "skipped": ("s", "some images were left out for want of a file"),
    "published_ensemble": ("pe", "the published figures are those of an ensemble"),
    "published_uses_test_groups": ("pg", "the published figures use which captions of the test set belong together"),
}
_HEADS = {
    "r1": "R@1",
    "r5": "R@5",
    "r10": "R@10",
    "medr": "MedR",
    "meanr": "MeanR",
    "mr": "mR",
    "map": "mAP",
    "map_at_50_retrieved": "mAP@50 retrieved",
    "map_at_r": "mAP@R",
    "r_precision": "R-Precision",
}
_ONE_DECIMAL = ("r1", "r5", "r10", "medr", "meanr", "mr", "rsum")
# Sides of a metric in a table of a suite, and what they are called where the terminal is narrow.
_PARTS = {"published": "paper", "measured": "here", "difference": "diff."}
_TEXT_WIDTH = 14


def head(name: str) -> tuple[str, str]:
    """Return direction (i2t, t2i or empty) and heading of a metric."""
    direction = next((way for way in ("i2t", "t2i") if name.startswith(f"{way}_")), "")
    rest = name.removeprefix(f"{direction}_") if direction else name
    return direction, _HEADS.get(rest, rest)


def number(name: str, value: float) -> str:
    """Write a value of a metric with the decimals that its unit deserves."""
    return f"{value:.1f}" if name.removeprefix("i2t_").removeprefix("t2i_") in _ONE_DECIMAL else f"{value:.3f}"


def marks(row: Row) -> list[str]:
    """Return the marks of a row's flags."""
    return [MARKS[flag][0] if flag in MARKS else flag for flag in row.flags]


def legend(rows: Iterable[Row]) -> list[tuple[str, str]]:
    """Return mark and meaning of every mark in use, in the order of :data:`MARKS`."""
    used = {flag for row in rows for flag in row.flags}
    return [MARKS[flag] for flag in MARKS if flag in used]


def clean(text: str) -> str:
    """Return text on one line, without control characters and halves of surrogate pairs."""
    printable = "".join(char if char.isprintable() else " " for char in text)
    return " ".join(printable.split())


@dataclass(frozen=True)
class _Column:
    """One column of figures: a metric, and in a table of a suite which side of it."""

    metric: str
    part: str = ""

    def lines(self, short: bool = False) -> list[str]:
        """The heading, from the general to the particular."""
        return [text for text in (*head(self.metric), _PARTS.get(self.part, "") if short else self.part) if text]


@dataclass(frozen=True)
class _Cell:
    """A figure as it is written, and what stands behind or below it: its spread, or a verdict."""

    text: str = ""
    second: str = ""
    is_best: bool = False


@dataclass(frozen=True)
class _Board:
    """One section, ready to be written: what is shown of it and which values are best."""

    section: Section
    names: list[str]
    rows: list[Row]
    best: Mapping[str, float]
    best_published: Mapping[str, float]

    @property
    def compares(self) -> bool:
        """Whether published figures stand beside the measured ones, row by row."""
        return bool(self.section.paper)

    @property
    def has_best(self) -> bool:
        """Whether any figure is marked as the best of its column."""
        return bool(self.best or self.best_published)

    def columns(self, without: Sequence[str] = ()) -> list[_Column]:
        """The columns of figures, but for those of metrics ``without``."""
        parts = _PARTS if self.compares else ("",)
        return [_Column(name, part) for name in self.names if name not in without for part in parts]

    def marks_best(self, column: _Column) -> bool:
        """Whether a figure of this column is marked as the best."""
        if column.part == "difference":
            return False
        return column.metric in (self.best_published if column.part == "published" else self.best)

    def cell(self, row: Row, column: _Column) -> _Cell:
        """Return the figure of a row; blank where it lacks the metric."""
        name = column.metric
        if column.part == "difference":
            difference = row.difference(name)
            if difference is None:
                return _Cell()
            verdict = {True: "in", False: "out", None: "1 seed"}[row.inside(name)]
            return _Cell(("+" if difference >= 0 else "") + number(name, difference), verdict)
        published = column.part == "published"
        values, spreads = (row.published, row.published_spread) if published else (row.metrics, row.spread)
        if name not in values:
            return _Cell()
        top = self.best_published if published else self.best
        spread = f"±{number(name, spreads[name])}" if name in spreads else ""
        return _Cell(number(name, values[name]), spread, row.measured and name in top and values[name] == top[name])

    def notes(self) -> Iterator[str]:
        """What a reader must know, beside the legend of marks."""
        several = [row for row in self.rows if row.measured and row.spread]
        if several:
            yield "± is the standard deviation over seeds."
        if self.compares:
            yield (
                "Difference: measured - published; in or out: whether it lies inside two standard deviations of the "
                "measured seeds, with those of the publication where it gives them; 1 seed: no verdict."
            )
        left_out = sum(row.superseded for row in self.rows)
        if left_out:
            yield f"Left out: {left_out} earlier result{'s' if left_out > 1 else ''} of a seed that was run again."
        flagged = self.section.left_out
        if flagged:
            yield f"Left out: {flagged} result{'s' if flagged > 1 else ''} with a flag, such as transductive."
        if self.section.remark and (self.compares or any(not row.measured for row in self.rows)):
            yield self.section.remark[0].upper() + self.section.remark[1:] + "."

    def best_note(self, mark: str) -> str:
        """Say what the mark of the best figures means."""
        return f"{mark}best of the measured rows" + (", and of the published ones" if self.compares else "")

    def sources(self) -> dict[str, str]:
        """Keys of the publications in use and what they stand for."""
        used = [self.section.paper, *(row.source for row in self.rows)]
        known = load_published().sources if any(used) else {}
        return {key: known.get(key, key) for key in dict.fromkeys(used) if key}


def _board(section: Section, wanted: Sequence[str] | None) -> _Board:
    names = columns(section, wanted)
    rows = [row for row in section.rows if row.measured or any(name in row.metrics for name in names)]
    published = best_of([row.published for row in rows], names) if section.paper else {}
    return _Board(section, names, rows, best(rows, names), published)


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
    boards = [_board(section, wanted) for section in found]
    if kind == "csv":
        return _csv(boards)
    if kind == "table":
        console = Console(file=io.StringIO(), width=width, color_system=None, highlight=False)
        with console.capture() as captured:
            _print(console, boards)
        return "\n".join(line.rstrip() for line in captured.get().splitlines()) + "\n"
    write = _markdown if kind == "markdown" else _latex
    return "\n".join(write(board) for board in boards)


def show(found: Sequence[Section], wanted: Sequence[str] | None) -> None:
    """Print sections as tables as wide as the terminal; a pipe has no width, so there they are as wide as they need."""
    if not sys.stdout.isatty() and "COLUMNS" not in os.environ and "FORCE_COLOR" not in os.environ:
        print(render("table", found, wanted), end="")
        return
    _print(Console(highlight=False), [_board(section, wanted) for section in found])


def _print(console: Console, boards: Sequence[_Board]) -> None:
    for position, board in enumerate(boards):
        if position:
            console.print()
        table, notes = _fitted(board, console)
        console.print(Text(clean(board.section.title), style="bold"))
        if board.section.note:
            console.print(Text(board.section.note, style="yellow"))
        console.print(table)
        for note in (*notes, *board.notes()):
            console.print(Text(note, style="dim"))
        if console.color_system is None and board.has_best:
            console.print(board.best_note("* "))
        for mark, meaning in legend(board.rows):
            console.print(Text(f"[{mark}] {meaning}", style="dim"))
        for key, title in board.sources().items():
            console.print(Text(f"{key}: {title}", style="dim"))


@dataclass(frozen=True)
class _Layout:
    """How much of a board a terminal table shows: the narrower, the less.

    Attributes:
        stacked: Standard deviations stand below the means.
        noted: Features and sources are numbered notes below the table.
        without: Metrics that are left out.
    """

    stacked: bool = False
    noted: bool = False
    without: tuple[str, ...] = ()


def _superscript(position: int) -> str:
    return str(position).translate(str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹"))


def _fitted(board: _Board, console: Console) -> tuple[Table, list[str]]:
    """Return the table in the fullest layout that fits, whole numbers in every case, and what had to be left out."""
    dropped: tuple[str, ...] = ()
    layouts = [_Layout(), _Layout(stacked=True), _Layout(stacked=True, noted=True)]
    for ending in ("meanr", "medr", "mr", "_r5", "_r10", "_r1", ""):
        more = tuple(name for name in board.names[:-1] if name.endswith(ending) and name not in dropped)
        for name in reversed(more):
            dropped = (*dropped, name)
            layouts.append(_Layout(stacked=True, noted=True, without=dropped))
    chosen, table = layouts[-1], None
    for layout in layouts:
        table = _table(board, layout, console)
        if _needed(table, console) <= console.width:
            chosen = layout
            break
    assert table is not None
    gone = [" ".join(part for part in head(name) if part) for name in board.names if name in chosen.without]
    notes = [f"Left out for want of width: {', '.join(gone)}. --format csv has all."] if gone else []
    if chosen.noted:
        about = dict.fromkeys(text for row in board.rows if (text := clean(row.source or row.features)))
        notes += [f"{_superscript(at)} {text}" for at, text in enumerate(about, start=1)]
    return table, notes


def _needed(table: Table, console: Console) -> int:
    """Return the columns that a table needs if its text is folded and its numbers are whole."""
    options = console.options.update(width=10_000)
    whole = Measurement.get(console, options, table).maximum
    folded = 0
    for column in table.columns:
        if not column.no_wrap:
            widest = max(Measurement.get(console, options, cell).maximum for cell in column.cells)
            folded += max(0, widest - _TEXT_WIDTH)
    return whole - folded


def _table(board: _Board, layout: _Layout, console: Console) -> Table:
    plain = console.color_system is None
    notes: dict[str, int] = {}
    gap = 0 if board.compares and layout.stacked else 1
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, gap), collapse_padding=True)
    table.add_column("method", overflow="fold")
    with_features = not layout.noted and any(row.features or row.source for row in board.rows)
    if with_features:
        table.add_column("features or source", overflow="fold", style="dim")
    with_seeds = any(row.n_seeds for row in board.rows)
    if with_seeds:
        table.add_column("seeds", justify="right", no_wrap=True)
    shown = board.columns(layout.without)
    for column in shown:
        table.add_column("\n".join(column.lines(layout.stacked)), justify="right", no_wrap=True, vertical="top")
    for row, following in zip(board.rows, [*board.rows[1:], None], strict=True):
        about = clean(row.source or row.features)
        label = Text(clean(row.label))
        if row.flags:
            label.append(f" [{','.join(marks(row))}]", style="yellow")
        if layout.noted and about:
            label.append(_superscript(notes.setdefault(about, len(notes) + 1)))
        cells: list[Text] = [label]
        cells += [Text(about)] if with_features else []
        cells += [Text(str(row.n_seeds or ""))] if with_seeds else []
        for column in shown:
            cell = board.cell(row, column)
            text, second = cell.text, cell.second
            mark = ("*" if cell.is_best else " ") if plain and board.marks_best(column) else ""
            if layout.stacked or not second:
                whole = text + mark + (f"\n{second}{' ' if mark else ''}" if second else "")
            else:
                whole = f"{text} {second}{mark}"
            cells.append(Text(whole, style="bold green" if cell.is_best else ""))
        boundary = following is not None and row.measured and not following.measured
        table.add_row(*cells, style="" if row.measured else "dim", end_section=boundary)
    return table


def escape_markdown(text: str) -> str:
    """Return text on one line that Markdown and HTML leave as it is, also in a cell of a table."""
    text = re.sub(r"([\\`*\[\]|~])", r"\\\1", clean(text)).replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"(?<!\w)_|_(?!\w)", r"\\_", text)


def _markdown(board: _Board) -> str:
    shown = board.columns()
    lines = [["method", "features or source", "seeds", *(" ".join(column.lines()) for column in shown)]]
    for row in board.rows:
        label = escape_markdown(row.label) + "".join(f"<sup>{escape_markdown(mark)}</sup>" for mark in marks(row))
        lines.append([label, escape_markdown(row.source or row.features), str(row.n_seeds or "")])
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


def _latex(board: _Board) -> str:
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
        cells = [_escape_latex(row.label) + mark, _escape_latex(row.source or row.features), str(row.n_seeds or "")]
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


def _csv(boards: Sequence[_Board]) -> str:
    names = list(dict.fromkeys(name for board in boards for name in board.names))
    about: dict[str, Callable[[Section, Row], object]] = {
        "data": lambda section, row: section.data,
        "protocol": lambda section, row: f"mean of {section.folds} folds" if section.folds else "whole",
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
        "flags": lambda section, row: ";".join(row.flags),
        "n_seeds": lambda section, row: row.n_seeds if row.n_seeds is not None else "",
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
                clean(value) if isinstance(value := tell(board.section, row), str) else value for tell in about.values()
            ]
            for name in names:
                cells += [tell(row, name) if name in board.names else "" for tell in figures.values()]
            writer.writerow(cells)
    return text.getvalue()


def _or_blank(value: float | bool | None) -> float | str:
    """Return a value for a cell: nothing where there is none, yes or no for a truth value."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "" if value is None else value
