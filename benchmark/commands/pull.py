"""``cmr-bench pull``: bring shared runs into a folder of runs."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

_EXAMPLES = """\
Only files of known names are read and nothing in them is executed. A run that is not what the manifest beside it says
is left out; a result that is here already is not added again.

examples:
  cmr-bench pull hf://user/name
  cmr-bench pull hf://user/name/flickr8k/vsepp --into theirs --no-weights
  cmr-bench pull ../our-results
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``cmr-bench pull``."""
    parser.epilog = _EXAMPLES
    parser.add_argument("source", metavar="PLACE", help="hf://user/name, perhaps with a folder, or a folder of runs")
    parser.add_argument("--into", type=Path, default=Path("runs"), metavar="DIR", help="folder of runs (default: runs)")
    parser.add_argument("--no-weights", action="store_true", help="bring results only")


def run(args: argparse.Namespace) -> int:
    """Bring the runs and print what was added; 1 if something was left out.

    Raises:
        UsageError: For a place that is none.
        CmrBenchError: If it cannot be read.
    """
    from cmr_bench.exchange.places import pull

    done = pull(args.source, args.into, weights=not args.no_weights)
    for folder in done.added:
        print(f"added: {folder}")
    print(f"{len(done.added)} added, {len(done.present)} there already")
    for problem in done.problems:
        print(f"cmr-bench pull: left out: {problem}", file=sys.stderr)
    return 1 if done.problems else 0
