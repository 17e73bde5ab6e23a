"""Means of the losses of an epoch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cmr_bench.datamodules.batches import PairBatch
from cmr_bench.models.means import EpochMeans
from cmr_bench.models.pairwise.vsepp import VSEPP

BATCH = st.tuples(st.integers(1, 300), st.floats(-1e3, 1e3, width=32), st.none() | st.floats(-1e3, 1e3, width=32))


@given(st.lists(BATCH, min_size=1, max_size=20))
def test_pairs_weigh_alike_in_batches_of_any_size(batches: list[tuple[int, float, float | None]]) -> None:
    means = EpochMeans()
    for n_pairs, loss, other in batches:
        terms = {"loss": torch.tensor(loss, requires_grad=True)}
        means.add(terms if other is None else terms | {"other": torch.tensor(other)}, n_pairs)
    assert not means.last["loss"].requires_grad
    found = means.take()
    for place, name in ((1, "loss"), (2, "other")):
        given_ = [(batch[0], batch[place]) for batch in batches if batch[place] is not None]
        assert (name in found) == bool(given_)
        if given_:
            pairs, values = np.array(given_, dtype=np.float64).T
            largest = np.abs(values).max()
            assert float(found[name]) == pytest.approx(np.average(values, weights=pairs), rel=1e-5, abs=1e-5 * largest)
    assert means.take() == {}


class Watch(L.Callback):
    """Keeps the loss of every batch, and what was logged at the end of every epoch."""

    def __init__(self) -> None:
        self.losses: list[tuple[float, int]] = []
        self.logged: list[float] = []

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.losses.append((float(outputs["loss"]), len(batch)))

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        self.logged += [
            float(trainer.callback_metrics[name]) for name in ("train/loss",) if name in trainer.callback_metrics
        ]


class Own(VSEPP):
    """A method of a user with a step of its own, which logs what it likes."""

    def training_step(self, batch: PairBatch, batch_idx: int) -> torch.Tensor:
        loss = self.loss(batch)["loss"]
        self.log("own", loss.detach(), on_epoch=True, on_step=False, batch_size=len(batch))
        return loss


def fitted(
    toy: Callable[..., Any], watch: Watch, method: type[VSEPP] = VSEPP, bar: bool = False, **options: Any
) -> L.Trainer:
    trainer = L.Trainer(
        accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=bar, callbacks=[watch],
        enable_model_summary=False, use_distributed_sampler=False, limit_val_batches=0, **options,
    )  # fmt: skip
    trainer.fit(method(dim=8, word_dim=4), datamodule=toy(n_train=23))
    return trainer


def test_what_is_logged_is_the_mean_of_each_epoch_alone(toy: Callable[..., Any]) -> None:
    watch = Watch()
    fitted(toy, watch, max_epochs=3)
    steps = len(watch.losses) // 3
    assert len({n for _, n in watch.losses}) == 2
    for epoch, logged in enumerate(watch.logged):
        losses, pairs = zip(*watch.losses[epoch * steps : (epoch + 1) * steps], strict=True)
        assert logged == pytest.approx(np.average(losses, weights=pairs), rel=1e-5)


def test_an_epoch_that_ends_early_is_logged_too(toy: Callable[..., Any]) -> None:
    watch = Watch()
    trainer = fitted(toy, watch, max_steps=2)
    assert len(watch.losses) == 2
    mean = np.mean([loss for loss, _ in watch.losses])
    assert float(trainer.callback_metrics["train/loss"]) == pytest.approx(mean, rel=1e-5)


def test_a_progress_bar_shows_the_loss(toy: Callable[..., Any]) -> None:
    watch = Watch()
    trainer = fitted(toy, watch, bar=True, max_epochs=1)
    assert float(trainer.progress_bar_metrics["loss"]) == pytest.approx(watch.losses[-1][0], rel=1e-6)


def test_a_step_of_ones_own_logs_by_itself(toy: Callable[..., Any]) -> None:
    trainer = fitted(toy, Watch(), Own, bar=True, max_epochs=1)
    assert "own" in trainer.callback_metrics
    assert "train/loss" not in trainer.callback_metrics
