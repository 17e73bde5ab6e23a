"""Deep canonical correlation analysis."""

from __future__ import annotations

import warnings
from typing import Any, Literal

from torch import Tensor

from cmr_bench.datamodules.batches import PairBatch
from cmr_bench.datamodules.split import Split
from cmr_bench.models.common.fitted_top import FittedTopModule, Matrix, Outputs
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
