"""The attribute network: which attributes there are, what its terms are, and how codes rank."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from cmr_bench.datamodules.split import Split
from cmr_bench.datamodules.views import DataSpec, ViewSpec
from cmr_bench.models.attributes.agnet import AgNet, signs, word_attributes
from cmr_bench.models.losses import bit_imbalance, code_likelihood, quantisation_error
from cmr_bench.support.errors import CmrBenchError, DataError, UsageError
from tests.support.trainers import fit

LINKS = np.array([0, 0, 1, 2])
CAPTIONS = ["A Dog and a cat.", "the dog runs 7 b", "two cats, one dog's cat", "sea"]


def test_attributes_are_the_frequent_content_words_of_all_captions_of_an_image() -> None:
    names, table = word_attributes(CAPTIONS, LINKS, 3, 4)
    assert names == ["cat", "dog", "cats", "dog's"]
    assert table.tolist() == [[True, True, False, False], [True, False, True, True], [False] * 4]
    names, table = word_attributes(CAPTIONS, LINKS, 3, 100)
    assert names[4:] == ["runs", "sea"]
    assert table.shape == (3, 6)


def test_captions_without_content_words_are_refused() -> None:
    with pytest.raises(DataError, match="no content words"):
        word_attributes(["the 7 a", "of"], np.array([0, 1]), 2, 5)


def slow_likelihood(a: Any, b: Any, s: Any, balanced: bool) -> float:
    kinds: dict[bool, list[float]] = {True: [], False: []}
    for i in range(len(a)):
        for j in range(len(b)):
            theta = 0.5 * sum(x * y for x, y in zip(a[i], b[j], strict=True))
            probability = 1 / (1 + np.exp(-theta))
            kinds[bool(s[i, j])].append(-np.log(probability if s[i, j] else 1 - probability))
    if balanced:
        return sum(float(np.mean(values)) if values else 0.0 for values in kinds.values()) / 2
    return float(np.mean(kinds[True] + kinds[False]))


@pytest.mark.parametrize("balanced", [False, True])
@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_likelihood_equals_its_definition(balanced: bool, share: float) -> None:
    generator = torch.Generator().manual_seed(1)
    a, b = (torch.rand(n, 6, generator=generator) * 2 - 1 for n in (5, 4))
    match = torch.rand(5, 4, generator=generator) < share
    found = code_likelihood(a, b, match, balanced)
    assert float(found) == pytest.approx(slow_likelihood(a.numpy(), b.numpy(), match.numpy(), balanced), rel=1e-5)


def test_quantisation_and_balance_equal_their_definitions() -> None:
    codes = torch.tensor([[0.5, -1.0, 0.0], [1.0, -0.5, 0.25]])
    assert float(quantisation_error(codes)) == pytest.approx((0.25 + 0 + 1 + 0 + 0.25 + 0.5625) / 6)
    assert float(bit_imbalance(codes)) == pytest.approx((0.75**2 + 0.75**2 + 0.125**2) / 3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_terms_stay_finite_for_full_codes(dtype: torch.dtype) -> None:
    codes = torch.ones(4, 512, dtype=dtype, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        loss = code_likelihood(codes, -codes, torch.eye(4) > 0) + quantisation_error(codes) + bit_imbalance(codes)
    assert loss.dtype == torch.float32
    loss.backward()
    assert codes.grad is not None
    assert bool(torch.isfinite(codes.grad).all())


@given(st.integers(1, 70), st.integers(0, 99))
def test_ranking_is_that_of_the_hamming_distance(bits: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    images, texts = (torch.rand(n, bits, generator=generator) * 2 - 1 for n in (3, 5))
    images[0, 0] = 0
    module = AgNet()
    distance = np.array([[sum((x >= 0) != (y >= 0) for x, y in zip(i, t, strict=True)) for t in texts] for i in images])
    assert np.array_equal(module.similarity(images, texts).numpy(), bits - 2 * distance)
    assert torch.equal(module.scores(images, texts).block(slice(0, 3), slice(0, 5)), module.similarity(images, texts))


def test_real_codes_rank_by_cosine() -> None:
    images, texts = torch.tensor([[0.5, 0.5]]), torch.tensor([[0.1, 0.1], [1.0, 0.8]])
    module = AgNet(hash=False)
    assert module.similarity(images, texts).argmax() == 0
    assert AgNet().similarity(images, texts).tolist() == [[2.0, 2.0]]


def test_signs_are_never_zero() -> None:
    assert signs(torch.tensor([[0.0, -0.0, -1e-9, 3.0]])).tolist() == [[1.0, 1.0, -1.0, 1.0]]


def prepared(data: Any, **options: Any) -> AgNet:
    module = AgNet(**({"hidden": 8, "bits": 6, "n_attributes": 9} | options))
    module.build(data.load(module.image_view, module.text_view))
    module.prepare_training(data.splits["train"])
    return module


@pytest.mark.parametrize("classes", [0, 3])
def test_both_sides_of_a_pair_aim_at_the_attributes_of_the_image(classes: int, toy: Callable[..., Any]) -> None:
    data = toy(n_classes=classes)
    module = prepared(data)
    train = data.splits["train"]
    batch = next(iter(data.train_dataloader()))
    found = module.attribute_targets(batch.images.rows, batch.labels)
    if classes:
        assert module.attribute_names == list(train.class_names)
        assert torch.equal(found.argmax(1), batch.labels)
        assert torch.equal(found.sum(1), torch.ones(len(batch), dtype=torch.long))
        return
    for row, image in enumerate(batch.identity.tolist()):
        said = " ".join(c for c, i in zip(train.captions, train.image_of_text, strict=True) if i == image).split()
        assert [n for n, has in zip(module.attribute_names, found[row], strict=True) if has] == [
            n for n in module.attribute_names if n in said
        ]


def test_words_can_be_attributes_where_there_are_categories(toy: Callable[..., Any]) -> None:
    assert prepared(toy(), attributes="words").attribute_source == "words"
    assert prepared(toy(), label_source="identity").attribute_source == "words"


def test_what_cannot_be_had_is_refused_in_one_line(toy: Callable[..., Any]) -> None:
    for data, options in ((toy(n_classes=0), {}), (toy(), {"label_source": "identity"})):
        with pytest.raises(UsageError, match="attributes category"):
            prepared(data, attributes="category", **options)
    module = AgNet(hidden=4)
    module.build(DataSpec(ViewSpec("vector", (3,)), ViewSpec("vector", (3,)), 0, False, 2, 2))
    with pytest.raises(DataError, match="needs raw captions"):
        module.prepare_training(Split("train", ["a", "b"], np.array([0, 1]), ["x", "y"], images=None))


def test_names_of_the_attributes_are_in_the_checkpoint(toy: Callable[..., Any], tmp_path: Path) -> None:
    data = toy(n_classes=0)
    module = prepared(data)
    trainer = fit(module, data)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    stored = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert stored["attribute_names"] == module.attribute_names
    fresh = prepared(toy(n_classes=0))
    fresh.on_load_checkpoint(stored)
    other = prepared(toy(n_classes=0), n_attributes=2)
    with pytest.raises(CmrBenchError, match="other attributes"):
        other.on_load_checkpoint(stored)


def test_terms_add_up_with_their_weights(toy: Callable[..., Any]) -> None:
    data = toy(n_classes=0)
    module = prepared(data, alpha=2.0, beta=3.0, gamma=5.0)
    terms = module.loss(next(iter(data.train_dataloader())))
    weights = {"attributes": 1, "likelihood": 2, "quantisation": 3, "balance": 5}
    expected = sum(weight * float(terms[name].detach()) for name, weight in weights.items())
    assert float(terms["loss"].detach()) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("labels", [[0, 1, 2, 3], [0, 1, 0, 3]])
def test_likelihood_of_a_batch_is_a_softmax_over_what_may_match(labels: list[int]) -> None:
    generator = torch.Generator().manual_seed(2)
    a, b = (torch.rand(4, 6, generator=generator) * 2 - 1 for _ in range(2))
    cosines = [[float(F.cosine_similarity(x, y, dim=0)) for y in b] for x in a]
    cost = 0.0
    for k in range(4):
        others = [n for n in range(4) if n == k or labels[n] != labels[k]]
        own = np.exp(5 * cosines[k][k])
        for sums in (sum(np.exp(5 * cosines[k][n]) for n in others), sum(np.exp(5 * cosines[n][k]) for n in others)):
            cost -= np.log(own / sums) / 8
    match = torch.tensor(labels)[:, None] == torch.tensor(labels)
    found = AgNet(likelihood="batch", scale=5.0).match_likelihood(a, b, match)
    assert float(found) == pytest.approx(cost, rel=1e-5)
