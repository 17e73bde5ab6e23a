"""Every registered method, whatever it is, trains, encodes and is scored."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch

from cmr_bench import registry
from cmr_bench.experiment.trainer import quiet
from cmr_bench.models.base import RetrievalModule
from cmr_bench.support.errors import UsageError
from tests.support.trainers import make_trainer

# Widths that keep a test short; a method is given those of them that it has.
SMALL: dict[str, Any] = {
    "dim": 16,
    "hidden": 16,
    "word_dim": 8,
    "discriminator": 8,
    "cnn": "timm:test_efficientnet",
    "cnn_weights": "random",
    "mode": "fine_tune",
}
# Methods that compare an image with no text but its own, or draw the others themselves, as mcitr's first stage does.
NO_NEGATIVES = {"dcca", "dccae", "mcitr"}
READABLE = {"vector", "regions", "pixels", "tokens", "subwords"}
METHODS = list(registry.METHODS)


@pytest.fixture(autouse=True, scope="module")
def _local_models(bert: Path, clip: Path) -> None:
    SMALL["bert"], SMALL["backbone"], SMALL["word_vectors"] = str(bert), str(clip), str(bert)


def views() -> Iterator[Any]:
    for name in registry.METHODS:
        method = registry.method(name)
        for image, text in itertools.product(method.image_views, method.text_views):
            if {image, text} <= READABLE:
                yield pytest.param(name, image, text, id=f"{name}-{image}-{text}")


def make(name: str, **options: Any) -> RetrievalModule:
    from cmr_bench.experiment.recipe import option_names, option_parser

    known = option_names(option_parser(name, "flickr8k"))
    small = {key: value for key, value in SMALL.items() if f"model.{key}" in known}
    return registry.method(name)(**small | options)


def trained(
    module: RetrievalModule, data: Any, epochs: int = 1, precision: Any = "32-true"
) -> tuple[RetrievalModule, L.Trainer]:
    L.seed_everything(3, workers=True, verbose=False)
    module.attach(data)
    trainer = make_trainer(epochs, precision=precision)
    with quiet():
        if module.closed_form:
            module.fit_split(data.splits["train"], data.splits["val"])
        else:
            module.prepare_training(data.splits["train"])
            trainer.fit(module, datamodule=data)
        trainer.test(module, datamodule=data, verbose=False)
    return module, trainer


@pytest.mark.parametrize(("name", "image", "text"), list(views()))
def test_trains_and_is_scored(name: str, image: str, text: str, toy: Callable[..., Any]) -> None:
    module, _ = trained(make(name, image_view=image, text_view=text), toy())
    assert module.evaluation is not None
    assert all(np.isfinite(value) for value in module.evaluation.metrics.values())
    assert all(bool(torch.isfinite(value).all()) for value in module.state_dict().values() if value.is_floating_point())


@pytest.mark.parametrize("name", [name for name in METHODS if not registry.method(name).closed_form])
def test_trains_in_half_precision_through_all_stages(name: str, toy: Callable[..., Any]) -> None:
    module, _ = trained(make(name), toy(), epochs=3, precision="bf16-mixed")
    assert module.evaluation is not None
    assert all(np.isfinite(value) for value in module.evaluation.metrics.values())


@pytest.mark.parametrize("name", METHODS)
def test_same_seed_same_weights_and_scores(name: str, toy: Callable[..., Any]) -> None:
    first, second = (trained(make(name), toy())[0] for _ in range(2))
    for key, value in first.state_dict().items():
        torch.testing.assert_close(second.state_dict()[key], value, rtol=0, atol=0)
    assert first.evaluation is not None
    assert second.evaluation is not None
    assert first.evaluation.metrics == second.evaluation.metrics


@pytest.mark.parametrize("name", METHODS)
def test_weights_load_into_a_fresh_module(name: str, toy: Callable[..., Any]) -> None:
    module, _ = trained(make(name), toy())
    data = toy()
    fresh = make(name)
    fresh.attach(data)
    fresh.load_state(module.state_dict())
    module.eval()
    fresh.eval()
    loaders = data.test_dataloader()
    with torch.no_grad():
        images, texts = next(iter(loaders[0])), next(iter(loaders[1]))
        expected = module.similarity(module.encode_images(images), module.encode_texts(texts))
        found = fresh.similarity(fresh.encode_images(images), fresh.encode_texts(texts))
    assert found.shape == (len(images), len(texts))
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("labels", ["none", "single", "multi"])
def test_every_kind_of_label_works_or_is_refused(name: str, labels: str, toy: Callable[..., Any]) -> None:
    data = toy(n_classes=0 if labels == "none" else 3, multi_label=labels == "multi")
    module = make(name)
    if labels == "none" and module.labels == "required":
        with pytest.raises(UsageError, match="label"):
            module.attach(data)
        return
    trained(module, data)
    assert module.evaluation is not None
    assert ("map" in module.evaluation.metrics) == (labels != "none")


def loss_of(module: RetrievalModule, batch: Any, **changes: Any) -> float:
    L.seed_everything(5, workers=True, verbose=False)
    terms = module.loss(dataclasses.replace(batch, **changes))
    return float(terms["loss"].detach())


@pytest.mark.parametrize("name", METHODS)
def test_images_of_one_identity_are_no_negatives(name: str, toy: Callable[..., Any]) -> None:
    data = toy(n_classes=0, of_one=3)
    module = make(name)
    if module.labels == "required":
        pytest.skip("its negatives are those of other categories")
    trained(module, data)
    if module.closed_form or name in NO_NEGATIVES:
        return
    batch = next(iter(data.train_dataloader()))
    train = data.splits["train"]
    assert batch.identity.tolist() == [(train.identity[row] - 7) for row in batch.images.rows.tolist()]
    assert loss_of(module, batch) != loss_of(module, batch, identities=torch.arange(len(batch)))
    if module.label_space == "none":
        own = loss_of(module, batch, identities=batch.images.rows)
        assert own == loss_of(module, batch, identities=None)


@pytest.mark.parametrize("name", METHODS)
def test_encoding_does_not_depend_on_the_rest_of_the_batch(name: str, toy: Callable[..., Any]) -> None:
    data = toy()
    module, _ = trained(make(name), data)
    module.eval()
    loaders = data.test_dataloader()
    alone = toy()
    alone.eval_batch_size = 1
    alone.load(module.image_view, module.text_view, module.tokenizer)
    with torch.no_grad():
        for side, encode in ((0, module.encode_images), (1, module.encode_texts)):
            together = encode(next(iter(loaders[side])))
            apart = [encode(batch) for batch in alone.test_dataloader()[side]]
            if isinstance(together, torch.Tensor):
                torch.testing.assert_close(torch.cat(apart), together, rtol=1e-4, atol=1e-5)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", METHODS)
def test_reads_only_views_it_names(name: str) -> None:
    with pytest.raises(UsageError, match="reads"):
        make(name, image_view="subwords")


@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n in registry.METHODS if not registry.method(n).closed_form])
def test_learns_the_made_up_data(name: str, toy: Callable[..., Any]) -> None:
    data = toy(n_train=60)
    module, trainer = trained(make(name, lr=5e-3), data, epochs=8)
    with quiet():
        values = trainer.validate(module, datamodule=data, verbose=False)[0]
    assert values["val/map"] > 0.55
