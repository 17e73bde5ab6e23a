"""``cmr-bench data check``: check a data set for missing, corrupt, duplicate and leaking data."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from cmr_bench import registry
from cmr_bench.datamodules.doctor.findings import LEVELS, Finding
from cmr_bench.support.errors import UsageError
from cmr_bench.support.files import write_atomic

if TYPE_CHECKING:
    from cmr_bench.datamodules.module import RetrievalDataModule


def print_findings(name: str, findings: Sequence[Finding], console: Console | None = None) -> None:
    """Print the findings as a table, and a summary line."""
    console = console or Console()
    colours = {"error": "red", "warning": "yellow", "info": "green"}
    table = Table(title=f"data check {name}", title_justify="left")
    table.add_column("level")
    table.add_column("what", overflow="fold", ratio=3)
    table.add_column("count", justify="right")
    table.add_column("examples", overflow="fold", ratio=2)
    for finding in findings:
        more = finding.count - 3 if len(finding.examples) > 3 else 0
        shown = "\n".join(finding.examples[:3]) + (f"\n… {more:,} more" if more else "")
        table.add_row(
            f"[{colours[finding.level]}]{finding.level}[/]",
            escape(finding.what),
            f"{finding.count:,}" if finding.count else "",
            escape(shown),
        )
    console.print(table)
    totals = {level: sum(finding.level == level for finding in findings) for level in LEVELS}
    console.print(
        f"{name}: {totals['error']} error(s), {totals['warning']} warning(s)"
        + ("" if totals["error"] else "; ready to run" if not totals["warning"] else "; can be run")
    )


def make_datamodule(
    name: str, root: str | None, options: Sequence[str] = (), words: Sequence[str] = ()
) -> RetrievalDataModule:
    """Make a data set by name, its options typed by its constructor.

    Args:
        name: Name of the data set.
        root: Folder of the data sets; None for the default.
        options: ``key=value`` for every other option.
        words: Options as `run` takes them, such as ``--data.root=DIR``.

    Raises:
        UsageError: For an unknown name or option, or a value of the wrong type.
    """
    from cmr_bench.experiment import recipe

    bad = next((option for option in options if "=" not in option), None)
    if bad is not None:
        raise UsageError(f"--set {bad}: write KEY=VALUE, such as --set image_column=path")
    given = [f"--data.{option}" for option in options] + ([] if root is None else [f"--data.root={root}"])
    made: RetrievalDataModule = recipe.data_module(name, [*given, *words])
    return made


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `cmr-bench data check`."""
    parser.add_argument("data", metavar="DATA", help="name of a data set from `cmr-bench list`")
    parser.add_argument(
        "--root", metavar="DIR", help="folder that contains one folder per data set (default: $CMR_BENCH_DATA)"
    )
    parser.add_argument(
        "--set", metavar="KEY=VALUE", action="append", default=[], help="set another option of the data set"
    )
    parser.add_argument("--no-decode", action="store_true", help="check that images exist without decoding them")
    parser.add_argument("--json", metavar="OUT", type=Path, help="also write the findings as JSON")


def run(args: argparse.Namespace) -> int:
    """Check a data set and print the findings; return 1 if any is an error."""
    registry.trust(args.data)
    datamodule = make_datamodule(args.data, args.root, args.set, args.data_options)
    from cmr_bench.datamodules.doctor.examination import check

    findings = check(datamodule, decode=not args.no_decode, progress=True)
    print_findings(args.data, findings)
    failed = any(finding.level == "error" for finding in findings)
    if args.json is not None:
        record: dict[str, Any] = {"data": args.data, "ok": not failed, "findings": [asdict(f) for f in findings]}
        write_atomic(args.json, json.dumps(record, indent=1, ensure_ascii=False) + "\n")
    return int(failed)
