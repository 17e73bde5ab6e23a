"""Alarms and stops: what goes wrong in training is told within the epoch and never becomes a result."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from cmr_bench.cli import main
from cmr_bench.models.scoring import spread

SMALL = [
    "--data",
    "synthetic",
    "--data.n_train",
    "60",
    "--data.n_val",
    "20",
    "--data.n_test",
    "20",
    "--trainer.progress=false",
    "--trainer.bootstrap",
    "0",
]

BROKEN = '''
import torch
from torch import nn
from cmr_bench.models.pairwise.vsepp import VSEPP


class Diverging(VSEPP):
    """Its loss becomes infinite in the second epoch."""

    def loss(self, batch):
        found = super().loss(batch)["loss"]
        return {"loss": found / 0 if self.current_epoch == 1 else found}


class Stuck(VSEPP):
    """All its scores are equal, as after a collapse."""

    def similarity(self, images, texts):
        return super().similarity(images, texts) * 1e-6


class Pointed(VSEPP):
    """Every image has the same embedding."""

    def encode_images(self, images):
        return super().encode_images(images) * 1e-5 + 1
'''


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "broken.py").write_text(BROKEN)
    return ["run", *SMALL, "--model.dim", "8", "--model.word_dim", "8", "--trainer.max_epochs", "3"]


@pytest.mark.parametrize(
    ("name", "options", "told", "epoch"),
    [
        ("Diverging", [], "the loss is inf", 1),
        ("Stuck", ["--model.warmup_epochs", "1"], "its value when all scores are equal (0.4)", 1),
        ("Pointed", ["--model.negatives", "mean"], "all images collapsed to one embedding", 0),
    ],
)
def test_a_run_that_cannot_learn_fails_within_the_epoch(
    small: list[str],
    tmp_path: Path,
    name: str,
    options: list[str],
    told: str,
    epoch: int,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main([*small, "--model", f"broken.py:{name}", *options]) == 1
    error = capsys.readouterr().err.strip()
    assert told in error
    assert "try: " in error
    assert len(error.splitlines()) == 1
    (folder,) = tmp_path.glob("runs/*/*/*")
    record = json.loads((folder / "failed.json").read_text())
    assert told in record["reason"]
    assert record["epoch"] == epoch
    assert not (folder / "result.json").exists()
    assert main(["leaderboard", "--data", "synthetic"]) == 0
    shown = capsys.readouterr()
    assert name not in shown.out
    assert f"{name}" in shown.err
    assert told in shown.err


def test_a_run_that_learns_raises_no_alarm(small: list[str], tmp_path: Path) -> None:
    assert main([*small, "--model", "vsepp"]) == 0
    (folder,) = tmp_path.glob("runs/*/*/*")
    assert not (folder / "failed.json").exists()


def test_spread_is_the_variance_of_unit_vectors() -> None:
    torch.manual_seed(0)
    assert spread(torch.ones(5, 3) * torch.arange(1, 6)[:, None]) == pytest.approx(0, abs=1e-7)
    assert spread(torch.tensor([[1.0, 0.0], [-2.0, 0.0]])) == pytest.approx(1)
    values = torch.randn(50, 4)
    unit = values / values.norm(dim=1, keepdim=True)
    assert spread(values) == pytest.approx(float(unit.var(0, correction=0).sum()), abs=1e-6)
    assert math.isclose(spread(values * 7), spread(values), abs_tol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["SIGTERM", "SIGUSR1"])
def test_a_signal_of_the_scheduler_leaves_a_run_to_go_on_with(small: list[str], tmp_path: Path, name: str) -> None:
    words = [*small[:-1], "100000", "--model", "vsepp"]
    process = subprocess.Popen(
        [sys.executable, "-m", "cmr_bench", *words], stderr=subprocess.PIPE, text=True, env={**os.environ}
    )
    try:
        until = time.monotonic() + 120
        while not list(tmp_path.glob("runs/*/*/*/history.csv")) and time.monotonic() < until:
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(getattr(signal, name))
        _, error = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 1
    assert "interrupted; resume with `cmr-bench run --resume" in error
    assert "Traceback" not in error
    (folder,) = tmp_path.glob("runs/*/*/*")
    assert (folder / "checkpoints" / "last.ckpt").is_file()
