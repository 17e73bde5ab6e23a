"""Image encoders by name: ``library:model``, cut at the layer whose output is the feature."""

from __future__ import annotations

import math
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cmr_bench.datamodules.images.libraries import (
    BackboneSpec,
    Features,
    load_open_clip,
    load_timm,
    load_torchvision,
    load_transformers,
)
from cmr_bench.datamodules.images.weights import file_sha256, load_weights, tensors_sha256
from cmr_bench.support.encoders import LAYERS, RANDOM, split_name
from cmr_bench.support.encoders import default_layer as default_layer
from cmr_bench.support.encoders import store_name as store_name
from cmr_bench.support.errors import DataError, UsageError, did_you_mean


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


def load_backbone(encoder: str, weights: str | Path | None = None, layer: str | None = None) -> Backbone:
    """Load an image network and cut it at a layer.

    Args:
        encoder: ``timm:NAME``, ``torchvision:NAME``, ``hf:NAME_OR_FOLDER`` or ``open_clip:NAME/PRETRAINED``.
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
        loaded = load_transformers(name, layer, weights is None, file)
    elif library == "open_clip":
        loaded = load_open_clip(name, layer, weights is None, file)
    else:
        loaded = (load_timm if library == "timm" else load_torchvision)(name, layer, weights is None)
        if file is not None:
            load_weights(loaded.net, file, encoder)
    loaded.net.float().eval()
    spec = BackboneSpec(
        encoder=encoder,
        layer=layer,
        weights="pretrained" if weights is None else RANDOM if file is None else file.name,
        sha256=tensors_sha256(loaded.net) if file is None else file_sha256(file),
        size=loaded.size,
        fixed_size=loaded.fixed_size,
        mean=tuple(loaded.mean),
        std=tuple(loaded.std),
        interpolation=loaded.interpolation,
        crop_fraction=loaded.crop_fraction,
    )
    return Backbone(loaded.net, loaded.features, spec).eval()
