"""Processes that run a suite's jobs, several at a time."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from cmr_bench.results.store import new_run_folder
from cmr_bench.suites.plan import Job
from cmr_bench.suites.stored import short_name
from cmr_bench.support import environment
from cmr_bench.support.errors import CmrBenchError
from cmr_bench.support.files import write_atomic

_PATIENCE = 10.0  # seconds between asking a run to stop and making it


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
        """Return the fraction of the epochs that are done, by the rows of the history."""
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
        said = "cmr-bench run: "
        own = [line.removeprefix(said).removeprefix("error: ") for line in lines if line.startswith(said)]
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
    with log.open("wb") as output:
        return subprocess.Popen(
            [sys.executable, "-m", "cmr_bench.support.leash", *words],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment.of_a_run(threads),
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
        todo: The jobs, each with the unfinished run folder that it resumes.
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
            raise CmrBenchError("interrupted; repeat the command to resume") from None
        finally:
            stop([run.process for run in running])
    return failed


def _launch(job: Job, folder: Path | None, runs: Path, logger: str, threads: int, progress: Progress) -> Running:
    config = job.config
    if folder is None:
        parts = [config.variant, "" if job.draw is None else f"split{job.draw}", f"s{config.seed}"]
        label = "-".join(part for part in parts if part)
        folder = new_run_folder(runs, short_name(config.data_label), short_name(config.method), label)
    # An unfinished run goes on where and how it is computed now.
    write_atomic(folder / "config.yaml", config.to_yaml())
    log = runs / "logs" / f"{folder.parent.parent.name}-{folder.parent.name}-{folder.name}.log"
    process = start(["run", "--resume", str(folder), "--trust", "--logger", logger], log, threads)
    bar = progress.add_task(f"  {escape(job.title)}", total=1.0, done="")
    return Running(job, folder, log, process, time.monotonic(), bar)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
