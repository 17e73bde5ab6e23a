"""Suites on a cluster: commands, resources, job arrays, tasks, and what becomes of failures."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from cmr_bench.cli import main
from cmr_bench.suites import launchers, plan
from cmr_bench.suites.launchers import Ray, Shard, Slurm, watch
from cmr_bench.support.errors import CmrBenchError, UsageError

SUITE = """
seeds: [0, 1]
options: {trainer.max_epochs: 1, trainer.bootstrap: 0, trainer.accelerator: cpu, data.batch_size: 32}
resources: {minutes: 5, cpus: 1}
runs:
  - {method: "own.py:Linear", data: "own.py:Toy"}
  - {method: "own.py:Linear", data: "own.py:Toy", seeds: 2, options: {model.dim: 0}}
"""


def listed(words: list[str], capsys: pytest.CaptureFixture[str]) -> list[str]:
    assert main(["suite", "try.yaml", "--dry-run", *words]) == 0
    return capsys.readouterr().out.splitlines()


def test_shards_are_disjoint_and_whole(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    every = listed([], capsys)
    parts = [listed(["--shard", f"{number}/2"], capsys) for number in (1, 2)]
    assert parts == [every[::2], every[1::2]]
    assert listed(["--shard", "7/9"], capsys) == []


@pytest.mark.parametrize("shard", [None, "2/2"])
def test_a_dry_run_prints_commands_each_of_one_run(
    folder: Path, capsys: pytest.CaptureFixture[str], shard: str | None
) -> None:
    part = ["--shard", shard] if shard else []
    lines = listed(["--launcher", "slurm", "--runs", "my runs", "--set", "model.dim=4", *part], capsys)
    states, commands = lines[: len(lines) // 2], lines[len(lines) // 2 :]
    assert len(states) == len(commands) == (1 if shard else 3)
    for state, command in zip(states, commands, strict=True):
        import shlex

        words = shlex.split(command)
        assert words[:3] == ["cmr-bench", "suite", "try.yaml"]
        assert words[words.index("--runs") + 1] == str(folder / "my runs")
        assert listed([word for word in words[3:] if word != "--launcher"], capsys) == [state]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--shard", "0/2"], "expected I/N with I from 1 to N, not '0/2'"),
        (["--shard", "3/2"], "expected I/N"),
        (["--shard", "1"], "expected I/N"),
        (["--launcher", "pbs"], "invalid choice"),
        (["--array-parallelism", "4"], "needs --launcher slurm"),
        (["--launcher", "slurm", "--array-parallelism", "0"], "at least 1"),
        (["--launcher", "ray", "--again"], "--again needs --launcher local"),
    ],
)
def test_wrong_usage(folder: Path, capsys: pytest.CaptureFixture[str], words: list[str], told: str) -> None:
    assert main(["suite", "try.yaml", "--dry-run", *words]) == 2
    assert told in capsys.readouterr().err


@pytest.mark.parametrize(
    ("resources", "told"),
    [
        ("3", "must be a mapping"),
        ("{minuts: 3}", "Did you mean 'minutes'"),
        ("{cpus: 0}", "must be a positive number"),
        ("{cpus: 1.5}", "must be a positive number"),
        ("{gpus: -1}", "must be a positive number"),
        ("{slurm: gpu}", "must be a mapping of options of sbatch"),
    ],
)
def test_malformed_resources_are_one_line(folder: Path, resources: str, told: str) -> None:
    (folder / "bad.yaml").write_text(f"runs: [{{method: vsepp, data: synthetic}}]\nresources: {resources}\n")
    with pytest.raises(UsageError, match=told.replace("'", ".")):
        plan.read_suite("bad.yaml")


class Instant:
    """A cluster that computes a shard when it is asked for its outcome."""

    def __init__(self, outcomes: Sequence[str | BaseException | None]) -> None:
        self.outcomes, self.cancelled = list(outcomes), list[Any]()

    def submit(self, shards: Sequence[Shard]) -> list[Any]:
        return list(range(len(shards)))

    def outcome(self, handle: Any) -> str | None:
        outcome = self.outcomes.pop(0)
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    def cancel(self, handles: Sequence[Any]) -> None:
        self.cancelled += handles


def shards(*titles: str) -> list[Shard]:
    return [Shard(title, ("--version",), ".") for title in titles]


def test_shards_are_waited_for_and_their_failures_told() -> None:
    console = Console(record=True, width=80, quiet=False, file=open(os.devnull, "w"))  # noqa: SIM115, PTH123
    failed = watch(Instant([None, "no data", ""]), shards("a", "[b]"), console, patience=0.0)
    assert failed == {"[b]": "no data"}
    assert console.export_text().splitlines()[1:] == ["[1/2] failed: [b]", "[2/2] done: a"]


def test_an_interrupt_takes_back_what_has_not_ended() -> None:
    cluster = Instant(["", KeyboardInterrupt()])
    with pytest.raises(CmrBenchError, match="1 jobs are cancelled"):
        watch(cluster, shards("a", "b"), Console(quiet=True), patience=0.0)
    assert cluster.cancelled == [1]


def test_a_shard_returns_what_went_wrong(folder: Path) -> None:
    assert Shard("good", ("--version",), str(folder))() == ""
    assert "unknown suite" in Shard("bad", ("suite", "no_such"), str(folder))()


@pytest.mark.parametrize(("name", "make"), [("submitit", lambda: Slurm(Path("x"), {}, 1)), ("ray", lambda: Ray({}))])
def test_a_missing_extra_is_named(name: str, make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(CmrBenchError, match="needs an extra: pip install 'cmr-bench"):
        make()


def test_submitit_runs_shards_as_an_array(folder: Path) -> None:
    pytest.importorskip("submitit")
    cluster = Slurm(folder / "logs", {"minutes": 1, "cpus": 1, "slurm": {"partition": "x"}}, 2, cluster="local")
    work = [Shard("good", ("--version",), str(folder)), Shard("bad", ("suite", "no_such"), str(folder))]
    failed = watch(cluster, work, Console(quiet=True), patience=0.05)
    assert failed.keys() == {"bad"}
    assert failed["bad"].startswith("unknown suite 'no_such'")


def test_without_slurm_one_line_says_so(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("submitit")
    monkeypatch.setenv("PATH", str(folder))
    with pytest.raises(CmrBenchError, match=r"--launcher slurm: .*srun"):
        Slurm(folder / "logs", {}, 1)


def test_a_job_that_ran_out_of_time_is_queued_again() -> None:
    pytest.importorskip("submitit")
    (shard,) = shards("a")
    assert shard.checkpoint().function == shard


@pytest.mark.slow
def test_a_killed_worker_of_ray_goes_on(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ray = pytest.importorskip("ray")
    text = SUITE.replace("max_epochs: 1", "max_epochs: 200")
    (folder / "try.yaml").write_text("\n".join(text.splitlines()[:-1]))
    ray.init(num_cpus=2, include_dashboard=False, logging_level="ERROR", log_to_driver=False)
    killed: list[int] = []
    outcome = Ray.outcome

    def kill(self: Ray, handle: Any) -> str | None:
        begun = list(folder.glob("runs/Toy/Linear/*/checkpoints/last.ckpt"))
        workers = [int(place.name) for place in Path("/proc").iterdir() if place.name.isdecimal() and titled(place)]
        if begun and workers and not killed:
            killed.append(workers[0])
            os.kill(workers[0], 9)
        time.sleep(0.2)
        return outcome(self, handle)

    def titled(place: Path) -> bool:
        try:
            return place.joinpath("cmdline").read_bytes().startswith(b"ray::own.py:Linear")
        except OSError:
            return False

    monkeypatch.setattr(Ray, "outcome", kill)
    try:
        assert main(["suite", "try.yaml", "--launcher", "ray"]) == 0
    finally:
        ray.shutdown()
    assert killed
    assert len(list(folder.glob("runs/Toy/Linear/*/result.json"))) == 2
    assert len(list(folder.glob("runs/Toy/Linear/*"))) == 2


def test_the_launchers_of_the_help_are_there() -> None:
    assert launchers.LAUNCHERS == ("local", "slurm", "ray")
