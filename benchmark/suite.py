"""Many runs from one YAML: skips what is stored, goes on after a failure or a kill."""

from __future__ import annotations

import argparse
import importlib.resources
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from cmr_bench import recipe
from cmr_bench.errors import CmrBenchError, UsageError, did_you_mean
from cmr_bench.files import write_atomic
from cmr_bench.recipe import RunConfig
from cmr_bench.results import RESULT_FILE

_ENTRIES = {"about", "seeds", "options", "runs"}
_RUN_ENTRIES = {"method", "data", "variants", "seeds", "options"}


@dataclass(frozen=True)
class Job:
    """One run of a suite: what it is called and how it is configured."""

    config: RunConfig

    @property
    def title(self) -> str:
        """Name of the run in progress and failures."""
        variant = f" ({self.config.variant})" if self.config.variant else ""
        return f"{self.config.method}{variant} on {self.config.dataset}, seed {self.config.seed}"


def shipped() -> dict[str, str]:
    """Return the names of the suites that come with the package, and what each is about."""
    folder = importlib.resources.files("cmr_bench.experiments").joinpath("suites")
    found = {}
    if folder.is_dir():
        for file in sorted(folder.iterdir(), key=lambda entry: entry.name):
            if file.name.endswith(".yaml"):
                about = yaml.safe_load(file.read_text(encoding="utf-8")).get("about", "")
                found[file.name.removesuffix(".yaml")] = str(about)
    return found


def read_suite(name: str) -> dict[str, Any]:
    """Read a suite by the name of a shipped one, or from a YAML file.

    Raises:
        UsageError: If there is no such suite or the file is malformed.
    """
    if name.endswith((".yaml", ".yml")) or "/" in name:
        text, where = _read(Path(name)), name
    else:
        file = importlib.resources.files("cmr_bench.experiments").joinpath("suites", f"{name}.yaml")
        if not file.is_file():
            names = shipped()
            raise UsageError(
                f"no suite '{name}'.{did_you_mean(name, names)} Shipped: {', '.join(names)}; or pass a YAML file"
            )
        text, where = file.read_text(encoding="utf-8"), name
    try:
        suite = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UsageError(f"{where} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(suite, dict) or not isinstance(suite.get("runs"), list) or not suite["runs"]:
        raise UsageError(f"{where} is no suite: it needs a list 'runs' of entries with 'method' and 'data'")
    _known(suite, _ENTRIES, where)
    for entry in suite["runs"]:
        if not isinstance(entry, dict) or not entry.get("method") or not entry.get("data"):
            raise UsageError(f"{where}: an entry of 'runs' needs 'method' and 'data': {entry}")
        _known(entry, _RUN_ENTRIES, where)
    return suite


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read {file}: {getattr(error, 'strerror', None) or error}") from error


def _known(table: Mapping[str, Any], names: set[str], where: str) -> None:
    for key in table:
        if key not in names:
            raise UsageError(f"{where}: unknown entry '{key}'.{did_you_mean(str(key), names)}")


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list) else [value]


def jobs(suite: Mapping[str, Any], seeds: Sequence[int] | None, overrides: Sequence[str]) -> Iterator[Job]:
    """Yield every run of a suite, each method on each data set, variant and seed.

    Args:
        suite: As :func:`read_suite` returns it.
        seeds: Seeds in place of the suite's own.
        overrides: Dotted options for every run, as on the command line of `run`.
    """
    for entry in suite["runs"]:
        options = {**(suite.get("options") or {}), **(entry.get("options") or {})}
        words = [f"--{name}={json.dumps(v) if isinstance(v, bool) else v}" for name, v in options.items()]
        for dataset in _listed(entry["data"]):
            for method in _listed(entry["method"]):
                for variant in _listed(entry.get("variants") or ""):
                    for seed in seeds or _listed(entry.get("seeds", suite.get("seeds", 0))):
                        yield Job(
                            recipe.resolve(
                                method, dataset, [*words, *overrides], variant=str(variant or ""), seed=int(seed)
                            )
                        )


def same_run(stored: Mapping[str, Any], config: RunConfig) -> bool:
    """Tell whether a stored configuration is the run that ``config`` asks for.

    What cannot change a number does not count: where the data lies, worker processes, progress bars.
    """
    return _essence(dict(stored)) == _essence(dict(config.__dict__))


def _essence(config: dict[str, Any]) -> dict[str, Any]:
    config = json.loads(json.dumps(config, default=str))
    for part, names in (("data", ("root", "num_workers", "eval_batch_size")), ("trainer", ("progress", "bootstrap"))):
        config[part] = {key: value for key, value in config.get(part, {}).items() if key not in names}
    if config["data"].get("seed") is None:
        config["data"]["seed"] = config.get("seed")
    config.pop("fidelity", None)
    return config


