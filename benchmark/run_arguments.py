"""Options of `cmr-bench run` that do not depend on method and data; imports nothing heavy."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `cmr-bench run` that do not depend on method and data."""
    parser.add_argument("--model", metavar="NAME", help="method, a name of `cmr-bench list` or FILE.py:Class")
    parser.add_argument("--data", metavar="NAME", help="data set, a name of `cmr-bench list` (default: synthetic)")
    parser.add_argument("--config", metavar="FILE", type=Path, help="recipe, or config.yaml of an earlier run")
    parser.add_argument("--resume", metavar="RUN", type=Path, help="run folder to go on with")
    parser.add_argument("--variant", default="", metavar="NAME", help="variant of the recipe, e.g. an ablation")
    parser.add_argument("--seed", type=int, metavar="N", help="seed of weights and data order (default: 0)")
    parser.add_argument("--runs", type=Path, default=Path("runs"), metavar="DIR", help="where run folders go")
    parser.add_argument(
        "--logger", choices=("csv", "tensorboard", "wandb"), default="csv", help="history.csv is written in any case"
    )
    parser.add_argument("--print-config", action="store_true", help="print the resolved configuration and stop")


def show_help(parser: argparse.ArgumentParser, args: argparse.Namespace) -> int:
    """Print the help of `cmr-bench run`, and with a method every option of it on the data set."""
    if not args.model:
        parser.print_help()
        print(
            "\nDotted options follow method and data set: --model.margin 0.3 --data.root DIR --trainer.max_epochs 5."
            "\n`cmr-bench run --model NAME --data NAME --help` lists them all."
        )
        return 0
    from cmr_bench import recipe

    parser.print_help()
    print()
    recipe.option_parser(args.model, args.data or "synthetic").print_help()
    return 0
