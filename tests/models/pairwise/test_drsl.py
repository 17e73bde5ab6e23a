"""The relation networks score every pair as the plain networks would, without holding them all."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from cmr_bench.datamodules.batches import ImageBatch, PairBatch, TextBatch
from cmr_bench.datamodules.views import DataSpec, ViewSpec
from cmr_bench.models.pairwise import drsl
from cmr_bench.models.pairwise.drsl import DRSL, relate
from cmr_bench.support.errors import UsageError


def test_similarity_is_the_network_on_the_concatenation() -> None:
    torch.manual_seed(0)
    module = DRSL(hidden=8, dim=6, relation=7)
    module.build(DataSpec(ViewSpec("vector", (5,)), ViewSpec("vector", (4,)), 0, False, 3, 3))
    images, texts = torch.randn(3, 5), torch.randn(4, 4)
    found = module.similarity(
        module.encode_images(ImageBatch(torch.arange(3), vector=images)),
        module.encode_texts(TextBatch(torch.arange(4), vector=texts)),
    )
    for i in range(3):
        for j in range(4):
            both = torch.cat([module.image_net(images[i]), module.text_net(texts[j])])
            torch.testing.assert_close(found[i, j], module.score(module.relation(both).relu())[0])


@pytest.mark.parametrize("kept", [10**9, 0])
@pytest.mark.parametrize("piece", [1, 7, 13, 40, 10**6])
def test_pieces_of_any_size_give_the_same_scores_and_gradients(
    piece: int, kept: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drsl, "_KEPT", kept)
    torch.manual_seed(0)
    given = [torch.randn(*shape, dtype=torch.float32) for shape in ((5, 6), (7, 6), (6,), (1,))]
    whole, parts = ([value.clone().requires_grad_() for value in given] for _ in range(2))
    images, texts, weight, bias = whole
    expected = (images[:, None] + texts[None]).relu() @ weight + bias
    expected.square().sum().backward()
    found = relate(*parts, piece=piece)
    torch.testing.assert_close(found, expected)
    found.square().sum().backward()
    for mine, other in zip(parts, whole, strict=True):
        torch.testing.assert_close(mine.grad, other.grad)


def test_scores_do_not_saturate_into_ties() -> None:
    images, texts = torch.full((1, 2), 50.0), torch.tensor([[10.0, 0], [20.0, 0]])
    scores = relate(images, texts, torch.ones(2), torch.zeros(1))
    assert float(scores[0, 0]) < float(scores[0, 1])
    assert torch.equal(*scores.sigmoid().T)


LABELS = [0, 1, 0, 2, 1]


def released(**options: Any) -> tuple[DRSL, PairBatch]:
    torch.manual_seed(0)
    module = DRSL(network="released", hidden=6, dim=4, relation=7, **options)
    module.build(DataSpec(ViewSpec("vector", (5,)), ViewSpec("vector", (3,)), 3, False, 9, 9))
    images, texts, rows = torch.randn(5, 5), torch.randn(5, 3), torch.arange(5)
    return module, PairBatch(ImageBatch(rows, vector=images), TextBatch(rows, vector=texts), torch.tensor(LABELS))


def array(value: torch.Tensor) -> Any:
    return value.detach().double().numpy()


def slow_layer(x: Any, linear: Any, norm: Any, statistics: tuple[Any, Any] | None = None) -> Any:
    x = np.array([array(linear.weight) @ row + array(linear.bias) for row in x])
    mean, variance = (x.mean(0), ((x - x.mean(0)) ** 2).mean(0)) if statistics is None else statistics
    return np.maximum(0, (x - mean) / np.sqrt(variance + norm.eps) * array(norm.weight) + array(norm.bias))


def slow_scores(module: DRSL, images: Any, texts: Any, learned: bool = False) -> Any:
    def of(norm: Any) -> tuple[Any, Any] | None:
        return (array(norm.running_mean), array(norm.running_var)) if learned else None

    sides = []
    for x, net in ((images, module.image_net), (texts, module.text_net)):
        for linear, norm in zip(list(net)[::2], list(net)[1::2], strict=True):
            x = slow_layer(x, linear, norm, of(norm))
        sides.append(x)
    pairs, n = module.pairs, len(texts)
    hidden = [np.concatenate([u, v]) for u in sides[0] for v in sides[1]]
    hidden = slow_layer(hidden, pairs.first, pairs.first_norm, of(pairs.first_norm))
    hidden = slow_layer(hidden, pairs.second, pairs.second_norm, of(pairs.second_norm))
    return (hidden @ array(pairs.score.weight)[0] + array(pairs.score.bias)[0]).reshape(-1, n)


def slow_loss(module: DRSL, images: Any, texts: Any) -> float:
    scores, total = slow_scores(module, images, texts), 0.0
    for i, one in enumerate(LABELS):
        for j, other in enumerate(LABELS):
            total += (scores[i, j] - (one == other)) ** 2
    return float(total / np.sqrt(len(LABELS) ** 2))


def test_released_loss_is_the_networks_forward_and_backward() -> None:
    module, batch = released()
    assert batch.images.vector is not None
    assert batch.texts.vector is not None
    images, texts = batch.images.vector.double().numpy(), batch.texts.vector.double().numpy()
    for norm in (layer for layer in module.modules() if isinstance(layer, torch.nn.BatchNorm1d)):
        torch.nn.init.normal_(norm.weight, 1, 0.3)
        torch.nn.init.normal_(norm.bias, 0, 0.3)
    loss = module.loss(batch)["loss"]
    loss.backward()
    assert loss.item() == pytest.approx(slow_loss(module, images, texts), rel=1e-4)
    module.double()
    for parameter in (module.image_net[0].weight, module.pairs.first.weight, module.pairs.score.bias):
        place = (1,) * parameter.ndim if parameter.numel() > 1 else (0,)
        assert parameter.grad is not None
        with torch.no_grad():
            start = parameter[place].item()
            values = []
            for step in (1e-6, -1e-6):
                parameter[place] = start + step
                values.append(slow_loss(module, images, texts))
            parameter[place] = start
        slope = (values[0] - values[1]) / 2e-6
        assert parameter.grad[place].item() == pytest.approx(slope, rel=1e-2, abs=1e-4)


def test_released_similarity_is_the_network_with_learned_statistics(monkeypatch: pytest.MonkeyPatch) -> None:
    module, batch = released()
    for _ in range(3):
        module.loss(batch)
    module.eval()
    texts = torch.randn(4, 3)
    found = []
    for piece in (drsl._PIECE, 1):
        monkeypatch.setattr(drsl, "_PIECE", piece)
        with torch.no_grad():
            encoded = module.encode_images(batch.images), module.encode_texts(TextBatch(torch.arange(4), vector=texts))
            found.append(module.similarity(*encoded))
    assert batch.images.vector is not None
    expected = slow_scores(module, batch.images.vector.double().numpy(), texts.double().numpy(), learned=True)
    for scores in found:
        np.testing.assert_allclose(scores.numpy(), expected, rtol=1e-4, atol=1e-5)


def test_released_network_takes_a_lone_pair_and_adams_own_decay() -> None:
    module, batch = released(weight_decay=1e-4)
    assert batch.images.vector is not None
    assert batch.texts.vector is not None
    one = torch.arange(1)
    alone = PairBatch(
        ImageBatch(one, vector=batch.images.vector[:1]), TextBatch(one, vector=batch.texts.vector[:1]), one
    )
    assert bool(torch.isfinite(module.loss(alone)["loss"]))
    optimizer = module.make_optimizer()
    assert type(optimizer) is torch.optim.Adam
    assert (optimizer.defaults["betas"], optimizer.defaults["weight_decay"]) == ((0.5, 0.99), 1e-4)
    with pytest.raises(UsageError, match="leave these out"):
        released(balanced=True)
