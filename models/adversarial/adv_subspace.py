"""Deep adversarial common subspace learning."""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cmr_bench.datamodules.batches import ImageBatch, PairBatch, TextBatch
from cmr_bench.datamodules.views import DataSpec
from cmr_bench.models.adversarial.modality import AdversarialModule
from cmr_bench.models.encoders.inputs import hidden_layer
from cmr_bench.models.encoders.text import WordEncoder
from cmr_bench.models.losses import (
    euclidean,
    same,
    triplet_hinge,
)
from cmr_bench.support.errors import UsageError


class AdvSubspace(AdversarialModule):
    """Deep adversarial common subspace learning (Ma, Sheng and He, JAIMLD 2023).

    ``L = alpha L_tri + beta L_dis + L_pre`` in one optimiser: the encoders receive the discriminator's gradient
    reversed and multiplied by beta, the discriminator its plain gradient. The paper does not specify the depth of the
    networks, the margin or the triplets: here each modality has one hidden layer, two more layers
    are shared, and all triplets of the batch are used, an item never being its own positive. On data without
    categories the image is the label, and a softmax over unit-length class vectors replaces L_pre.

    Args:
        hidden: Hidden dimension of each modality's layers and of the shared layers.
        dim: Embedding dimension.
        shared_layers: Number of layers shared by both modalities.
        discriminator: Hidden dimension of the modality discriminator.
        alpha: Weight of the triplet loss.
        beta: Weight of the adversarial loss.
        margin: Margin of the triplet loss.
        mining: Triplet mining: all triplets of the batch, or the hardest positive and negative of each anchor.
        unit_length: L2-normalise embeddings in the triplet loss.
        label_prediction: Use the label prediction loss.
        triplet: Use the triplet loss.
        dropout: Dropout probability of the hidden layers.
        input_dropout: Dropout probability of the input features.
    """

    def __init__(
        self,
        hidden: int = 1024,
        dim: int = 1024,
        shared_layers: int = 2,
        discriminator: int = 256,
        alpha: float = 0.1,
        beta: float = 0.001,
        margin: float = 1.0,
        mining: Literal["all", "hardest"] = "all",
        unit_length: bool = False,
        label_prediction: bool = True,
        triplet: bool = True,
        dropout: float = 0.0,
        input_dropout: float = 0.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if not (label_prediction or triplet):
            raise UsageError("adv_subspace: set --model.label_prediction true or --model.triplet true")
        if shared_layers < 1:
            raise UsageError(f"--model.shared_layers {shared_layers}: must be at least 1")
        self.hidden, self.dim, self.shared_layers, self.discriminator_dim = hidden, dim, shared_layers, discriminator
        self.alpha, self.beta, self.margin = alpha, beta, margin
        self.mining, self.unit_length = mining, unit_length
        self.label_prediction, self.triplet = label_prediction, triplet
        self.dropout, self.input_dropout = dropout, input_dropout

    @property
    def reversal(self) -> float:
        """The weight of the adversarial loss."""
        return self.beta

    def words(self, vocab_size: int) -> WordEncoder:
        """Encode words with a GRU, whose last state is the feature."""
        return WordEncoder(vocab_size, self.word_dim, self.hidden)

    def build(self, spec: DataSpec) -> None:
        """Build the layers."""
        super().build(spec)
        self.image_net, self.text_net = (
            hidden_layer(width, self.hidden, self.dropout, self.input_dropout)
            for width in (self.image_dim, self.text_dim)
        )
        layers: list[nn.Module] = []
        for _ in range(self.shared_layers - 1):
            layers += [nn.Linear(self.hidden, self.hidden), nn.ReLU(), nn.Dropout(self.dropout)]
        self.shared = nn.Sequential(*layers, nn.Linear(self.hidden, self.dim))
        self.discriminate_with(self.dim, [self.discriminator_dim])
        if self.label_prediction:
            self.classes = self.class_vectors(self.dim)

    def encode_images(self, images: ImageBatch) -> Tensor:
        """Embed images, (b, dim)."""
        encoded: Tensor = self.shared(self.image_net(self.image_features(images)))
        return encoded

    def encode_texts(self, texts: TextBatch) -> Tensor:
        """Embed texts, (b, dim)."""
        encoded: Tensor = self.shared(self.text_net(self.text_features(texts)))
        return encoded

    def loss(self, batch: PairBatch) -> dict[str, Tensor]:
        """Return the weighted sum of the enabled terms."""
        images, texts, labels = self.gather_labelled(
            self.encode_images(batch.images), self.encode_texts(batch.texts), batch
        )
        terms: dict[str, Tensor] = {}
        total = images.new_zeros((), dtype=torch.float32)
        if self.triplet:
            terms["triplet"] = self.triplet_loss(images, texts, labels)
            total = total + self.alpha * terms["triplet"]
        if self.label_prediction:
            terms["label"] = self.label_loss(images, self.classes, labels) + self.label_loss(
                texts, self.classes, labels
            )
            total = total + terms["label"]
        if self.adversarial:
            terms["discriminator"] = self.adversarial_loss(images, texts)
            total = total + terms["discriminator"]
        return terms | {"loss": total}

    def triplet_loss(self, images: Tensor, texts: Tensor, labels: Tensor) -> Tensor:
        """Return the sum of four triplet losses: image and text anchors, each across and within modalities."""
        if self.unit_length:
            images, texts = F.normalize(images.float(), dim=1), F.normalize(texts.float(), dim=1)
        positive = same(labels)
        negative = ~positive
        others = positive & ~torch.eye(len(positive), dtype=torch.bool, device=positive.device)
        total = images.new_zeros((), dtype=torch.float32)
        for anchors, candidates, matches in (
            (images, texts, positive),
            (texts, images, positive),
            (images, images, others),
            (texts, texts, others),
        ):
            distances = euclidean(anchors, candidates)
            total = total + triplet_hinge(distances, matches, negative, self.margin, self.mining)
        return total
