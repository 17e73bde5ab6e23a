"""Runs from a warm process: a server imports the libraries once, and every run is a fresh fork of it.

Nothing but imports happens in the server, so a forked run computes what one started by itself computes, to the bit. It
starts by itself where the server cannot give it that: under other environment variables than the server was started
with, after a GPU was touched there, and on systems where a fork of such a process is not safe.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib.util
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import types
from collections.abc import Iterator, Mapping, Sequence
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Protocol

from cmr_bench.support import environment, leash

_IMPORTED = ["cmr_bench.experiment.run", "cmr_bench.commands.run", "cmr_bench.results.table", "torch._dynamo"]
# Read when a run asks for them, not when a library is imported; PYTEST_ names the test that runs.
_READ_LATE = ("CUDA_VISIBLE_DEVICES", "CMR_BENCH_", "WANDB_", "PYTEST_")


class Process(Protocol):
    """What the pool needs of a run's process: the part of ``subprocess.Popen`` that a forked one has too."""

    pid: int
    returncode: int | None

    def poll(self) -> int | None:
        """Return the exit code, None as long as the process runs."""

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end; raises ``subprocess.TimeoutExpired`` after ``timeout`` seconds."""


class Forked:
    """A run that the server has forked.

    Args:
        process: The process.
        leash: The end of its standard input that this process holds.
    """

    def __init__(self, process: ForkServerProcess, leash: Connection) -> None:
        assert process.pid is not None
        self.pid, self.returncode = process.pid, process.exitcode
        self._process, self._leash = process, leash

    def poll(self) -> int | None:
        """Return the exit code, None as long as the process runs."""
        if self.returncode is None:
            self.returncode = self._process.exitcode
        if self.returncode is not None:
            self._leash.close()
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end; raises ``subprocess.TimeoutExpired`` after ``timeout`` seconds."""
        self._process.join(timeout)
        code = self.poll()
        if code is None:
            raise subprocess.TimeoutExpired("cmr-bench", timeout or 0.0)
        return code


def available() -> bool:
    """Return whether runs can be forked here; elsewhere than on Linux the libraries do not survive it."""
    return sys.platform == "linux" and "forkserver" in multiprocessing.get_all_start_methods()


def prepare(variables: Mapping[str, str]) -> None:
    """Start the server under these environment variables, unless there is one; it imports while others go on."""
    forkserver.set_forkserver_preload(_IMPORTED)
    # Ctrl-C reaches every process of the terminal; the server leaves it to this one.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        with environment.set_to(variables):
            forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def start(words: Sequence[str], log: Path, variables: Mapping[str, str]) -> Forked:
    """Fork a run from the server.

    Args:
        words: Command and options of `cmr-bench`.
        log: Where its output goes.
        variables: All its environment variables.

    Returns:
        The process, at the head of a process group of its own that is killed when this process is gone.
    """
    prepare(variables)
    context = multiprocessing.get_context("forkserver")
    theirs, ours = context.Pipe(duplex=False)
    process = context.Process(target=_run, args=(list(words), log, dict(variables), theirs))
    with _nobodys_main():
        process.start()
    theirs.close()
    return Forked(process, ours)


@contextlib.contextmanager
def _nobodys_main() -> Iterator[None]:
    """Hide the main module, which a forked process would otherwise import: a script need not expect that."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def _run(words: list[str], log: Path, variables: Mapping[str, str], held: Connection) -> None:
    """Become a run: the standard streams, signals and names of one that was started by itself."""
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    os.dup2(held.fileno(), 0)
    held.close()
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.close(output)
    if not _as_started(variables):
        os.execve(sys.executable, [sys.executable, "-m", leash.__name__, *words], dict(variables))
    leash.hold()
    set_by_libraries = environment.everything().items() - environment.at_start().items()
    environment.become(dict(set_by_libraries) | dict(variables))
    # The processes that Lightning starts repeat this command line.
    spec = importlib.util.find_spec(leash.__name__)
    sys.modules["__main__"].__spec__ = spec
    sys.argv = [str(leash.__file__), *words]
    sys.path.insert(0, str(Path.cwd()))
    gc.freeze()
    try:
        runpy.run_module("cmr_bench", run_name="__main__")
    finally:
        # multiprocessing ends a process without them.
        atexit._run_exitfuncs()


def _as_started(variables: Mapping[str, str]) -> bool:
    """Return whether this fork of the server is what a new process under these variables would be."""
    torch = sys.modules.get("torch")

    def early(names: Mapping[str, str]) -> dict[str, str]:
        return {name: value for name, value in names.items() if not name.startswith(_READ_LATE)}

    if early(environment.at_start()) != early(variables):
        return False
    return torch is None or not torch.cuda._is_in_bad_fork()
