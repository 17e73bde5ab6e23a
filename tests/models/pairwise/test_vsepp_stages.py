"""VSE++ as the paper trains it: unit-length features, a summed loss, a CNN that waits and then learns with the rest."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch

from cmr_bench.experiment.callbacks import Resume
from cmr_bench.experiment.trainer import quiet
from cmr_bench.models.common import stages
from cmr_bench.models.pairwise.vsepp import VSEPP

CNN = {"image_view": "pixels", "cnn": "timm:test_efficientnet", "cnn_weights": "random", "fine_tune": True}


def built(toy: Callable[..., Any], **options: Any) -> tuple[VSEPP, Any]:
    torch.manual_seed(0)
    data, module = toy(), VSEPP(dim=8, word_dim=4, warmup_epochs=0, **options)
    module.build(data.load(module.image_view, module.text_view))
    module.selection = data.selection
    return module, data


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_loss_and_gradient_are_those_of_the_loop_over_unit_length_features(
    toy: Callable[..., Any], reduction: Any
) -> None:
    module, data = built(toy, normalise_features=True, reduction=reduction)
    batch = next(iter(data.train_dataloader()))
    linear = module.image_layer[1]
    texts = module.encode_texts(batch.texts).detach().double().numpy()
    texts /= np.linalg.norm(texts, axis=1, keepdims=True)
    features = batch.images.vector.double().numpy()
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    owner, n = batch.identity.tolist(), len(batch)

    def slow(bias: Any) -> float:
        images = features @ linear.weight.detach().double().numpy().T + bias
        images /= np.linalg.norm(images, axis=1, keepdims=True)
        scores, total = images @ texts.T, 0.0
        for k in range(n):
            rivals = [j for j in range(n) if owner[j] != owner[k]]
            total += max(max(0.0, 0.2 - scores[k, k] + scores[k, j]) for j in rivals)
            total += max(max(0.0, 0.2 - scores[k, k] + scores[j, k]) for j in rivals)
        return total / (n if reduction == "mean" else 1)

    terms = module.loss(batch)
    terms["loss"].backward()
    assert terms["loss"].item() == pytest.approx(slow(np.zeros(8)), rel=1e-5)
    if reduction == "sum":
        assert terms["pair"].item() == pytest.approx(slow(np.zeros(8)) / n, rel=1e-5)
    for place, step in enumerate(np.eye(8) * 1e-6):
        slope = (slow(step) - slow(-step)) / 2e-6
        assert linear.bias.grad[place].item() == pytest.approx(slope, rel=1e-3, abs=1e-4)


def test_rates_of_the_two_stages(toy: Callable[..., Any]) -> None:
    module, _ = built(toy, **CNN, frozen_epochs=4, lr_decay_every=2, lr=1e-3, cnn_lr=1e-5)
    rates = []
    for number, epochs in ((0, 4), (1, 3)):
        module.stage_number.fill_(number)
        made = module.configure_optimizers()
        optimizer, schedule = made["optimizer"], made["lr_scheduler"]
        for _ in range(epochs):
            rates.append([group["lr"] for group in optimizer.param_groups])
            optimizer.step()
            schedule.step()
    expected = [[1e-3], [1e-3], [1e-4], [1e-4], [1e-5, 1e-5], [1e-5, 1e-5], [1e-6, 1e-6]]
    for found, wanted in zip(rates, expected, strict=True):
        assert found == pytest.approx(wanted)


class Watch(L.Callback):
    """Keeps the image network at the end of every epoch, the norms of its gradients, and copies of the checkpoint."""

    def __init__(self, last: Path) -> None:
        self.last, self.networks, self.touched = last, list[dict[str, Any]](), list[bool]()
        self.counted: set[int] = set()

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        shutil.copy(self.last, self.last.with_name(f"{trainer.current_epoch}.ckpt"))

    def on_before_optimizer_step(self, trainer: L.Trainer, pl_module: Any, optimizer: Any) -> None:
        network = pl_module.image_input.network
        self.touched.append(any(p.grad is not None and bool(p.grad.any()) for p in network.parameters()))

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        state = pl_module.image_input.network.state_dict()
        self.networks.append({name: value.clone() for name, value in state.items()})
        self.counted = {int(seen["step"]) for seen in trainer.optimizers[0].state.values()}


def fitted(toy: Callable[..., Any], folder: Path, resume: Path | None = None) -> tuple[VSEPP, Watch]:
    module, data = built(toy, **CNN, frozen_epochs=2, lr=1e-2, cnn_lr=1e-3, lr_decay_every=1, reduction="sum")
    watch = Watch(folder / "last.ckpt")
    with quiet():
        trainer = L.Trainer(
            max_epochs=4,
            accelerator="cpu",
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            use_distributed_sampler=False,
            gradient_clip_val=2.0,
            callbacks=[Resume(folder / "last.ckpt"), watch],
        )
        module.prepare_training(data.splits["train"])
        trainer.fit(module, datamodule=data, ckpt_path=resume, weights_only=True)
    return module, watch


def test_network_waits_then_learns_and_every_epoch_resumes_exactly(toy: Callable[..., Any], tmp_path: Path) -> None:
    start, _ = built(toy, **CNN)
    module, watch = fitted(toy, tmp_path)
    first = start.image_input.network
    assert first is not None
    steps = len(watch.touched) // 4
    assert watch.touched == [False] * 2 * steps + [True] * 2 * steps
    for name, value in first.state_dict().items():
        assert torch.equal(watch.networks[0][name], value), name
        assert torch.equal(watch.networks[1][name], value), name
    for earlier, later in itertools.pairwise(watch.networks[1:]):
        assert any(not torch.equal(later[name], value) for name, value in earlier.items() if name.endswith("weight"))
    # A fresh optimiser at the beginning of the second stage has seen that stage's steps only.
    assert watch.counted == {2 * steps}
    end = module.state_dict()
    for epoch in range(4):
        again, _ = fitted(toy, tmp_path / str(epoch), resume=tmp_path / f"{epoch}.ckpt")
        for name, value in again.state_dict().items():
            assert torch.equal(value, end[name]), (epoch, name)


def test_waiting_network_gets_zeros_where_ddp_wants_a_gradient(
    toy: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    module, data = built(toy, **CNN, frozen_epochs=2)
    batch = next(iter(data.train_dataloader()))
    monkeypatch.setattr(stages, "world_size", lambda: 2)
    module.on_train_epoch_start()
    alone = module.loss(batch)["loss"]
    total = module.training_step(batch, 0)
    total.backward()
    torch.testing.assert_close(total, alone, rtol=0, atol=0)
    for parameter in module.image_input.parameters():
        assert parameter.grad is not None
        assert not parameter.grad.any()
