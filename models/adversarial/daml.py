"""DAML: a metric of nearest neighbours over both modalities, against a modality discriminator."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from cmr_bench.datamodules.batches import PairBatch
from cmr_bench.datamodules.views import DataSpec
from cmr_bench.models.adversarial.modality import AdversarialModule
from cmr_bench.models.common.two_layers import TwoLayerModule
from cmr_bench.models.distances import batch_distances
from cmr_bench.models.losses import same
from cmr_bench.support.errors import UsageError


def neighbour_metric(distances: Tensor, match: Tensor, margin: float, neighbours: int) -> Tensor:
    """Pull items of a class together and push their nearest items of other classes away.

    Item i costs ``[margin + p_i - n_i]+``, with p_i its mean distance to the other items of its class and n_i that to
    its nearest items of other classes.

    Args:
        distances: Distances between the items, (n, n).
        match: True where two items share a class, (n, n).
        margin: Margin between the two mean distances.
        neighbours: Number of nearest items of other classes, fewer where there are fewer; 0 takes all.

    Returns:
        The mean over the items that have both, a scalar; 0 where none has.
    """
    distances = distances.float()
    own = match & ~torch.eye(len(match), dtype=torch.bool, device=match.device)
    near = torch.where(own, distances, 0.0).sum(1) / own.sum(1).clamp(min=1)
    k = min(neighbours or len(distances), len(distances))
    others = distances.masked_fill(match, torch.inf).topk(k, dim=1, largest=False).values
    found = torch.isfinite(others)
    far = torch.where(found, others, 0.0).sum(1) / found.sum(1).clamp(min=1)
    valid = own.any(1) & found.any(1)
    return torch.where(valid, (margin + near - far).clamp(min=0), 0.0).sum() / valid.sum().clamp(min=1)


class DAML(AdversarialModule, TwoLayerModule):
    """Deep adversarial metric learning (Xu et al., World Wide Web 2019), rebuilt from what is public.

    Images and texts are mapped to one space of unit length. The loss is a metric over both modalities in one pool,
    which pulls the items of a class together and pushes the nearest items of other classes away, plus the weighted
    squared distance of the two sides of a pair, against a modality discriminator whose reversed gradient reaches the
    networks. The form of the metric, margin, weights and dimensions are not published and are ours; on validation the
    nearest items do better than all. On data without categories the image is the label.

    Args:
        dim: Embedding dimension.
        margin: Margin of the metric.
        neighbours: Number of nearest items of other classes that are pushed away; 0 takes all.
        pair_weight: Weight of the squared distance of a pair.
        beta: Weight of the adversarial loss.
        discriminators: Hidden dimensions of the discriminator.
    """

    def __init__(
        self,
        dim: int = 64,
        margin: float = 0.3,
        neighbours: int = 5,
        pair_weight: float = 0.1,
        beta: float = 0.05,
        discriminators: Sequence[int] = (64,),
        **kwargs: Any,
    ) -> None:
        super().__init__(dim=dim, **kwargs)
        if neighbours < 0:
            raise UsageError(f"--model.neighbours {neighbours} is negative; 0 takes all items of other classes")
        self.margin, self.neighbours = margin, neighbours
        self.pair_weight, self.beta, self.discriminators = pair_weight, beta, discriminators

    @property
    def reversal(self) -> float:
        """Weight of the adversarial loss."""
        return self.beta

    def build(self, spec: DataSpec) -> None:
        """Build the layers."""
        super().build(spec)
        self.discriminate_with(self.dim, self.discriminators)

    def loss(self, batch: PairBatch) -> dict[str, Tensor]:
        """Return the weighted sum of metric, distance of the pairs and discriminator."""
        images, texts, labels = self.gather_labelled(
            self.encode_images(batch.images), self.encode_texts(batch.texts), batch
        )
        pool = torch.cat([images, texts])
        match = same(torch.cat([labels, labels]))
        terms = {
            "metric": neighbour_metric(batch_distances(pool, pool), match, self.margin, self.neighbours),
            "pair": (images.float() - texts.float()).square().sum(1).mean(),
        }
        total = terms["metric"] + self.pair_weight * terms["pair"]
        if self.adversarial:
            terms["discriminator"] = self.adversarial_loss(images, texts)
            total = total + terms["discriminator"]
        return terms | {"loss": total}
