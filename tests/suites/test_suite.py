"""Suites: plan, skip what is stored, survive failures, go on after a kill."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from filelock import FileLock

from cmr_bench.cli import main
from cmr_bench.experiment import callbacks, recipe
from cmr_bench.suites import plan, pool, stored
from cmr_bench.support.errors import UsageError
from tests.support.processes import eventually
from tests.support.signals import heed_interrupts

SUITE = """
about: a try
seeds: [0, 1]
options: {trainer.max_epochs: 1, trainer.bootstrap: 0, trainer.accelerator: cpu, data.batch_size: 32}
runs:
  - {method: "own.py:Linear", data: "own.py:Toy"}
  - {method: "own.py:Linear", data: "own.py:Toy", seeds: 2, options: {model.dim: 0}}
"""


def test_plan_is_the_product(folder: Path) -> None:
    planned = list(plan.jobs(plan.read_suite("try.yaml"), None, []))
    assert [job.config.seed for job in planned] == [0, 1, 2]
    assert planned[0].config.trainer["max_epochs"] == 1
    assert planned[2].config.model["dim"] == 0
    assert [job.config.seed for job in plan.jobs(plan.read_suite("try.yaml"), [7], [])] == [7, 7]


def test_a_run_that_two_entries_ask_for_is_planned_once(folder: Path) -> None:
    text = SUITE + '  - {method: "own.py:Linear", data: "own.py:Toy", seeds: [1, 3]}\n'
    (folder / "try.yaml").write_text(text)
    assert [job.config.seed for job in plan.jobs(plan.read_suite("try.yaml"), None, [])] == [0, 1, 2, 3]


@pytest.mark.parametrize("name", plan.shipped())
def test_every_run_of_a_shipped_suite_has_its_recipe(name: str) -> None:
    content = plan.read_suite(name)
    planned = list(plan.jobs(content, None, []))
    assert len({job.title for job in planned}) == len(planned)
    for job in planned:
        assert recipe.recipe_file(job.config.dataset, job.config.method) is not None


def test_the_suites_of_the_readme_are_shipped() -> None:
    surveys = {"survey_table1", "survey_flickr8k", "survey_synthetic", "flickr8k_grid"}
    assert set(plan.shipped()) == {"four_families", "adcsl_tables", "ci"} | surveys
    assert all(plan.shipped().values())


@pytest.mark.slow
def test_failure_is_reported_and_the_rest_is_stored(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    text = SUITE.replace("model.dim: 0", "model.dim: -1")
    (folder / "try.yaml").write_text(text)
    assert main(["suite", "try.yaml", "--jobs", "2"]) == 1
    assert "seed 2 failed" in capfd.readouterr().err
    assert len(list(folder.glob("runs/*/*/*/result.json"))) == 2
    before = {p: p.stat().st_mtime_ns for p in folder.glob("runs/*/*/*/result.json")}
    (folder / "try.yaml").write_text("\n".join(text.splitlines()[:-1]))
    assert main(["suite", "try.yaml"]) == 0
    assert "2 of 2 runs are stored already" in capfd.readouterr().out
    assert before == {p: p.stat().st_mtime_ns for p in folder.glob("runs/*/*/*/result.json")}


def store(folder: Path, name: str, text: str, finished: bool = False) -> Path:
    place = folder / "runs" / "Toy" / "Linear" / name
    place.mkdir(parents=True)
    (place / "config.yaml").write_text(text)
    if finished:
        (place / "result.json").write_text("{}")
    return place


def test_unfinished_run_is_found_and_a_finished_one_is_preferred(folder: Path) -> None:
    (job, *_) = plan.jobs(plan.read_suite("try.yaml"), None, [])
    text = job.config.to_yaml()
    begun = store(folder, "b", text)
    store(folder, "c", text.replace("seed: 0", "seed: 5"))
    store(folder, "d", "seed: [")
    store(folder, "e", "3")
    assert stored.Stored(folder / "runs").find(job.config) == (begun, False)
    done = store(folder, "a", text, finished=True)
    assert stored.Stored(folder / "runs").find(job.config) == (done, True)


@pytest.mark.parametrize(
    ("old", "new", "same"),
    [
        ("num_workers: 0", "num_workers: 3", True),
        ("root: null", "root: elsewhere", True),
        ("accelerator: cpu", "accelerator: gpu", True),
        ("bootstrap: 0", "bootstrap: 9", True),
        ("fidelity: reconstruction", "fidelity: paper", True),
        ("batch_size: 32", "batch_size: 33", False),
        ("max_epochs: 1", "max_epochs: 2", False),
        ("dim: 8", "dim: 9", False),
        ("variant: ''", "variant: other", False),
        ("seed: 0", "seed: 1", False),
        # Options that came after the stored run: it had their defaults.
        ("  patience: 0\n", "", True),
        ("  max_epochs: 1\n", "", False),
    ],
)
def test_only_what_can_change_a_number_makes_another_run(folder: Path, old: str, new: str, same: bool) -> None:
    (job, *_) = plan.jobs(plan.read_suite("try.yaml"), None, [])
    text = job.config.to_yaml()
    assert old in text
    store(folder, "x", text.replace(f" {old}" if old[0] in "nrabd" else old, f" {new}" if old[0] in "nrabd" else new))
    assert (stored.Stored(folder / "runs").find(job.config)[0] is not None) == same


def test_a_run_on_other_content_is_not_taken_as_stored(
    tmp_path: Path, write_precomputed: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = write_precomputed(tmp_path / "flickr8k", {"train": 24, "dev": 8, "test": 8})
    (tmp_path / "try.yaml").write_text(
        "options: {model.dim: 8, model.word_dim: 8, trainer.max_epochs: 2, trainer.bootstrap: 0, data.min_count: 1}\n"
        "runs: [{method: vsepp, data: flickr8k}]\n"
    )
    monkeypatch.chdir(tmp_path)
    options = ["--trainer.progress=false", "--data.root=.", "--data.image_features=null"]
    (job,) = plan.jobs(plan.read_suite("try.yaml"), None, options)

    def find() -> tuple[bool, bool]:
        folder, finished = stored.Stored(tmp_path / "runs").find(job.config)
        return folder is not None, finished

    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    words = ["run", "--model", "vsepp", "--data", "flickr8k", "--model.dim", "8", "--model.word_dim", "8", *options]
    words += ["--trainer.max_epochs", "2", "--trainer.bootstrap", "0", "--data.min_count", "1"]
    with monkeypatch.context() as patch:
        patch.setattr(callbacks.Alarm, "on_train_epoch_end", stop)
        assert main(words) == 1
    assert find() == (True, False)
    features = np.load(data / "dev_ims.npy")
    np.save(data / "dev_ims.npy", features + 1)
    assert find() == (False, False)
    np.save(data / "dev_ims.npy", features)
    assert find() == (True, False)
    assert main(words) == 0
    assert find() == (True, True)
    np.save(data / "dev_ims.npy", features + 1)
    assert find() == (False, False)
    (data / "dev_ims.npy").unlink()
    assert find() == (True, True)


def test_dry_run_tells_what_is_stored_begun_and_missing(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second, _ = plan.jobs(plan.read_suite("try.yaml"), None, ["--trainer.progress=false"])
    store(folder, "x", first.config.to_yaml(), finished=True)
    store(folder, "y", second.config.to_yaml())
    assert main(["suite", "try.yaml", "--dry-run"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["stored", "begun", "missing"]
    assert main(["suite", "try.yaml", "--dry-run", "--again"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["missing"] * 3


@pytest.mark.parametrize(
    ("script", "told"),
    [
        ("pass", ""),
        ("import sys; print('a'); sys.exit(3)", "a"),
        ("import sys; sys.exit(3)", "exit code 3"),
        ("import os; os.kill(os.getpid(), 9)", "ended by SIGKILL, which the system sends when memory runs out"),
        ("import os; os.kill(os.getpid(), 15)", "ended by SIGTERM"),
        ("import sys; print('cmr-bench run: no data\\nleaked'); sys.exit(1)", "no data"),
    ],
)
def test_a_failed_run_is_told_in_one_line(folder: Path, script: str, told: str) -> None:
    (job, *_) = plan.jobs(plan.read_suite("try.yaml"), None, [])
    log = folder / "log"
    with log.open("wb") as output:
        process = subprocess.Popen([sys.executable, "-c", script], stdout=output, stdin=subprocess.PIPE)
        process.communicate()
    assert pool.Running(job, folder, log, process, 0.0, pool.TaskID(0), FileLock(log)).problem() == told


def test_the_fraction_of_a_run_follows_its_history(folder: Path) -> None:
    (job, *_) = plan.jobs(plan.read_suite("try.yaml"), None, ["--trainer.max_epochs=4"])
    process = subprocess.Popen([sys.executable, "-c", "pass"], stdin=subprocess.PIPE)
    process.communicate()
    run = pool.Running(job, folder, folder / "log", process, 0.0, pool.TaskID(0), FileLock("log"))
    assert run.fraction() == 0.0
    for rows, fraction in ((0, 0.0), (1, 0.25), (4, 1.0), (9, 1.0)):
        (folder / "history.csv").write_text("epoch\n" + "1\n" * rows)
        assert run.fraction() == fraction


def alive(number: int) -> bool:
    try:
        state = Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def descendants(number: int) -> list[int]:
    direct = [int(pid) for pid in Path(f"/proc/{number}/task/{number}/children").read_text().split()]
    return [*direct, *(below for pid in direct for below in descendants(pid))]


PARENT = """
import subprocess, sys, time
command = [sys.executable, "-c", {child!r}]
process = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)
time.sleep(600)
"""
CHILD = """
import os, subprocess, sys, time
from pathlib import Path
from cmr_bench.support import leash
leash.hold()
worker = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
Path("pids.new").write_text(f"{os.getpid()} {worker.pid}")
os.replace("pids.new", "pids")
time.sleep(600)
"""


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="needs /proc to see processes")
def test_a_kill_takes_the_runs_and_what_they_started_along(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", PARENT.format(child=CHILD)], cwd=tmp_path) as parent:
        try:
            assert eventually((tmp_path / "pids").is_file)
            pids = [int(number) for number in (tmp_path / "pids").read_text().split()]
            assert all(map(alive, pids))
        finally:
            parent.kill()
    assert eventually(lambda: not any(map(alive, pids)))


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc").is_dir(), reason="needs /proc to see processes")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_a_suite_that_was_ended_leaves_no_process_and_goes_on(folder: Path, number: signal.Signals) -> None:
    epochs = 100
    text = SUITE.replace("seeds: [0, 1]", "seeds: [0]").replace("max_epochs: 1", f"max_epochs: {epochs}")
    (folder / "try.yaml").write_text("\n".join(text.splitlines()[:-1]))
    words = [sys.executable, "-m", "cmr_bench", "suite", "try.yaml"]
    with subprocess.Popen(words, cwd=folder, start_new_session=True, preexec_fn=heed_interrupts) as process:
        assert eventually(lambda: any(folder.glob("runs/Toy/Linear/*/history.csv")), 120)
        children = descendants(process.pid)
        assert children
        os.kill(process.pid, number)
        code = process.wait(60)
    assert code == (1 if number == signal.SIGINT else -number)
    assert eventually(lambda: not any(map(alive, children)))
    (place,) = folder.glob("runs/Toy/Linear/*")
    assert not (place / "result.json").exists()
    (place / "checkpoints" / "last.ckpt").stat()
    assert main(["suite", "try.yaml"]) == 0
    assert [file.parent for file in folder.glob("runs/Toy/Linear/*/result.json")] == [place]
    assert len((place / "history.csv").read_text().splitlines()) == epochs + 1


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[1, 2]", "needs a list 'runs'"),
        ("runs: []", "needs a list 'runs'"),
        ("runs: [{method: vsepp}]", "needs 'method' and 'data'"),
        ("runs: [{method: a, data: b}]\nseed: 1", "Did you mean 'seeds'"),
        ("runs: [{method: a, data: b, varaints: x}]", "Did you mean 'variants'"),
        ("runs: [", "is not YAML"),
        ("runs: [{method: a, data: b}]\ntables: 3", "'tables' is a list"),
        ("runs: [{method: a, data: b}]\ntables: [{data: b}]", "table 1 needs 'data' and a list 'rows'"),
        ("runs: [{method: a, data: b}]\ntables: [{data: b, rows: [{}]}]", "a row needs 'method'"),
        ("runs: [{method: a, data: b}]\ntables: [{data: b, rows: [{method: vsep}]}]", "Did you mean 'vsepp'"),
        ("runs: [{method: a, data: b}]\ntables: [{data: b, rows: [{method: a, varaint: c}]}]", "'variant'"),
        ("runs: [{method: a, data: b}]\ntables: [{data: b, rows: [], source: adcls2023}]", "'adcsl2023'"),
        ("runs: [{method: a, data: b}]\ntables: [{data: b, rows: [], protocol: 5x1}]", "'5x1k'"),
        ("runs: [{method: a, data: b}]\ntables: [{data: b, rows: [], columns: [t2i_mpa]}]", "'t2i_map'"),
        ("runs: [{method: a, data: b}]\ntables: [{data: b, rows: [], row: 1}]", "'rows'"),
    ],
)
def test_malformed_suite_is_one_line(folder: Path, text: str, told: str) -> None:
    (folder / "bad.yaml").write_text(text)
    with pytest.raises(UsageError, match=told.replace("'", ".")):
        plan.read_suite("bad.yaml")


def test_unknown_suite_names_the_shipped_ones() -> None:
    with pytest.raises(UsageError, match="unknown suite 'four_familys'"):
        plan.read_suite("four_familys")
