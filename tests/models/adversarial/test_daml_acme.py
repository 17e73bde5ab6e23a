"""The metric of daml and the three terms of acme against slow versions of their definitions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from cmr_bench.models.adversarial.acme import ACME, critic, gradient_penalty, word_bags
from cmr_bench.models.adversarial.daml import DAML, neighbour_metric
from cmr_bench.support.errors import UsageError


def items(n: int, seed: int) -> tuple[Any, Any]:
    random = np.random.default_rng(seed)
    return random.normal(size=(n, 3)), random.integers(0, 3, n)


def slow_metric(points: Any, labels: Any, margin: float, k: int) -> float:
    costs = []
    for i, point in enumerate(points):
        lengths = np.sqrt(((points - point) ** 2).sum(1))
        own = [lengths[j] for j in range(len(points)) if j != i and labels[j] == labels[i]]
        others = sorted(lengths[j] for j in range(len(points)) if labels[j] != labels[i])
        if own and others:
            costs.append(max(0.0, margin + np.mean(own) - np.mean(others[: k or None])))
    return float(np.mean(costs)) if costs else 0.0


@settings(deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 12), st.integers(0, 7))
def test_metric_by_definition(seed: int, n: int, k: int) -> None:
    points, labels = items(n, seed)
    match = torch.from_numpy(labels[:, None] == labels[None])
    found = neighbour_metric(torch.cdist(torch.from_numpy(points), torch.from_numpy(points)), match, 0.3, k)
    assert float(found) == pytest.approx(slow_metric(points, labels, 0.3, k), rel=1e-5, abs=1e-6)


def test_gradient_of_the_metric_is_that_of_finite_differences() -> None:
    points, labels = items(10, 5)
    match = torch.from_numpy(labels[:, None] == labels[None])
    x = torch.from_numpy(points).requires_grad_()
    neighbour_metric(torch.cdist(x, x), match, 0.3, 2).backward()
    assert x.grad is not None
    direction = np.random.default_rng(1).normal(size=points.shape)
    step = 1e-6
    change = slow_metric(points + step * direction, labels, 0.3, 2) - slow_metric(
        points - step * direction, labels, 0.3, 2
    )
    assert float((x.grad.numpy() * direction).sum()) == pytest.approx(change / (2 * step), rel=1e-3, abs=1e-6)


def test_metric_of_one_class_or_single_items_is_zero_with_a_gradient() -> None:
    distances = torch.rand(4, 4).requires_grad_()
    for match in (torch.ones(4, 4, dtype=torch.bool), torch.eye(4, dtype=torch.bool)):
        loss = neighbour_metric(distances, match, 0.3, 5)
        assert float(loss) == 0.0
        loss.backward()
        assert distances.grad is not None
        assert bool(torch.isfinite(distances.grad).all())


def made(kind: type[Any], data: Any, text_view: str = "vector", **options: Any) -> tuple[Any, Any]:
    torch.manual_seed(0)
    module = kind(text_view=text_view, **options)
    module.attach(data)
    return module, next(iter(data.train_dataloader()))


def test_whole_loss_of_daml_by_its_parts(toy: Callable[..., Any]) -> None:
    module, batch = made(DAML, toy(), hidden=8, dim=4, adversarial=False)
    u, v = module.encode_images(batch.images).detach().numpy(), module.encode_texts(batch.texts).detach().numpy()
    labels = np.tile(batch.labels.numpy(), 2)
    wanted = slow_metric(np.concatenate([u, v]), labels, 0.3, 5) + 0.1 * np.mean(((u - v) ** 2).sum(1))
    assert float(module.loss(batch)["loss"]) == pytest.approx(wanted, rel=1e-4)


def slow_triplets(points: Any, labels: Any, margin: float) -> float:
    costs = []
    for i, point in enumerate(points):
        lengths = np.sqrt(((points - point) ** 2).sum(1))
        own = [lengths[j] for j in range(len(points)) if j != i and labels[j] == labels[i]]
        others = [lengths[j] for j in range(len(points)) if labels[j] != labels[i]]
        if own and others:
            costs.append(max(0.0, margin + max(own) - min(others)))
    return float(np.mean(costs))


SMALL = {"dim": 6, "critic_layers": (5,), "translator": 7, "word_dim": 4}


@pytest.mark.parametrize("text_view", ["vector", "tokens"])
def test_terms_of_acme_by_definition(text_view: str, toy: Callable[..., Any]) -> None:
    module, batch = made(ACME, toy(), text_view, **SMALL)
    terms = {name: float(value) for name, value in module.loss(batch).items()}
    with torch.no_grad():
        features = module.image_features(batch.images), module.text_features(batch.texts)
        fresh, _ = made(ACME, toy(), text_view, **SMALL)
        pool = fresh.embed(torch.cat([module.image_layer(features[0]), module.text_layer(features[1])]))
        n = len(batch)
        words, pictures = module.to_text(pool[:n]).numpy(), module.to_image(pool[n:]).numpy()
    assert terms["triplet"] == pytest.approx(
        slow_triplets(pool.double().numpy(), np.tile(batch.labels.numpy(), 2), 0.3), rel=1e-4
    )
    assert terms["to_image"] == pytest.approx(np.mean((pictures - features[0].numpy()) ** 2), rel=1e-4)
    if text_view == "vector":
        wanted = np.mean((words - features[1].numpy()) ** 2)
    else:
        seen = np.zeros_like(words)
        for row, (tokens, length) in enumerate(zip(batch.texts.tokens, batch.texts.lengths, strict=True)):
            seen[row, tokens[:length].numpy()] = 1
        chance = 1 / (1 + np.exp(-words.astype(np.float64)))
        wanted = -np.mean(seen * np.log(chance) + (1 - seen) * np.log(1 - chance))
    assert terms["to_text"] == pytest.approx(wanted, rel=1e-4)
    total = terms["triplet"] + terms["critic"] + 0.002 * (terms["to_text"] + terms["to_image"])
    assert terms["loss"] == pytest.approx(total, rel=1e-5)


def test_penalty_is_the_squared_lack_of_slope() -> None:
    linear = nn.Linear(3, 1)
    length = float(linear.weight.detach().norm())
    found = gradient_penalty(linear, torch.randn(5, 3))
    assert float(found.detach()) == pytest.approx((length - 1) ** 2, rel=1e-5)
    found.backward()
    assert linear.weight.grad is not None
    slope = 2 * (length - 1) * linear.weight.detach() / length
    torch.testing.assert_close(linear.weight.grad, slope)


def test_critic_pushes_texts_towards_images_and_leaves_images_alone(toy: Callable[..., Any]) -> None:
    module, _ = made(ACME, toy(), **SMALL | {"adversarial": 0.25, "penalty": 0.0})
    images, texts = (torch.randn(5, 6, requires_grad=True) for _ in range(2))
    module.critic_loss(images, texts).backward()
    plain = texts.detach().requires_grad_()
    module.critic(plain).mean().backward()
    assert images.grad is None
    assert texts.grad is not None
    assert plain.grad is not None
    torch.testing.assert_close(texts.grad, -0.25 * plain.grad)


def test_leaky_critic_by_definition() -> None:
    judge = critic(3, (4,))
    x = torch.randn(2, 3)
    first, last = judge[0], judge[2]
    hidden = x @ first.weight.T + first.bias
    wanted = torch.where(hidden > 0, hidden, 0.2 * hidden) @ last.weight.T + last.bias
    torch.testing.assert_close(judge(x), wanted)


def test_bags_leave_padding_out() -> None:
    found = word_bags(torch.tensor([[2, 3, 2], [1, 0, 0]]), 5)
    assert found.tolist() == [[0, 0, 1, 1, 0], [0, 1, 0, 0, 0]]


def test_shared_layer_learns_and_scores_do_not_depend_on_the_batch(toy: Callable[..., Any]) -> None:
    module, batch = made(ACME, toy(), **SMALL)
    module.loss(batch)["loss"].backward()
    assert module.shared.weight.grad is not None
    assert float(module.shared.weight.grad.abs().max()) > 0
    module.eval()
    with torch.no_grad():
        whole = module.encode_images(batch.images)
        batch.images.vector = batch.images.vector[:1]
        torch.testing.assert_close(module.encode_images(batch.images), whole[:1])


@pytest.mark.parametrize(("option", "gone"), [("adversarial", "critic"), ("translation", "to_")])
def test_weight_of_zero_leaves_the_networks_out(option: str, gone: str, toy: Callable[..., Any]) -> None:
    module, batch = made(ACME, toy(), **SMALL | {option: 0.0})
    assert not any(name.startswith(gone) for name in (*module.state_dict(), *module.loss(batch)))


def test_negative_number_of_neighbours_is_refused() -> None:
    with pytest.raises(UsageError, match="neighbours"):
        DAML(neighbours=-1)
