"""Processes that run a suite's jobs, several at a time."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from cmr_bench.results.store import new_run_folder
from cmr_bench.suites import warm
from cmr_bench.suites.claims import at_work, claim
from cmr_bench.suites.plan import Job
from cmr_bench.suites.stored import Stored, short_name
from cmr_bench.suites.warm import Process
from cmr_bench.support import environment
from cmr_bench.support.devices import cores, visible_gpus
from cmr_bench.support.errors import CmrBenchError, told_by
from cmr_bench.support.files import write_atomic

_ASK_AGAIN = 1.0  # seconds between looks at a run that another process holds
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
        claim: What keeps other processes from making the same run.
        gpus: The GPUs that it has been given; empty where it sees all.
    """

    job: Job
    folder: Path
    log: Path
    process: Process
    started: float
    bar: TaskID
    claim: FileLock
    gpus: tuple[str, ...] = ()

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
        return told_by("run", text.splitlines(), code)


def start(words: Sequence[str], log: Path, variables: Mapping[str, str]) -> Process:
    """Start `cmr-bench` in a process group of its own that is killed when this process is gone.

    Args:
        words: Command and options.
        log: Where its output goes.
        variables: All its environment variables.

    Returns:
        The process; keep it, as its standard input is what holds it.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    if warm.available():
        return warm.start(words, log, variables)
    with log.open("wb") as output:
        return subprocess.Popen(
            [sys.executable, "-m", "cmr_bench.support.leash", *words],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=dict(variables),
            start_new_session=True,
        )


def stop(processes: Sequence[Process], patience: float = _PATIENCE) -> None:
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


def _send(process: Process, number: signal.Signals) -> None:
    if process.poll() is None:
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            # Forked but not yet at the head of its group: it has done nothing that could be lost.
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGKILL)


def run_suite(
    todo: Sequence[tuple[Job, Path | None]],
    runs: Path,
    n_jobs: int,
    logger: str,
    console: Console,
    again: bool = False,
) -> dict[str, str]:
    """Run jobs, several at a time, under one progress display.

    What another process runs in the same folder is left to it and waited for.

    Args:
        todo: The jobs, each with the unfinished run folder that it resumes.
        runs: Folder of runs.
        n_jobs: Runs at the same time.
        logger: As for `cmr-bench run`.
        console: Where the progress is shown.
        again: Whether runs that were finished before do not count.

    Returns:
        The failed jobs by title, each with its last line of error output.
    """
    n_jobs = max(1, min(n_jobs, len(todo)))
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[done]}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        pool = _Pool(todo, runs, n_jobs, logger, progress, again)
        try:
            while pool.waiting or pool.running:
                pool.fill()
                pool.collect()
                pool.show()
                time.sleep(0.2)
        except KeyboardInterrupt:
            progress.console.print("stopping ...")
            raise CmrBenchError("interrupted; repeat the command to resume") from None
        finally:
            stop([run.process for run in pool.running])
            for run in pool.running:
                run.claim.release()
    return pool.failed


class _Pool:
    def __init__(
        self,
        todo: Sequence[tuple[Job, Path | None]],
        runs: Path,
        n_jobs: int,
        logger: str,
        progress: Progress,
        again: bool,
    ) -> None:
        self.runs, self.n_jobs, self.logger, self.progress, self.again = runs, n_jobs, logger, progress, again
        self.waiting, self.running, self.failed = list(todo), list[Running](), dict[str, str]()
        self.total, self.n_done, self.begun = len(todo), 0, time.time()
        # The same for all, whatever this process imports meanwhile: so they are what the warm process was started with.
        self.variables = environment.of_a_run(max(1, cores() // n_jobs))
        self.gpus = visible_gpus()
        self.whole = progress.add_task("suite", total=len(todo), done="")
        self._held: dict[str, float] = {}

    def say(self, text: str) -> None:
        self.progress.console.print(escape(text), highlight=False, soft_wrap=True)

    def fill(self) -> None:
        """Start what can be started."""
        for one in list(self.waiting):
            if len(self.running) == self.n_jobs:
                return
            if time.monotonic() >= self._held.get(one[0].title, 0.0):
                self._try(one)

    def _try(self, one: tuple[Job, Path | None]) -> None:
        """Start a run, unless another process is at it or has made it."""
        job, before = one
        taken = claim(self.runs, job.config)
        folder, finished = self._look(job, before) if taken is not None else (None, False)
        if taken is None or (folder is not None and not finished and at_work(folder)):
            if taken is not None:
                taken.release()
            if job.title not in self._held:
                self.say(f"held by another process: {job.title}")
            self._held[job.title] = time.monotonic() + _ASK_AGAIN
            return
        self.waiting.remove(one)
        if finished:
            taken.release()
            self.n_done += 1
            self.say(f"[{self.n_done}/{self.total}] stored by another process: {job.title}")
            return
        self.running.append(self._launch(job, folder, taken))
        if not self.progress.console.is_terminal:
            self.say(f"started: {job.title}")

    def _look(self, job: Job, folder: Path | None) -> tuple[Path | None, bool]:
        """Return the run folder of a job as it is now, and whether it is finished; others may have been at it."""
        found, finished = Stored(self.runs).find(job.config, since=self.begun if self.again else 0.0)
        return (folder if found is None or (self.again and not finished) else found), finished

    def _launch(self, job: Job, folder: Path | None, taken: FileLock) -> Running:
        config = job.config
        if folder is None:
            parts = [config.variant, "" if job.draw is None else f"split{job.draw}", f"s{config.seed}"]
            label = "-".join(part for part in parts if part)
            folder = new_run_folder(self.runs, short_name(config.data_label), short_name(config.method), label)
        # An unfinished run goes on where and how it is computed now.
        write_atomic(folder / "config.yaml", config.to_yaml())
        log = self.runs / "logs" / f"{folder.parent.parent.name}-{folder.parent.name}-{folder.name}.log"
        gpus = share(self.gpus, [run.gpus for run in self.running], config.trainer)
        words = ["run", "--resume", str(folder), "--trust", "--logger", self.logger]
        process = start(words, log, environment.with_gpus(self.variables, gpus))
        bar = self.progress.add_task(f"  {escape(job.title)}", total=1.0, done="")
        return Running(job, folder, log, process, time.monotonic(), bar, taken, gpus)

    def collect(self) -> None:
        """Take note of the runs that have ended."""
        for run in [run for run in self.running if run.process.poll() is not None]:
            self.running.remove(run)
            run.claim.release()
            self.progress.remove_task(run.bar)
            self.n_done += 1
            problem = run.problem()
            if problem:
                self.failed[run.job.title] = f"{problem} ({run.log})"
            told = f"{'failed' if problem else 'done'}: {run.job.title}"
            self.say(f"[{self.n_done}/{self.total}] {told} ({time.monotonic() - run.started:.0f} s)")

    def show(self) -> None:
        """Bring the progress bars up to date."""
        fractions = [run.fraction() for run in self.running]
        for run, fraction in zip(self.running, fractions, strict=True):
            self.progress.update(run.bar, completed=fraction, done=f"{fraction:.0%}")
        done = f"{self.n_done}/{self.total} runs"
        self.progress.update(self.whole, completed=self.n_done + sum(fractions), done=done)


def share(gpus: Sequence[str], used: Sequence[Sequence[str]], options: Mapping[str, Any]) -> tuple[str, ...]:
    """Choose the GPUs of a run: those with the fewest runs of this suite, the first of them on a tie.

    Args:
        gpus: The GPUs of this machine.
        used: Those of each run that is running.
        options: The Trainer's options of the run.

    Returns:
        As many as it asks for; none where it sees them all as before, for lack of a choice.
    """
    wanted = options.get("devices", 1)
    if options.get("accelerator", "auto") not in ("auto", "gpu", "cuda") or not isinstance(wanted, int):
        return ()
    if len(gpus) < 2 or wanted >= len(gpus):
        return ()
    load = {gpu: sum(gpu in taken for taken in used) for gpu in gpus}
    return tuple(sorted(sorted(gpus, key=lambda gpu: load[gpu])[:wanted], key=list(gpus).index))
