"""VSE++: warm-up, negatives, rates."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from cmr_bench.models.losses import hinge_ranking, same
from cmr_bench.models.pairwise.vsepp import VSEPP


def built(toy: Callable[..., Any], **options: Any) -> tuple[VSEPP, Any]:
    torch.manual_seed(0)
    data, module = toy(), VSEPP(dim=8, word_dim=4, **options)
    module.build(data.load(module.image_view, module.text_view))
    return module, next(iter(data.train_dataloader()))


def expected(module: VSEPP, batch: Any, kind: Any) -> torch.Tensor:
    scores = module.similarity(module.encode_images(batch.images), module.encode_texts(batch.texts))
    return hinge_ranking(scores, same(batch.images.rows), module.margin, kind)


def test_warm_up_takes_the_mean_and_then_the_hardest(toy: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    module, batch = built(toy, warmup_epochs=2)
    for epoch, kind in ((0, "mean"), (1, "mean"), (2, "hardest")):
        monkeypatch.setattr(VSEPP, "current_epoch", epoch)
        torch.testing.assert_close(module.loss(batch)["loss"], expected(module, batch, kind))


def test_scores_are_cosines(toy: Callable[..., Any]) -> None:
    module, batch = built(toy)
    images, texts = module.encode_images(batch.images), module.encode_texts(batch.texts)
    assert images.shape == texts.shape == (8, 8)
    torch.testing.assert_close(module.similarity(3 * images, texts), module.similarity(images, 0.1 * texts))


def test_hardest_negatives_after_warm_up_do_not_collapse(toy: Callable[..., Any]) -> None:
    module, batch = built(toy, warmup_epochs=0, lr=1e-2)
    optimizer = module.configure_optimizers()
    for _ in range(60):
        optimizer.zero_grad()
        loss = module.loss(batch)["loss"]
        loss.backward()
        optimizer.step()
    assert float(loss.detach()) < 0.3


def test_the_image_network_is_frozen_or_learns_at_its_own_rate(toy: Callable[..., Any]) -> None:
    options = {"image_view": "pixels", "cnn": "timm:test_efficientnet", "cnn_weights": "random"}
    frozen, batch = built(toy, **options)
    frozen.loss(batch)["loss"].backward()
    assert all(p.grad is None for p in frozen.image_input.parameters())
    assert len(frozen.parameter_groups()) == 1
    tuned, batch = built(toy, **options, fine_tune=True, cnn_lr=1e-6)
    tuned.loss(batch)["loss"].backward()
    assert any(p.grad is not None and bool(p.grad.any()) for p in tuned.image_input.parameters())
    rates = [group["lr"] for group in tuned.configure_optimizers().param_groups]
    assert rates == [tuned.lr, 1e-6]
