"""Networks of three libraries, cut at the right layer, with the right weights, or refused in one line."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from cmr_bench.datamodules.images.backbones import Backbone, default_layer, load_backbone, store_name
from cmr_bench.support.errors import CmrBenchError, DataError, UsageError

VISION = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 32,
    "patch_size": 8,
}
TEXT = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 50}


def normalised(pixels: torch.Tensor, backbone: Backbone) -> torch.Tensor:
    """Channel by channel, as the definition says."""
    planes = [
        (pixels[:, c] - mean) / std
        for c, (mean, std) in enumerate(zip(backbone.spec.mean, backbone.spec.std, strict=True))
    ]
    return torch.stack(planes, dim=1)


@pytest.fixture
def pixels() -> torch.Tensor:
    return torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))


def save_torchvision(name: str, file: Path) -> Any:
    from torchvision import models

    torch.manual_seed(3)
    net = models.get_model(name, weights=None).eval()
    state = {key: value.clone() for key, value in net.state_dict().items()}
    if file.suffix == ".safetensors":
        save_file(state, file)
    else:
        torch.save(state, file)
    return net


@torch.no_grad()
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_resnet_is_cut_before_its_classifier(tmp_path: Path, pixels: torch.Tensor, suffix: str) -> None:
    net = save_torchvision("resnet18", tmp_path / f"w{suffix}")
    pool = load_backbone("torchvision:resnet18", tmp_path / f"w{suffix}")
    grid = load_backbone("torchvision:resnet18", tmp_path / f"w{suffix}", "grid")
    vectors = pool(pixels)
    torch.testing.assert_close(net.fc(vectors), net(normalised(pixels, pool)))
    regions = grid(pixels)
    assert vectors.shape == (2, 512)
    assert regions.shape == (2, 4, 512)
    assert grid.grid_shape(64) == (2, 2)
    assert pool.grid_shape(64) is None
    torch.testing.assert_close(regions.mean(1), vectors)


@torch.no_grad()
def test_grid_cells_run_row_by_row(tmp_path: Path) -> None:
    save_torchvision("resnet18", tmp_path / "w.pth")
    grid = load_backbone("torchvision:resnet18", tmp_path / "w.pth", "grid")
    dark, lit = torch.zeros(1, 3, 512, 512), torch.zeros(1, 3, 512, 512)
    lit[:, :, 30:50, 450:490] = 1
    change = (grid(lit) - grid(dark)).abs().sum(-1).view(16, 16)
    row, column = np.unravel_index(int(change.argmax()), (16, 16))
    assert row <= 2
    assert column >= 13


@torch.no_grad()
def test_fc7_is_what_the_last_layer_reads() -> None:
    from torchvision import models

    backbone = load_backbone("torchvision:alexnet", "random")
    pixels = torch.rand(2, 3, 64, 64)
    hidden = backbone(pixels)
    assert backbone.spec.layer == "fc7"
    assert hidden.shape == (2, 4096)
    assert hidden.min() >= 0
    whole = models.alexnet().eval()
    whole.load_state_dict(backbone.net.state_dict(), strict=False)
    torch.testing.assert_close(whole.classifier[-1](hidden), whole(normalised(pixels, backbone)))


@torch.no_grad()
@pytest.mark.parametrize("name", ["squeezenet1_1", "mobilenet_v3_small", "densenet121"])
def test_other_torchvision_networks_pool_their_last_map(tmp_path: Path, pixels: torch.Tensor, name: str) -> None:
    net = save_torchvision(name, tmp_path / "w.pth")
    pool = load_backbone(f"torchvision:{name}", tmp_path / "w.pth")
    maps = net.features(normalised(pixels, pool))
    maps = F.relu(maps) if name == "densenet121" else maps
    torch.testing.assert_close(pool(pixels), maps.mean((2, 3)))


@torch.no_grad()
@pytest.mark.parametrize(
    "name",
    ["test_efficientnet", "test_resnet", "test_convnext", "test_nfnet", "test_mambaout", "test_vit", "test_maxvit"],
)
def test_timm_networks_are_cut_before_their_classifier(name: str) -> None:
    import timm

    if name not in timm.list_models():
        pytest.skip(f"this version of timm has no {name}")
    pool = load_backbone(f"timm:{name}", "random")
    grid = load_backbone(f"timm:{name}", "random", "grid")
    grid.net.load_state_dict(pool.net.state_dict())
    whole = timm.create_model(name, num_classes=0).eval()
    whole.load_state_dict(pool.net.state_dict())
    pixels = torch.rand(1, 3, 160, 160)
    torch.testing.assert_close(pool(pixels), whole(normalised(pixels, pool)))
    regions = grid(pixels)
    rows, columns = grid.grid_shape(160) or (0, 0)
    assert regions.shape == (1, rows * columns, grid.dim)
    assert rows * columns > 1


@torch.no_grad()
def test_vit_regions_are_its_patches_without_the_class_token() -> None:
    grid = load_backbone("timm:test_vit", "random", "grid")
    pixels = torch.rand(1, 3, 160, 160)
    tokens = grid.net.forward_features(normalised(pixels, grid))
    assert grid.output_shape(160)[0] == tokens.shape[1] - 1
    torch.testing.assert_close(grid(pixels), tokens[:, 1:])
    assert grid(torch.rand(1, 3, 64, 64)).shape == grid(pixels).shape


@torch.no_grad()
@pytest.mark.parametrize("kind", ["clip", "clip_vision", "clip_projecting", "siglip", "vit", "dinov2"])
def test_transformers_folders(tmp_path: Path, kind: str) -> None:
    import transformers as t

    torch.manual_seed(2)
    whole: Any = {
        "clip": lambda: t.CLIPModel(t.CLIPConfig(text_config=TEXT, vision_config=VISION, projection_dim=12)),
        "clip_vision": lambda: t.CLIPVisionModel(t.CLIPVisionConfig(**VISION)),
        "clip_projecting": lambda: t.CLIPVisionModelWithProjection(t.CLIPVisionConfig(**VISION, projection_dim=12)),
        "siglip": lambda: t.SiglipModel(t.SiglipConfig(text_config=TEXT, vision_config=VISION)),
        "dinov2": lambda: t.Dinov2Model(t.Dinov2Config(**VISION)),
        "vit": lambda: t.ViTModel(t.ViTConfig(**VISION)),
    }[kind]()
    whole.eval().save_pretrained(tmp_path)
    name = f"hf:{tmp_path}"
    pool, grid = load_backbone(name), load_backbone(name, None, "grid")
    pixels = torch.rand(2, 3, 32, 32)
    vision = getattr(whole, "vision_model", whole)
    output = vision(pixel_values=normalised(pixels, pool))
    expected = {
        "clip": lambda: whole.visual_projection(output.pooler_output),
        "clip_projecting": lambda: whole.visual_projection(output.pooler_output),
    }.get(kind, lambda: output.pooler_output)()
    torch.testing.assert_close(pool(pixels), expected)
    prefix = 0 if kind == "siglip" else 1
    torch.testing.assert_close(grid(pixels), output.last_hidden_state[:, prefix:])
    assert grid.grid_shape(32) == (4, 4)
    from_file = load_backbone(name, tmp_path / "model.safetensors")
    torch.testing.assert_close(from_file(pixels), pool(pixels))
    assert not torch.equal(load_backbone(name, "random")(pixels), pool(pixels))
    assert pool.spec.mean[0] == pytest.approx(0.48145466 if kind.startswith("clip") else 0.5)


def test_preprocessing_of_a_transformers_folder_is_read(tmp_path: Path) -> None:
    import transformers as t

    t.CLIPVisionModel(t.CLIPVisionConfig(**VISION)).save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(
        '{"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6], "resample": 2}'
    )
    spec = load_backbone(f"hf:{tmp_path}").spec
    assert (spec.mean, spec.std, spec.interpolation) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6), "bilinear")


def test_half_precision_files_are_converted(tmp_path: Path) -> None:
    net = save_torchvision("squeezenet1_1", tmp_path / "w.pth")
    save_file({key: value.half() for key, value in net.state_dict().items()}, tmp_path / "half.safetensors")
    backbone = load_backbone("torchvision:squeezenet1_1", tmp_path / "half.safetensors")
    assert {value.dtype for value in backbone.state_dict().values()} == {torch.float32}
    weight = net.features[0].weight
    torch.testing.assert_close(backbone.net.features[0].weight, weight, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("wrapper", ["state_dict", "model"])
def test_files_of_training_scripts_are_unwrapped(tmp_path: Path, wrapper: str) -> None:
    net = save_torchvision("squeezenet1_1", tmp_path / "w.pth")
    wrapped = {wrapper: {f"module.{key}": value for key, value in net.state_dict().items()}, "epoch": 3}
    torch.save(wrapped, tmp_path / "wrapped.pth")
    backbone = load_backbone("torchvision:squeezenet1_1", tmp_path / "wrapped.pth")
    torch.testing.assert_close(backbone.net.features[0].weight, net.features[0].weight)


class _Code:
    def __reduce__(self) -> Any:
        return (print, ("code of a weights file ran",))


@pytest.mark.parametrize("kind", ["of another network", "text", "empty", "object", "code", "list", "cut", "headless"])
def test_weights_that_do_not_fit_are_one_line(tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / ("w.safetensors" if kind in ("text", "cut") else "w.pth")
    if kind == "of another network":
        save_torchvision("squeezenet1_0", file)
    elif kind == "text":
        file.write_text("weights")
    elif kind == "empty":
        file.touch()
    elif kind == "cut":
        save_torchvision("squeezenet1_1", file)
        file.write_bytes(file.read_bytes()[:10000])
    else:
        torch.save({"object": {"a": 1}, "code": {"a": _Code()}, "list": [torch.ones(2)], "headless": {}}[kind], file)
    with pytest.raises(DataError) as caught:
        load_backbone("torchvision:squeezenet1_1", file)
    message = str(caught.value)
    assert str(file) in message
    assert len(message.splitlines()) == 1
    assert "ran" not in capsys.readouterr().out
    if kind == "of another network":
        assert "do not fit torchvision:squeezenet1_1" in message
        assert "(96, 3, 7, 7) where (64, 3, 3, 3) is needed" in message


def test_transformers_weights_that_do_not_fit_are_one_line(tmp_path: Path) -> None:
    import transformers as t

    t.CLIPVisionModel(t.CLIPVisionConfig(**VISION)).save_pretrained(tmp_path)
    save_torchvision("squeezenet1_1", tmp_path / "other.safetensors")
    with pytest.raises(DataError, match=r"other\.safetensors do not fit a CLIPVisionModel") as caught:
        load_backbone(f"hf:{tmp_path}", tmp_path / "other.safetensors")
    assert "\n" not in str(caught.value)
    t.CLIPTextModel(t.CLIPTextConfig(**TEXT)).save_pretrained(tmp_path / "text")
    with pytest.raises(UsageError, match="not an image encoder"):
        load_backbone(f"hf:{tmp_path / 'text'}")


@pytest.mark.parametrize(
    ("encoder", "layer", "message"),
    [
        ("resnet152", None, "pass timm:NAME, torchvision:NAME, hf:NAME_OR_FOLDER or open_clip:NAME"),
        ("timn:resnet18", None, "Did you mean 'timm'?"),
        ("timm:", None, "unknown image encoder"),
        ("timm:resnet9x", None, "Did you mean"),
        ("torchvision:resnet15", None, "Did you mean 'resnet1"),
        ("torchvision:fasterrcnn_resnet50_fpn", None, "no classification model"),
        ("torchvision:resnet18", "fc7", "no layer fc7"),
        ("torchvision:swin_t", None, "has no feature map here"),
        ("torchvision:resnet18", "poll", "Did you mean 'pool'?"),
        ("hf:/no/such/folder", None, "no such folder"),
    ],
)
def test_unknown_names_are_one_line(encoder: str, layer: str | None, message: str) -> None:
    with pytest.raises(CmrBenchError, match=message.replace("?", r"\?")) as caught:
        load_backbone(encoder, "random", layer)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("encoder", ["timm:tf_efficientnet_lite0", "torchvision:resnet18", "hf:someone/clip-vision"])
def test_without_network_the_error_names_the_way_out(
    encoder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    def no_address(*args: Any, **kwargs: Any) -> None:
        raise socket.gaierror(-2, "Name or service not known")

    for variable in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy", "HTTP_PROXY", "http_proxy"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(socket, "getaddrinfo", no_address)
    with pytest.raises(DataError, match=r"cannot download .* --weights FILE") as caught:
        load_backbone(encoder)
    assert "\n" not in str(caught.value)


def test_names_of_stores() -> None:
    assert store_name("timm:tf_efficientnet_lite0") == "tf_efficientnet_lite0-pool"
    assert store_name("torchvision:vgg19") == "vgg19-fc7"
    assert store_name("hf:openai/clip-vit-base-patch32", "grid") == "clip-vit-base-patch32-grid"
    assert store_name("hf:/models/mine/") == "mine-pool"
    assert default_layer("timm:vgg19") == "fc7"


def test_checksum_tells_weights_apart(tmp_path: Path) -> None:
    one, two, again = (load_backbone("timm:test_vit", "random") for _ in range(3))
    again.net.load_state_dict(one.net.state_dict())
    assert one.spec.sha256 != two.spec.sha256
    save_file(one.net.state_dict(), tmp_path / "w.safetensors")
    import hashlib

    expected = hashlib.sha256((tmp_path / "w.safetensors").read_bytes()).hexdigest()
    assert load_backbone("timm:test_vit", tmp_path / "w.safetensors").spec.sha256 == expected


@pytest.mark.real_data
@torch.no_grad()
def test_published_weights_give_pool_as_the_mean_of_the_grid(data_root: Path) -> None:
    file = data_root / "weights" / "tf_efficientnet_lite0.safetensors"
    if not file.is_file():
        pytest.skip("no EfficientNet-Lite0 weights under CMR_BENCH_DATA")
    pool = load_backbone("timm:tf_efficientnet_lite0", file)
    grid = load_backbone("timm:tf_efficientnet_lite0", file, "grid")
    pixels = torch.rand(1, 3, 224, 224)
    assert (pool.spec.size, pool.spec.mean, pool.spec.std) == (224, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    assert grid.output_shape(224) == (49, 1280)
    torch.testing.assert_close(grid(pixels).mean(1), pool(pixels), rtol=1e-4, atol=1e-5)
