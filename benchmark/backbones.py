"""Pretrained image networks of timm, torchvision and transformers, cut at the layer whose output is a feature.

Neutral ground: feature extraction and the methods that read pixels both load their networks here.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cmr_bench.errors import DataError, UsageError, did_you_mean
from cmr_bench.hub import do_not_wait_for_hub, quiet_transformers

Layer = Literal["fc7", "pool", "grid"]
LAYERS: tuple[str, ...] = get_args(Layer)
LIBRARIES = ("timm", "torchvision", "hf")
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
RANDOM = "random"

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


class Backbone(nn.Module):
    """An image network cut at a layer: RGB in 0..1, (b, 3, H, W), to vectors (b, dim) or regions (b, R, dim).

    Args:
        net: The network.
        features: Computes the feature from network and normalised pixels: (b, dim), (b, dim, h, w) or (b, R, dim).
        spec: What the network is and how its input is prepared.

    Attributes:
        dim: Width of a feature.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, net: nn.Module, features: Features, spec: BackboneSpec) -> None:
        super().__init__()
        self.net, self.spec, self._features = net, spec, features
        self.register_buffer("mean", torch.tensor(spec.mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(spec.std).view(1, 3, 1, 1), persistent=False)
        self.dim = self.output_shape(spec.size if spec.fixed_size else 96)[-1]

    def forward(self, pixels: Tensor) -> Tensor:
        """Normalise and encode pixels in 0..1, (b, 3, H, W)."""
        if self.spec.fixed_size and pixels.shape[-1] != self.spec.size:
            side = (self.spec.size, self.spec.size)
            pixels = F.interpolate(pixels, side, mode="bilinear", antialias=True, align_corners=False)
        values = self._features(self.net, (pixels - self.mean) / self.std)
        return values.flatten(2).transpose(1, 2) if values.ndim == 4 else values

    @torch.no_grad()
    def output_shape(self, size: int) -> tuple[int, ...]:
        """Shape of the feature of one square image of this side, (dim,) or (R, dim); the mode is left as it was."""
        training = self.training
        self.eval()
        shape = tuple(self(torch.zeros(1, 3, size, size, device=self.mean.device)).shape[1:])
        self.train(training)
        return shape

    def grid_shape(self, size: int) -> tuple[int, int] | None:
        """Rows and columns of the grid for square images of this side; None for vectors."""
        if self.spec.layer != "grid":
            return None
        side = math.isqrt(self.output_shape(size)[0])
        return side, side


def split_name(encoder: str) -> tuple[str, str]:
    """Split ``library:name``.

    Raises:
        UsageError: If the library is unknown or the name is missing.
    """
    library, _, name = encoder.partition(":")
    if library not in LIBRARIES or not name:
        raise UsageError(
            f"unknown image encoder '{encoder}': give timm:NAME, torchvision:NAME or hf:NAME_OR_FOLDER."
            f"{did_you_mean(library, LIBRARIES)}"
        )
    return library, name


def default_layer(encoder: str) -> str:
    """Layer that papers take from a network: fc7 of VGG and AlexNet, else the pooled features."""
    return "fc7" if split_name(encoder)[1].startswith(("vgg", "alexnet")) else "pool"


def store_name(encoder: str, layer: str | None = None) -> str:
    """Name for stored features: the network's name and the layer, ``tf_efficientnet_lite0-pool``."""
    name = split_name(encoder)[1].rstrip("/\\").replace("\\", "/").rsplit("/", 1)[-1]
    return f"{name}-{layer or default_layer(encoder)}"


def load_backbone(encoder: str, weights: str | Path | None = None, layer: str | None = None) -> Backbone:
    """Load an image network and cut it at a layer.

    Args:
        encoder: ``timm:NAME``, ``torchvision:NAME`` or ``hf:NAME_OR_FOLDER``.
        weights: A local safetensors or PyTorch file; ``random`` for an untrained network; None for the library's
            pretrained weights, downloaded if they are not in its cache. The papers' ImageNet weights (version 1) are
            taken of torchvision.
        layer: fc7, pool or grid; None takes :func:`default_layer`.

    Returns:
        The backbone in evaluation mode, in float32.

    Raises:
        UsageError: If the encoder is unknown or has no such layer.
        DataError: If weights cannot be read, do not fit or cannot be downloaded.
    """
    library, name = split_name(encoder)
    layer = layer or default_layer(encoder)
    if layer not in LAYERS:
        raise UsageError(f"unknown layer '{layer}': choose {', '.join(LAYERS)}.{did_you_mean(layer, LAYERS)}")
    file = None if weights is None or str(weights) == RANDOM else Path(weights).expanduser()
    if file is not None and not file.is_file():
        raise DataError(f"weights file {file} not found; --weights takes a safetensors or .pth file for {encoder}")
    if library == "hf":
        loaded = _load_transformers(name, layer, weights is None, file)
    else:
        loaded = (_load_timm if library == "timm" else _load_torchvision)(name, layer, weights is None)
        if file is not None:
            load_weights(loaded.net, file, encoder)
    loaded.net.float().eval()
    spec = BackboneSpec(
        encoder=encoder,
        layer=layer,
        weights="pretrained" if weights is None else RANDOM if file is None else file.name,
        sha256=_tensors_sha256(loaded.net) if file is None else _file_sha256(file),
        size=loaded.size,
        fixed_size=loaded.fixed_size,
        mean=tuple(loaded.mean),
        std=tuple(loaded.std),
        interpolation=loaded.interpolation,
        crop_fraction=loaded.crop_fraction,
    )
    return Backbone(loaded.net, loaded.features, spec).eval()


def read_weights(file: Path) -> dict[str, Tensor]:
    """Read a file of named tensors, safetensors or PyTorch's, without running code from it.

    Raises:
        DataError: If the file is something else.
    """
    try:
        if file.suffix == ".safetensors":
            from safetensors.torch import load_file

            state: Any = load_file(file)
        else:
            state = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # each format has its own errors, and what matters is the same for all
        raise DataError(
            f"cannot read weights {file}: {_first_line(error)}; give safetensors or a PyTorch state dict"
        ) from error
    for key in ("state_dict", "model_state_dict", "model"):
        if isinstance(state, Mapping) and isinstance(state.get(key), Mapping):
            state = state[key]
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise DataError(f"weights {file} hold no state dict of named tensors")
    return {str(key).removeprefix("module."): value for key, value in state.items()}


def load_weights(net: nn.Module, file: Path, encoder: str) -> None:
    """Load a weights file into a network whose classifier has been taken off.

    Half-precision tensors are converted; tensors of the file that the cut network has no place for are left out; the
    counters of batch normalisation may be absent.

    Raises:
        DataError: If a tensor is missing or has another shape.
    """
    state, own = read_weights(file), net.state_dict()
    absent = [key for key in own if key not in state and not key.endswith(("num_batches_tracked", "position_ids"))]
    other = [key for key in own if key in state and state[key].shape != own[key].shape]
    if absent or other:
        problems = []
        if absent:
            problems.append(f"{len(absent)} of {len(own)} tensors missing, e.g. {absent[0]}")
        if other:
            shapes = f"{tuple(state[other[0]].shape)} where {tuple(own[other[0]].shape)} is needed"
            problems.append(f"{len(other)} of another shape, e.g. {other[0]} {shapes}")
        raise DataError(f"weights {file} do not fit {encoder}: {'; '.join(problems)}")
    net.load_state_dict({key: state[key].to(own[key].dtype) for key in own if key in state}, strict=False)


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), "") or type(error).__name__


