"""The terms of TIMAM, its three text views, and what becomes of BERT."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cmr_bench.models.adversarial.timam import TIMAM
from cmr_bench.models.encoders.text import SubwordEncoder
from cmr_bench.support.errors import DataError, UsageError


def built(toy: Callable[..., Any], text_view: str = "vector", **options: Any) -> tuple[TIMAM, Any]:
    torch.manual_seed(0)
    data = toy(n_classes=options.pop("n_classes", 3), multi_label=options.pop("multi", False))
    module = TIMAM(hidden=8, dim=6, discriminator=5, word_dim=4, text_view=text_view, **options)  # type: ignore[arg-type]
    module.build(data.load(module.image_view, module.text_view, module.tokenizer))
    return module, next(iter(data.train_dataloader()))


@pytest.mark.parametrize("multi", [False, True])
def test_identification_is_the_cross_entropy_over_unit_class_vectors(toy: Callable[..., Any], multi: bool) -> None:
    module, batch = built(toy, multi=multi)
    classes = module.classes.detach().double().numpy()
    classes /= np.linalg.norm(classes, axis=1, keepdims=True)
    total = 0.0
    for side in (module.encode_images(batch.images), module.encode_texts(batch.texts)):
        for row, label in zip(side.detach().double().numpy(), batch.labels.numpy(), strict=True):
            predictions = np.exp(classes @ row)
            share = label / label.sum() if multi else np.eye(3)[label]
            total -= float(share @ np.log(predictions / predictions.sum())) / len(batch)
    assert float(module.loss(batch)["identification"].detach()) == pytest.approx(total, rel=1e-4)


def test_loss_is_the_sum_of_the_terms_that_are_on(toy: Callable[..., Any]) -> None:
    full, batch = built(toy)
    terms = full.loss(batch)
    assert set(terms) == {"matching", "identification", "discriminator", "loss"}
    values = {name: float(value.detach()) for name, value in terms.items()}
    assert values.pop("loss") == pytest.approx(sum(values.values()), rel=1e-5)
    for option, term, part in (
        ("matching", "matching", None),
        ("identification", "identification", "classes"),
        ("adversarial", "discriminator", "discriminator"),
    ):
        module, batch = built(toy, **{option: False})
        assert set(module.loss(batch)) == set(terms) - {term}
        assert part is None or not any(name.startswith(part) for name, _ in module.named_parameters())
    with pytest.raises(UsageError, match="identification true"):
        TIMAM(matching=False, identification=False)


def test_without_categories_the_image_is_the_class(toy: Callable[..., Any]) -> None:
    module, batch = built(toy, n_classes=0)
    assert module.classes.shape == (24, 6)
    assert bool(torch.isfinite(module.loss(batch)["loss"]))


def network(module: TIMAM) -> SubwordEncoder:
    assert isinstance(module.text_input.network, SubwordEncoder)
    return module.text_input.network


def test_frozen_bert_keeps_its_weights_its_mode_and_out_of_the_optimiser(toy: Callable[..., Any], bert: Path) -> None:
    module, batch = built(toy, "subwords", bert=str(bert))
    assert module.tokenizer == str(bert)
    assert module.train().training
    assert not network(module).encoder.training
    before = [value.clone() for value in network(module).encoder.parameters()]
    optimizer = module.make_optimizer()
    module.loss(batch)["loss"].backward()
    optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(before, network(module).encoder.parameters(), strict=True))
    assert len(optimizer.param_groups) == 1
    assert all(p.requires_grad and p.grad is not None for p in optimizer.param_groups[0]["params"])


def test_fine_tuned_bert_learns_with_its_own_rate_and_is_stored(toy: Callable[..., Any], bert: Path) -> None:
    module, batch = built(toy, "subwords", bert=str(bert), fine_tune_bert=True, bert_lr=3e-5)
    assert network(module.train()).encoder.training
    module.loss(batch)["loss"].backward()
    groups = module.parameter_groups()
    assert [group.get("lr") for group in groups] == [None, 3e-5]
    assert all(p.grad is not None for group in groups for p in group["params"])
    assert any("encoder." in name for name in module.state_dict())


def test_checkpoint_leaves_out_frozen_bert_and_loads_without(toy: Callable[..., Any], bert: Path) -> None:
    module, batch = built(toy, "subwords", bert=str(bert))
    state = module.state_dict()
    assert not any("encoder." in name for name in state)
    assert any(name.startswith("text_input.network.rnn") for name in state)
    fresh, _ = built(toy, "subwords", bert=str(bert))
    with torch.no_grad():
        for value in fresh.text_layer.parameters():
            value.add_(1)
    fresh.load_state(state)
    assert set(state) == set(fresh.state_dict())
    module.eval()
    fresh.eval()
    torch.testing.assert_close(fresh.encode_texts(batch.texts), module.encode_texts(batch.texts), rtol=0, atol=0)
    with pytest.raises(RuntimeError, match="rnn"):
        fresh.load_state_dict({name: value for name, value in state.items() if "rnn" not in name})


def test_padding_changes_nothing(toy: Callable[..., Any], bert: Path) -> None:
    module, batch = built(toy, "subwords", bert=str(bert))
    module.eval()
    together = network(module)(batch.texts.input_ids, batch.texts.attention_mask)
    for row, length in enumerate(batch.texts.attention_mask.sum(1).tolist()):
        ids = batch.texts.input_ids[row : row + 1, :length]
        torch.testing.assert_close(network(module)(ids, torch.ones_like(ids))[0], together[row], rtol=1e-4, atol=1e-5)


def test_bert_that_is_not_there_or_too_short_is_one_line(toy: Callable[..., Any], bert: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such folder"):
        built(toy, "subwords", bert=str(tmp_path / "none"))
    with pytest.raises(UsageError, match=r"reads 12 subwords and a text has 40: --data\.max_words 12"):
        SubwordEncoder(str(bert), 40)


def test_losses_are_finite_under_autocast(toy: Callable[..., Any], bert: Path) -> None:
    module, batch = built(toy, "subwords", bert=str(bert))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        terms = module.loss(batch)
    assert all(value.dtype == torch.float32 and bool(torch.isfinite(value)) for value in terms.values())
