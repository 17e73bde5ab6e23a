"""Deep canonical correlation analysis, and its form with autoencoders."""

from __future__ import annotations

import warnings
from typing import Any, Literal

import torch.nn.functional as F
from torch import Tensor

from cmr_bench.datamodules.batches import PairBatch
from cmr_bench.datamodules.split import Split
from cmr_bench.datamodules.views import DataSpec
from cmr_bench.models.common.fitted_top import FittedTopModule, Matrix, Outputs, dense_net
from cmr_bench.models.losses import canonical_correlation
from cmr_bench.models.subspace.solving import CanonicalProblem, covariances
from cmr_bench.support.errors import UsageError


class DCCA(FittedTopModule):
    """Deep canonical correlation analysis (Andrew et al., ICML 2013), ranked by cosine in the canonical space.

    One fully connected network per modality, trained to maximise the sum of canonical correlations of a batch, which
    must have many more pairs than the networks have outputs. Linear CCA of the outputs over the
    training split is refitted on top before every validation. The paper trains with L-BFGS on the whole split.

    Args:
        image_ridge: Ridge added to the covariance of the image outputs.
        text_ridge: Ridge added to the covariance of the text outputs.
        weighting: Weight of the components: none keeps unit variance, correlation multiplies each by its canonical
            correlation.
    """

    def __init__(
        self,
        image_ridge: float = 0.1,
        text_ridge: float = 0.1,
        weighting: Literal["none", "correlation"] = "none",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        for name, value in (("image_ridge", image_ridge), ("text_ridge", text_ridge)):
            if value <= 0:
                raise UsageError(f"--model.{name} {value}: dcca inverts covariances and needs a ridge above 0")
        self.image_ridge, self.text_ridge, self.weighting = image_ridge, text_ridge, weighting

    def loss(self, batch: PairBatch) -> dict[str, Tensor]:
        """Return the negative sum of the canonical correlations over the global batch."""
        images, texts, _, _ = self.gather(self.image_outputs(batch.images), self.text_outputs(batch.texts), batch)
        assert isinstance(images, Tensor)
        assert isinstance(texts, Tensor)
        return {"loss": self.uncorrelated(images, texts)}

    def uncorrelated(self, images: Tensor, texts: Tensor) -> Tensor:
        """Return the negative sum of the canonical correlations of gathered outputs, (b, dim) each."""
        if len(images) < 2:
            # One pair has no covariance; the last batch of some splits has only one.
            return 0.0 * (images.sum() + texts.sum())
        return -canonical_correlation(images, texts, self.image_ridge, self.text_ridge)

    def on_fit_start(self) -> None:
        """Warn if the batch is too small for the method."""
        size = self._datamodule().batch_size
        if size <= self.dim:
            warnings.warn(
                f"a batch of {size} pairs cannot estimate the correlations of {self.dim} outputs, which dcca trains "
                "on: raise --data.batch_size well above --model.dim, or lower --model.dim",
                stacklevel=2,
            )

    def solve_top(self, outputs: Outputs, train: Split) -> tuple[Matrix, Matrix, Matrix, Matrix]:
        """Fit linear CCA to the outputs of the networks."""
        found = covariances(outputs.images, outputs.texts, outputs.owner)
        solution = CanonicalProblem(found, unit=1.0).solve(self.image_ridge, self.text_ridge, self.weighting)
        return found.image_mean, solution.image, found.text_mean, solution.text


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
