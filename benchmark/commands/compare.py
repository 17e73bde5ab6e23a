"""``cmr-bench compare``: is one run better than another, and in what do they differ?"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cmr_bench.support import environment
from cmr_bench.support.errors import UsageError

if TYPE_CHECKING:
    from cmr_bench.leaderboard.pairs import Side, Versus

_EXAMPLES = """\
A and B are run folders, or rows as `cmr-bench leaderboard` names them; of a row, every seed and draw takes part.
Both have to be scored on the same test split. A difference is real where its interval leaves out zero.

examples:
  cmr-bench compare runs/flickr8k/vsepp/20260101-120000-s0 runs/flickr8k/scan/20260101-130000-s0
  cmr-bench compare vsepp "vsepp (margin=0.3)" --data flickr8k
  cmr-bench compare adv_subspace "adv_subspace (no_triplet)" --data pascal --format json
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``cmr-bench compare``."""
    parser.epilog = _EXAMPLES
    parser.add_argument("one", metavar="A", help="a run folder or a row of the leaderboard")
    parser.add_argument("other", metavar="B", help="another")
    parser.add_argument("--runs", type=Path, default=Path("runs"), metavar="DIR", help="where rows are looked for")
    parser.add_argument("--data", metavar="NAME", help="data set of the rows, where they are on several")
    parser.add_argument(
        "--draws",
        action="store_true",
        help="compare rows over draws of the test split in place of its own",
    )
    parser.add_argument("--resamples", type=int, default=1000, metavar="N", help="of the bootstrap (default: 1000)")
    parser.add_argument("--format", choices=("table", "json"), default="table", help="default: table")


def run(args: argparse.Namespace) -> int:
    """Print the verdict on two runs.

    Raises:
        UsageError: For runs or rows that do not exist.
        CmrBenchError: If they cannot be compared.
    """
    if args.resamples < 1:
        raise UsageError(f"--resamples {args.resamples}: at least one")
    from cmr_bench.leaderboard.pairs import differing, find_side, provenance_of, settings_of, versus

    one, other = (find_side(name, args.runs, args.data, args.draws) for name in (args.one, args.other))
    found = versus(one, other, args.resamples)
    settings = differing(settings_of(one), settings_of(other), "-")
    provenance = differing(provenance_of(one), provenance_of(other), "unknown")
    if args.format == "json":
        content: dict[str, Any] = {"a": one.label, "b": other.label, "flags": {"a": one.flags, "b": other.flags}}
        content |= asdict(found)
        print(json.dumps(content | {"settings": settings, "provenance": provenance}, indent=2, ensure_ascii=False))
        return 0
    _show(one, other, found, {"settings": settings, "code, versions and device": provenance})
    return 0


def _show(one: Side, other: Side, found: Versus, differences: dict[str, dict[str, tuple[str, str]]]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from cmr_bench.leaderboard.board import MARKS, clean, head, number

    width = None if sys.stdout.isatty() or environment.has_width() else 1000
    console = Console(highlight=False, width=width)

    def table(*heads: str) -> Table:
        made = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1), collapse_padding=True)
        for at, name in enumerate(heads):
            figures = at and heads[0] == "metric"
            made.add_column(name, justify="right" if figures else "left", no_wrap=bool(figures), overflow="fold")
        return made

    result = one.results[0][1]
    for name, side in (("A", one), ("B", other)):
        marked = f" [{','.join(MARKS[flag][0] for flag in side.flags if flag in MARKS)}]" if side.flags else ""
        console.print(Text(f"{name}: {clean(side.label)}{marked}, {_runs(side)}"), soft_wrap=True)
    console.print(Text(f"on {clean(result.data)}\n"), soft_wrap=True)
    shown = table("metric", "A", "B", "A - B", "95% interval", "p", "better")
    for verdict in found.verdicts:
        name = verdict.name
        low, high, difference = (number(name, value) for value in (verdict.low, verdict.high, verdict.difference))
        better = {1: "A", -1: "B", 0: "-"}[verdict.better]
        figures = (number(name, verdict.one), number(name, verdict.other))
        sign = "" if difference.startswith("-") else "+"
        cells = (*figures, f"{sign}{difference}", f"{low} to {high}", f"{verdict.p:.3f}", better)
        shown.add_row(
            Text(" ".join(part for part in head(name) if part)),
            *map(Text, cells),
            style="bold" if verdict.better else "",
        )
    console.print(shown)
    notes = [f"[{mark}] {words}" for flag, (mark, words) in MARKS.items() if flag in (*one.flags, *other.flags)]
    for note in (found.how, *found.notes, *notes):
        console.print(Text(f"{clean(note)}.", style="dim"), soft_wrap=True)
    for what, pairs in differences.items():
        console.print(Text(f"\n{what}: {'' if pairs else 'no difference'}".rstrip()))
        if pairs:
            shown = table("name", "A", "B")
            for name, (mine, theirs) in pairs.items():
                shown.add_row(*(Text(clean(text)) for text in (name, mine, theirs)))
            console.print(shown)


def _runs(side: Side) -> str:
    n = len(side.results)
    return str(side.results[0][0]) if n == 1 else f"{n} runs on {len(side.splits)} test split(s)"
