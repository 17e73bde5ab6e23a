"""Image encoders for methods that read pixels."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cmr_bench.datamodules.images.backbones import load_backbone
from cmr_bench.support.memory import keep_freed_memory


class PixelEncoder(nn.Module):
    """A pretrained network that turns pixels into a vector or a grid of regions.

    Pixels are RGB in 0..1 and normalised here as in pretraining. A frozen network stays in evaluation mode, so batch
    normalisation keeps its statistics and dropout is off. In evaluation mode no gradient is computed.

    Args:
        backbone: timm:NAME, torchvision:NAME or hf:NAME_OR_FOLDER.
        weights: Local weights file, or random; None loads the library's pretrained weights.
        layer: fc7, pool or grid; None takes fc7 of VGG and pool of every other network.
        fine_tune: Fine-tune the network.
    """

    def __init__(
        self, backbone: str, weights: str | None = None, layer: str | None = None, fine_tune: bool = False
    ) -> None:
        super().__init__()
        self.backbone = load_backbone(backbone, weights, layer)
        self.fine_tune = fine_tune
        self.dim = self.backbone.dim
        self.backbone.requires_grad_(fine_tune)

    def train(self, mode: bool = True) -> PixelEncoder:
        """Set the mode; a frozen network stays in evaluation mode."""
        super().train(mode)
        if not self.fine_tune:
            self.backbone.eval()
        return self

    def forward(self, pixels: Tensor) -> Tensor:
        """Encode pixels (b, 3, H, W) to vectors (b, dim) or regions (b, R, dim)."""
        frozen_on_cpu = not self.fine_tune and pixels.device.type == "cpu"
        if frozen_on_cpu:
            keep_freed_memory()
        if frozen_on_cpu or pixels.device.type == "cuda":
            pixels = pixels.contiguous(memory_format=torch.channels_last)  # what convolutions are fastest on
        with torch.set_grad_enabled(self.fine_tune and self.training and torch.is_grad_enabled()):
            features: Tensor = self.backbone(pixels)
        return features
