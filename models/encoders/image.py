"""Image encoders that methods put in front of their own layers when they read pixels."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cmr_bench.datamodules.images.backbones import load_backbone


class PixelEncoder(nn.Module):
    """A pretrained network that turns pixels into a vector or a grid of regions.

    Pixels arrive as RGB in 0..1 and are normalised here, as the network was trained. A frozen network stays in
    evaluation mode, so that batch normalisation keeps its statistics and dropout stays off; no gradient is kept for it.

    Args:
        backbone: timm:NAME, torchvision:NAME or hf:NAME_OR_FOLDER.
        weights: Local weights file, or random; the library's pretrained weights where not given.
        layer: fc7, pool or grid; fc7 of VGG and pool of every other network where not given.
        fine_tune: Train the network too.
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
        with torch.set_grad_enabled(self.fine_tune and torch.is_grad_enabled()):
            features: Tensor = self.backbone(pixels)
        return features
