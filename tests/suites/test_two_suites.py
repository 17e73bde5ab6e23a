"""Several suites in one folder of runs: who makes what, and who waits."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest
from filelock import FileLock
from rich.console import Console

from cmr_bench.experiment.recipe import RunConfig
from cmr_bench.suites import claims, plan, pool, stored
from cmr_bench.suites.warm import Process
from cmr_bench.support.files import LOCK

SUITE = """
seeds: [0, 1, 2]
options: {trainer.max_epochs: 1, trainer.bootstrap: 0, trainer.accelerator: cpu, data.batch_size: 32}
runs: [{method: "own.py:Linear", data: "own.py:Toy"}]
"""


class Done:
    """A process that has ended well."""

    pid, returncode = 0, 0

    def poll(self) -> int:
        return 0

    def wait(self, timeout: float | None = None) -> int:
        return 0


@pytest.fixture
def started(folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    words: list[str] = []

    def start(asked: list[str], log: Path, variables: object) -> Process:
        words.append(asked[2])
        (Path(asked[2]) / "result.json").write_text("{}")
        return Done()

    monkeypatch.setattr(pool, "start", start)
    monkeypatch.setattr(pool, "_ASK_AGAIN", 0.01)
    return words


def planned() -> list[plan.Job]:
    return list(plan.jobs(plan.read_suite("try.yaml"), None, []))


def store(folder: Path, config: RunConfig, name: str, finished: bool) -> Path:
    place = folder / "runs" / "Toy" / "Linear" / name
    place.mkdir(parents=True)
    (place / "config.yaml").write_text(config.to_yaml())
    if finished:
        (place / "result.json").write_text("{}")
    return place


def suite(jobs: list[plan.Job], runs: Path, again: bool = False) -> tuple[dict[str, str], str]:
    console = Console(record=True, width=200)
    failed = pool.run_suite([(job, None) for job in jobs], runs, 2, "csv", console, again)
    return failed, console.export_text()


def test_a_claim_is_of_one_process_and_of_what_changes_a_number(folder: Path) -> None:
    first, second, _ = (job.config for job in planned())
    held = claims.claim(folder / "runs", first)
    assert held is not None
    assert claims.claim(folder / "runs", first) is None
    first.data["num_workers"] = 3
    assert claims.claim(folder / "runs", first) is None
    other = claims.claim(folder / "runs", second)
    assert other is not None
    held.release()
    again = claims.claim(folder / "runs", first)
    assert again is not None
    again.release()
    other.release()


def test_what_another_has_stored_meanwhile_is_not_run(folder: Path, started: list[str]) -> None:
    jobs = planned()
    store(folder, jobs[1].config, "theirs", finished=True)
    failed, told = suite(jobs, folder / "runs")
    assert not failed
    assert len(started) == 2
    assert f"stored by another process: {jobs[1].title}" in told
    assert len(list(folder.glob("runs/Toy/Linear/*"))) == 3


def test_again_repeats_what_was_stored_before_it_began(folder: Path, started: list[str]) -> None:
    jobs = planned()
    store(folder, jobs[1].config, "theirs", finished=True)
    store(folder, jobs[2].config, "begun", finished=False)
    time.sleep(0.02)
    suite(jobs, folder / "runs", again=True)
    assert len(started) == 3
    assert not [word for word in started if word.endswith("begun")]


def test_a_run_that_another_holds_is_waited_for(
    folder: Path, started: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = planned()
    held = claims.claim(folder / "runs", jobs[0].config)
    assert held is not None
    begun = store(folder, jobs[1].config, "begun", finished=False)
    resumed = FileLock(begun / LOCK)
    resumed.acquire()
    shown = pool._Pool.show

    def show(self: pool._Pool) -> None:
        shown(self)
        if len(started) == 1 and not self.running and held.is_locked:
            (store(folder, jobs[0].config, "theirs", finished=False) / "result.json").write_text("{}")
            held.release()
            resumed.release()

    monkeypatch.setattr(pool._Pool, "show", show)
    failed, told = suite(jobs, folder / "runs")
    assert not failed
    assert [Path(word).name == "begun" for word in started] == [False, True]
    assert told.count("held by another process") == 2
    assert f"stored by another process: {jobs[0].title}" in told
    assert stored.Stored(folder / "runs").find(jobs[1].config) == (begun, True)


@pytest.mark.slow
@pytest.mark.parametrize("killed", [False, True])
def test_two_suites_divide_the_work(folder: Path, killed: bool) -> None:
    text = SUITE.replace("max_epochs: 1", "max_epochs: 300" if killed else "max_epochs: 20")
    (folder / "try.yaml").write_text(text)
    words = [sys.executable, "-m", "cmr_bench", "suite", "try.yaml"]
    both = [subprocess.Popen(words, cwd=folder, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    deadline = time.monotonic() + 240
    while killed and not list(folder.glob("runs/Toy/Linear/*/history.csv")) and time.monotonic() < deadline:
        time.sleep(0.1)
    if killed:
        both[0].kill()
    told = [process.communicate(timeout=280)[0] for process in both]
    assert [process.returncode for process in both] == [-9 if killed else 0, 0]
    finished = list(folder.glob("runs/Toy/Linear/*/result.json"))
    assert len(finished) == 3
    assert len(list(folder.glob("runs/Toy/Linear/*"))) == 3
    assert len(list(folder.glob("runs/logs/*.log"))) == 3
    assert killed or "".join(told).count("done: ") == 3
