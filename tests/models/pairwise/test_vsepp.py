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
