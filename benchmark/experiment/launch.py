"""Which of a run's processes this is, and what they settle before training begins."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from torch.distributed.rendezvous import rendezvous

from cmr_bench.experiment.recipe import TrainerOptions
from cmr_bench.support import environment
from cmr_bench.support.errors import CmrBenchError, UsageError
from cmr_bench.support.files import LOCK as LOCK
from cmr_bench.support.files import sweep
from cmr_bench.support.site import page

# Held until the process ends: Lightning meets the others at the same address, which must not close in between.
_stores: list[Any] = []
_COMPILERS = ("c++", "g++", "clang++", "cl")


def cluster() -> ClusterEnvironment | None:
    """Return what torchrun or srun report about the processes that it started; None where they start one another.

    The script of a SLURM job, which starts programs without srun, is one process however many tasks the job has.
    """
    if TorchElasticEnvironment.detect():
        return TorchElasticEnvironment()
    if environment.started_by_srun() and SLURMEnvironment.detect():
        try:
            return SLURMEnvironment()
        except RuntimeError as error:
            raise UsageError(str(error)) from error
    return None


def rank() -> int:
    """Return the number of this process among those of the run; the first, 0, writes what is stored."""
    started = cluster()
    return environment.local_rank() if started is None else started.global_rank()


def check_devices(options: TrainerOptions) -> None:
    """Refuse options that do not fit the processes there are.

    Raises:
        UsageError: If torchrun or srun has started another number, or nobody can start those of other machines, or
            there is no compiler for `--trainer.compile true`.
    """
    if options.compile and not any(map(shutil.which, _COMPILERS)):
        raise UsageError(f"--trainer.compile true needs a C++ compiler, and there is none of {', '.join(_COMPILERS)}")
    started = cluster()
    if started is None:
        if options.num_nodes > 1:
            raise UsageError(
                f"--trainer.num_nodes {options.num_nodes}: start the processes of several nodes with torchrun or "
                f"srun ({page('scale')})"
            )
        return
    there = started.world_size()
    if options.devices != "auto" and options.devices * options.num_nodes != there:
        raise UsageError(
            f"{there} processes were started for --trainer.devices {options.devices} on --trainer.num_nodes "
            f"{options.num_nodes}: the product must be {there}"
        )


def agree(make: Callable[[], Path]) -> Path:
    """Let the first of the processes that torchrun or srun started name a path, and tell it to the others.

    Args:
        make: Makes the path; called in the first process only, or where there is but one.
    """
    started = cluster()
    if started is None or started.world_size() == 1:
        return make()
    here, world = started.global_rank(), started.world_size()
    address = f"tcp://{started.main_address}:{started.main_port}?rank={here}&world_size={world}"
    store, _, _ = next(rendezvous(address))
    _stores.append(store)
    if here == 0:
        store.set("cmr_bench/path", str(make()))
    return Path(store.get("cmr_bench/path").decode())


@contextmanager
def sole_runner(folder: Path) -> Iterator[None]:
    """Keep other runs out of a run folder as long as this one works in it.

    Raises:
        CmrBenchError: If another one is at work there, or the folder cannot be written.
    """
    if rank() != 0:
        yield
        return
    lock = FileLock(folder / LOCK, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise CmrBenchError(f"{folder} is locked by another process: wait for it or stop it") from None
    except OSError as error:
        raise CmrBenchError(f"cannot write in the run folder {folder}: {error.strerror or error}") from error
    try:
        sweep(folder)
        yield
    finally:
        lock.release()
