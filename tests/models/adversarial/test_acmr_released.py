"""The losses of the authors' program of ACMR against slow loops, forward and backward."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from cmr_bench.models.adversarial.acmr import ACMR
from cmr_bench.models.losses import batch_hinge, most_similar_other, same
from cmr_bench.support.errors import UsageError

Matrix = NDArray[np.float64]
OPTIONS: dict[str, Any] = {
    "mining": "released", "linear_discriminator": True, "xavier": True, "train_classes": False, "alpha": 1.0,
    "adversarial_gradient": False, "beta": 100.0, "regularisation": 0.0, "margin": 0.1, "attraction": 5.0,
}  # fmt: skip


def built(toy: Callable[..., Any], **options: Any) -> tuple[ACMR, Any]:
    torch.manual_seed(0)
    data = toy()
    module = ACMR(image_layers=[8, 7], text_layers=[6, 7], dim=5, modality_layers=[4, 3], **(OPTIONS | options))
    module.build(data.load(module.image_view, module.text_view))
    return module, next(iter(data.train_dataloader()))


def slow_triplets(v: Matrix, w: Matrix, x: Matrix, z: Matrix, labels: list[int], margin: float, pull: float) -> float:
    total, n = 0.0, len(v)
    for anchors, partners, raw in ((v, w, x), (w, v, z)):
        near = far = 0.0
        for i in range(n):
            likeness = [0.0 if labels[i] == labels[j] else float(raw[i] @ raw[j]) for j in range(n)]
            likeness = [
                value / float(np.linalg.norm(raw[i]) * np.linalg.norm(raw[j])) for j, value in enumerate(likeness)
            ]
            negative = likeness.index(max(likeness))
            near += float(((anchors[i] - partners[i]) ** 2).sum()) / 2
            far += float(((anchors[i] - partners[negative]) ** 2).sum()) / 2
        total += max(0.0, margin + pull * near - far)
    return total


@pytest.mark.parametrize("pull", [5.0, 1.5])
def test_triplets_are_the_programs_forward_and_backward(toy: Callable[..., Any], pull: float) -> None:
    module, batch = built(toy, attraction=pull)
    x, z = batch.images.vector, batch.texts.vector
    sides = [module.encode_images(batch.images), module.encode_texts(batch.texts)]
    leaves = [side.detach().clone().requires_grad_() for side in sides]
    found = module.released_triplets(leaves[0], leaves[1], x, z, batch.labels)
    found.backward()
    v, w = (leaf.detach().double().numpy() for leaf in leaves)
    arguments = (x.double().numpy(), z.double().numpy(), batch.labels.tolist(), 0.1, pull)
    assert found.item() == pytest.approx(slow_triplets(v, w, *arguments), rel=1e-5)
    assert found.item() > 0
    for leaf, place in ((0, (0, 1)), (1, (3, 2)), (0, (5, 4))):
        values = []
        for step in (1e-5, -1e-5):
            moved = [v.copy(), w.copy()]
            moved[leaf][place] += step
            values.append(slow_triplets(moved[0], moved[1], *arguments))
        assert leaves[leaf].grad is not None
        assert leaves[leaf].grad[place].item() == pytest.approx((values[0] - values[1]) / 2e-5, rel=1e-3, abs=1e-4)


def test_one_hinge_for_the_batch_not_one_for_each_anchor() -> None:
    anchors = torch.tensor([[0.0, 0], [0, 0]])
    positives, negatives = torch.tensor([[1.0, 0], [0, 0]]), torch.tensor([[0.5, 0], [9, 0]])
    # The first anchor is nearer to its negative; the second is so far from its own that the batch costs nothing.
    assert float(batch_hinge(anchors, positives, negatives, 0.1, 5.0)) == 0
    assert float(batch_hinge(anchors[:1], positives[:1], negatives[:1], 0.1, 5.0)) == pytest.approx(0.1 + 2.5 - 0.125)


def test_own_class_counts_as_zero_even_where_all_others_are_opposite() -> None:
    features = torch.tensor([[1.0, 0], [-1, 0], [-1, 0.1], [1, 0.1]])
    positive = same(torch.tensor([0, 1, 1, 0]))
    assert most_similar_other(features, positive).tolist() == [0, 1, 1, 0]
    assert most_similar_other(features, same(torch.tensor([0, 1, 0, 1]))).tolist() == [3, 2, 1, 0]


def test_whole_loss_and_what_it_moves(toy: Callable[..., Any]) -> None:
    module, batch = built(toy)
    module.progress = 0.7
    terms = module.loss(batch)
    assert terms["loss"].item() == pytest.approx(
        terms["triplet"].item() + 100 * terms["label"].item() + terms["discriminator"].item(), rel=1e-5
    )
    terms["discriminator"].backward(retain_graph=True)
    assert all(p.grad is None or not p.grad.any() for p in module.image_net.parameters())
    terms["loss"].backward()
    assert module.classes.grad is None
    assert all(p.grad is not None and bool(p.grad.any()) for p in module.image_net.parameters())


def test_discriminator_is_linear_and_layers_start_by_xavier(toy: Callable[..., Any]) -> None:
    module, _ = built(toy)
    assert not any(isinstance(layer, torch.nn.ReLU) for layer in module.discriminator)
    a, b = torch.randn(2, 1, 5)
    both = module.discriminator(a + b)
    torch.testing.assert_close(both, module.discriminator(a) + module.discriminator(b))
    for net in (module.image_net, module.text_net, module.discriminator):
        for layer in (layer for layer in net if isinstance(layer, torch.nn.Linear)):
            assert not layer.bias.any()
            bound = (6 / sum(layer.weight.shape)) ** 0.5
            assert 0.5 * bound < float(layer.weight.detach().abs().max()) <= bound


def test_words_have_no_features_to_compare(toy: Callable[..., Any]) -> None:
    with pytest.raises(UsageError, match=r"pass --model\.text_view vector"):
        built(toy, text_view="tokens")
