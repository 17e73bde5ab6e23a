"""Deep canonically correlated autoencoders: DCCA whose networks also restore the features."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor

from cmr_bench.datamodules.batches import PairBatch
from cmr_bench.datamodules.views import DataSpec
from cmr_bench.models.common.fitted_top import dense_net
from cmr_bench.models.subspace.dcca import DCCA
from cmr_bench.support.errors import UsageError


class DCCAE(DCCA):
    """Deep canonically correlated autoencoders (Wang, Arora, Livescu and Bilmes, ICML 2015), by cosine.

    DCCA whose networks also keep what a mirrored network per modality needs to restore the features: their squared
    error, averaged over the entries, so that the weight does not depend on the number of features, is added to the
    loss. The features are those behind ``standardise``.

    Args:
        reconstruction: Weight of the squared error of the restored features; 0 is dcca.
    """

    image_views = ("vector", "regions")
    text_views = ("vector",)

    def __init__(self, reconstruction: float = 1e-3, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if reconstruction < 0:
            raise UsageError(f"--model.reconstruction {reconstruction} is negative; 0 switches it off")
        self.reconstruction = reconstruction

    def build(self, spec: DataSpec) -> None:
        """Build the networks, then those that restore the features."""
        super().build(spec)
        if self.reconstruction:
            self.image_decoder, self.text_decoder = (
                dense_net(self.dim, self.hidden, self.layers, width, self.activation, self.dropout)
                for width in (self.image_dim, self.text_dim)
            )

    def loss(self, batch: PairBatch) -> dict[str, Tensor]:
        """Return the negative correlations plus the weighted error of the restored features."""
        if not self.reconstruction:
            return super().loss(batch)
        features = self.image_features(batch.images), self.text_features(batch.texts)
        outputs = self.apply_net(self.image_net, features[0]), self.apply_net(self.text_net, features[1])
        image_side, text_side, _, _ = self.gather((outputs[0], features[0]), (outputs[1], features[1]), batch)
        (images, wanted_images), (texts, wanted_texts) = image_side, text_side
        error = restoring_error(self.image_decoder(images), wanted_images) + restoring_error(
            self.text_decoder(texts), wanted_texts
        )
        correlation = self.uncorrelated(images, texts)
        return {
            "correlation": correlation,
            "reconstruction": error,
            "loss": correlation + self.reconstruction * error,
        }


def restoring_error(restored: Tensor, features: Tensor) -> Tensor:
    """Squared error of restored features (b, d), averaged over their entries."""
    return F.mse_loss(restored.float(), features.float())
