"""Every adversarial method: what the discriminator's loss does to the encoders, and what it does to itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from cmr_bench import registry
from cmr_bench.models.adversarial.modality import AdversarialModule

# Small widths of each method, and what weighs its adversarial term.
SMALL: dict[str, dict[str, Any]] = {
    "adv_subspace": {"hidden": 8, "dim": 6, "discriminator": 5},
    "timam": {"hidden": 8, "dim": 6, "discriminator": 5},
    "acmr": {"image_layers": [8], "text_layers": [7], "dim": 6, "modality_layers": [5]},
    "a_ganet": {"hidden": 8, "dim": 6, "heads": 2, "discriminator": 5, "dropout": 0.0},
    "daml": {"hidden": 8, "dim": 6, "discriminators": [5]},
}
VIEWS = {"a_ganet": ("regions", "tokens")}
WEIGHTS: dict[str, Callable[[AdversarialModule, float], None]] = {
    "adv_subspace": lambda module, weight: setattr(module, "beta", weight),
    "timam": lambda module, weight: setattr(module, "adversarial_weight", weight),
    "acmr": lambda module, weight: setattr(module, "progress", weight),
    "a_ganet": lambda module, weight: setattr(module, "adversarial_weight", weight),
    "daml": lambda module, weight: setattr(module, "beta", weight),
}
# can has a discriminator per modality and acme a critic; their tests are in files of their own.
METHODS = [
    name for name, method in registry.METHODS.items() if method.family == "adversarial" and name not in ("can", "acme")
]

Gradients = dict[str, torch.Tensor]


def built(name: str, toy: Callable[..., Any], weight: float, **options: Any) -> tuple[AdversarialModule, Any]:
    torch.manual_seed(0)
    data = toy()
    image_view, text_view = VIEWS.get(name, ("vector", "vector"))
    module = registry.method(name)(**SMALL[name] | {"image_view": image_view, "text_view": text_view} | options)
    assert isinstance(module, AdversarialModule)
    module.build(data.load(image_view, text_view))
    WEIGHTS[name](module, weight)
    return module, next(iter(data.train_dataloader()))


def gradients(module: AdversarialModule, loss: torch.Tensor) -> tuple[Gradients, Gradients]:
    """Gradients of the encoders and of the discriminator; zero where the loss does not depend on a parameter."""
    module.zero_grad()
    loss.backward()
    found: tuple[Gradients, Gradients] = ({}, {})
    for name, value in module.named_parameters():
        of_discriminator = name.startswith("discriminator")
        found[of_discriminator][name] = torch.zeros_like(value) if value.grad is None else value.grad.clone()
    return found


def plain_loss(module: AdversarialModule, batch: Any) -> torch.Tensor:
    """Binary cross-entropy of the discriminator, from its definition and without any reversal."""
    images = torch.sigmoid(module.discriminator(module.encode_images(batch.images)))
    texts = torch.sigmoid(module.discriminator(module.encode_texts(batch.texts)))
    return -images.log().mean() - (1 - texts).log().mean()


@pytest.mark.parametrize("name", METHODS)
def test_encoders_climb_the_loss_that_the_discriminator_descends(name: str, toy: Callable[..., Any]) -> None:
    module, batch = built(name, toy, 0.3)
    encoders, discriminator = gradients(module, plain_loss(module, batch))
    assert any(gradient.abs().max() > 1e-4 for gradient in encoders.values())
    images, texts = module.encode_images(batch.images), module.encode_texts(batch.texts)
    assert isinstance(images, torch.Tensor)
    assert isinstance(texts, torch.Tensor)
    reversed_, own = gradients(module, module.adversarial_loss(images, texts))
    assert module.reversal > 0
    for key, gradient in encoders.items():
        torch.testing.assert_close(reversed_[key], -module.reversal * gradient, rtol=1e-4, atol=1e-7, msg=key)
    for key, gradient in discriminator.items():
        torch.testing.assert_close(own[key], gradient, rtol=1e-4, atol=1e-7, msg=key)


@pytest.mark.parametrize("name", METHODS)
def test_the_whole_loss_adds_the_reversed_gradient_to_that_of_the_method_without(
    name: str, toy: Callable[..., Any]
) -> None:
    module, batch = built(name, toy, 0.3)
    plain, _ = built(name, toy, 0.3, adversarial=False)
    plain.load_state_dict({k: v for k, v in module.state_dict().items() if not k.startswith("discriminator")})
    adversarial, discriminator = gradients(module, plain_loss(module, batch))
    encoders, own = gradients(module, module.loss(batch)["loss"])
    without, none = gradients(plain, plain.loss(batch)["loss"])
    assert not none
    for key, gradient in without.items():
        expected = gradient - module.reversal * adversarial[key]
        torch.testing.assert_close(encoders[key], expected, rtol=1e-3, atol=1e-6, msg=key)
    for key, gradient in discriminator.items():
        torch.testing.assert_close(own[key], gradient, rtol=1e-3, atol=1e-6, msg=key)


@pytest.mark.parametrize("name", METHODS)
def test_with_weight_zero_the_encoders_learn_as_without_the_adversary(name: str, toy: Callable[..., Any]) -> None:
    module, batch = built(name, toy, 0.0)
    plain, _ = built(name, toy, 0.0, adversarial=False)
    plain.load_state_dict({k: v for k, v in module.state_dict().items() if not k.startswith("discriminator")})
    assert module.reversal == 0
    encoders, discriminator = gradients(module, module.loss(batch)["loss"])
    without, _ = gradients(plain, plain.loss(batch)["loss"])
    assert encoders.keys() == without.keys()
    for key, gradient in without.items():
        torch.testing.assert_close(encoders[key], gradient, rtol=0, atol=0, msg=key)
    assert any(gradient.any() for gradient in discriminator.values())


def test_every_adversarial_method_of_the_registry_is_covered() -> None:
    assert set(METHODS) == set(SMALL) == set(WEIGHTS)
