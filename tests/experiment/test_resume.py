"""Killed at any moment and started again, a run ends like one that was never interrupted."""

from __future__ import annotations

import json
import os
import random
import resource
import shutil
import signal
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from cmr_bench.cli import main
from cmr_bench.experiment import callbacks
from cmr_bench.models.base import RetrievalModule

TINY = [
    *("--data", "synthetic", "--data.n_train", "40", "--data.n_val", "16", "--data.n_test", "16"),
    *("--data.batch_size", "16", "--trainer.max_epochs", "3", "--trainer.bootstrap", "5"),
    *("--trainer.accelerator", "cpu", "--trainer.progress", "false", "--trainer.patience", "2"),
]
# One of each family, with what a resume could forget: dropout, a learning rate that falls, an adversary whose weight
# grows, batch statistics, warm-up epochs, accumulated gradients, stages.
METHODS = {
    "vsepp": "--model.dim 8 --model.word_dim 8 --model.dropout 0.3 --model.lr_decay_every 1 --model.lr 2e-2",
    "acmr": "--model.dim 8 --model.dropout 0.3 --model.image_layers [8] --model.text_layers [8] --model.lr 5e-3",
    "scan": "--model.dim 8 --model.word_dim 8 --trainer.accumulate 2 --model.lr 1e-2",
    "agnet": "--model.hidden 8 --model.bits 8 --model.dropout 0.3 --trainer.gradient_clip 1 --model.lr 1e-2",
    "camp": "--model.dim 8 --model.word_dim 8 --model.stages [1,1,1] --model.lr_decay_every 1",
    "acme": "--model.dim 8 --model.critic_layers [8] --model.translator 8 --model.dropout 0.3 --model.lr 1e-2",
    "cca": "",
}
CHANGING = {"run_id", "created", "cost"}


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@dataclass
class After:
    """Ends the process at the n-th call of a method, before it or when half of its work is done."""

    count: int

    def __call__(self, *_: Any, **__: Any) -> None:
        self.count -= 1
        if self.count < 0:
            die()


def in_training(rng: random.Random) -> None:
    """At a step, before or after the optimiser has moved."""
    name = rng.choice(["on_train_batch_start", "on_train_batch_end"])
    trap, inner = After(rng.randrange(9)), getattr(callbacks.Stops, name)

    def hook(*args: Any) -> None:
        trap()
        inner(*args)

    setattr(callbacks.Stops, name, hook)


def in_validation(rng: random.Random) -> None:
    """Before a batch of validation is encoded, or while the split is scored."""
    name = rng.choice(["_encode", "_evaluate"])
    trap, inner = After(rng.randrange(6 if name == "_encode" else 3)), getattr(RetrievalModule, name)

    def hook(*args: Any) -> Any:
        trap()
        return inner(*args)

    setattr(RetrievalModule, name, hook)


def in_writing(rng: random.Random) -> None:
    """While a checkpoint, the history or the result is written: half a file is there, or all but its name."""
    trap, share, rename = After(rng.randrange(9)), rng.random(), os.replace

    def replace(source: Any, target: Any) -> None:
        if trap.count == 0 and share < 0.7:
            os.truncate(source, int(os.path.getsize(source) * share))  # noqa: PTH202
        trap()
        rename(source, target)

    os.replace = replace  # type: ignore[assignment]


def at_any_moment(rng: random.Random) -> None:
    """After a share of the processor time that a whole run takes, wherever that is."""
    signal.signal(signal.SIGVTALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_VIRTUAL, rng.uniform(0.02, 1) * SECONDS[0])


SECONDS = [1.0]
MOMENTS = [in_training, in_validation, in_writing, at_any_moment]


def forked(work: Callable[[], int]) -> int:
    """Run in a copy of this process, which has imported everything; returns the exit code, negative for a signal."""
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        code = 99
        try:
            code = work()
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def stored(folder: Path) -> tuple[dict[str, Any], dict[str, Any], list[str]]:
    result = {k: v for k, v in json.loads((folder / "result.json").read_text()).items() if k not in CHANGING}
    weights = torch.load(folder / "checkpoints" / "best.ckpt", weights_only=True)
    history = []
    if (folder / "history.csv").is_file():
        head, *lines = (folder / "history.csv").read_text().splitlines()
        at = head.split(",").index("seconds")
        history = [",".join(cell for k, cell in enumerate(line.split(",")) if k != at) for line in lines]
    state = {key: weights[key] for key in ("state_dict", "optimizer_states", "epoch", "global_step") if key in weights}
    return result, state, history


def equal(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(equal(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(equal, one, other))
    return bool(one == other)


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("name", METHODS)
def test_killed_runs_end_like_a_whole_one(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["run", "--model", name, *TINY, *METHODS[name].split()]
    # The first run fills the cache of texts: what it takes says nothing of those that are killed.
    assert forked(lambda: main([*words, "--runs", "first"])) == 0
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    assert forked(lambda: main([*words, "--runs", "whole"])) == 0
    SECONDS[0] = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before
    (whole,) = tmp_path.glob("whole/*/*/*")
    expected = stored(whole)
    moments = MOMENTS[2:] if name == "cca" else [*MOMENTS, in_writing]
    for number, moment in enumerate(moments):
        seed = killed_run(moment, name, [*words, "--runs", str(number)], tmp_path / str(number))
        folder = next((file.parent for file in tmp_path.glob(f"{number}/*/*/*/config.yaml")), None)
        if folder is None:
            continue  # it had not begun: nothing to go on with
        go_on = ["run", "--resume", str(folder)]
        if number % 2:
            forked(lambda: die_at(moment, random.Random(seed), go_on))  # noqa: B023
        assert forked(lambda: main(go_on)) == 0  # noqa: B023
        result, weights, history = stored(folder)
        assert result == expected[0]
        assert equal(weights, expected[1])
        assert history == expected[2]
        assert not list(folder.rglob("*.tmp"))


def killed_run(moment: Callable[[random.Random], None], name: str, words: list[str], runs: Path) -> str:
    """Start a run that is killed, and return the seed of its moment; one that outlives a late moment is made again."""
    for attempt in range(9):
        seed = f"{name} {runs.name} {attempt}"
        if forked(lambda: die_at(moment, random.Random(seed), words)) < 0:  # noqa: B023
            return seed
        shutil.rmtree(runs)
    pytest.fail(f"{words} outlived nine moments of {moment.__name__}")


def die_at(moment: Callable[[random.Random], None], rng: random.Random, words: list[str]) -> int:
    moment(rng)
    return main(words)
