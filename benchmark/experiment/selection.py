"""Train or fit a method and choose its weights on validation."""

from __future__ import annotations

import csv
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import ModelCheckpoint

from cmr_bench.datamodules.module import RetrievalDataModule
from cmr_bench.experiment.trainer import interruptible
from cmr_bench.models.base import RetrievalModule
from cmr_bench.support.errors import CmrBenchError


@dataclass(frozen=True)
class Selection:
    """How the weights of a run were chosen.

    Attributes:
        split: Split that chose them.
        criterion: Metric that chose them.
        value: What the metric was there.
        epoch: Epoch that they are of, counted from 0; None for a closed form.
        train_seconds: Wall time until they were there, over all sessions of the run.
    """

    split: str
    criterion: str
    value: float
    epoch: int | None
    train_seconds: float

    def record(self) -> dict[str, Any]:
        """Return the selection as a result keeps it; the time is part of the cost."""
        return {"split": self.split, "criterion": self.criterion, "value": self.value, "epoch": self.epoch}


def fit(trainer: L.Trainer, module: RetrievalModule, data: RetrievalDataModule, folder: Path, seed: int) -> Selection:
    """Train or fit a method, choose its weights on validation and load them."""
    best = folder / "checkpoints" / "best.ckpt"
    if module.closed_form:
        return _solve(trainer, module, data, best)
    return _train(trainer, module, data, folder, best, seed)


def _solve(trainer: L.Trainer, module: RetrievalModule, data: RetrievalDataModule, best: Path) -> Selection:
    options = data.evaluation
    started = time.perf_counter()
    module.fit_split(data.splits["train"], data.splits[options.select_on])
    seconds = time.perf_counter() - started
    metrics = trainer.validate(module, datamodule=data, verbose=False)[0]
    trainer.save_checkpoint(best, weights_only=True)
    return Selection(options.select_on, options.criterion, float(metrics["val/selection"]), None, seconds)


def _train(
    trainer: L.Trainer, module: RetrievalModule, data: RetrievalDataModule, folder: Path, best: Path, seed: int
) -> Selection:
    module.prepare_training(data.splits["train"])
    if trainer.global_rank:
        # With the random numbers of the first process, dropout would take the same units from every share.
        L.seed_everything(seed + trainer.global_rank, workers=True, verbose=False)
    last = folder / "checkpoints" / "last.ckpt"
    with interruptible(trainer):
        trainer.fit(module, datamodule=data, ckpt_path=last if last.is_file() else None, weights_only=True)
    keeper = trainer.checkpoint_callback
    assert isinstance(keeper, ModelCheckpoint)
    if not best.is_file() or keeper.best_model_score is None:
        raise CmrBenchError(
            "no epoch was validated, so no weights were selected: "
            "lower --trainer.val_every or raise --trainer.max_epochs"
        )
    stored = trainer.strategy.checkpoint_io.load_checkpoint(best)
    module.load_state(stored["state_dict"])
    options, seconds = data.evaluation, _seconds_trained(folder / "history.csv")
    return Selection(
        options.select_on, options.criterion, float(keeper.best_model_score), int(stored["epoch"]), seconds
    )


def _seconds_trained(path: Path) -> float:
    """Sum the seconds of every epoch in ``history.csv``, those before an interruption included."""
    if not path.is_file():
        return 0.0
    with path.open(newline="", encoding="utf-8") as file:
        return sum(float(row["seconds"]) for row in csv.DictReader(file))
