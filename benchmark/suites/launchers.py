"""Suites on a cluster: one job of SLURM, through submitit, or one task of Ray for each run.

A job is the same command with ``--shard i/n``, so what it does, writes and resumes is what it does here. The folder of
runs must be on a disk that all machines share, with the suite installed on each.
"""

from __future__ import annotations

import getpass
import importlib
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from rich.console import Console
from rich.markup import escape

from cmr_bench.support import leash
from cmr_bench.support.errors import CmrBenchError, UsageError, did_you_mean, first_line, told_by

LAUNCHERS = ("local", "slurm", "ray")
RESOURCES: dict[str, tuple[type, ...]] = {
    "minutes": (int,),
    "cpus": (int,),
    "gpus": (int, float),
    "memory_gb": (int, float),
    "slurm": (dict,),
}
_DAY = 24 * 60
_LOOK_EVERY = 15.0  # seconds, at SLURM's queue
_RETRIES = 20  # of a job that ran out of time, or whose machine was lost


@dataclass(frozen=True)
class Shard:
    """Runs of a suite, as a job that any machine can do, and do again.

    Attributes:
        title: What it runs.
        words: Command and options of `cmr-bench`.
        folder: The working directory.
    """

    title: str
    words: tuple[str, ...]
    folder: str

    def __call__(self) -> str:
        """Run it; return an empty string where all went well, else the line that says what did not."""
        command = [sys.executable, "-m", leash.__name__, *self.words]
        with subprocess.Popen(
            command,
            cwd=self.folder,
            stdin=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
            text=True,
            errors="replace",
        ) as process:
            assert process.stderr is not None
            lines = []
            for line in process.stderr:
                print(line, end="", file=sys.stderr)
                lines.append(line)
        return "" if process.returncode == 0 else told_by("suite", lines, process.returncode)

    def checkpoint(self) -> Any:
        """Return what submitit queues again when the time is up: the same, as a run resumes by itself."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)

    def command(self) -> str:
        """Return the command line."""
        return shlex.join(["cmr-bench", *self.words])


class Cluster(Protocol):
    """Where shards are sent."""

    def submit(self, shards: Sequence[Shard]) -> list[Any]:
        """Queue shards; return a handle of each."""

    def outcome(self, handle: Any) -> str | None:
        """Return what :class:`Shard` returned, or why it returned nothing; None before its end."""

    def cancel(self, handles: Sequence[Any]) -> None:
        """Take shards back, whether they run or wait."""


class Slurm:
    """A job array of SLURM.

    Args:
        folder: For scripts, pickles and output of the jobs.
        resources: The suite's ``resources``.
        parallelism: Jobs at the same time.
        cluster: ``slurm``, or ``local`` or ``debug`` to try it without one.
    """

    def __init__(self, folder: Path, resources: Mapping[str, Any], parallelism: int, cluster: str = "slurm") -> None:
        try:
            import submitit
        except ModuleNotFoundError as error:
            raise CmrBenchError("--launcher slurm needs an extra: pip install 'cmr-bench[slurm]'") from error
        self._looked = -_LOOK_EVERY
        self._queue: list[str] | None = None
        self._left: dict[str, float] = {}
        self._asks_queue = cluster == "slurm"
        more = {"slurm_max_num_timeout": _RETRIES} if cluster == "slurm" else {}
        try:
            self._executor = submitit.AutoExecutor(folder, cluster=cluster, **more)
        except RuntimeError as error:
            raise CmrBenchError(f"--launcher slurm: {error}") from error
        options = {
            "name": "cmr-bench",
            "timeout_min": resources.get("minutes", _DAY),
            "cpus_per_task": resources.get("cpus", 1),
            **({"gpus_per_node": resources["gpus"]} if resources.get("gpus") else {}),
            **({"mem_gb": resources["memory_gb"]} if "memory_gb" in resources else {}),
            "slurm_array_parallelism": parallelism,
            **{f"slurm_{name}": value for name, value in resources.get("slurm", {}).items()},
        }
        try:
            self._executor.update_parameters(**options)
        except (NameError, TypeError, ValueError) as error:
            raise UsageError(f"'resources' of the suite: {error}") from error

    def submit(self, shards: Sequence[Shard]) -> list[Any]:
        """Queue shards as one array; return a handle of each."""
        return list(self._executor.submit_array(list(shards)))

    def outcome(self, handle: Any) -> str | None:
        """Return what :class:`Shard` returned, or why it returned nothing; None before its end.

        submitit asks the accounting, which not every cluster has, and which says nothing of a job for a while; so the
        queue is asked which jobs have left it without a result.
        """
        if self._asks_queue and not handle.paths.result_pickle.exists():
            return self._lost(handle)
        if not handle.done():
            return None
        try:
            return str(handle.result())
        except Exception as error:
            return f"{first_line(error)} ({handle.paths.stderr})"

    def _lost(self, handle: Any) -> str | None:
        """Return that a job has left the queue for good without a result; None while it may still have one."""
        now = time.monotonic()
        if now - self._looked >= _LOOK_EVERY:
            self._looked = now
            asked = _ask("squeue", "--noheader", "--array", f"--user={getpass.getuser()}", "--format=%i")
            self._queue = None if asked is None else asked.split()
        # A controller that is down or busy says nothing of the jobs.
        if self._queue is None or handle.job_id in self._queue:
            self._left.pop(handle.job_id, None)
            return None
        # The file may take a moment to reach this machine.
        if now - self._left.setdefault(handle.job_id, now) < 2 * _LOOK_EVERY:
            return None
        state = re.search(r"JobState=(\w+)", _ask("scontrol", "show", "job", "--oneliner", handle.job_id) or "")
        told = state[1] if state else "no state is known"
        return f"SLURM ended the job ({told}) before its result ({handle.paths.stderr})"

    def cancel(self, handles: Sequence[Any]) -> None:
        """Take shards back, whether they run or wait."""
        for handle in handles:
            handle.cancel()


def _ask(*words: str) -> str | None:
    """Return what a command of SLURM prints, or None where it fails."""
    try:
        return subprocess.run(words, capture_output=True, text=True, check=True, timeout=60).stdout
    except (OSError, subprocess.SubprocessError):
        return None


class Ray:
    """Tasks of the Ray cluster that ``RAY_ADDRESS`` or this machine names, or of one that is started here.

    Args:
        resources: The suite's ``resources``; ``gpus`` may be a fraction.
    """

    def __init__(self, resources: Mapping[str, Any]) -> None:
        try:
            self._ray: Any = importlib.import_module("ray")
        except ModuleNotFoundError as error:
            raise CmrBenchError("--launcher ray needs an extra: pip install 'cmr-bench[ray]'") from error
        if not self._ray.is_initialized():
            self._ray.init(logging_level="ERROR", log_to_driver=False)
        memory = {"memory": int(resources["memory_gb"] * 2**30)} if "memory_gb" in resources else {}
        self._call = self._ray.remote(
            num_cpus=resources.get("cpus", 1), num_gpus=resources.get("gpus", 0), max_retries=_RETRIES, **memory
        )(_call)

    def submit(self, shards: Sequence[Shard]) -> list[Any]:
        """Queue shards; return a handle of each."""
        return [self._call.options(name=shard.title).remote(shard) for shard in shards]

    def outcome(self, handle: Any) -> str | None:
        """Return what :class:`Shard` returned, or why it returned nothing; None before its end."""
        if not self._ray.wait([handle], timeout=0)[0]:
            return None
        try:
            return str(self._ray.get(handle))
        except self._ray.exceptions.RayError as error:
            return first_line(error)

    def cancel(self, handles: Sequence[Any]) -> None:
        """Take shards back, whether they run or wait."""
        for handle in handles:
            self._ray.cancel(handle, force=True)


def _call(shard: Shard) -> str:
    return shard()


def check_resources(resources: Any, where: str) -> None:
    """Raise UsageError unless ``resources`` of a suite are a mapping of names in ``RESOURCES`` to positive numbers."""
    if resources is None:
        return
    if not isinstance(resources, dict):
        raise UsageError(f"{where}: 'resources' must be a mapping of {', '.join(RESOURCES)}, not {resources!r}")
    for name, value in resources.items():
        if name not in RESOURCES:
            raise UsageError(f"{where}: unknown resource '{name}'.{did_you_mean(str(name), RESOURCES)}")
        kinds = RESOURCES[name]
        if type(value) not in kinds or (not isinstance(value, dict) and value < (0 if name == "gpus" else 1)):
            words = "a mapping of options of sbatch" if kinds == (dict,) else "a positive number"
            raise UsageError(f"{where}: resource '{name}' must be {words}, not {value!r}")


def watch(cluster: Cluster, shards: Sequence[Shard], console: Console, patience: float = 2.0) -> dict[str, str]:
    """Send shards to a cluster and wait for them.

    Args:
        cluster: Where they are computed.
        shards: The shards.
        console: Where their ends are told.
        patience: Seconds between looks.

    Returns:
        The failed ones by title, each with the line that says why.
    """
    waiting = dict(zip(cluster.submit(shards), shards, strict=True))
    console.print(f"submitted {len(shards)} jobs", highlight=False)
    failed: dict[str, str] = {}
    try:
        while waiting:
            for handle, shard in list(waiting.items()):
                problem = cluster.outcome(handle)
                if problem is None:
                    continue
                del waiting[handle]
                if problem:
                    failed[shard.title] = problem
                told = f"[{len(shards) - len(waiting)}/{len(shards)}] {'failed' if problem else 'done'}: {shard.title}"
                console.print(escape(told), highlight=False, soft_wrap=True)
            if waiting:
                time.sleep(patience)
    except KeyboardInterrupt:
        cluster.cancel(list(waiting))
        raise CmrBenchError(f"interrupted; {len(waiting)} jobs are cancelled, repeat the command to resume") from None
    return failed
