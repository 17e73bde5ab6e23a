"""DPRCM: two small networks, triplets in both directions and one classifier for both modalities."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor

from cmr_bench.datamodules.batches import PairBatch
from cmr_bench.datamodules.views import DataSpec
from cmr_bench.models.common.two_layers import TwoLayerModule
from cmr_bench.models.distances import batch_distances
from cmr_bench.models.losses import Mining, label_cross_entropy, same, triplet_hinge


class DPRCM(TwoLayerModule):
    """Deep pairwise ranking with multi-label information (Jian et al., ICME 2019), rebuilt from what is public.

    Each modality has a two-layer network into a common Euclidean space. The loss is a triplet hinge in both directions,
    where items that share a label belong together, and the cross-entropy of one classifier on both sides, per class
    where an item has several labels. Widths, margin, mining and weight are not published and are ours. On data
    without categories the image is the label, and a softmax over unit-length class vectors classifies.

    Args:
        margin: Margin of the triplets.
        mining: Triplets of a batch that count: all, or the hardest positive and negative of each anchor.
        warmup_epochs: Number of first epochs that use all triplets where `mining` is hardest.
        classification: Weight of the classification loss; 0 switches it off.
    """

    def __init__(
        self,
        margin: float = 0.2,
        mining: Mining = "all",
        warmup_epochs: int = 0,
        classification: float = 1.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.margin, self.mining, self.warmup_epochs = margin, mining, warmup_epochs
        self.classification = classification

    def build(self, spec: DataSpec) -> None:
        """Make the layers."""
        super().build(spec)
        if self.classification:
            self.classes = self.class_vectors(self.dim)

    def loss(self, batch: PairBatch) -> dict[str, Tensor]:
        """Triplet hinge in both directions plus the weighted classification loss of both sides."""
        images, texts, labels = self.gather_labelled(
            self.encode_images(batch.images), self.encode_texts(batch.texts), batch
        )
        match = same(labels)
        distances = batch_distances(images, texts)
        mining = "all" if self.current_epoch < self.warmup_epochs else self.mining
        terms = {
            "triplet": triplet_hinge(distances, match, ~match, self.margin, mining)
            + triplet_hinge(distances.T, match, ~match, self.margin, mining)
        }
        total = terms["triplet"]
        if self.classification:
            kind = multi_label_cross_entropy if labels.ndim == 2 else label_cross_entropy
            terms["label"] = self.label_loss(images, self.classes, labels, kind) + self.label_loss(
                texts, self.classes, labels, kind
            )
            total = total + self.classification * terms["label"]
        return terms | {"loss": total}


def multi_label_cross_entropy(predictions: Tensor, targets: Tensor) -> Tensor:
    """Binary cross-entropy of logits (b, n_classes) with multi-hot labels (b, n_classes), averaged over both."""
    return F.binary_cross_entropy_with_logits(predictions.float(), targets.float())
