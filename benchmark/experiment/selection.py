"""Train or fit a method and choose its weights on validation."""

from __future__ import annotations

import csv
import time
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import ModelCheckpoint

from cmr_bench.datamodules.module import RetrievalDataModule
from cmr_bench.experiment.trainer import interruptible
from cmr_bench.models.base import RetrievalModule
from cmr_bench.support.errors import CmrBenchError


def seconds_trained(path: Path) -> float:
    """Sum the seconds of every epoch in ``history.csv``, those before an interruption included."""
    if not path.is_file():
        return 0.0
    with path.open(newline="", encoding="utf-8") as file:
        return sum(float(row["seconds"]) for row in csv.DictReader(file))


def fit(
    trainer: L.Trainer, module: RetrievalModule, data: RetrievalDataModule, folder: Path, seed: int
) -> dict[str, Any]:
    """Train or fit a method, choose its weights on validation and load them.

    Returns:
        The record of the selection: split, criterion, value and epoch.
    """
    selection: dict[str, Any] = {"split": data.select_on, "criterion": data.selection}
    best = folder / "checkpoints" / "best.ckpt"
    if module.closed_form:
        started = time.perf_counter()
        module.fit_split(data.splits["train"], data.splits[data.select_on])
        seconds = time.perf_counter() - started
        metrics = trainer.validate(module, datamodule=data, verbose=False)[0]
        trainer.save_checkpoint(best, weights_only=True)
        return selection | {"value": float(metrics["val/selection"]), "epoch": None, "fit_seconds": seconds}
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
    return selection | {"value": float(keeper.best_model_score), "epoch": int(stored["epoch"])}
