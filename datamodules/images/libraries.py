"""Image encoders of timm, torchvision and transformers, cut at a layer."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cmr_bench.datamodules.images.naflex import patch_inputs, square_side
from cmr_bench.datamodules.images.weights import load_weights, read_weights
from cmr_bench.support import openclip
from cmr_bench.support.errors import DataError, UsageError, brief, did_you_mean, first_line
from cmr_bench.support.hub import do_not_wait_for_hub, quiet_transformers

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

# Takes the network and normalised pixels (b, 3, H, W). A function of the module, not a closure: a copied or unpickled
# backbone must read its own network.
Features = Callable[[Any, Tensor], Tensor]


@dataclass(frozen=True)
class BackboneSpec:
    """What a backbone is and how its input is prepared.

    Attributes:
        encoder: ``library:name``.
        layer: fc7 (second hidden layer of a VGG or AlexNet, after its ReLU), pool (the vector that the classifier
            reads) or grid (the cells of the last feature map, or the patches of a transformer).
        weights: Name of the weights file, ``pretrained`` or ``random``.
        sha256: Checksum of the weights file; of the tensors where they were downloaded or are random.
        size: Side of the input in pixels that the network was trained for.
        fixed_size: True where the network takes no other size.
        mean: Mean that is subtracted from each channel, in 0..1.
        std: Deviation that each channel is divided by.
        interpolation: How photographs are scaled.
        crop_fraction: Part of the scaled photo that a centre crop keeps, a side.
    """

    encoder: str
    layer: str
    weights: str
    sha256: str
    size: int
    fixed_size: bool
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str
    crop_fraction: float


@dataclass
class _Loaded:
    net: nn.Module
    features: Features
    size: int = 224
    fixed_size: bool = False
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    interpolation: str = "bilinear"
    crop_fraction: float = 0.875


@contextmanager
def _downloading(encoder: str, source: str, local: bool = False) -> Iterator[None]:
    """Make one line of what a download fails with: what to fetch from where, and how to pass it.

    Args:
        encoder: ``library:name``.
        source: Address of the file, or of the folder for transformers.
        local: Nothing is downloaded; the model is a folder.
    """
    if not local:
        do_not_wait_for_hub()
    try:
        yield
    except Exception as error:  # urllib, requests, httpx and the hub each raise their own
        if local:
            raise DataError(f"cannot load {encoder}: {brief(first_line(error))}") from error
        raise DataError(
            f"cannot download the pretrained weights of {encoder} ({brief(first_line(error))}); without network, fetch "
            f"{source} elsewhere and pass the local file (safetensors or .pth): --data.image_weights FILE of `run` and "
            "`suite`, --weights FILE of `data features` and `search`, --model.cnn_weights FILE where the CNN is trained"
        ) from error


def _timm_source(name: str) -> str:
    """Address of the weights file of a timm model."""
    import timm

    config = timm.get_pretrained_cfg(name)
    if config is not None and config.hf_hub_id:
        return f"https://huggingface.co/{config.hf_hub_id}/resolve/main/{config.hf_hub_filename or 'model.safetensors'}"
    return str(getattr(config, "url", "") or f"the weights of {name}")


def load_timm(name: str, layer: str, pretrained: bool) -> _Loaded:
    """Load a timm model, cut at a layer."""
    import timm

    if not timm.is_model(name):
        raise UsageError(f"timm has no model '{name}'.{did_you_mean(name, timm.list_models())}")
    if pretrained:
        with _downloading(f"timm:{name}", _timm_source(name)):
            net: Any = timm.create_model(name, pretrained=True, num_classes=0)
    else:
        net = timm.create_model(name, pretrained=False, num_classes=0)
    hidden = hasattr(net, "pre_logits") and hasattr(getattr(net, "pre_logits", None), "fc2")
    if layer == "fc7" and not hidden:
        raise UsageError(f"timm:{name} has no layer fc7: choose pool or grid")

    config = net.pretrained_cfg
    return _Loaded(
        net,
        _timm_cells if layer == "grid" else _timm_pooled_cells if layer == "pool" and hidden else _call,
        size=config["input_size"][-1],
        # Transformers say so only through their patch embedding, which refuses every other size.
        fixed_size=bool(config.get("fixed_input_size")) or getattr(net, "patch_embed", None) is not None,
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
        interpolation=config.get("interpolation", "bicubic"),
        crop_fraction=config.get("crop_pct") or 0.875,
    )


def _call(net: Any, pixels: Tensor) -> Tensor:
    vectors: Tensor = net(pixels)
    return vectors


def _timm_cells(net: Any, pixels: Tensor) -> Tensor:
    maps: Tensor = net.forward_features(pixels)
    if maps.ndim == 4:
        return maps.permute(0, 3, 1, 2) if getattr(net, "output_fmt", "NCHW") == "NHWC" else maps
    return maps[:, getattr(net, "num_prefix_tokens", 0) :]


def _timm_pooled_cells(net: Any, pixels: Tensor) -> Tensor:
    return _timm_cells(net, pixels).mean((2, 3))


def load_torchvision(name: str, layer: str, pretrained: bool) -> _Loaded:
    """Load a torchvision model, cut at a layer."""
    from torchvision import models

    names = models.list_models(module=models)
    if name not in names:
        raise UsageError(f"torchvision has no classification model '{name}'.{did_you_mean(name, names)}")
    choices = models.get_model_weights(name)
    chosen = choices["IMAGENET1K_V1"] if "IMAGENET1K_V1" in choices.__members__ else choices.DEFAULT
    if pretrained:
        with _downloading(f"torchvision:{name}", str(chosen.url)):
            net: Any = models.get_model(name, weights=chosen)
    else:
        net = models.get_model(name, weights=None)

    residual = hasattr(net, "layer4")
    if not residual and (not hasattr(net, "features") or hasattr(net, "permute")):
        raise UsageError(f"torchvision:{name} has no feature map here; use timm:NAME")

    if layer == "fc7":
        if not name.startswith(("vgg", "alexnet")):
            raise UsageError(f"torchvision:{name} has no layer fc7: choose pool or grid")
        net.classifier = net.classifier[:-1]
    elif residual:
        net.fc = nn.Identity()
    else:
        net.classifier = nn.Identity()
    prepare = chosen.transforms()
    size = prepare.crop_size[0]
    return _Loaded(
        net,
        {"grid": _torchvision_cells, "pool": _torchvision_pooled, "fc7": _torchvision_hidden}[layer],
        size=size,
        mean=tuple(prepare.mean),
        std=tuple(prepare.std),
        interpolation=prepare.interpolation.value,
        crop_fraction=size / prepare.resize_size[0],
    )


def _torchvision_cells(net: Any, pixels: Tensor) -> Tensor:
    if hasattr(net, "layer4"):
        maps: Tensor = net.maxpool(net.relu(net.bn1(net.conv1(pixels))))
        for stage in (net.layer1, net.layer2, net.layer3, net.layer4):
            maps = stage(maps)
        return maps
    maps = net.features(pixels)
    # DenseNet leaves its last activation to the forward method.
    return F.relu(maps) if hasattr(net.features, "denseblock1") else maps


def _torchvision_pooled(net: Any, pixels: Tensor) -> Tensor:
    return _torchvision_cells(net, pixels).mean((2, 3))


def _torchvision_hidden(net: Any, pixels: Tensor) -> Tensor:
    vectors: Tensor = net.classifier(torch.flatten(net.avgpool(net.features(pixels)), 1))
    return vectors


def load_transformers(name: str, layer: str, pretrained: bool, file: Path | None) -> _Loaded:
    """Load the vision part of a transformers model, cut at a layer."""
    import transformers

    library: Any = transformers
    if layer == "fc7":
        raise UsageError(f"hf:{name} has no layer fc7: choose pool or grid")
    folder = Path(name).expanduser()
    local = folder.is_dir()
    if not local and (folder.is_absolute() or name.startswith((".", "~")) or name.count("/") > 1):
        raise DataError(f"hf:{name}: no such folder; pass a folder with config.json, or a name on the Hugging Face Hub")
    place = str(folder) if local else name
    state = None if file is None else read_weights(file)
    report: dict[str, Any] = {}
    source = f"https://huggingface.co/{place} (all its files into one folder, named as hf:FOLDER),"
    with _downloading(f"hf:{name}", source, local), quiet_transformers():
        config: Any = library.AutoConfig.from_pretrained(place)
        prepare = _preprocessor(place)
        model, vision = _vision_part(library, config)
        if pretrained:
            net, report = model.from_pretrained(place, config=vision, output_loading_info=True)
        else:
            net = model.from_config(vision) if model is library.AutoModel else model(vision)
    if state is not None:
        # Unlike load_state_dict this knows the names that older versions of the library gave to the tensors.
        options = {"config": vision, "state_dict": state, "output_loading_info": True, "ignore_mismatched_sizes": True}
        with quiet_transformers():
            net, report = type(net).from_pretrained(None, **options)
    if net.main_input_name != "pixel_values":
        raise UsageError(f"hf:{name} is not an image encoder: a {type(net).__name__} reads {net.main_input_name}")
    absent = [*report.get("missing_keys", ()), *(key for key, *_ in report.get("mismatched_keys", ()))]
    if absent:
        source = f"hf:{name}" if file is None else f"weights {file}"
        raise DataError(
            f"{source} do not fit a {type(net).__name__} of this configuration: {len(absent)} tensors "
            f"missing or of another shape, e.g. {min(absent)}"
        )
    vision = net.config
    naflex = vision.model_type.startswith("siglip2")
    size = square_side(vision) if naflex else _side(getattr(vision, "image_size", 224))
    patches = (size // _side(vision.patch_size)) ** 2 if hasattr(vision, "patch_size") else 0

    mean, std = _channel_statistics(prepare, config.model_type)
    return _Loaded(
        net,
        partial(_transformers_cells, patches=patches) if layer == "grid" else _transformers_pooled,
        size=size,
        fixed_size=patches > 0,
        mean=mean,
        std=std,
        interpolation={0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic"}.get(
            prepare.get("resample", 3), "bicubic"
        ),
        crop_fraction=1.0,
    )


def load_open_clip(name: str, layer: str, pretrained: bool, file: Path | None) -> _Loaded:
    """Load the image tower of an open_clip model, cut at a layer; pool is the vector in the space of the texts."""
    if layer == "fc7":
        raise UsageError(f"open_clip:{name} has no layer fc7: choose pool or grid")
    wanted = openclip.preprocessing(name)
    model = openclip.load(name, weights=pretrained)
    if file is not None:
        load_weights(model, file, f"open_clip:{name}")
    return _Loaded(
        model.visual,
        _open_clip_cells if layer == "grid" else _open_clip_pooled,
        size=wanted["size"],
        fixed_size=True,
        mean=tuple(wanted["mean"]),
        std=tuple(wanted["std"]),
        interpolation="bilinear" if wanted["interpolation"] == "bilinear" else "bicubic",
        crop_fraction=1.0,
    )


def _open_clip_pooled(net: Any, pixels: Tensor) -> Tensor:
    output = net(pixels)
    vectors: Tensor = output[0] if isinstance(output, tuple) else output
    return vectors


def _open_clip_cells(net: Any, pixels: Tensor) -> Tensor:
    output = net.forward_intermediates(
        pixels, indices=1, normalize_intermediates=True, intermediates_only=True, output_fmt="NCHW"
    )
    maps: Tensor = output["image_intermediates"][-1]
    return maps


def _channel_statistics(prepare: Mapping[str, Any], model_type: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    clip = model_type.startswith("clip")
    default_mean = (0.48145466, 0.4578275, 0.40821073) if clip else (0.5, 0.5, 0.5)
    default_std = (0.26862954, 0.26130258, 0.27577711) if clip else (0.5, 0.5, 0.5)
    return tuple(prepare.get("image_mean") or default_mean), tuple(prepare.get("image_std") or default_std)


def _side(size: Any) -> int:
    return int(size[0] if isinstance(size, list | tuple) else size)


def _transformers_inputs(net: Any, pixels: Tensor) -> dict[str, Tensor]:
    naflex = net.config.model_type.startswith("siglip2")
    return patch_inputs(pixels, _side(net.config.patch_size)) if naflex else {"pixel_values": pixels}


def _transformers_cells(net: Any, pixels: Tensor, patches: int) -> Tensor:
    tokens: Tensor = net(**_transformers_inputs(net, pixels)).last_hidden_state
    return tokens if tokens.ndim == 4 else tokens[:, tokens.shape[1] - patches :]


def _transformers_pooled(net: Any, pixels: Tensor) -> Tensor:
    output = net(**_transformers_inputs(net, pixels))
    for name in ("image_embeds", "pooler_output"):
        if getattr(output, name, None) is not None:
            vectors: Tensor = getattr(output, name).flatten(1)
            return vectors
    first: Tensor = output.last_hidden_state[:, 0]
    return first


def _vision_part(library: Any, config: Any) -> tuple[Any, Any]:
    """Class and configuration of the vision part; CLIP's projects into the shared space where it can."""
    if config.model_type == "clip":
        config.vision_config.projection_dim = config.projection_dim
        return library.CLIPVisionModelWithProjection, config.vision_config
    if config.model_type == "clip_vision_model":
        projects = "CLIPVisionModelWithProjection" in (config.architectures or ())
        return library.CLIPVisionModelWithProjection if projects else library.CLIPVisionModel, config
    if config.model_type in ("siglip2", "siglip2_vision_model"):
        return library.Siglip2VisionModel, getattr(config, "vision_config", config)
    if config.model_type in ("siglip", "siglip_vision_model"):
        return library.SiglipVisionModel, getattr(config, "vision_config", config)
    return library.AutoModel, config


def _preprocessor(name: str) -> dict[str, Any]:
    from transformers.utils import hub

    path = hub.cached_file(
        name,
        "preprocessor_config.json",
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
    )
    return {} if path is None else dict(json.loads(Path(path).read_text(encoding="utf-8")))
