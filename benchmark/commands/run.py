"""``cmr-bench run``: train one method on one data set, select on validation, test and store the result."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from cmr_bench import registry
from cmr_bench.support import environment
from cmr_bench.support.errors import UsageError
from cmr_bench.support.memory import collecting_no_garbage

if TYPE_CHECKING:
    from cmr_bench.experiment.recipe import RunConfig
    from cmr_bench.results.record import Result

# torch and lightning are imported inside the functions: help and wrong usage must not wait for them.

_EXAMPLES = """\
With --model and --data, the help lists all options of that method and data set:
  cmr-bench run --model vsepp --data flickr8k --help

examples:
  cmr-bench run --model vsepp
  cmr-bench run --model vsepp --data flickr8k --data.root DIR --model.margin 0.3 --trainer.max_epochs 5
  cmr-bench run --config runs/flickr8k/vsepp/20260101-120000-s0/config.yaml --seed 1
  cmr-bench run --resume runs/flickr8k/vsepp/20260101-120000-s0
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `cmr-bench run` that do not depend on method and data."""
    parser.usage = "cmr-bench run --model NAME [--data NAME] [options]"
    parser.add_argument(
        "-h", "--help", action="store_true", help="show this help; with --model and --data, all options"
    )
    parser.add_argument("--config", metavar="FILE", type=Path, help="recipe, or config.yaml of an earlier run")
    parser.add_argument("--resume", metavar="RUN", type=Path, help="run folder to resume")
    parser.add_argument("--seed", type=int, metavar="INT", help="random seed (default: the recipe's, else 0)")
    parser.add_argument("--print-config", action="store_true", help="print the resolved configuration and exit")
    parser.add_argument(
        "--trust", action="store_true", help="run the code of a FILE.py:Class that --config or --resume names"
    )
    model = parser.add_argument_group("method")
    model.add_argument("--model", metavar="NAME", help="name from `cmr-bench list`, module:Class or FILE.py:Class")
    model.add_argument("--variant", default="", metavar="NAME", help="variant of the recipe, e.g. an ablation")
    data = parser.add_argument_group("data set")
    data.add_argument("--data", metavar="NAME", help="name from `cmr-bench list` (default: synthetic)")
    parser.add_argument_group("trainer")
    tracking = parser.add_argument_group("tracking")
    tracking.add_argument(
        "--runs", type=Path, default=Path("runs"), metavar="DIR", help="folder for runs (default: runs)"
    )
    tracking.add_argument(
        "--logger",
        choices=("csv", "tensorboard", "wandb"),
        default="csv",
        help="experiment tracker; history.csv is always written (default: csv)",
    )
    parser.epilog = _EXAMPLES


def show_help(parser: argparse.ArgumentParser, args: argparse.Namespace) -> int:
    """Print the help of `cmr-bench run`; with a method, all options of that method on the data set."""
    if args.model or args.config is not None:
        from cmr_bench.experiment.option_help import PARTS, add_options

        config = _resolve(args, [])
        titles = {"method": PARTS[0], "data set": PARTS[1], "trainer": PARTS[2]}
        groups = {titles[str(group.title)]: group for group in parser._action_groups if group.title in titles}
        add_options(groups, config)
        groups["model"].title, groups["data"].title = f"method {config.method}", f"data set {config.dataset}"
        parser.epilog = None
    parser.print_help()
    return 0


def _resolve(args: argparse.Namespace, overrides: list[str]) -> RunConfig:
    from cmr_bench.experiment import recipe

    saved = recipe.read_yaml(args.config) if args.config is not None else None
    method = args.model or (saved or {}).get("method")
    dataset = args.data or (saved or {}).get("dataset") or "synthetic"
    if not method:
        names = ", ".join(registry.METHODS)
        raise UsageError(f"--model is missing: pass one of {names}, e.g. `cmr-bench run --model vsepp`")
    registry.trust(args.model, args.data, *((method, dataset) if args.trust else ()))
    return recipe.resolve(method, dataset, overrides, config=saved, variant=args.variant, seed=args.seed)


def main(args: argparse.Namespace, overrides: list[str]) -> int:
    """Run `cmr-bench run`; ``overrides`` are the dotted options."""
    if args.resume is not None:
        return _resume(args, overrides)
    config = _resolve(args, overrides)
    if args.print_config:
        print(config.to_yaml(), end="")
        return 0
    from cmr_bench.experiment import recipe

    recipe.check_files(config.dataset, config.data)
    recipe.check_rows(config.method, config.dataset, config.model, config.data)
    _open(config)
    with collecting_no_garbage():
        from cmr_bench.experiment.session import start

    _report(*start(config, args.runs, args.logger))
    return 0


def _open(config: RunConfig) -> None:
    """Say what begins; the imports that follow take seconds. The processes that Lightning starts are silent."""
    from cmr_bench.experiment.opening import opening

    if environment.local_rank() == 0:
        print(opening(config), flush=True)


def _resume(args: argparse.Namespace, overrides: list[str]) -> int:
    from cmr_bench.results.record import RESULT_FILE, read_result

    folder: Path = args.resume
    if overrides or args.model or args.data or args.config or args.variant or args.seed is not None:
        raise UsageError("--resume uses the run's own configuration and takes no other options")
    if (folder / RESULT_FILE).is_file():
        from rich.console import Console

        from cmr_bench.results.table import result_table

        console = Console()
        console.print(f"{folder} is finished.")
        console.print(result_table(read_result(folder / RESULT_FILE)))
        return 0
    from cmr_bench.experiment.saved import stored_run

    config = stored_run(folder, args.trust)
    _open(config)
    with collecting_no_garbage():
        from cmr_bench.experiment.session import proceed

    _report(folder, proceed(config, folder, args.logger))
    return 0


def _report(folder: Path, result: Result) -> None:
    from rich.console import Console

    from cmr_bench.experiment import launch
    from cmr_bench.results.table import result_table

    if launch.rank() == 0:
        console = Console()
        console.print(result_table(result))
        console.print(f"stored in {folder}", soft_wrap=True)