def find_run(runs: Path, config: RunConfig) -> tuple[Path | None, bool]:
    """Look for a run of this configuration.

    Returns:
        Its folder, or None, and whether it is finished; a finished one is preferred.
    """
    unfinished = None
    names = [name.rpartition(":")[2] for name in (config.dataset, config.method)]
    for file in sorted((runs / names[0] / names[1]).glob("*/config.yaml")):
        try:
            stored = yaml.safe_load(file.read_text(encoding="utf-8"))
        except (OSError, yaml.YAMLError, UnicodeDecodeError):
            continue
        if isinstance(stored, dict) and same_run(stored, config):
            if (file.parent / RESULT_FILE).is_file():
                return file.parent, True
            unfinished = file.parent
    return unfinished, False


def execute(job: Job, runs: Path, logger: str, log: Path) -> str:
    """Run one job in a process of its own, going on with an unfinished run folder.

    Returns:
        An empty string, or the last line of its error output.
    """
    folder, _ = find_run(runs, job.config)
    command = [sys.executable, "-m", "cmr_bench.cli", "run", "--logger", logger]
    with tempfile.TemporaryDirectory() as scratch:
        if folder is not None:
            command += ["--resume", str(folder)]
        else:
            config = Path(scratch) / "config.yaml"
            config.write_text(job.config.to_yaml(), encoding="utf-8")
            command += ["--config", str(config), "--runs", str(runs)]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    write_atomic(log, done.stdout + done.stderr)
    if done.returncode == 0:
        return ""
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    return lines[-1] if lines else f"exit code {done.returncode}"


def run_suite(todo: Sequence[Job], runs: Path, n_jobs: int, logger: str, console: Console) -> dict[str, str]:
    """Run jobs, several at a time, under one progress display.

    Returns:
        The failed jobs by title, each with its last line of error output.
    """
    failed: dict[str, str] = {}
    logs = runs / "logs"
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // n_jobs)))
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress, ThreadPoolExecutor(n_jobs) as pool:
        bar = progress.add_task("suite", total=len(todo))
        waiting = list(todo)
        running: dict[Future[str], Job] = {}
        try:
            while waiting or running:
                while waiting and len(running) < n_jobs:
                    job = waiting.pop(0)
                    name = "".join(c if c.isalnum() or c in "._-" else "_" for c in job.title)
                    running[pool.submit(execute, job, runs, logger, logs / f"{name}.log")] = job
                progress.update(bar, description=", ".join(job.title for job in running.values()))
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    job = running.pop(future)
                    problem = future.result()
                    if problem:
                        failed[job.title] = problem
                    progress.console.print(f"{'failed' if problem else 'done'}: {job.title}")
                    progress.advance(bar)
        except KeyboardInterrupt:
            pool.shutdown(wait=False, cancel_futures=True)
            raise CmrBenchError("interrupted; the same command goes on where it stopped") from None
        progress.update(bar, description="suite")
    return failed


def _seeds(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"seeds are numbers separated by commas, not '{text}'") from error


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `cmr-bench suite`."""
    names = "".join(f"\n  {name:<16}{about}" for name, about in shipped().items())
    parser.epilog = f"shipped suites:{names}\n\nThe same command again runs only what is not stored yet."
    parser.add_argument("suite", metavar="NAME|FILE", help="a shipped suite or a YAML file")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="runs at the same time (default: 1)")
    parser.add_argument("--seeds", type=_seeds, metavar="0,1,2", help="seeds in place of the suite's own")
    parser.add_argument("--runs", type=Path, default=Path("runs"), metavar="DIR", help="where run folders go")
    parser.add_argument("--only-missing", action="store_true", help="run what is not stored (this is the default)")
    parser.add_argument("--again", action="store_true", help="run everything, also what is stored")
    parser.add_argument("--dry-run", action="store_true", help="list the runs and whether each is stored")
    parser.add_argument("--logger", choices=("csv", "tensorboard", "wandb"), default="csv", help="as for run")
    parser.add_argument(
        "--set", action="append", default=[], metavar="OPTION=VALUE", help="option for every run, e.g. data.root=DIR"
    )


def run(args: argparse.Namespace) -> int:
    """Run `cmr-bench suite`."""
    if args.jobs < 1:
        raise UsageError(f"--jobs {args.jobs}: at least one run at a time")
    console = Console()
    overrides = [f"--{option.removeprefix('--')}" for option in args.set]
    planned = list(jobs(read_suite(args.suite), args.seeds, ["--trainer.progress=false", *overrides]))
    stored = [find_run(args.runs, job.config)[1] and not args.again for job in planned]
    if args.dry_run:
        for job, done in zip(planned, stored, strict=True):
            console.print(f"{'stored ' if done else 'missing'}  {job.title}")
        return 0
    todo = [job for job, done in zip(planned, stored, strict=True) if not done]
    if len(todo) < len(planned):
        console.print(f"{len(planned) - len(todo)} of {len(planned)} runs are stored already")
    failed = run_suite(todo, args.runs, args.jobs, args.logger, console)
    for title, problem in failed.items():
        print(f"cmr-bench suite: {title} failed: {problem}", file=sys.stderr)
    return 1 if failed else 0
