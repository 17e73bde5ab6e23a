"""Who makes a run, where several processes work in one folder of runs: two shells, or machines that share a disk."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from filelock import FileLock, Timeout

from cmr_bench.experiment.identity import essence
from cmr_bench.experiment.recipe import RunConfig
from cmr_bench.suites.stored import short_name
from cmr_bench.support.errors import CmrBenchError
from cmr_bench.support.files import LOCK

FOLDER = ".claims"


def claim(runs: Path, config: RunConfig) -> FileLock | None:
    """Take the sole right to make a run of this configuration, until it is released or this process ends.

    Args:
        runs: Folder of runs.
        config: What is to be run.

    Returns:
        The held lock; None if another process holds it.

    Raises:
        CmrBenchError: If the folder cannot be written.
    """
    key = hashlib.sha256(json.dumps(essence(config.__dict__), sort_keys=True).encode()).hexdigest()[:16]
    name = f"{short_name(config.data_label)}-{short_name(config.method)}-{key}.lock"
    return _take(runs / FOLDER / name)


def at_work(folder: Path) -> bool:
    """Return whether a process works in a run folder, be it one that somebody resumed by hand."""
    lock = _take(folder / LOCK)
    if lock is None:
        return True
    lock.release()
    return False


def _take(file: Path) -> FileLock | None:
    # Not shared by the threads of a process only: `release` may come from another than the one that took it.
    lock = FileLock(file, timeout=0, thread_local=False)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout:
        return None
    except OSError as error:
        raise CmrBenchError(f"cannot write in {file.parent}: {error.strerror or error}") from error
    return lock
