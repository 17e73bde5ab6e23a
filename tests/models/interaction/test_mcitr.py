"""MCITR: neighbours, draws, losses by their equations, and a relation network that the autoencoder does not train."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from cmr_bench.models.interaction.mcitr import MCITR, code_error, draw, nearest, variance_penalty
from cmr_bench.support.errors import UsageError
from tests.support.trainers import fit


def built(toy: Callable[..., Any], **options: Any) -> tuple[MCITR, Any]:
    torch.manual_seed(0)
    data, module = toy(), MCITR(hidden=6, code_dim=4, dropout=0.0, input_dropout=0.0, **options)
    module.attach(data)
    module.prepare_training(data.splits["train"])
    return module, data


def made(n: int, dim: int, seed: int) -> Tensor:
    return torch.randn(n, dim, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@given(n=st.integers(1, 12), k=st.integers(1, 5), seed=st.integers(0, 10**6))
@settings(deadline=None, max_examples=40)
def test_neighbours_by_their_distances(n: int, k: int, seed: int) -> None:
    features = made(n, 3, seed).float()
    squashed = np.tanh(features.double().numpy() / 1.5)
    for row, found in enumerate(nearest(features, k, 1.5).tolist()):
        distances = [float(np.linalg.norm(squashed[row] - other)) for other in squashed]
        assert found[0] == row
        assert len(set(found)) == len(found) == min(k, n)
        assert [distances[f] for f in found] == pytest.approx(sorted(distances)[: len(found)], abs=1e-3)


@given(n_images=st.integers(1, 30), b=st.integers(1, 6), share=st.sampled_from((0.5, 1)), seed=st.integers(0, 10**6))
@settings(deadline=None, max_examples=80)
def test_unrelated_texts_are_of_no_image_of_the_batch(n_images: int, b: int, share: float, seed: int) -> None:
    random = np.random.default_rng(seed)
    owner = np.sort(np.concatenate([np.arange(n_images), random.integers(n_images, size=n_images)]))
    near_images = np.stack([random.permutation(n_images)[: min(3, n_images)] for _ in range(n_images)])
    near_texts = np.stack([random.permutation(len(owner))[: min(3, len(owner))] for _ in owner])
    texts = random.integers(len(owner), size=b)
    images = owner[texts]
    identities = random.integers(max(1, int(share * n_images)), size=n_images) if share < 1 else np.arange(n_images)
    given = (images, texts, near_images, near_texts, owner, identities)
    rows, columns, others = draw(*given, np.random.default_rng(seed))
    assert all(row in near_images[image] for row, image in zip(rows, images, strict=True))
    assert all(column in near_texts[text] for column, text in zip(columns, texts, strict=True))
    assert not set(identities[owner[others]]) & set(identities[[*images.tolist(), *rows.tolist()]])
    wide = {*images, *near_images[images].ravel(), *owner[near_texts[texts].ravel()]}
    free = {image for image in range(n_images) if identities[image] not in identities[[*wide]]}
    if free:
        assert len(others) == b
        assert set(owner[others]) <= free
    again = draw(*given, np.random.default_rng(seed))
    assert all(np.array_equal(one, two) for one, two in zip((rows, columns, others), again, strict=True))


@given(b=st.integers(1, 6), seed=st.integers(0, 10**6))
@settings(deadline=None, max_examples=40)
def test_penalty_and_code_error_by_their_equations(b: int, seed: int) -> None:
    codes, bits = made(b, 4, seed), made(b, 5, seed + 1).tanh()
    unit = codes.numpy() / np.linalg.norm(codes.numpy(), axis=1, keepdims=True)
    products = [[float(i @ j) for j in unit] for i in unit]
    mean = np.mean(products)
    variance = np.mean([(p - mean) ** 2 for row in products for p in row])
    assert float(variance_penalty(codes, 0.5)) == pytest.approx(min(max(0.5 - variance, 0), 0.5) ** 2, abs=1e-6)
    assert float(variance_penalty(codes, max(variance - 1e-6, 0.0))) == 0
    least = np.mean([min(row) for row in products])
    total = 0.0
    for i in range(b):
        for j in range(b):
            target = max(-1.0, 1 - 2 * (1 - products[i][j]) / max(1 - least, 1e-6))
            total += (float(bits[i] @ bits[j]) / 5 - target) ** 2 / b**2
    # A single item is compared with itself only, where rounding is divided by the least span.
    assert float(code_error(bits, codes)) == pytest.approx(total, rel=1e-4, abs=1e-4 if b > 1 else 1.0)


def linear(layer: Any, x: Any) -> Any:
    return x @ layer.weight.detach().double().numpy().T + layer.bias.detach().double().numpy()


def tanh_net(net: Any, x: Any) -> Any:
    for layer in net:
        x = linear(layer, x) if isinstance(layer, torch.nn.Linear) else np.tanh(x)
    return x


def test_autoencoder_loss_by_its_equation_and_relation_untouched(toy: Callable[..., Any]) -> None:
    module, data = built(toy)
    module.stage_number.fill_(1)
    batch = next(iter(data.train_dataloader()))
    for parameter in module.relation.parameters():
        parameter.requires_grad_(False)
    found = module.loss(batch)
    found["loss"].backward()
    assert all(p.grad is None for p in module.relation.parameters())
    assert all(p.grad is not None for p in module.coders.parameters())
    deviations = module.deviations.double().numpy()
    x = np.tanh(batch.images.vector.double().numpy() / deviations[0])
    y = np.tanh(batch.texts.vector.double().numpy() / deviations[1])
    u, v = tanh_net(module.coders["images"], x), tanh_net(module.coders["texts"], y)

    def relation(a: Any, b: Any) -> Any:
        product = tanh_net(module.relation.images, a) * tanh_net(module.relation.texts, b)
        return linear(module.relation.last[1], product)[:, 0]

    def cross_entropy(logits: Any) -> float:
        return float(np.mean(-np.log(1 / (1 + np.exp(-logits)))))

    expected = np.mean((u - v) ** 2)
    expected += cross_entropy(relation(tanh_net(module.coders["to_images"], v), y))
    expected += cross_entropy(relation(x, tanh_net(module.coders["to_texts"], u)))
    expected += 100 * float(variance_penalty(torch.from_numpy((u + v) / 2), 0.04))
    assert found["loss"].item() == pytest.approx(float(expected), rel=1e-4)


def test_relation_loss_by_its_equation(toy: Callable[..., Any]) -> None:
    module, data = built(toy)
    batch = next(iter(data.train_dataloader()))
    train = data.splits["train"]
    images, texts = batch.images.rows.numpy(), batch.texts.rows.numpy()
    assert module._near is not None
    random = np.random.default_rng([0, len(images), int(images[0]), int(texts[0])])
    rows = draw(images, texts, *module._near, train.image_of_text, np.arange(train.n_images), random)
    deviations = module.deviations.double().numpy()
    x = np.tanh(train.images.fetch(rows[0])["vector"].double().numpy() / deviations[0])
    total = 0.0
    for sign, at in ((1, rows[1]), (-1, rows[2])):
        y = np.tanh(train.texts.fetch(at)["vector"].double().numpy() / deviations[1])
        product = tanh_net(module.relation.images, x) * tanh_net(module.relation.texts, y)
        logits = linear(module.relation.last[1], product)[:, 0]
        total += float(np.mean(np.log1p(np.exp(-sign * logits))))
    assert len(rows[2]) == len(batch)
    assert module.loss(batch)["loss"].item() == pytest.approx(total, rel=1e-4)


def test_each_stage_trains_its_own_part_only(toy: Callable[..., Any]) -> None:
    module, data = built(toy, stages=(1, 1, 1), bits=5, lr=1e-2)
    parts = {"relation": module.relation, "coders": module.coders, "binary": module.binary}
    changed: list[set[str]] = []

    def state() -> dict[str, list[Tensor]]:
        return {name: [p.detach().clone() for p in part.parameters()] for name, part in parts.items()}

    before = state()
    end = module.on_train_epoch_end

    def look() -> None:
        nonlocal before
        end()
        after = state()
        changed.append(
            {n for n in parts if any(not torch.equal(a, b) for a, b in zip(before[n], after[n], strict=True))}
        )
        before = after

    module.on_train_epoch_end = look  # type: ignore[method-assign]
    trainer = fit(module, data, epochs=3)
    assert changed == [{"relation"}, {"coders"}, {"binary"}]
    assert all(p.requires_grad for p in module.parameters())
    # Terms of earlier stages are not repeated.
    assert {name for name in trainer.callback_metrics if name.startswith("train/")} == {"train/loss"}
    images = module.encode_images(next(iter(data.test_dataloader()[0])))
    assert images.shape[1] == 5
    scores = module.similarity(images, images)
    torch.testing.assert_close(scores.diagonal(), torch.full((len(images),), 5.0))


@pytest.mark.parametrize("reconstruction", ["error", "none"])
def test_without_relations_the_first_stage_is_skipped(toy: Callable[..., Any], reconstruction: Any) -> None:
    module, data = built(toy, reconstruction=reconstruction, stages=(1, 1, 0))
    assert [stage.epochs for stage in module.stages()] == [0, 1, 0]
    fit(module, data, epochs=1)
    assert int(module.stage_number) == 1
    assert module.selectable


@pytest.mark.parametrize("options", [{"stages": (1, 0, 1)}, {"stages": (1, 1)}, {"neighbours": 0}])
def test_impossible_options_are_refused(options: Any) -> None:
    with pytest.raises(UsageError, match="--model"):
        MCITR(**options)
