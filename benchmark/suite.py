"""Many runs from one YAML: skips what is stored, goes on after a failure or a kill."""

from __future__ import annotations

import argparse
import contextlib
import functools
import importlib.resources
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from cmr_bench import recipe
from cmr_bench.errors import CmrBenchError, UsageError, did_you_mean
from cmr_bench.files import write_atomic
from cmr_bench.recipe import RunConfig
from cmr_bench.results import RESULT_FILE, Result, new_run_folder, read_result
from cmr_bench.suite_tables import read_tables

_ENTRIES = {"about", "seeds", "options", "runs", "tables"}
_RUN_ENTRIES = {"method", "data", "variants", "seeds", "options"}
# What changes no number, or only its last digits: where the data lies, what computes, what is shown.
_NO_ESSENCE = {
    "data": ("root", "num_workers", "eval_batch_size"),
    "trainer": ("accelerator", "devices", "num_nodes", "strategy", "deterministic", "bootstrap", "progress"),
}
_PATIENCE = 10.0  # seconds between asking a run to stop and making it


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
    except (yaml.YAMLError, ValueError, ArithmeticError, RecursionError) as error:
        raise UsageError(f"{where} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(suite, dict) or not isinstance(suite.get("runs"), list) or not suite["runs"]:
        raise UsageError(f"{where} is no suite: it needs a list 'runs' of entries with 'method' and 'data'")
    _known(suite, _ENTRIES, where)
    _check_kinds(suite, where)
    for entry in suite["runs"]:
        if not isinstance(entry, dict) or not entry.get("method") or not entry.get("data"):
            raise UsageError(f"{where}: an entry of 'runs' needs 'method' and 'data': {entry}")
        _known(entry, _RUN_ENTRIES, where)
        _check_kinds(entry, where)
    read_tables(suite, where)
    return suite


def _check_kinds(table: Mapping[str, Any], where: str) -> None:
    kinds: dict[str, tuple[type, str]] = {
        "method": (str, "a text or a list of texts"),
        "data": (str, "a text or a list of texts"),
        "variants": (str, "a text or a list of texts"),
        "seeds": (int, "a whole number or a list of them"),
    }
    for name, (kind, words) in kinds.items():
        value = table.get(name)
        if value is not None and not (_listed(value) and all(type(one) is kind for one in _listed(value))):
            raise UsageError(f"{where}: '{name}' must be {words}, not {value!r}")
    options = table.get("options") or {}
    if not isinstance(options, dict) or not all(isinstance(name, str) for name in options):
        raise UsageError(f"{where}: 'options' must be a table of dotted options, not {options!r}")


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
    planned: set[str] = set()
    for entry in suite["runs"]:
        options = {**(suite.get("options") or {}), **(entry.get("options") or {})}
        words = [f"--{name}={json.dumps(v) if isinstance(v, bool) else v}" for name, v in options.items()]
        for dataset in _listed(entry["data"]):
            for method in _listed(entry["method"]):
                for variant in _listed(entry.get("variants") or ""):
                    config = recipe.resolve(method, dataset, [*words, *overrides], variant=str(variant or ""))
                    for seed in seeds or _listed(entry.get("seeds", suite.get("seeds", 0))):
                        job = Job(replace(config, seed=int(seed)))
                        key = json.dumps(_essence(job.config.__dict__), sort_keys=True)
                        if key not in planned:
                            planned.add(key)
                            yield job


def same_run(stored: Mapping[str, Any], config: RunConfig) -> bool:
    """Tell whether a stored configuration is the run that ``config`` asks for.

    What cannot change a number does not count: where the data lies, worker processes, devices, progress bars. An option
    that is younger than the stored run had its default there.
    """
    found, wanted = _essence(stored), _essence(config.__dict__)
    for part in ("model", "data", "trainer"):
        if any(name not in wanted[part] or wanted[part][name] != value for name, value in found[part].items()):
            return False
        for name in wanted[part].keys() - found[part].keys():
            found[part][name] = _default(config.method, config.dataset, f"{part}.{name}")
    return found == wanted


def _default(method: str, dataset: str, name: str) -> Any:
    return json.loads(json.dumps(_defaults(method, dataset).get(name), default=str))


@functools.cache
def _defaults(method: str, dataset: str) -> Any:
    return recipe.option_parser(method, dataset).get_defaults()


def _essence(config: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(json.dumps(dict(config), default=str))
    for part in ("model", "data", "trainer"):
        options = found.get(part)
        kept = options.items() if isinstance(options, dict) else ()
        found[part] = {key: value for key, value in kept if key not in _NO_ESSENCE.get(part, ())}
    if found["data"].get("seed") is None:
        found["data"]["seed"] = found.get("seed")
    found.pop("fidelity", None)
    return found


def _same_but_for_the_seed(stored: Mapping[str, Any], config: RunConfig) -> bool:
    seed = stored.get("seed")
    return isinstance(seed, int) and same_run(stored, replace(config, seed=seed))


class Stored:
    """The run folders of one folder of runs, each configuration read once.

    Args:
        runs: The folder of runs.
    """

    def __init__(self, runs: Path) -> None:
        self.runs = runs
        self._read: dict[Path, list[tuple[Path, dict[str, Any]]]] = {}

    def folders(self, config: RunConfig) -> list[tuple[Path, dict[str, Any]]]:
        """Return the run folders of a method on a data set, oldest first, with what their ``config.yaml`` holds."""
        place = self.runs / _short(config.dataset) / _short(config.method)
        if place not in self._read:
            self._read[place] = [
                (file.parent, content)
                for file in sorted(place.glob("*/config.yaml"))
                if (content := _configuration(file)) is not None
            ]
        return self._read[place]

    def find(self, config: RunConfig) -> tuple[Path | None, bool]:
        """Look for a run of this configuration.

        Returns:
            Its folder, or None, and whether it is finished; a finished one is preferred.
        """
        unfinished = None
        for folder, content in self.folders(config):
            if same_run(content, config):
                if (folder / RESULT_FILE).is_file():
                    return folder, True
                unfinished = folder
        return unfinished, False


def _short(name: str) -> str:
    return name.rpartition(":")[2]


def _configuration(file: Path) -> dict[str, Any] | None:
    try:
        content = yaml.load(file.read_text(encoding="utf-8"), getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except (OSError, yaml.YAMLError, UnicodeDecodeError):
        return None
    return content if isinstance(content, dict) else None


def stored_results(planned: Iterable[Job], runs: Path) -> tuple[list[Result], list[str]]:
    """Read the finished runs of a suite's configurations, whatever their seeds.

    Returns:
        The results, and one line for each file that could not be read.
    """
    stored = Stored(runs)
    folders = {
        folder: None
        for job in planned
        for folder, content in stored.folders(job.config)
        if (folder / RESULT_FILE).is_file() and _same_but_for_the_seed(content, job.config)
    }
    results, problems = [], []
    for folder in folders:
        try:
            results.append(read_result(folder / RESULT_FILE))
        except CmrBenchError as error:
            problems.append(str(error))
    return results, problems


@dataclass
class Running:
    """A run that has been started.

    Attributes:
        job: What it is.
        folder: Its run folder.
        log: Where its output goes.
        process: The process, at the head of a group of its own.
        started: When, in seconds of the monotonic clock.
        bar: Its line in the progress display.
    """

    job: Job
    folder: Path
    log: Path
    process: subprocess.Popen[bytes]
    started: float
    bar: TaskID

    def fraction(self) -> float:
        """Return the share of the epochs that are done, by the rows of the history."""
        epochs = int(self.job.config.trainer.get("max_epochs") or 0)
        try:
            with (self.folder / "history.csv").open("rb") as file:
                done = sum(1 for _ in file) - 1
        except OSError:
            return 0.0
        return min(1.0, max(0, done) / epochs) if epochs else 0.0

    def problem(self) -> str:
        """Return an empty string for a run that ended well, else the line that says why it did not."""
        code = self.process.returncode
        if code == 0:
            return ""
        text = self.log.read_text(encoding="utf-8", errors="replace") if self.log.is_file() else ""
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        own = [line.removeprefix("cmr-bench run: ") for line in lines if line.startswith("cmr-bench run: ")]
        return [f"exit code {code}", *lines, *own][-1]


def start(words: Sequence[str], log: Path, threads: int) -> subprocess.Popen[bytes]:
    """Start `cmr-bench` in a process group of its own that is killed when this process is gone.

    Args:
        words: Command and options.
        log: Where its output goes.
        threads: Threads of its numerical libraries, unless ``OMP_NUM_THREADS`` says otherwise.

    Returns:
        The process; keep it, as its standard input is what holds it.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    environment = {"OMP_NUM_THREADS": str(threads), **os.environ, "PYTHONUNBUFFERED": "1"}
    with log.open("wb") as output:
        return subprocess.Popen(
            [sys.executable, "-m", "cmr_bench.leash", *words],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
        )


def stop(processes: Sequence[subprocess.Popen[bytes]], patience: float = _PATIENCE) -> None:
    """Interrupt processes as Ctrl-C does, and kill those that have not ended after ``patience`` seconds."""
    for process in processes:
        _send(process, signal.SIGINT)
    deadline = time.monotonic() + patience
    try:
        for process in processes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, deadline - time.monotonic()))
    finally:
        for process in processes:
            _send(process, signal.SIGKILL)


def _send(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)


def run_suite(
    todo: Sequence[tuple[Job, Path | None]], runs: Path, n_jobs: int, logger: str, console: Console
) -> dict[str, str]:
    """Run jobs, several at a time, under one progress display.

    Args:
        todo: The jobs, each with the unfinished run folder that it goes on with.
        runs: Folder of runs.
        n_jobs: Runs at the same time.
        logger: As for `cmr-bench run`.
        console: Where the progress is shown.

    Returns:
        The failed jobs by title, each with its last line of error output.
    """
    failed: dict[str, str] = {}
    n_jobs = max(1, min(n_jobs, len(todo)))
    threads = max(1, _cores() // n_jobs)
    waiting, running, n_done = list(todo), list[Running](), 0
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[done]}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        whole = progress.add_task("suite", total=len(todo), done="")
        try:
            while waiting or running:
                while waiting and len(running) < n_jobs:
                    running.append(_launch(*waiting.pop(0), runs, logger, threads, progress))
                    if not console.is_terminal:
                        console.print(f"started: {escape(running[-1].job.title)}", highlight=False, soft_wrap=True)
                for run in [run for run in running if run.process.poll() is not None]:
                    running.remove(run)
                    progress.remove_task(run.bar)
                    n_done += 1
                    problem = run.problem()
                    if problem:
                        failed[run.job.title] = f"{problem} ({run.log})"
                    told = f"{'failed' if problem else 'done'}: {run.job.title}"
                    seconds = time.monotonic() - run.started
                    console.print(
                        escape(f"[{n_done}/{len(todo)}] {told} ({seconds:.0f} s)"), highlight=False, soft_wrap=True
                    )
                fractions = [run.fraction() for run in running]
                for run, fraction in zip(running, fractions, strict=True):
                    progress.update(run.bar, completed=fraction, done=f"{fraction:.0%}")
                progress.update(whole, completed=n_done + sum(fractions), done=f"{n_done}/{len(todo)} runs")
                time.sleep(0.2)
        except KeyboardInterrupt:
            progress.console.print("stopping ...")
            raise CmrBenchError("interrupted; the same command goes on where it stopped") from None
        finally:
            stop([run.process for run in running])
    return failed


def _launch(job: Job, folder: Path | None, runs: Path, logger: str, threads: int, progress: Progress) -> Running:
    config = job.config
    if folder is None:
        label = f"{config.variant}-s{config.seed}" if config.variant else f"s{config.seed}"
        folder = new_run_folder(runs, _short(config.dataset), _short(config.method), label)
    # An unfinished run goes on where and how it is computed now.
    write_atomic(folder / "config.yaml", config.to_yaml())
    log = runs / "logs" / f"{folder.parent.parent.name}-{folder.parent.name}-{folder.name}.log"
    process = start(["run", "--resume", str(folder), "--logger", logger], log, threads)
    bar = progress.add_task(f"  {escape(job.title)}", total=1.0, done="")
    return Running(job, folder, log, process, time.monotonic(), bar)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


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
    stored = Stored(args.runs)
    there = [(None, False) if args.again else stored.find(job.config) for job in planned]
    if args.dry_run:
        for job, (folder, done) in zip(planned, there, strict=True):
            state = "stored" if done else "missing" if folder is None else "begun"
            console.print(f"{state:<8} {job.title}", highlight=False)
        return 0
    todo = [(job, folder) for job, (folder, done) in zip(planned, there, strict=True) if not done]
    if len(todo) < len(planned):
        console.print(f"{len(planned) - len(todo)} of {len(planned)} runs are stored already")
    if args.logger == "wandb":
        os.environ.setdefault("WANDB_RUN_GROUP", Path(args.suite).stem)
    failed = run_suite(todo, args.runs, args.jobs, args.logger, console)
    for title, problem in failed.items():
        print(f"cmr-bench suite: {title} failed: {problem}", file=sys.stderr)
    return 1 if failed else 0
