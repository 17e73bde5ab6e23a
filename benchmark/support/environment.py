"""The environment variables that the suite reads or sets, all in one place; docs/environment.md lists them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType

DATA = "CMR_BENCH_DATA"
CACHE = "CMR_BENCH_CACHE"
DEBUG = "CMR_BENCH_DEBUG"
RUN_FOLDER = "CMR_BENCH_RUN_FOLDER"
JOB_SUMMARY = "GITHUB_STEP_SUMMARY"
WANDB_PROJECT, WANDB_ENTITY = "WANDB_PROJECT", "WANDB_ENTITY"
_RUN_GROUP, _SILENT = "WANDB_RUN_GROUP", "WANDB_SILENT"
_LOCAL_RANK, _STEP_TASKS = "LOCAL_RANK", "SLURM_STEP_NUM_TASKS"
_THREADS, _UNBUFFERED = "OMP_NUM_THREADS", "PYTHONUNBUFFERED"
_GPUS = "CUDA_VISIBLE_DEVICES"
_PROXIES = ("HTTPS_PROXY", "ALL_PROXY")
_COMPLETING, COMPLETED_LINE = "_ARGCOMPLETE", "COMP_LINE"
_WIDTH, _COLOUR = "COLUMNS", "FORCE_COLOR"

READ = MappingProxyType(
    {
        DATA: "folder that holds one folder per data set, where `--data.root` is not given",
        CACHE: "folder for fitted text vectors, stored features and indexes; the user's cache folder otherwise",
        DEBUG: "any value: show the traceback of an unexpected error",
        JOB_SUMMARY: "file of GitHub Actions to which `check` appends its report",
        WANDB_PROJECT: "W&B project of runs and uploads; `cmr-bench` otherwise",
        WANDB_ENTITY: "W&B user or team of runs and uploads; the account's own otherwise",
        _LOCAL_RANK: "set by Lightning and torchrun: number of this process on its machine; 0 writes what is stored",
        _STEP_TASKS: "set by srun: above 1, the processes are those that SLURM started",
        _THREADS: "threads of each run of a suite; the cores shared out to the runs otherwise",
        _GPUS: "the GPUs that a run or a suite may use; all otherwise",
        **dict.fromkeys(_PROXIES, "where set, the hub is asked even if its host has no address here"),
        _WIDTH: "width of tables where the output is no terminal; as wide as they need otherwise",
        _COLOUR: "any value: tables with colours where the output is no terminal",
        _COMPLETING: "set by a shell that asks for completions, with argcomplete",
        COMPLETED_LINE: "set by a shell that asks for completions: what is typed so far",
    }
)
PASSED_ON = MappingProxyType(
    {
        RUN_FOLDER: "by `run` to the processes that Lightning starts: they work in the same run folder",
        _RUN_GROUP: "by `suite --logger wandb`: the name of the suite groups its runs, unless already set",
        _SILENT: "by `--logger wandb`: keeps W&B from printing, unless already set",
        _GPUS: "by `suite` and `check`, where a machine has several GPUs: those of this run",
        _THREADS: "by `suite` and `check` to their runs, unless already set",
        _UNBUFFERED: "by `suite` and `check` to their runs: the log has every line at once",
    }
)


def value(name: str) -> str | None:
    """Return a variable of ``READ``; None where it is not set or empty."""
    return os.environ.get(name) or None


def local_rank() -> int:
    """Return the number of this process among those of its machine."""
    return int(os.environ.get(_LOCAL_RANK, "0"))


def started_by_srun() -> bool:
    """Return whether srun started this process as one of several."""
    return int(os.environ.get(_STEP_TASKS, "1")) > 1


def visible_devices() -> str | None:
    """Return the GPUs that the user allows; None where nothing is said, an empty text where there are none."""
    return os.environ.get(_GPUS)


def behind_proxy() -> bool:
    """Return whether a proxy answers for hosts that have no address here."""
    return any(name.upper() in _PROXIES for name in os.environ)


def has_width() -> bool:
    """Return whether the user has set a width for output that goes to no terminal."""
    return _WIDTH in os.environ


def wants_colour() -> bool:
    """Return whether the user asks for colours in output that goes to no terminal."""
    return _COLOUR in os.environ


def completing() -> bool:
    """Return whether a shell asks for completions."""
    return _COMPLETING in os.environ


@contextmanager
def not_completing() -> Iterator[None]:
    """Hide the request for completions from parsers that are built on the way."""
    asked = os.environ.pop(_COMPLETING)
    yield
    os.environ[_COMPLETING] = asked


@contextmanager
def run_folder(path: Path) -> Iterator[None]:
    """Pass the run folder to the processes started meanwhile."""
    os.environ[RUN_FOLDER] = str(path)
    try:
        yield
    finally:
        os.environ.pop(RUN_FOLDER, None)


def group_wandb_runs(name: str) -> None:
    """Group the W&B runs of the processes started from now on, unless the user already does."""
    os.environ.setdefault(_RUN_GROUP, name)


def silence_wandb() -> None:
    """Keep W&B from printing; read by parts of it that come before its settings."""
    os.environ.setdefault(_SILENT, "true")


def without_git() -> dict[str, str]:
    """Return this environment without the variables by which a hook points git to its own repository."""
    return {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}


def of_a_run(threads: int) -> dict[str, str]:
    """Return the environment of a run that a suite starts: this one, with a number of threads unless already set."""
    return {_THREADS: str(threads), **os.environ, _UNBUFFERED: "1"}


def at_start() -> dict[str, str]:
    """Return the environment variables with which this process was started, without those that libraries set since."""
    entries = Path("/proc/self/environ").read_bytes().split(b"\0")
    pairs = (os.fsdecode(entry).partition("=") for entry in entries if entry)
    return {name: content for name, _, content in pairs}


def with_gpus(variables: Mapping[str, str], gpus: Sequence[str]) -> dict[str, str]:
    """Return environment variables under which a process sees these GPUs only; as they are where none are named."""
    return {**variables, _GPUS: ",".join(gpus)} if gpus else dict(variables)


def everything() -> dict[str, str]:
    """Return all environment variables of this process."""
    return dict(os.environ)


def become(variables: Mapping[str, str]) -> None:
    """Replace the environment of this process."""
    os.environ.clear()
    os.environ.update(variables)


@contextmanager
def set_to(variables: Mapping[str, str]) -> Iterator[None]:
    """Replace the environment for the processes started meanwhile."""
    before = everything()
    become(variables)
    try:
        yield
    finally:
        become(before)
