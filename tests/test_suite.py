"""Suites: plan, skip what is stored, survive failures, go on after a kill."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from cmr_bench import suite
from cmr_bench.cli import main
from cmr_bench.errors import UsageError

SUITE = """
about: a try
seeds: [0, 1]
options: {trainer.max_epochs: 1, trainer.bootstrap: 0, trainer.accelerator: cpu, data.batch_size: 32}
runs:
  - {method: "own.py:Linear", data: "own.py:Toy"}
  - {method: "own.py:Linear", data: "own.py:Toy", seeds: 2, options: {model.dim: 0}}
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copy(Path(__file__).with_name("own.py"), tmp_path)
    (tmp_path / "try.yaml").write_text(SUITE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_plan_is_the_product(folder: Path) -> None:
    planned = list(suite.jobs(suite.read_suite("try.yaml"), None, []))
    assert [job.config.seed for job in planned] == [0, 1, 2]
    assert planned[0].config.trainer["max_epochs"] == 1
    assert planned[2].config.model["dim"] == 0
    assert [job.config.seed for job in suite.jobs(suite.read_suite("try.yaml"), [7], [])] == [7, 7]


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


def test_unfinished_run_is_found(folder: Path) -> None:
    (job, *_) = suite.jobs(suite.read_suite("try.yaml"), None, [])
    place = folder / "runs" / "Toy" / "Linear" / "x"
    place.mkdir(parents=True)
    (place / "config.yaml").write_text(job.config.to_yaml())
    assert suite.find_run(folder / "runs", job.config) == (place, False)
    other = folder / "runs" / "Toy" / "Linear" / "y"
    other.mkdir()
    (other / "config.yaml").write_text(job.config.to_yaml().replace("seed: 0", "seed: 5"))
    assert suite.find_run(folder / "runs", job.config) == (place, False)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[1, 2]", "needs a list 'runs'"),
        ("runs: []", "needs a list 'runs'"),
        ("runs: [{method: vsepp}]", "needs 'method' and 'data'"),
        ("runs: [{method: a, data: b}]\nseed: 1", "Did you mean 'seeds'"),
        ("runs: [{method: a, data: b, varaints: x}]", "Did you mean 'variants'"),
        ("runs: [", "is not YAML"),
    ],
)
def test_malformed_suite_is_one_line(folder: Path, text: str, told: str) -> None:
    (folder / "bad.yaml").write_text(text)
    with pytest.raises(UsageError, match=told.replace("'", ".")):
        suite.read_suite("bad.yaml")


def test_unknown_suite_names_the_shipped_ones() -> None:
    with pytest.raises(UsageError, match="no suite 'four_familys'"):
        suite.read_suite("four_familys")
