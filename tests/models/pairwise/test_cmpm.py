"""Projection matching and classification: what the loss sees, the two stages, one process and two."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from cmr_bench.datamodules.batches import ImageBatch, PairBatch, TextBatch
from cmr_bench.datamodules.views import DataSpec, ViewSpec
from cmr_bench.models.encoders.text import WordEncoder
from cmr_bench.models.losses import project_onto
from cmr_bench.models.pairwise.cmpm import CMPM, CMPMCMPC
from cmr_bench.support.errors import UsageError

SPEC = DataSpec(ViewSpec("vector", (6,)), ViewSpec("vector", (5,)), 0, False, n_train_images=9, n_train_texts=18)
LABELLED = DataSpec(ViewSpec("vector", (6,)), ViewSpec("vector", (5,)), 3, True, n_train_images=9, n_train_texts=18)


def made(kind: type[CMPM] = CMPMCMPC, spec: DataSpec = SPEC, **options: Any) -> CMPM:
    torch.manual_seed(1)
    module = kind(hidden=4, dim=8, dropout=0.0, text_view="vector", **options)
    module.build(spec)
    return module


def batch(rows: slice = slice(None), labels: torch.Tensor | None = None) -> PairBatch:
    generator = torch.Generator().manual_seed(2)
    images, texts = torch.randn(7, 6, generator=generator), torch.randn(7, 5, generator=generator)
    owner, order = torch.tensor([0, 8, 3, 3, 5, 0, 2])[rows], torch.arange(7)[rows]
    return PairBatch(
        ImageBatch(owner, vector=images[rows]),
        TextBatch(order, vector=texts[rows]),
        None if labels is None else labels[rows],
    )


def test_classes_are_the_images_where_there_are_no_categories() -> None:
    module = made()
    assert isinstance(module, CMPMCMPC)
    assert module.label_space == "identity"
    assert module.classes.shape == (9, 8)
    terms = module.loss(batch())
    torch.testing.assert_close(terms["loss"], terms["matching"] + terms["classification"])


def test_classification_shares_out_several_categories() -> None:
    module = made(spec=LABELLED)
    assert isinstance(module, CMPMCMPC)
    labels = torch.tensor([[1, 1, 0], [0, 1, 0], [0, 0, 1], [1, 0, 1], [1, 0, 0], [1, 1, 1], [0, 1, 1]])
    found = module.loss(batch(labels=labels))["classification"]
    weight = F.normalize(module.classes, dim=1)
    images, texts = (
        norm(value)
        for norm, value in (
            (module.image_norm, module.image_layer(module.image_features(batch().images))),
            (module.text_norm, module.text_layer(module.text_features(batch().texts))),
        )
        if norm is not None
    )
    expected = torch.zeros(())
    for features in (project_onto(images, texts), project_onto(texts, images)):
        log_p = F.log_softmax(features @ weight.T, dim=1)
        for row in range(7):
            for column in range(3):
                expected = expected - labels[row, column] / labels[row].sum() * log_p[row, column] / 7
    torch.testing.assert_close(found, expected)


def test_a_lone_pair_at_the_end_of_an_epoch_is_no_error() -> None:
    assert bool(torch.isfinite(made().loss(batch(slice(0, 1)))["loss"]))


def test_image_network_waits_and_then_everything_learns_at_its_rate() -> None:
    module = CMPM(
        fine_tune=True, frozen_epochs=2, lr=1e-3, cnn_lr=1e-5, cnn="timm:test_efficientnet", cnn_weights="random",
        image_view="pixels", text_view="vector", hidden=4, dim=8,
    )  # fmt: skip
    module.build(dataclasses.replace(SPEC, image=ViewSpec("pixels", (3, 32, 32))))
    network = {id(parameter) for parameter in module.image_input.parameters()}
    for number, rate in ((0, 1e-3), (1, 1e-5)):
        module.stage_number.fill_(number)
        groups = module.configure_optimizers().param_groups
        assert {group["lr"] for group in groups} == {rate}
        learning = {id(parameter) for group in groups for parameter in group["params"]}
        assert (network <= learning) == bool(number)
        assert network.isdisjoint(learning) != bool(number)


def test_normalises_and_compares_the_batch_of_all_processes() -> None:
    whole, part = made(), made()
    pairs, shares = batch(), [batch(slice(0, 4)), batch(slice(4, 7))]

    def gather(images: Any, texts: Any, mine: PairBatch) -> Any:
        assert len(images) == len(mine) == 4
        others = (
            part.image_layer(part.image_features(shares[1].images)),
            part.text_layer(part.text_features(shares[1].texts)),
        )
        return torch.cat([images, others[0]]), torch.cat([texts, others[1]]), pairs.identity, None

    part.gather = gather  # type: ignore[method-assign]
    for module, seen in ((whole, pairs), (part, shares[0])):
        module.loss(seen)["loss"].backward()
    for (name, expected), found in zip(whole.named_parameters(), part.parameters(), strict=True):
        torch.testing.assert_close(found.grad, expected.grad, msg=name)
    for name, value in whole.state_dict().items():
        torch.testing.assert_close(part.state_dict()[name], value, msg=name)


def test_image_can_be_the_label_where_there_are_categories_too() -> None:
    module = made(spec=LABELLED, label_source="identity")
    labels = torch.ones(7, 3, dtype=torch.long)
    assert module.label_space == "identity"
    torch.testing.assert_close(module.loss(batch(labels=labels))["loss"], made().loss(batch())["loss"])
    with pytest.raises(UsageError, match="this data set has none"):
        made(label_source="category")


def test_dropout_is_on_the_pooled_feature_or_on_every_state() -> None:
    words = DataSpec(ViewSpec("vector", (6,)), ViewSpec("tokens", (4,), "words", 9), 0, False, 9, 18)
    found = {}
    for where in ("pooled", "states"):
        module = CMPM(hidden=4, dim=8, word_dim=3, dropout=0.5, dropout_on=where)  # type: ignore[arg-type]
        module.build(words)
        encoder, pooled = module.text_input.network, module.text_layer[-2]
        assert isinstance(encoder, WordEncoder)
        assert isinstance(pooled, torch.nn.Dropout)
        found[where] = (None if encoder.state_dropout is None else encoder.state_dropout.p, pooled.p)
    assert found == {"pooled": (None, 0.5), "states": (0.5, 0.0)}
    vector = CMPM(hidden=4, dim=8, dropout=0.5, dropout_on="states", text_view="vector")
    vector.build(SPEC)
    assert vector.text_layer[-2].p == 0.5
