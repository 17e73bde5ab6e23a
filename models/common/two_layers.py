"""The base of methods that map each modality by two layers to one space of unit length."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from cmr_bench.datamodules.batches import ImageBatch, TextBatch
from cmr_bench.datamodules.views import DataSpec
from cmr_bench.models.common.feature_module import LabelledFeatureModule
from cmr_bench.models.encoders.inputs import hidden_layer


class TwoLayerModule(LabelledFeatureModule):
    """A method of labels with a hidden and a linear layer per modality, to unit length.

    Args:
        hidden: Hidden dimension of each modality's network.
        dim: Embedding dimension.
        dropout: Dropout probability of the hidden layers.
        input_dropout: Dropout probability of the input features.
    """

    def __init__(
        self, hidden: int = 1024, dim: int = 256, dropout: float = 0.0, input_dropout: float = 0.0, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.hidden, self.dim, self.dropout, self.input_dropout = hidden, dim, dropout, input_dropout

    def build(self, spec: DataSpec) -> None:
        """Build the layers of both modalities."""
        super().build(spec)
        self.image_net, self.text_net = (
            nn.Sequential(
                hidden_layer(width, self.hidden, self.dropout, self.input_dropout), nn.Linear(self.hidden, self.dim)
            )
            for width in (self.image_dim, self.text_dim)
        )

    def encode_images(self, images: ImageBatch) -> Tensor:
        """Embed images at unit length, (b, dim)."""
        return F.normalize(self.image_net(self.image_features(images)), dim=1)

    def encode_texts(self, texts: TextBatch) -> Tensor:
        """Embed texts at unit length, (b, dim)."""
        return F.normalize(self.text_net(self.text_features(texts)), dim=1)
