"""``cmr-bench leaderboard``: stored results side by side, with published ones."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cmr_bench import registry
from cmr_bench.results.record import Result
from cmr_bench.support.errors import CmrBenchError, UsageError, did_you_mean

if TYPE_CHECKING:
    from cmr_bench.results.published import Published
from cmr_bench.leaderboard.columns import by_map, columns, order
from cmr_bench.leaderboard.rows import Section, sections
from cmr_bench.results.groups import GROUPS

FORMATS = ("table", "markdown", "csv", "latex")
_SORT_WORDS = ("method", "family", "seeds")

_EXAMPLES = """\
metrics are names as in result.json (i2t_r1, map_at_r, ...) or groups: recall, map, relevance, identity, qrels,
rank, all.

examples:
  cmr-bench leaderboard --data flickr8k
  cmr-bench leaderboard --metrics recall map --sort i2t_r1
  cmr-bench leaderboard --data pascal --format latex --out table.tex
  cmr-bench leaderboard --suite adcsl_tables
  cmr-bench leaderboard --runs runs ../their-results
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``cmr-bench leaderboard``."""
    parser.epilog = _EXAMPLES
    parser.add_argument("--data", metavar="NAME", help="only this data set (default: all with results)")
    parser.add_argument(
        "--suite", metavar="NAME|FILE", help="the tables of a suite: rows in its order, published next to measured"
    )
    parser.add_argument(
        "--runs",
        type=Path,
        nargs="+",
        metavar="DIR",
        help="folders of results, of which a result in several counts once (default: runs)",
    )
    parser.add_argument("--format", choices=FORMATS, default="table", help="default: table")
    parser.add_argument(
        "--metrics", nargs="+", metavar="NAME", help="columns (default: the metrics of checkpoint selection; csv: all)"
    )
    parser.add_argument("--family", metavar="NAME", help=f"only this family: {', '.join(registry.FAMILIES)}, ...")
    parser.add_argument(
        "--published", action=argparse.BooleanOptionalAction, default=True, help="results from papers (default: shown)"
    )
    parser.add_argument(
        "--sort", metavar="KEY", help="sort by a metric, method, family or seeds (default: rsum or map, best first)"
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="OPTION=VALUE", help="with --suite: the --set options of its runs"
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="write to a file instead of the terminal")


def run(args: argparse.Namespace) -> int:
    """Print or write the leaderboard.

    Raises:
        UsageError: For names that do not exist.
        CmrBenchError: If there is no folder of results and nothing published to show.
    """
    from cmr_bench.leaderboard.checks import load_checked
    from cmr_bench.results.published import load_published

    runs: list[Path] = args.runs or [Path("runs")]
    for folder in args.runs or ():
        if not folder.is_dir():
            raise UsageError(
                f"--runs {folder}: no such folder; pass DIR with results in DIR/<data>/<method>/<run>/result.json"
            )
    published = load_published() if args.published else None
    if args.suite is not None:
        return _show(args, *_suite_tables(args, runs, published))
    if args.set:
        raise UsageError("--set needs --suite: it repeats the --set options of `cmr-bench suite`")
    checked, problems = load_checked(*runs)
    results = [result for _, result in checked]
    _left_out(problems)
    _check_names(args, results, published)
    found = sections(results, published, data=args.data, family=args.family)
    if not found:
        return _nothing(args, runs, results)
    if not any(row.measured for section in found for row in section.rows):
        print(_no_results(args, runs, results), file=sys.stderr)
    wanted = _wanted(args, found)
    for section in found:
        section.rows = order(section.rows, [args.sort] if args.sort else _main_metrics(section, wanted))
    return _show(args, found, wanted)


def _left_out(problems: Iterable[str]) -> None:
    for problem in problems:
        print(f"cmr-bench leaderboard: skipped: {problem}", file=sys.stderr)


def _suite_tables(
    args: argparse.Namespace, runs: Sequence[Path], published: Published | None
) -> tuple[list[Section], list[str] | None]:
    """Return the tables of a suite and the metrics that the user asks for."""
    for option in ("sort", "family"):
        if getattr(args, option) is not None:
            raise UsageError(f"--{option} cannot be combined with --suite, whose tables have their own rows and order")
    from cmr_bench.leaderboard.checks import read_checked
    from cmr_bench.leaderboard.tables import table_sections
    from cmr_bench.suites import plan, stored
    from cmr_bench.suites.tables import read_tables

    content = plan.read_suite(args.suite)
    planned = list(plan.jobs(content, None, [f"--{option.removeprefix('--')}" for option in args.set]))
    checked, problems = read_checked(folder for some in runs for folder in stored.finished_folders(planned, some))
    results = [result for _, result in checked]
    _left_out(problems)
    if not results:
        print(f"No results of this suite in {_names(runs)}. Make them: cmr-bench suite {args.suite}", file=sys.stderr)
    tables = read_tables(content, args.suite)
    if args.data is not None:
        names = {table.data for table in tables}
        if args.data not in names:
            raise UsageError(f"--data {args.data}: the suite has no table of it.{did_you_mean(args.data, names)}")
        tables = [table for table in tables if table.data == args.data]
    found = table_sections(tables, results, published)
    return found, _wanted(args, found) if args.metrics is not None else None


def _show(args: argparse.Namespace, found: Sequence[Section], wanted: Sequence[str] | None) -> int:
    from cmr_bench.leaderboard import formats

    if args.out is not None:
        from cmr_bench.support.files import write_atomic

        write_atomic(args.out, formats.render(args.format, found, wanted))
        print(f"written: {args.out}")
    elif args.format == "table":
        formats.show(found, wanted)
    else:
        print(formats.render(args.format, found, wanted), end="")
    return 0


def _main_metrics(section: Section, wanted: Sequence[str] | None) -> list[str]:
    shown = columns(section, wanted)
    first = ("map", "rsum") if by_map(section) else ("rsum", "map")
    return [*(name for name in first if name in shown), *(name for name in shown if name not in first)]


def _wanted(args: argparse.Namespace, found: Sequence[Section]) -> list[str] | None:
    known = sorted({name for section in found for name in section.names()})
    if args.sort is not None and args.sort not in (*known, *_SORT_WORDS):
        raise UsageError(
            f"--sort {args.sort}: no such column.{did_you_mean(args.sort, (*known, *_SORT_WORDS))} "
            f"There are {', '.join((*_SORT_WORDS, *known))}"
        )
    if args.metrics is None:
        return ["all"] if args.format == "csv" else None
    wanted = [name for word in args.metrics for name in word.split(",") if name]
    groups = (*GROUPS, "all")
    for name in wanted:
        if name not in groups and name not in known:
            raise UsageError(
                f"--metrics {name}: no such metric.{did_you_mean(name, (*groups, *known))} "
                f"There are {', '.join((*groups, *known))}"
            )
    return wanted


def _check_names(args: argparse.Namespace, results: Sequence[Result], published: Published | None) -> None:
    rows = published.rows if published is not None else ()
    data = {*registry.DATASETS, *(r.data for r in results), *(r.data for r in rows)}
    if args.data is not None and args.data not in data:
        raise UsageError(f"--data {args.data}: no such data set.{did_you_mean(args.data, data)}")
    families = {*registry.FAMILIES, *(r.family for r in results)} - {""}
    if args.family is not None and args.family not in families:
        raise UsageError(
            f"--family {args.family}: no such family.{did_you_mean(args.family, families)} "
            f"There are {', '.join(sorted(families))}"
        )


def _names(runs: Sequence[Path]) -> str:
    return " or ".join(map(str, runs))


def _no_results(args: argparse.Namespace, runs: Sequence[Path], results: Sequence[Result]) -> str:
    of = "".join([f" of {args.data}" if args.data else "", f" of family {args.family}" if args.family else ""])
    data = f" --data {args.data}" if args.data else ""
    there = ", ".join(sorted({result.data for result in results}))
    others = f"; there are results of {there}" if there and of else ""
    return f"No results{of} in {_names(runs)}{others}. Make one: cmr-bench run --model vsepp{data}"


def _nothing(args: argparse.Namespace, runs: Sequence[Path], results: Sequence[Result]) -> int:
    if not any(folder.is_dir() for folder in runs):
        data = f" --data {args.data}" if args.data else ""
        raise CmrBenchError(
            f"no results: there is no folder '{_names(runs)}' here. "
            f"Make one: cmr-bench run --model vsepp{data}, or point to another with --runs DIR"
        )
    print(_no_results(args, runs, results))
    return 0
