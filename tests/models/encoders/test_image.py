"""The pixel encoder: frozen means frozen, fine-tuned means trained."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path

import pytest
import torch

from cmr_bench.models.encoders.image import PixelEncoder
from cmr_bench.support.errors import DataError

NAME = "timm:test_resnet"


@pytest.fixture
def pixels() -> torch.Tensor:
    return torch.rand(4, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def test_frozen_network_does_not_change(pixels: torch.Tensor) -> None:
    encoder = PixelEncoder(NAME, "random")
    before = copy.deepcopy(encoder.state_dict())
    expected = encoder.eval()(pixels)
    encoder.train()
    assert not any(module.training for module in encoder.backbone.modules())
    assert torch.equal(encoder(pixels), expected)
    assert not encoder(pixels).requires_grad
    assert not any(parameter.requires_grad for parameter in encoder.parameters())
    assert all(torch.equal(before[key], value) for key, value in encoder.state_dict().items())


def test_layers_on_a_frozen_network_still_learn(pixels: torch.Tensor) -> None:
    encoder = PixelEncoder(NAME, "random").train()
    head = torch.nn.Linear(encoder.dim, 3)
    head(encoder(pixels)).sum().backward()
    assert head.weight.grad is not None
    assert head.weight.grad.abs().sum() > 0


def test_fine_tuning_trains_every_layer_and_its_statistics(pixels: torch.Tensor) -> None:
    encoder = PixelEncoder(NAME, "random", fine_tune=True).train()
    before = copy.deepcopy(encoder.state_dict())
    assert encoder.backbone.net.training
    encoder(pixels).square().sum().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in encoder.parameters())
    changed = {key for key, value in encoder.state_dict().items() if not torch.equal(before[key], value)}
    assert changed
    assert all("running" in key or "num_batches" in key for key in changed)
    with torch.no_grad():
        assert not encoder(pixels).requires_grad
    encoder.eval()
    assert not encoder.backbone.net.training


def test_making_an_encoder_leaves_its_statistics_alone() -> None:
    encoder = PixelEncoder(NAME, "random", fine_tune=True)
    means = [value for key, value in encoder.state_dict().items() if key.endswith("running_mean")]
    assert means
    assert all(value.abs().sum() == 0 for value in means)
    encoder.train()
    encoder.backbone.output_shape(64)
    assert encoder.backbone.net.training
    assert all(value.abs().sum() == 0 for value in means)


@pytest.mark.parametrize("layer", ["pool", "grid"])
def test_dimension_is_known_before_the_first_batch(pixels: torch.Tensor, layer: str) -> None:
    encoder = PixelEncoder(NAME, "random", layer)
    features = encoder(pixels)
    assert features.shape[-1] == encoder.dim
    assert features.ndim == (3 if layer == "grid" else 2)
    assert encoder.backbone.output_shape(64) == features.shape[1:]


def test_state_comes_back_without_mean_and_deviation_in_it(tmp_path: Path, pixels: torch.Tensor) -> None:
    encoder, other = PixelEncoder(NAME, "random"), PixelEncoder(NAME, "random")
    assert not torch.equal(encoder(pixels), other(pixels))
    torch.save(encoder.state_dict(), tmp_path / "state.pt")
    other.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert torch.equal(encoder(pixels), other(pixels))
    assert not {"backbone.mean", "backbone.std"} & set(encoder.state_dict())


@pytest.mark.parametrize("name", [NAME, "torchvision:squeezenet1_1"])
def test_a_copy_uses_its_own_weights(pixels: torch.Tensor, name: str) -> None:
    encoder = PixelEncoder(name, "random")
    for twin in (copy.deepcopy(encoder), pickle.loads(pickle.dumps(encoder))):
        with torch.no_grad():
            for parameter in twin.parameters():
                parameter.zero_()
        assert not torch.equal(twin(pixels), encoder(pixels))


def test_missing_weights_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere\.pth not found"):
        PixelEncoder(NAME, str(tmp_path / "nowhere.pth"))
