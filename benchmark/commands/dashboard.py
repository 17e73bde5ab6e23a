"""The command ``cmr-bench dashboard``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from cmr_bench.support.errors import UsageError

_EXAMPLES = """\
The site is a folder of files: open its index.html, keep it as an artifact of CI, or publish it as it is, e.g. by GitHub
Pages. It holds what the run folders hold: configurations with their paths, captions, thumbnails of test images.

examples:
  cmr-bench dashboard
  cmr-bench dashboard --runs runs/demo --out public
  cmr-bench dashboard --wandb --project retrieval         upload the stored results to Weights & Biases instead
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``cmr-bench dashboard``."""
    parser.epilog = _EXAMPLES
    parser.add_argument("--runs", type=Path, default=Path("runs"), metavar="DIR", help="folder of runs (default: runs)")
    parser.add_argument(
        "--out", type=Path, default=Path("site"), metavar="DIR", help="where the site goes (default: site)"
    )
    parser.add_argument(
        "--published", action=argparse.BooleanOptionalAction, default=True, help="figures of papers (default: shown)"
    )
    parser.add_argument("--wandb", action="store_true", help="upload results, curves and examples to W&B; make no site")
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
            f"--runs {args.runs} is no folder; results are looked for in DIR/<data>/<method>/<run>/result.json. "
            "Make some: cmr-bench run --model vsepp"
        )
    if args.wandb:
        return _upload(args)
    if args.project or args.entity:
        raise UsageError("--project and --entity say where on W&B; pass --wandb too")
    built = build(args.runs, args.out, load_published() if args.published else None)
    for problem in built.problems:
        print(f"cmr-bench dashboard: left out: {problem}", file=sys.stderr)
    print(f"{built.n_runs} runs: open {args.out / 'index.html'}")
    return 0


def _upload(args: argparse.Namespace) -> int:
    from cmr_bench.results.store import result_files
    from cmr_bench.tracking.upload import upload

    done, there = upload([file.parent for file in result_files(args.runs)], args.project, args.entity)
    print(f"{len(done)} runs uploaded, {len(there)} were on W&B already")
    return 0
