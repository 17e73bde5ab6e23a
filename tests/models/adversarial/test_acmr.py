"""The terms of ACMR, its schedule, and what its authors' program leaves out."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch

from cmr_bench.experiment.callbacks import Resume
from cmr_bench.experiment.trainer import quiet
from cmr_bench.models.adversarial.acmr import ACMR
from cmr_bench.models.losses import frobenius, label_cross_entropy, reversal_schedule
from tests.support.trainers import make_trainer


def built(toy: Callable[..., Any], n_classes: int = 3, multi: bool = False, **options: Any) -> tuple[ACMR, Any]:
    torch.manual_seed(0)
    data = toy(n_classes=n_classes, multi_label=multi)
    module = ACMR(image_layers=[8], text_layers=[7], dim=6, modality_layers=[5], **options)
    module.build(data.load(module.image_view, module.text_view))
    return module, data


def batch_of(data: Any) -> Any:
    return next(iter(data.train_dataloader()))


@pytest.mark.parametrize("mining", ["all", "hardest"])
def test_triplet_term_is_the_loop_over_both_directions(toy: Callable[..., Any], mining: Any) -> None:
    module, data = built(toy, margin=0.7, attraction=2.5, mining=mining)
    batch = batch_of(data)
    sides = [module.encode_images(batch.images), module.encode_texts(batch.texts)]
    points = [side.detach().double().numpy() for side in sides]
    labels, n, total = batch.labels.tolist(), len(batch), 0.0
    for a, b in ((0, 1), (1, 0)):
        rows = [
            [
                (2.5 * math.dist(points[a][k], points[b][p]), math.dist(points[a][k], points[b][q]))
                for p in range(n)
                for q in range(n)
                if labels[p] == labels[k] and labels[q] != labels[k]
            ]
            for k in range(n)
        ]
        if mining == "hardest":
            rows = [[(max(d for d, _ in row), min(d for _, d in row))] for row in rows]
        costs = [max(0.0, 0.7 + near - far) for row in rows for near, far in row]
        total += sum(costs) / len(costs)
    assert float(module.triplet_loss(sides[0], sides[1], batch.labels).detach()) == pytest.approx(total, rel=1e-4)


@pytest.mark.parametrize("multi", [False, True])
def test_label_term_is_the_cross_entropy_of_both_modalities(toy: Callable[..., Any], multi: bool) -> None:
    module, data = built(toy, multi=multi)
    batch = batch_of(data)
    classes = module.classes.detach().double().numpy()
    total = 0.0
    for side in (module.encode_images(batch.images), module.encode_texts(batch.texts)):
        for row, label in zip(side.detach().double().numpy(), batch.labels.numpy(), strict=True):
            predictions = np.exp(classes @ row)
            share = label / label.sum() if multi else np.eye(3)[label]
            total -= float(share @ np.log(predictions / predictions.sum())) / len(batch)
    assert float(module.loss(batch)["label"].detach()) == pytest.approx(total, rel=1e-4)


def test_norms_are_those_of_the_projectors(toy: Callable[..., Any]) -> None:
    module, data = built(toy)
    weights = [value for name, value in module.named_parameters() if "_net" in name and name.endswith("weight")]
    assert len(weights) == 4
    total = sum(math.sqrt(sum(x * x for x in weight.detach().double().flatten().tolist())) for weight in weights)
    assert float(module.loss(batch_of(data))["norms"].detach()) == pytest.approx(total, rel=1e-5)


def test_losses_stay_in_full_precision_under_autocast() -> None:
    values = [torch.randn(6, 4, generator=torch.Generator().manual_seed(k)).mul(3).bfloat16() for k in range(2)]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        for loss in (label_cross_entropy(values[0], values[1].abs()), frobenius(values)):
            assert loss.dtype == torch.float32
            assert bool(torch.isfinite(loss))


def test_schedule_rises_from_zero_to_one() -> None:
    assert reversal_schedule(0) == 0
    assert reversal_schedule(0.1) == pytest.approx(math.tanh(0.5))
    assert reversal_schedule(1) == pytest.approx(1, abs=1e-4)


def test_released_form_keeps_the_adversary_from_the_projectors_and_the_classifier_as_it_was(
    toy: Callable[..., Any],
) -> None:
    module, data = built(toy, adversarial_gradient=False, train_classes=False)
    module.progress = 0.8
    assert module.reversal == 0
    batch = batch_of(data)
    terms = module.loss(batch)
    module.zero_grad()
    terms["discriminator"].backward(retain_graph=True)
    assert all(value.grad is None or not value.grad.any() for value in module.image_net.parameters())
    assert any(value.grad is not None and value.grad.any() for value in module.discriminator.parameters())
    terms["loss"].backward()
    assert module.classes.grad is None


class Progress(L.Callback):
    """Keeps the progress of every step."""

    def __init__(self) -> None:
        self.seen = list[float]()

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, *args: Any) -> None:
        self.seen.append(pl_module.progress)


def test_schedule_goes_on_where_an_interrupted_run_stopped(toy: Callable[..., Any], tmp_path: Path) -> None:
    def fit(resume: bool) -> list[float]:
        module, data = built(toy)
        progress, checkpoint = Progress(), tmp_path / "last.ckpt"
        trainer = make_trainer(3, callbacks=[progress, Resume(checkpoint)])
        module.prepare_training(data.splits["train"])
        with quiet():
            trainer.fit(module, datamodule=data, ckpt_path=checkpoint if resume else None, weights_only=True)
        return progress.seen

    whole = fit(resume=False)
    steps = len(whole)
    assert whole == pytest.approx([step / steps for step in range(steps)])
    assert fit(resume=True) == pytest.approx(whole[2 * steps // 3 :])
