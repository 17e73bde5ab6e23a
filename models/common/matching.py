"""Shared by methods of projection matching: one linear layer per modality, with batch normalisation."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from cmr_bench.datamodules.batches import ImageBatch, PairBatch, TextBatch
from cmr_bench.models.common.feature_module import LabelledFeatureModule
from cmr_bench.models.encoders.inputs import normalise


class MatchingModule(LabelledFeatureModule):
    """A method whose last layers embed both modalities and apply batch normalisation.

    A method calls :meth:`embed_with` in :meth:`build` and :meth:`embed` in its loss.

    Args:
        batch_norm: Apply batch normalisation to the embeddings, over the global batch.
    """

    def __init__(self, batch_norm: bool = True, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.batch_norm = batch_norm

    def embed_with(self, image_layer: nn.Module, text_layer: nn.Module, dim: int) -> None:
        """Set the layers that map features to embeddings of dimension ``dim``."""
        self.image_layer, self.text_layer = image_layer, text_layer
        self.image_norm = nn.BatchNorm1d(dim) if self.batch_norm else None
        self.text_norm = nn.BatchNorm1d(dim) if self.batch_norm else None

    def encode_images(self, images: ImageBatch) -> Tensor:
        """Embed images, (b, dim)."""
        return normalise(self.image_norm, self.image_layer(self.image_features(images)))

    def encode_texts(self, texts: TextBatch) -> Tensor:
        """Embed texts, (b, dim)."""
        return normalise(self.text_norm, self.text_layer(self.text_features(texts)))

    def embed(self, batch: PairBatch) -> tuple[Tensor, Tensor, Tensor]:
        """Embed both sides of the global batch, (b, dim), and return them with the labels of its pairs."""
        # Gathered before they are normalised, so that the statistics are those of the global batch.
        images, texts, labels = self.gather_labelled(
            self.image_layer(self.image_features(batch.images)), self.text_layer(self.text_features(batch.texts)), batch
        )
        return normalise(self.image_norm, images), normalise(self.text_norm, texts), labels
