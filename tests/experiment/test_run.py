"""Runs end to end on a made-up method and data set: what is stored, resumed, refused."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from cmr_bench.cli import main
from cmr_bench.evaluation.per_query import read_per_query
from cmr_bench.experiment import callbacks
from cmr_bench.results.record import read_result
from tests.support.signals import heed_interrupts

OWN_OPTIONS = (
    *("--data.batch_size", "32", "--trainer.max_epochs", "4", "--trainer.bootstrap", "20"),
    *("--model.lr", "1.0e-2", "--model.lr_decay_every", "1", "--model.stop_at", "2"),
)


def only_run(root: Path) -> Path:
    (folder,) = root.glob("runs*/*/*/*")
    return folder


def test_run_stores_everything(own: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(own) == 0
    folder = only_run(tmp_path)
    result = read_result(folder / "result.json")
    assert result.metrics["rsum"] == pytest.approx(
        sum(result.metrics[f"{d}_r{k}"] for d in ("i2t", "t2i") for k in (1, 5, 10))
    )
    assert result.metrics["t2i_r5"] > 35  # chance is 25
    assert result.split_sizes == {"train": [60, 120], "val": [20, 40], "test": [20, 40]}
    assert result.selection["split"] == "val"
    assert result.intervals["i2t_r1"][0] <= result.metrics["i2t_r1"] <= result.intervals["i2t_r1"][1]
    assert {"config.yaml", "history.csv", "examples.json", "checkpoints"} <= {p.name for p in folder.iterdir()}
    assert len(read_per_query(folder / "ranks.npz").t2i) == 40
    answers = json.loads((folder / "examples.json").read_text())
    assert len(answers["i2t"][0]["answers"]) == 5
    assert "R@1" in capsys.readouterr().out


def test_weights_chosen_on_the_test_split_are_flagged(own: list[str], tmp_path: Path) -> None:
    assert main([*own, "--trainer.select_on", "test"]) == 0
    result = read_result(only_run(tmp_path) / "result.json")
    assert result.flags == ["selected_on_test"]
    assert result.selection["split"] == "test"
    assert result.selection["value"] == pytest.approx(result.metrics["rsum"], abs=1e-4)


def test_saved_config_reruns_to_the_same_numbers(own: list[str], tmp_path: Path) -> None:
    assert main(own) == 0
    first = only_run(tmp_path)
    assert main(["run", "--config", str(first / "config.yaml"), "--runs", str(tmp_path / "again")]) == 0
    (second,) = (tmp_path / "again").glob("*/*/*")
    assert read_result(first / "result.json").metrics == read_result(second / "result.json").metrics


def test_interrupted_run_resumes_to_the_same_weights(
    own: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*own, "--runs", "whole"]) == 0
    (whole,) = (tmp_path / "whole").glob("*/*/*")
    handler = signal.getsignal(signal.SIGINT)
    monkeypatch.setenv("STOP", "1")
    try:
        assert main(own) == 1
    finally:
        signal.signal(signal.SIGINT, handler)
    folder = only_run(tmp_path)
    message = capsys.readouterr().err
    assert f"`cmr-bench run --resume {folder.relative_to(tmp_path)} --trust`" in message
    assert not (folder / "result.json").exists()
    monkeypatch.delenv("STOP")
    assert main(["run", "--resume", str(folder), "--trust"]) == 0
    weights = [torch.load(f / "checkpoints/best.ckpt", weights_only=True)["state_dict"] for f in (whole, folder)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    results = [read_result(f / "result.json") for f in (whole, folder)]
    assert results[0].metrics == results[1].metrics
    assert results[0].selection == results[1].selection
    # The best epoch may lie before the interruption; the history shows that every epoch was trained, and trained alike.
    rows = [list(csv.DictReader((f / "history.csv").open())) for f in (whole, folder)]
    assert len(rows[0]) == 4
    for one, other in zip(*rows, strict=True):
        assert {**one, "seconds": ""} == {**other, "seconds": ""}


def test_resume_of_a_finished_run_shows_it(own: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(own) == 0
    capsys.readouterr()
    assert main(["run", "--resume", str(only_run(tmp_path))]) == 0
    assert "is finished" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--model.dmi", "3"], "Did you mean '--model.dim'"),
        (["--model.dim", "many"], "model.dim"),
        (["--modle", "x"], "Did you mean '--model'"),
        (["--data.batch_size", "2.5"], "batch_size"),
        (["--trainer.precision", "8"], "precision"),
        (["--variant", "best"], "no variant 'best'"),
        (["--model.image_view", "pixels"], "reads vector"),
    ],
)
def test_wrong_options_are_one_line_and_exit_2(
    own: list[str], tmp_path: Path, words: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*own, *words]) == 2
    error = capsys.readouterr().err
    assert told in error
    assert len(error.strip().splitlines()) == 1
    assert not list(tmp_path.glob("runs/*/*/*"))


def test_ctrl_c_in_a_finaliser_is_not_lost(
    own: list[str], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    handler = signal.getsignal(signal.SIGINT)

    class Pressing:
        def __del__(self) -> None:
            signal.raise_signal(signal.SIGINT)

    def press(self: callbacks.History, *_: object) -> None:
        Pressing()

    monkeypatch.setattr(callbacks.History, "on_train_batch_end", press)
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        assert main(own) == 1
    finally:
        signal.signal(signal.SIGINT, handler)
    error = capfd.readouterr().err
    assert "--resume" in error
    assert "ignored" not in error


@pytest.mark.slow
def test_ctrl_c_in_a_real_process(own: list[str], tmp_path: Path) -> None:
    words = [w if w != "4" else "100000" for w in own]
    process = subprocess.Popen(
        [sys.executable, "-m", "cmr_bench.cli", *words],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        preexec_fn=heed_interrupts,
    )
    try:
        while not list(tmp_path.glob("runs/*/*/*/history.csv")):
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, error = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 1
    assert b"--resume" in error
    assert b"Traceback" not in error


@pytest.mark.slow
@pytest.mark.parametrize(
    ("logger", "left"), [("wandb", "wandb/offline-run-*/*.wandb"), ("tensorboard", "tensorboard/*")]
)
def test_loggers_write_into_the_run_folder(
    own: list[str], tmp_path: Path, logger: str, left: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    done = subprocess.run(
        [sys.executable, "-m", "cmr_bench.cli", *own, "--logger", logger],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    folder = only_run(tmp_path)
    assert (folder / "result.json").is_file()
    assert [path for path in folder.glob(left) if path.stat().st_size]


TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


@pytest.mark.slow
@pytest.mark.parametrize("launcher", [[], TORCHRUN], ids=["lightning", "torchrun"])
def test_two_processes_leave_one_run(launcher: list[str], own: list[str], tmp_path: Path) -> None:
    ddp = ["--trainer.devices", "2", "--trainer.strategy", "ddp"]
    done = subprocess.run(
        [sys.executable, *launcher, "-m", "cmr_bench", *own, *ddp],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    result = read_result(only_run(tmp_path) / "result.json")
    assert result.device.startswith("2 x ")
    assert result.metrics["t2i_r5"] > 35  # chance is 25
    assert done.stdout.count("stored in") == 1


@pytest.mark.slow
def test_two_processes_resume_to_the_same_weights(own: list[str], tmp_path: Path) -> None:
    def start(*words: str, **environment: str) -> int:
        command = [sys.executable, "-m", "cmr_bench", *words]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, env={**os.environ, **environment}).returncode

    ddp = ["--trainer.devices", "2", "--trainer.strategy", "ddp"]
    assert start(*own, *ddp, "--runs", "whole") == 0
    assert start(*own, *ddp, STOP="1") == 1
    (whole,), (folder,) = tmp_path.glob("whole/*/*/*"), tmp_path.glob("runs/*/*/*")
    assert start("run", "--resume", str(folder), "--trust") == 0
    # Each process drops units of its own: the losses agree only where each has its random state back.
    rows = [list(csv.DictReader((f / "history.csv").open())) for f in (whole, folder)]
    assert [{**row, "seconds": ""} for row in rows[0]] == [{**row, "seconds": ""} for row in rows[1]]
    weights = [torch.load(f / "checkpoints/best.ckpt", weights_only=True)["state_dict"] for f in (whole, folder)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_a_run_that_was_moved_keeps_its_best_epoch(
    own: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The first epoch stays the best one, as nothing is learned.
    still = [*own, "--model.lr", "0.0"]
    assert main([*still, "--runs", "whole"]) == 0
    (whole,) = (tmp_path / "whole").glob("*/*/*")
    monkeypatch.setenv("STOP", "1")
    assert main(still) == 1
    monkeypatch.delenv("STOP")
    moved = only_run(tmp_path).rename(tmp_path / "moved")
    assert main(["run", "--resume", str(moved)]) == 0
    results = [read_result(folder / "result.json") for folder in (whole, moved)]
    assert results[0].selection["epoch"] == 0
    assert results[1].selection == results[0].selection
