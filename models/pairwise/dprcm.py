"""DPRCM: two small networks, triplets in both directions and one classifier for both modalities."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from cmr_bench.datamodules.batches import ImageBatch, PairBatch, TextBatch
from cmr_bench.datamodules.views import DataSpec
from cmr_bench.models.common.feature_module import LabelledFeatureModule
from cmr_bench.models.encoders.inputs import hidden_layer
from cmr_bench.models.encoders.text import WordEncoder
from cmr_bench.models.losses import Mining, euclidean, label_cross_entropy, same, triplet_hinge


class DPRCM(LabelledFeatureModule):
    """Deep pairwise ranking with multi-label information (Jian et al., ICME 2019), rebuilt from what is public.

    Each modality has a two-layer network into a common Euclidean space. The loss is a triplet hinge in both directions,
    where items that share a label belong together, and the cross-entropy of one classifier on both sides, per class
    where an item has several labels. Widths, margin, mining and weight are not published and are ours. On data
    without categories the image is the label, and a softmax over unit-length class vectors classifies.

    Args:
        hidden: Hidden units of each modality's network.
        dim: Embedding dimension.
        margin: Margin of the triplets.
        mining: Triplets of a batch that count: all, or the hardest positive and negative of each anchor.
        classification: Weight of the classification loss; 0 switches it off.
        dropout: Dropout probability of the hidden units.
        input_dropout: Dropout probability of the input features.
    """

    def __init__(
        self,
        hidden: int = 1024,
        dim: int = 256,
        margin: float = 0.2,
        mining: Mining = "all",
        classification: float = 1.0,
        dropout: float = 0.0,
        input_dropout: float = 0.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.hidden, self.dim, self.margin, self.mining = hidden, dim, margin, mining
        self.classification = classification
        self.dropout, self.input_dropout = dropout, input_dropout

    def words(self, vocab_size: int) -> WordEncoder:
        """Read words with a GRU, whose last state is the feature."""
        return WordEncoder(vocab_size, self.word_dim, self.hidden)

    def build(self, spec: DataSpec) -> None:
        """Make the layers."""
        super().build(spec)
        self.image_net, self.text_net = (
            nn.Sequential(
                hidden_layer(width, self.hidden, self.dropout, self.input_dropout), nn.Linear(self.hidden, self.dim)
            )
            for width in (self.image_dim, self.text_dim)
        )
        if self.classification:
            self.classes = self.class_vectors(self.dim)

    def encode_images(self, images: ImageBatch) -> Tensor:
        """Embed images at unit length, (b, dim)."""
        return F.normalize(self.image_net(self.image_features(images)), dim=1)

    def encode_texts(self, texts: TextBatch) -> Tensor:
        """Embed texts at unit length, (b, dim)."""
        return F.normalize(self.text_net(self.text_features(texts)), dim=1)

    def loss(self, batch: PairBatch) -> dict[str, Tensor]:
        """Triplet hinge in both directions plus the weighted classification loss of both sides."""
        images, texts, labels = self.gather_labelled(
            self.encode_images(batch.images), self.encode_texts(batch.texts), batch
        )
        match = same(labels)
        distances = euclidean(images, texts)
        terms = {
            "triplet": triplet_hinge(distances, match, ~match, self.margin, self.mining)
            + triplet_hinge(distances.T, match, ~match, self.margin, self.mining)
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
