"""Closed forms whose two sides are linear maps, ranked by cosine."""

from __future__ import annotations

from torch import Tensor

from cmr_bench.datamodules.batches import ImageBatch, TextBatch
from cmr_bench.models.subspace.closed_form import Candidate, ClosedForm, Features
from cmr_bench.models.subspace.solving import Matrix


class LinearSubspace(ClosedForm):
    """A closed form whose sides are linear maps of centred features, ranked by cosine.

    Args:
        standardise: Divide every feature by its standard deviation in the training split (each), or not (none).
        image_view: Image view: vector or regions (averaged).
        text_view: Text view: vector.
    """

    image_mean: Tensor
    image_projection: Tensor
    text_mean: Tensor
    text_projection: Tensor

    def keep_maps(self, best: Candidate, features: Features, image_mean: Matrix, text_mean: Matrix) -> None:
        """Store the selected projections, for unscaled features, as buffers."""
        found, width = best.projections, best.width
        self.keep(
            image_mean=image_mean * features.image_scale,
            text_mean=text_mean * features.text_scale,
            image_projection=found.image[:, :width] / features.image_scale[:, None],
            text_projection=found.text[:, :width] / features.text_scale[:, None],
            component_values=found.values[:width],
        )

    def encode_images(self, images: ImageBatch) -> Tensor:
        """Embed images, (b, n_components)."""
        return (self.image_vectors(images) - self.image_mean) @ self.image_projection

    def encode_texts(self, texts: TextBatch) -> Tensor:
        """Embed texts, (b, n_components)."""
        return (self.text_vectors(texts) - self.text_mean) @ self.text_projection
