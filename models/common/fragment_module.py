"""The base of methods that read an image as regions and a text as words."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, ClassVar

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn

from cmr_bench.datamodules.batches import ImageBatch, TextBatch
from cmr_bench.datamodules.images.store import grid_boxes
from cmr_bench.datamodules.split import Split
from cmr_bench.datamodules.views import DataSpec, ViewKind
from cmr_bench.models.base import RetrievalModule
from cmr_bench.models.encoders.inputs import (
    RegionInput,
    Scaling,
    fit_standardisers,
    linear_of_scaled,
    standardiser,
    with_own_rates,
)
from cmr_bench.support.places import path_text


class FragmentModule(RetrievalModule):
    """A method that reads regions, of a detector or the cells of a CNN's last feature map, and words.

    :meth:`build` makes the input stage of the regions, whose width is ``region_dim``. A method reads them by
    :meth:`regions_of` or, through a linear layer, by :meth:`embedded_regions`.

    Args:
        word_dim: Dimension of the word embeddings.
        standardise: Centre the stored features and divide each by its standard deviation over the training split
            (each), or all by one number (overall); none leaves them as they are.
        cnn: Network for pixels, whose last feature map gives the regions: timm:NAME, torchvision:NAME or
            hf:NAME_OR_FOLDER.
        cnn_weights: Local weights file of that network, or random; pretrained weights of its library where not given.
        fine_tune: Train that network too.
        cnn_lr: Learning rate of that network.
        image_view: View of the images: regions or pixels.
        text_view: View of the texts: tokens.
    """

    image_views: ClassVar[tuple[ViewKind, ...]] = ("regions", "pixels")
    text_views: ClassVar[tuple[ViewKind, ...]] = ("tokens",)
    _told = False

    def __init__(
        self,
        word_dim: int = 300,
        standardise: Scaling = "none",
        cnn: str = "torchvision:resnet152",
        cnn_weights: str | Path | None = None,
        fine_tune: bool = False,
        cnn_lr: float = 2e-5,
        image_view: ViewKind = "regions",
        text_view: ViewKind = "tokens",
        **kwargs: Any,
    ) -> None:
        super().__init__(image_view=image_view, text_view=text_view, **kwargs)
        self.word_dim, self.standardise = word_dim, standardise
        self.cnn, self.cnn_weights, self.fine_tune, self.cnn_lr = cnn, path_text(cnn_weights), fine_tune, cnn_lr

    def build(self, spec: DataSpec) -> None:
        """Make the input stage; a method's own layers come after ``super().build(spec)``."""
        super().build(spec)
        self.image_input = RegionInput(spec.image, self.cnn, self.cnn_weights, self.fine_tune)
        self.region_dim = self.image_input.dim
        self.image_scale = standardiser(spec.image, self.region_dim, self.standardise, pooled=False)

    def prepare_training(self, train: Split) -> None:
        """Learn the means and standard deviations of the features of regions."""
        fit_standardisers(train, self.image_scale, nn.Identity())

    def regions_of(self, images: ImageBatch) -> tuple[Tensor, Tensor]:
        """Return the regions of a batch, (b, R, region_dim), and True for the real ones, (b, R)."""
        regions, mask = self.image_input(images)
        return self.image_scale(regions), mask

    def embedded_regions(self, layer: nn.Linear, images: ImageBatch) -> tuple[Tensor, Tensor]:
        """Return ``layer`` of the regions of a batch, (b, R, dim), and True for the real ones, (b, R)."""
        regions, mask = self.image_input(images)
        return linear_of_scaled(self.image_scale, layer, regions), mask

    def boxes_of(self, images: ImageBatch, regions: Tensor) -> Tensor:
        """Return the boxes of the regions (b, R, d) of a batch as fractions x0, y0, x1, y1, (b, R, 4).

        The cells of a CNN's map have the boxes of their grid. Regions of which nothing is known but their features
        have the whole image each.
        """
        if images.boxes is not None:
            return images.boxes
        side = math.isqrt(regions.shape[1])
        if self.image_input.network is not None and side * side == regions.shape[1]:
            cells = torch.from_numpy(grid_boxes(side, side)).to(regions)
        else:
            if not self._told:
                rank_zero_warn("the regions come without boxes, so each counts as the whole image")
                self._told = True
            cells = regions.new_tensor([0.0, 0.0, 1.0, 1.0]).expand(regions.shape[1], 4)
        return cells.expand(len(regions), -1, -1)

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Give the image network its own learning rate."""
        return with_own_rates(self, (self.image_input, self.cnn_lr))


def words_of(texts: TextBatch) -> tuple[Tensor, Tensor, Tensor]:
    """Return word ids (b, W), the number of real words (b,) and True for real words (b, W) of a batch."""
    assert texts.tokens is not None
    assert texts.lengths is not None
    places = torch.arange(texts.tokens.shape[1], device=texts.tokens.device)
    return texts.tokens, texts.lengths, places < texts.lengths[:, None]
