"""``cmr-bench push``: share runs in a folder or on the Hugging Face Hub."""

from __future__ import annotations

import argparse
from pathlib import Path

_EXAMPLES = """\
What travels: result.json as it is, config.yaml without the folders of this machine, ranks, history, the weights as
safetensors, and a manifest of checksums. Photographs and captions stay. A repository has the layout of a folder of
runs; results that it has already are not added again. For the hub, log in by `hf auth login` first.

examples:
  cmr-bench push runs/flickr8k/vsepp/RUN --to hf://user/name
  cmr-bench push runs/flickr8k/vsepp/* --to ../our-results --no-weights
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``cmr-bench push``."""
    parser.epilog = _EXAMPLES
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="folder of a finished run")
    parser.add_argument("--to", required=True, metavar="PLACE", help="hf://user/name, or a folder of runs")
    parser.add_argument("--no-weights", action="store_true", help="share results only")
    parser.add_argument("--private", action="store_true", help="make a new repository private")


def run(args: argparse.Namespace) -> int:
    """Share the runs and print what was added.

    Raises:
        UsageError: If something is no finished run.
        CmrBenchError: If the place cannot be written.
    """
    from cmr_bench.exchange.places import push

    done = push(args.runs, args.to, weights=not args.no_weights, private=args.private)
    for folder in done.added:
        print(f"added: {folder}")
    for folder in done.present:
        print(f"there already: {folder}")
    return 0
