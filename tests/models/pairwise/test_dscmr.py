"""The loss of DSCMR, put together as the paper and as the authors' program do."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from cmr_bench.datamodules.batches import ImageBatch, PairBatch, TextBatch
from cmr_bench.datamodules.views import DataSpec, ViewSpec
from cmr_bench.models.pairwise.dscmr import DSCMR


def made(n_classes: int = 3, **options: Any) -> DSCMR:
    torch.manual_seed(1)
    module = DSCMR(hidden=6, dim=4, alpha=0.3, beta=0.7, **options)
    spec = DataSpec(ViewSpec("vector", (6,)), ViewSpec("vector", (5,)), n_classes, False, 9, 9)
    module.build(spec)
    return module


def batch(labels: torch.Tensor | None) -> PairBatch:
    generator = torch.Generator().manual_seed(2)
    images, texts = torch.randn(5, 6, generator=generator), torch.randn(5, 5, generator=generator)
    return PairBatch(
        ImageBatch(torch.tensor([0, 8, 3, 3, 5]), vector=images), TextBatch(torch.arange(5), vector=texts), labels
    )


@pytest.mark.parametrize("norm", ["frobenius", "rows"])
@pytest.mark.parametrize("multi", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_loss_is_the_equation(norm: Any, multi: bool, bias: bool) -> None:
    labels = torch.tensor([[1, 0, 0], [0, 1, 1 * multi], [0, 0, 1], [0, 0, 1], [1, 0, 0]])
    module = made(norm=norm, label_bias=bias)
    pairs = batch(labels if multi else labels.argmax(1))
    u = module.encode_images(pairs.images).detach().double().numpy()
    v = module.encode_texts(pairs.texts).detach().double().numpy()
    add = module.class_bias.detach().double().numpy() if module.class_bias is not None else np.zeros(3)
    assert add.any() == bias
    p, y, n = module.classes.detach().double().numpy(), labels.double().numpy(), 5

    def size(difference: Any) -> float:
        rows = [sum(x * x for x in row) for row in difference]
        return float(np.sqrt(sum(rows)) / n if norm == "frobenius" else sum(np.sqrt(rows)) / n)

    first = size(u @ p.T + add - y) + size(v @ p.T + add - y)
    second = 0.0
    for a, b in ((u, v), (u, u), (v, v)):
        for i in range(n):
            for j in range(n):
                half = a[i] @ b[j] / np.linalg.norm(a[i]) / np.linalg.norm(b[j]) / 2
                second += (np.log(1 + np.exp(half)) - (y[i] @ y[j] > 0) * half) / n**2
    third = size(u - v)
    terms = module.loss(pairs)
    found = [terms[name].item() for name in ("label", "likelihood", "distance", "loss")]
    assert found == pytest.approx([first, second, third, first + 0.3 * second + 0.7 * third], rel=1e-5)
    if module.class_bias is not None:
        terms["label"].backward()
        for place, step in enumerate(np.eye(3) * 1e-6):
            slopes = [size(side @ p.T + add + way * step - y) for way in (1, -1) for side in (u, v)]
            slope = (slopes[0] + slopes[1] - slopes[2] - slopes[3]) / 2e-6
            assert module.class_bias.grad is not None
            assert module.class_bias.grad[place].item() == pytest.approx(slope, rel=1e-3, abs=1e-5)


def test_image_is_the_label_where_there_are_no_categories() -> None:
    module = made(n_classes=0)
    assert module.label_space == "identity"
    assert module.classes.shape == (9, 4)
    pairs = batch(None)
    expected = torch.zeros(())
    for side in (module.encode_images(pairs.images), module.encode_texts(pairs.texts)):
        logits = side @ torch.nn.functional.normalize(module.classes, dim=1).T
        expected = expected - logits.log_softmax(1)[torch.arange(5), pairs.identity].mean()
    torch.testing.assert_close(module.loss(pairs)["label"], expected)


def test_bias_of_the_label_layer_is_for_categories() -> None:
    assert made(n_classes=0, label_bias=True).class_bias is None
    torch.manual_seed(7)
    layer = torch.nn.Linear(4, 3)
    module = made(label_bias=True)
    assert module.class_bias is not None
    assert module.classes.shape == layer.weight.shape
    assert float(module.class_bias.detach().abs().max()) <= 0.5
