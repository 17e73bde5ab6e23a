"""``cmr-bench suite``: many runs from one YAML file, skipping stored runs."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from cmr_bench.experiment import recipe
from cmr_bench.suites.launchers import LAUNCHERS, Ray, Shard, Slurm, watch
from cmr_bench.suites.plan import Job, jobs, read_suite, shipped
from cmr_bench.support import environment
from cmr_bench.support.errors import DataError, UsageError


def _seeds(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"expected comma-separated integers, not '{text}'") from error


def _shard(text: str) -> tuple[int, int]:
    number, _, total = text.partition("/")
    if not (number.isdecimal() and total.isdecimal() and 1 <= int(number) <= int(total)):
        raise argparse.ArgumentTypeError(f"expected I/N with I from 1 to N, not '{text}'")
    return int(number), int(total)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `cmr-bench suite`."""
    suites = shipped()
    widest = max(map(len, suites))
    names = "".join(f"\n  {name:<{widest}}  {about}" for name, about in suites.items())
    parser.epilog = f"shipped suites:{names}\n\nRepeating the command runs only what is missing."
    parser.add_argument("suite", metavar="NAME|FILE", help="name of a shipped suite, or a YAML file")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="number of parallel runs (default: 1)")
    parser.add_argument("--seeds", type=_seeds, metavar="0,1,2", help="random seeds, instead of the suite's")
    parser.add_argument(
        "--runs", type=Path, default=Path("runs"), metavar="DIR", help="folder for runs (default: runs)"
    )
    parser.add_argument("--only-missing", action="store_true", help="skip stored runs (the default)")
    parser.add_argument("--again", action="store_true", help="repeat stored runs too")
    parser.add_argument("--dry-run", action="store_true", help="list the runs and their state, run nothing")
    parser.add_argument(
        "--launcher",
        choices=LAUNCHERS,
        default="local",
        help="where the runs are computed: processes of this machine, a job array of SLURM or tasks of Ray, with the "
        "`resources` of the suite (default: local)",
    )
    parser.add_argument(
        "--array-parallelism",
        type=int,
        metavar="N",
        help="with --launcher slurm: number of parallel jobs (default: 64)",
    )
    parser.add_argument(
        "--shard", type=_shard, metavar="I/N", help="only the runs I, I + N, ... of the suite, e.g. 2/8"
    )
    parser.add_argument(
        "--logger", choices=("csv", "tensorboard", "wandb"), default="csv", help="experiment tracker (default: csv)"
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="OPTION=VALUE",
        help="set an option of every run, e.g. data.root=DIR",
    )


def _require_files(planned: Sequence[Job], runs: Path) -> None:
    """Raise DataError where the data of no run is here and none is stored, which takes no library to see."""
    problems = []
    for job in planned:
        names = (job.config.data_label, job.config.method)
        if runs.joinpath(*(name.rpartition(":")[2] for name in names)).is_dir():
            return
        try:
            recipe.check_files(job.config.dataset, job.config.data)
            return
        except DataError as error:
            problems.append(error)
    if problems:
        raise problems[0]


def run(args: argparse.Namespace) -> int:
    """Run `cmr-bench suite`."""
    if args.jobs < 1:
        raise UsageError(f"--jobs {args.jobs}: must be at least 1")
    if args.array_parallelism is not None and (args.launcher != "slurm" or args.array_parallelism < 1):
        raise UsageError(f"--array-parallelism {args.array_parallelism}: needs --launcher slurm, and at least 1")
    if args.again and args.launcher != "local":
        raise UsageError(f"--again needs --launcher local: a job that {args.launcher} starts anew goes on where it was")
    console = Console()
    overrides = [f"--{option.removeprefix('--')}" for option in args.set]
    content = read_suite(args.suite)
    planned = list(jobs(content, args.seeds, ["--trainer.progress=false", *overrides]))
    if args.shard is not None:
        planned = planned[args.shard[0] - 1 :: args.shard[1]]
    if not args.dry_run:
        _require_files(planned, args.runs)
    # Imported here, not above: help and wrong usage must not wait for torch.
    from cmr_bench.suites.stored import Stored

    stored = Stored(args.runs)
    there = [(None, False) if args.again else stored.find(job.config) for job in planned]
    todo = [(job, folder) for job, (folder, done) in zip(planned, there, strict=True) if not done]
    if args.dry_run:
        for job, (folder, done) in zip(planned, there, strict=True):
            state = "stored" if done else "missing" if folder is None else "begun"
            console.print(f"{state:<8} {job.title}", highlight=False)
    elif len(todo) < len(planned):
        console.print(f"{len(planned) - len(todo)} of {len(planned)} runs are stored already")
    if args.logger == "wandb":
        environment.group_wandb_runs(Path(args.suite).stem)
    if args.launcher != "local":
        failed = _send(args, content, planned, [job for job, _ in todo], console)
    else:
        failed = {} if args.dry_run else _compute(args, todo, console)
    for title, problem in failed.items():
        print(f"cmr-bench suite: {title} failed: {problem}", file=sys.stderr)
    return 1 if failed else 0


def _compute(args: argparse.Namespace, todo: Sequence[tuple[Job, Path | None]], console: Console) -> dict[str, str]:
    """Run jobs on this machine; return those that failed, with the reasons."""
    from cmr_bench.suites.features import provide_features
    from cmr_bench.suites.pool import run_suite

    problems = provide_features(job for job, _ in todo)
    failed = {job.title: problem for (job, _), problem in zip(todo, problems, strict=True) if problem}
    todo = [one for one, problem in zip(todo, problems, strict=True) if not problem]
    return failed | run_suite(todo, args.runs, args.jobs, args.logger, console, args.again)


def _send(
    args: argparse.Namespace, suite: dict[str, Any], planned: Sequence[Job], todo: Sequence[Job], console: Console
) -> dict[str, str]:
    """Send jobs to a cluster, or print their commands; return those that failed, with the reasons."""
    first, step = args.shard or (1, 1)
    total = step * len(planned)
    shards = [_shard_of(args, job, f"{first + step * planned.index(job)}/{total}") for job in todo]
    if args.dry_run:
        for shard in shards:
            console.print(escape(shard.command()), highlight=False, soft_wrap=True)
    if args.dry_run or not shards:
        return {}
    resources = suite.get("resources") or {}
    if args.launcher == "ray":
        return watch(Ray(resources), shards, console)
    return watch(
        Slurm(args.runs.resolve() / "logs" / "slurm", resources, args.array_parallelism or 64), shards, console
    )


def _shard_of(args: argparse.Namespace, job: Job, shard: str) -> Shard:
    seeds = ["--seeds", ",".join(map(str, args.seeds))] if args.seeds else []
    options = [word for option in args.set for word in ("--set", option)]
    words = ["suite", args.suite, "--shard", shard, "--runs", str(args.runs.resolve()), "--logger", args.logger]
    return Shard(job.title, (*words, *seeds, *options), str(Path.cwd()))
