"""The leaderboard in a terminal, as wide as that is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from cmr_bench.leaderboard.board import Board, clean, head, legend, marks

_TEXT_WIDTH = 14


def print_tables(console: Console, boards: Sequence[Board]) -> None:
    """Print sections one after the other, each as wide as the console."""
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
        without: Metrics that are omitted.
    """

    stacked: bool = False
    noted: bool = False
    without: tuple[str, ...] = ()


def _superscript(position: int) -> str:
    return str(position).translate(str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹"))


def _fitted(board: Board, console: Console) -> tuple[Table, list[str]]:
    """Return the table in the fullest layout that fits, whole numbers in every case, and what had to be omitted."""
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
    notes = [f"Not shown for lack of width: {', '.join(gone)}. --format csv has all."] if gone else []
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


def _table(board: Board, layout: _Layout, console: Console) -> Table:
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
        cells += [Text(row.repeats)] if with_seeds else []
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
