"""``cmr-bench ensemble``: evaluate the mean of the scores of several runs, and store it."""

from __future__ import annotations

import argparse
from pathlib import Path

_EPILOG = """\
examples:
  cmr-bench ensemble runs/flickr8k/bfan/RUN runs/flickr8k/bfan/RUN
  cmr-bench ensemble RUN RUN RUN --runs runs

The test split is encoded again by every run, and the mean of the score matrices is evaluated as a run is. Runs of
different data or splits are an error. The result has the flag `ensemble` and names its members; the leaderboard
and the dashboard show it beside the runs. Scores are averaged as they are: those of different methods may have
different scales.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `cmr-bench ensemble`."""
    parser.epilog = _EPILOG
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("members", nargs="+", type=Path, metavar="RUN", help="run folder with its checkpoint")
    parser.add_argument("--runs", type=Path, default=Path("runs"), metavar="DIR", help="folder for the result")
    parser.add_argument(
        "--postprocess",
        choices=("csls", "inverted_softmax", "mtfn_rr", "mtfn_rr_groups"),
        help="correction of hubs or re-ranking of the mean; transductive",
    )
    parser.add_argument(
        "--bootstrap", type=int, default=1000, metavar="N", help="bootstrap resamples (default: %(default)s)"
    )
    parser.add_argument("--device", default="auto", help="cpu, cuda, cuda:1, mps (default: a GPU if available)")
    parser.add_argument("--trust", action="store_true", help="run the code of a FILE.py:Class that a run folder names")


def run(args: argparse.Namespace) -> int:
    """Score the mean of the runs that ``args`` names, print it and store it."""
    from rich.console import Console

    from cmr_bench.results.table import result_table
    from cmr_bench.search.ensemble import ensemble, read_members
    from cmr_bench.support.devices import choose_device

    read_members(args.members)
    result, folder = ensemble(
        args.members, args.runs, args.postprocess, args.bootstrap, choose_device(args.device), args.trust
    )
    console = Console()
    console.print(result_table(result))
    console.print(f"mean of {len(result.members)} runs; stored in {folder}", soft_wrap=True)
    return 0
