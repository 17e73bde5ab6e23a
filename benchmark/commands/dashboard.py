"""The command ``cmr-bench dashboard``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from cmr_bench.support.errors import UsageError

_EXAMPLES = """\
The site is a folder of files: open its index.html, keep it as a CI artifact, or publish it, e.g. on GitHub
Pages. It contains what the run folders contain: configurations with paths, captions, thumbnails of test images.

examples:
  cmr-bench dashboard
  cmr-bench dashboard --runs runs/demo --out public
  cmr-bench dashboard --wandb --project retrieval         upload the results to Weights & Biases instead
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``cmr-bench dashboard``."""
    parser.epilog = _EXAMPLES
    parser.add_argument("--runs", type=Path, default=Path("runs"), metavar="DIR", help="folder of runs (default: runs)")
    parser.add_argument(
        "--out", type=Path, default=Path("site"), metavar="DIR", help="folder of the site (default: site)"
    )
    parser.add_argument(
        "--published", action=argparse.BooleanOptionalAction, default=True, help="results from papers (default: shown)"
    )
    parser.add_argument(
        "--wandb", action="store_true", help="upload results, curves and examples to W&B instead of building a site"
    )
    parser.add_argument("--project", metavar="P", help="W&B project (default: WANDB_PROJECT, else cmr-bench)")
    parser.add_argument("--entity", metavar="E", help="W&B user or team (default: WANDB_ENTITY, else your own)")


def run(args: argparse.Namespace) -> int:
    """Build the site.

    Raises:
        UsageError: If there is no folder of runs, or the output folder holds something else.
        CmrBenchError: If no run can be shown.
    """
    from cmr_bench.dashboard.site import build
    from cmr_bench.results.published import load_published

    if not args.runs.is_dir():
        raise UsageError(
            f"--runs {args.runs}: no such folder; pass DIR with results in DIR/<data>/<method>/<run>/result.json. "
            "Make some: cmr-bench run --model vsepp"
        )
    if args.wandb:
        return _upload(args)
    if args.project or args.entity:
        raise UsageError("--project and --entity need --wandb")
    built = build(args.runs, args.out, load_published() if args.published else None)
    for problem in built.problems:
        print(f"cmr-bench dashboard: skipped: {problem}", file=sys.stderr)
    print(f"{built.n_runs} runs: open {args.out / 'index.html'}")
    return 0


def _upload(args: argparse.Namespace) -> int:
    from cmr_bench.results.store import result_files
    from cmr_bench.tracking.upload import upload

    done, there = upload([file.parent for file in result_files(args.runs)], args.project, args.entity)
    print(f"{len(done)} runs uploaded, {len(there)} were on W&B already")
    return 0