def _file_sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _tensors_sha256(net: nn.Module) -> str:
    digest = hashlib.sha256()
    for key, value in sorted(net.state_dict().items()):
        digest.update(key.encode() + b"\0")
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


@contextmanager
def _downloading(encoder: str, local: bool = False) -> Iterator[None]:
    if not local:
        do_not_wait_for_hub()
    try:
        yield
    except Exception as error:  # urllib, requests, httpx and the hub each raise their own
        if local:
            raise DataError(f"cannot load {encoder}: {_first_line(error)[:200]}") from error
        raise DataError(
            f"cannot download the pretrained weights of {encoder} ({_first_line(error)[:160]}); "
            "without network give a local file: --weights FILE (safetensors or .pth)"
        ) from error


def _load_timm(name: str, layer: str, pretrained: bool) -> _Loaded:
    import timm

    if not timm.is_model(name):
        raise UsageError(f"timm has no model '{name}'.{did_you_mean(name, timm.list_models())}")
    if pretrained:
        with _downloading(f"timm:{name}"):
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


def _load_torchvision(name: str, layer: str, pretrained: bool) -> _Loaded:
    from torchvision import models

    names = models.list_models(module=models)
    if name not in names:
        raise UsageError(f"torchvision has no classification model '{name}'.{did_you_mean(name, names)}")
    choices = models.get_model_weights(name)
    chosen = choices["IMAGENET1K_V1"] if "IMAGENET1K_V1" in choices.__members__ else choices.DEFAULT
    if pretrained:
        with _downloading(f"torchvision:{name}"):
            net: Any = models.get_model(name, weights=chosen)
    else:
        net = models.get_model(name, weights=None)

    residual = hasattr(net, "layer4")
    if not residual and (not hasattr(net, "features") or hasattr(net, "permute")):
        raise UsageError(f"torchvision:{name} cannot be cut at a feature map here; take it from timm: timm:NAME")

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


