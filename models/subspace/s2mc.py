"""S2MC: maximal correlation of the two modalities with each other and with the labels, without whitening."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor

from cmr_bench.datamodules.batches import PairBatch
from cmr_bench.datamodules.split import Split
from cmr_bench.datamodules.views import DataSpec
from cmr_bench.models.common.fitted_top import FittedTopModule, Matrix, Outputs
from cmr_bench.models.common.labelled import LabelledModule
from cmr_bench.models.losses import full_precision
from cmr_bench.support.errors import UsageError


@full_precision
def soft_hgr(a: Tensor, b: Tensor) -> Tensor:
    """Soft form of the maximal correlation of two sides of a batch (Wang et al., AAAI 2019), to be maximised.

    It is ``E[a' b] - tr(cov(a) cov(b)) / 2`` of the centred sides, with sums over the batch divided by ``n - 1``: at
    the optimum half the sum of the squared canonical correlations, without the inverse of a covariance.

    Args:
        a: One side of the pairs, (n, d), n at least 2.
        b: The other side, (n, d).
    """
    x, y = (side.float() - side.float().mean(0) for side in (a, b))
    n = len(x) - 1
    return (x * y).sum() / n - ((x.T @ x) * (y.T @ y)).sum() / (2 * n**2)


class S2MC(LabelledModule, FittedTopModule):
    """Semantically supervised maximal correlation (Li et al., ICIP 2020), rebuilt from what is public.

    ``L = -(H(u, v) + supervision (H(u, l) + H(v, l))) / dim`` with u and v the outputs of one fully connected network
    per modality, l a learned vector per label, and H the soft maximal correlation of Wang et al. (AAAI 2019), which
    needs no whitening and therefore no large batches. Ranked by the cosine of the outputs less their means over the
    training split. Form, dimensions and weight of the supervision are not published and are ours. On data without
    categories the image is the label.

    Args:
        supervision: Weight of the correlation with the labels; 0 uses none, which is the Soft-HGR of Wang et al.
        layers: Number of hidden layers per modality.
    """

    def __init__(self, supervision: float = 1.0, layers: int = 1, **kwargs: Any) -> None:
        super().__init__(layers=layers, **kwargs)
        if supervision < 0:
            raise UsageError(f"--model.supervision {supervision} is negative; 0 uses no labels")
        self.supervision = supervision

    def build(self, spec: DataSpec) -> None:
        """Build the networks and the vectors of the labels."""
        super().build(spec)
        if self.supervision:
            self.classes = self.class_vectors(self.dim)

    def loss(self, batch: PairBatch) -> dict[str, Tensor]:
        """Return the negative correlations over the global batch, divided by the dimension."""
        images, texts, labels = self.gather_labelled(
            self.image_outputs(batch.images), self.text_outputs(batch.texts), batch
        )
        parts = {"pairs": (images, texts)}
        if self.supervision:
            # One row per pair: the vector of its label, or the sum of those of several.
            classes = self.classes[labels] if labels.ndim == 1 else labels.to(self.classes) @ self.classes
            parts |= {"images": (images, classes), "texts": (texts, classes)}
        if len(images) < 2:
            # One pair has no covariance; the last batch of some splits has only one.
            return {"loss": 0.0 * sum((a.sum() + b.sum() for a, b in parts.values()), start=images.new_zeros(()))}
        terms = {name: -soft_hgr(a, b) / self.dim for name, (a, b) in parts.items()}
        total = terms["pairs"]
        if self.supervision:
            total = total + self.supervision * (terms["images"] + terms["texts"])
        return terms | {"loss": total}

    def solve_top(self, outputs: Outputs, train: Split) -> tuple[Matrix, Matrix, Matrix, Matrix]:
        """Centre the outputs; the maps are the identity."""
        counts = np.bincount(outputs.owner, minlength=len(outputs.images))
        identity = np.eye(self.dim)
        return counts @ outputs.images / counts.sum(), identity, outputs.texts.mean(0), identity
