"""The terms of the adversarial common subspace, and where their gradients go."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from cmr_bench.models.adversarial.adv_subspace import AdvSubspace
from cmr_bench.support.errors import UsageError


def built(toy: Callable[..., Any], n_classes: int = 3, **options: Any) -> tuple[AdvSubspace, Any]:
    torch.manual_seed(0)
    data, module = toy(n_classes=n_classes), AdvSubspace(hidden=8, dim=6, **options)
    module.build(data.load(module.image_view, module.text_view))
    return module, next(iter(data.train_dataloader()))


def gradients(module: AdvSubspace, loss: torch.Tensor, encoders: bool = True) -> dict[str, torch.Tensor]:
    module.zero_grad()
    loss.backward()
    return {
        name: value.grad.clone()
        for name, value in module.named_parameters()
        if value.grad is not None and encoders != name.startswith("discriminator")
    }


def value_function(module: AdvSubspace, batch: Any) -> torch.Tensor:
    images, texts = (
        torch.sigmoid(module.discriminator(side)).squeeze(-1)
        for side in (module.encode_images(batch.images), module.encode_texts(batch.texts))
    )
    return images.log().mean() + (1 - texts).log().mean()


def test_encoders_descend_the_value_function_and_the_discriminator_climbs_it(toy: Callable[..., Any]) -> None:
    module, batch = built(toy, beta=0.3)
    terms = module.loss(batch)
    rest = module.alpha * terms["triplet"] + terms["label"]
    without = gradients(module, rest)
    found = gradients(module, module.loss(batch)["loss"])
    value = gradients(module, value_function(module, batch))
    assert any(gradient.abs().max() > 1e-4 for gradient in value.values())
    for name, gradient in found.items():
        expected = without.get(name, torch.zeros_like(gradient)) + 0.3 * value.get(name, torch.zeros_like(gradient))
        torch.testing.assert_close(gradient, expected, rtol=1e-3, atol=1e-6)
    climbing = gradients(module, module.loss(batch)["loss"], encoders=False)
    for name, gradient in gradients(module, value_function(module, batch), encoders=False).items():
        torch.testing.assert_close(climbing[name], -gradient, rtol=1e-3, atol=1e-6)


def test_beta_zero_trains_the_encoders_as_without_the_adversary(toy: Callable[..., Any]) -> None:
    module, batch = built(toy, beta=0.0)
    plain, _ = built(toy, adversarial=False)
    plain.load_state_dict({k: v for k, v in module.state_dict().items() if not k.startswith("discriminator")})
    for (name, one), other in zip(
        gradients(module, module.loss(batch)["loss"]).items(),
        gradients(plain, plain.loss(batch)["loss"]).values(),
        strict=True,
    ):
        torch.testing.assert_close(one, other, rtol=0, atol=0, msg=name)


@pytest.mark.parametrize("unit", [False, True])
def test_triplet_term_is_the_sum_of_four_loops(toy: Callable[..., Any], unit: bool) -> None:
    module, batch = built(toy, unit_length=unit, margin=0.7)
    sides = [module.encode_images(batch.images), module.encode_texts(batch.texts)]
    points = [side.detach().double().numpy() for side in sides]
    if unit:
        points = [side / np.linalg.norm(side, axis=1, keepdims=True) for side in points]
    labels, n, total = batch.labels.tolist(), len(batch), 0.0
    for a in (0, 1):
        for b in (0, 1):
            costs = [
                max(0.0, 0.7 + math.dist(points[a][k], points[b][p]) - math.dist(points[a][k], points[b][q]))
                for k in range(n)
                for p in range(n)
                for q in range(n)
                if labels[p] == labels[k] and labels[q] != labels[k] and not (a == b and p == k)
            ]
            total += sum(costs) / len(costs)
    found = module.triplet_loss(sides[0], sides[1], batch.labels).detach()
    assert float(found) == pytest.approx(total, rel=1e-4)


def test_ablations_drop_their_term_and_its_parameters(toy: Callable[..., Any]) -> None:
    full, batch = built(toy)
    assert set(full.loss(batch)) == {"triplet", "label", "discriminator", "loss"}
    for option, term, part in (
        ("triplet", "triplet", None),
        ("label_prediction", "label", "classes"),
        ("adversarial", "discriminator", "discriminator"),
    ):
        module, batch = built(toy, **{option: False})
        assert set(module.loss(batch)) == {"triplet", "label", "discriminator", "loss"} - {term}
        assert part is None or not any(name.startswith(part) for name, _ in module.named_parameters())
    with pytest.raises(UsageError, match="label_prediction true"):
        AdvSubspace(triplet=False, label_prediction=False)


def test_without_categories_the_image_is_the_label(toy: Callable[..., Any]) -> None:
    module, batch = built(toy, n_classes=0)
    assert module.label_space == "identity"
    assert module.classes.shape == (24, 6)
    assert bool(torch.isfinite(module.loss(batch)["loss"]))
    chosen, batch = built(toy, label_source="identity")
    assert chosen.classes.shape == (24, 6)
    assert bool(torch.isfinite(chosen.loss(batch)["loss"]))
    with pytest.raises(UsageError, match="label_source"):
        built(toy, n_classes=0, label_source="category")


def test_standardises_by_the_training_split(toy: Callable[..., Any]) -> None:
    data, module = toy(), AdvSubspace(hidden=8, dim=6, standardise="each")
    module.build(data.load("vector", "vector"))
    module.prepare_training(data.splits["train"])
    np.testing.assert_allclose(module.image_scale.mean, data.content["train"]["vector"].mean(0), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(module.text_scale.deviation, data.content["train"]["texts"].std(0), rtol=1e-4)


def slow_triplets(points: list[Any], labels: list[int], distance: str, mining: str, reduction: str) -> float:
    def far(one: Any, other: Any) -> float:
        if distance == "cosine":
            return float(1 - one @ other / np.linalg.norm(one) / np.linalg.norm(other))
        return math.dist(one, other)

    n, total = len(labels), 0.0
    for a in (0, 1):
        for b in (0, 1):
            costs: list[float] = []
            for k in range(n):
                mine = [
                    far(points[a][k], points[b][p]) for p in range(n) if labels[p] == labels[k] and (a != b or p != k)
                ]
                rest = [far(points[a][k], points[b][q]) for q in range(n) if labels[q] != labels[k]]
                if mining == "hardest":
                    mine, rest = [max(mine)] if mine else [], [min(rest)]
                costs += [max(0.0, 0.7 + near - away) for near in mine for away in rest]
            total += sum(costs) / (len(costs) if reduction == "mean" else 1)
    return total


@pytest.mark.parametrize("mining", ["all", "hardest"])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("distance", ["mixed", "euclidean", "cosine"])
def test_triplets_by_every_distance_forward_and_backward(
    toy: Callable[..., Any], distance: Any, reduction: Any, mining: Any
) -> None:
    module, batch = built(toy, margin=0.7, distance=distance, reduction=reduction, mining=mining)
    sides = [module.encode_images(batch.images), module.encode_texts(batch.texts)]
    leaves = [side.detach().clone().requires_grad_() for side in sides]
    found = module.triplet_loss(leaves[0], leaves[1], batch.labels)
    found.backward()
    points = [leaf.detach().double().numpy() for leaf in leaves]
    rest = (batch.labels.tolist(), distance, mining, reduction)
    assert found.item() == pytest.approx(slow_triplets(points, *rest), rel=1e-4)
    for side, place in ((0, (0, 1)), (1, (3, 2))):
        values = []
        for step in (1e-6, -1e-6):
            moved = [point.copy() for point in points]
            moved[side][place] += step
            values.append(slow_triplets(moved, *rest))
        assert leaves[side].grad is not None
        assert leaves[side].grad[place].item() == pytest.approx((values[0] - values[1]) / 2e-6, rel=1e-2, abs=1e-3)


def test_ranks_by_the_distance_that_it_is_told(toy: Callable[..., Any]) -> None:
    for distance in ("mixed", "cosine", "euclidean"):
        module, batch = built(toy, distance=distance)
        with torch.no_grad():
            images, texts = module.encode_images(batch.images), module.encode_texts(batch.texts)
            found = module.similarity(images, texts)
        scored = module.scores(images, texts).block(slice(1, 4), slice(0, 5))
        torch.testing.assert_close(scored, found[1:4, :5])
        for i in range(3):
            for t in range(3):
                x, z = images[i].double().numpy(), texts[t].double().numpy()
                cosine = x @ z / np.linalg.norm(x) / np.linalg.norm(z)
                expected = -math.dist(x, z) if distance == "euclidean" else cosine
                assert float(found[i, t]) == pytest.approx(expected, rel=1e-4, abs=1e-5)


def test_separate_classifiers_each_see_one_modality(toy: Callable[..., Any]) -> None:
    module, batch = built(toy, classifiers="separate", triplet=False, adversarial=False)
    images, texts = module.encode_images(batch.images), module.encode_texts(batch.texts)
    module.loss(batch)["label"].backward()
    targets, total = np.eye(3)[batch.labels.numpy()], 0.0
    for side, weight in ((images, module.classes), (texts, module.text_classes)):
        error = side.detach().double().numpy() @ weight.detach().double().numpy().T - targets
        total += math.sqrt((error**2).sum()) / len(batch)
        expected = error.T @ side.detach().double().numpy() / math.sqrt((error**2).sum()) / len(batch)
        assert weight.grad is not None
        np.testing.assert_allclose(weight.grad.numpy(), expected, rtol=1e-3, atol=1e-5)
    assert module.loss(batch)["label"].item() == pytest.approx(total, rel=1e-5)


def test_triplets_across_modalities_alone_and_the_hardest_after_the_warm_up(
    toy: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    module, batch = built(toy, within=False, mining="hardest", warmup_epochs=2, distance="cosine", margin=0.7)
    sides = [module.encode_images(batch.images), module.encode_texts(batch.texts)]
    images, texts = (side.detach().double().numpy() for side in sides)
    images, texts = (side / np.linalg.norm(side, axis=1, keepdims=True) for side in (images, texts))
    distances, labels, n = 1 - images @ texts.T, batch.labels.tolist(), len(batch)
    for epoch in (1, 2):
        monkeypatch.setattr(type(module), "current_epoch", epoch)
        expected = 0.0
        for d in (distances, distances.T):
            costs = [
                [
                    max(0.0, 0.7 + d[k, p] - d[k, q])
                    for p in range(n)
                    for q in range(n)
                    if labels[p] == labels[k] != labels[q]
                ]
                for k in range(n)
            ]
            flat = [cost for each in costs for cost in each]
            expected += sum(flat) / len(flat) if epoch < 2 else sum(max(each) for each in costs) / n
        found = module.triplet_loss(sides[0], sides[1], batch.labels).detach()
        assert float(found) == pytest.approx(expected, rel=1e-4)


def test_residual_adds_the_projection_to_what_the_shared_layers_make_of_it(toy: Callable[..., Any]) -> None:
    torch.manual_seed(0)
    data, module = toy(n_classes=3), AdvSubspace(hidden=8, dim=8, residual=True)
    module.build(data.load(module.image_view, module.text_view))
    images = next(iter(data.train_dataloader())).images
    features = module.image_features(images)
    projected = module.image_net[1](features)
    expected = projected + module.shared(projected.relu())
    torch.testing.assert_close(module.encode_images(images), expected)
    with pytest.raises(UsageError, match=r"--model\.residual"):
        AdvSubspace(hidden=8, dim=6, residual=True)


def test_words_are_read_in_both_directions(toy: Callable[..., Any]) -> None:
    one, both = (AdvSubspace(hidden=8, bidirectional=way).words(20) for way in (False, True))
    assert sum(p.numel() for p in both.parameters()) > sum(p.numel() for p in one.parameters())
    assert one(torch.ones(2, 3, dtype=torch.long), torch.tensor([3, 2])).shape == (2, 8)
    assert both(torch.ones(2, 3, dtype=torch.long), torch.tensor([3, 2])).shape == (2, 8)