def _load_transformers(name: str, layer: str, pretrained: bool, file: Path | None) -> _Loaded:
    import transformers

    library: Any = transformers
    if layer == "fc7":
        raise UsageError(f"hf:{name} has no layer fc7: choose pool or grid")
    folder = Path(name).expanduser()
    local = folder.is_dir()
    if not local and (folder.is_absolute() or name.startswith((".", "~")) or name.count("/") > 1):
        raise DataError(f"hf:{name}: no such folder; give a folder with config.json, or a name on the Hugging Face hub")
    place = str(folder) if local else name
    state = None if file is None else read_weights(file)
    report: dict[str, Any] = {}
    with _downloading(f"hf:{name}", local), quiet_transformers():
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
        raise UsageError(f"hf:{name} is no image encoder: a {type(net).__name__} reads {net.main_input_name}")
    absent = [*report.get("missing_keys", ()), *(key for key, *_ in report.get("mismatched_keys", ()))]
    if absent:
        source = f"hf:{name}" if file is None else f"weights {file}"
        raise DataError(
            f"{source} do not fit a {type(net).__name__} of this configuration: {len(absent)} tensors "
            f"missing or of another shape, e.g. {min(absent)}"
        )
    vision = net.config
    size = _side(getattr(vision, "image_size", 224))
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


def channel_statistics(name: str, model_type: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and deviation of red, green and blue in 0..1 that a transformers model was trained with.

    Args:
        name: Name on the Hugging Face hub, or a local folder.
        model_type: Its kind, which decides where no preprocessor is stored with it.
    """
    folder = Path(name).expanduser()
    return _channel_statistics(_preprocessor(str(folder) if folder.is_dir() else name), model_type)


def _channel_statistics(prepare: Mapping[str, Any], model_type: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    clip = model_type.startswith("clip")
    default_mean = (0.48145466, 0.4578275, 0.40821073) if clip else (0.5, 0.5, 0.5)
    default_std = (0.26862954, 0.26130258, 0.27577711) if clip else (0.5, 0.5, 0.5)
    return tuple(prepare.get("image_mean") or default_mean), tuple(prepare.get("image_std") or default_std)


def _side(size: Any) -> int:
    return int(size[0] if isinstance(size, list | tuple) else size)


def _transformers_cells(net: Any, pixels: Tensor, patches: int) -> Tensor:
    tokens: Tensor = net(pixel_values=pixels).last_hidden_state
    return tokens if tokens.ndim == 4 else tokens[:, tokens.shape[1] - patches :]


def _transformers_pooled(net: Any, pixels: Tensor) -> Tensor:
    output = net(pixel_values=pixels)
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
