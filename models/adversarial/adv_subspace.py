"""Deep adversarial common subspace learning."""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cmr_bench.datamodules.batches import ImageBatch, PairBatch, TextBatch
from cmr_bench.datamodules.views import DataSpec
from cmr_bench.evaluation.ranks import EmbeddingScores, ScoreSource
from cmr_bench.models.adversarial.modality import AdversarialModule
from cmr_bench.models.common.feature_module import LabelledFeatureModule
from cmr_bench.models.distances import batch_distances
from cmr_bench.models.encoders.inputs import hidden_layer
from cmr_bench.models.encoders.text import WordEncoder
from cmr_bench.models.losses import Reduction, euclidean, full_precision, same, triplet_hinge
from cmr_bench.models.scoring import Encoded
from cmr_bench.support.errors import UsageError


class AdvSubspace(AdversarialModule, LabelledFeatureModule):
    """Deep adversarial common subspace learning (Ma, Sheng and He, JAIMLD 2023).

    ``L = alpha L_tri + beta L_dis + L_pre`` in one optimiser: the encoders receive the discriminator's gradient
    reversed and multiplied by beta, the discriminator itself receives it as it is. The paper leaves open how deep the
    networks are, the margin and which triplets are formed: here each modality has one hidden layer, two more layers
    are shared, and every triplet of the batch counts, an item never being its own positive. L_dis is the logarithmic
    form that Eq. 2 prints, the loss of the first GAN; the paper calls it a WGAN, which has no logarithm. By default,
    otherwise than in the paper, triplets are averaged (Eq. 1 sums), one linear classifier predicts the labels of both
    modalities (the text has two), and items are ranked by cosine although triplets are measured by Euclidean distance;
    options change each. On data without categories the image is the label, and a softmax over unit-length class vectors
    takes the place of L_pre.

    Args:
        hidden: Hidden dimension of each modality's layers and of the shared layers.
        dim: Embedding dimension.
        shared_layers: Number of layers shared by both modalities.
        discriminator: Hidden dimension of the modality discriminator.
        alpha: Weight of the triplet loss.
        beta: Weight of the adversarial loss.
        margin: Margin of the triplet loss.
        mining: Triplet mining: all triplets of the batch, or the hardest positive and negative of each anchor.
        reduction: Reduction of the triplet loss: mean over the mined triplets, or sum, which grows with the batch size.
        distance: Distance of the triplet loss and of ranking: euclidean, cosine, or mixed: Euclidean triplets, cosine
            ranking.
        unit_length: L2-normalise embeddings in the triplet loss.
        within: Use triplets within a modality beside those across modalities. Where the image is the label, a batch
            holds hardly any, and these few would weigh as much as all the others.
        warmup_epochs: Number of first epochs that use all triplets where `mining` is hardest.
        bidirectional: Read texts as tokens in both directions.
        residual: Add each modality's linear projection to the output of the shared layers, which `hidden` has to equal
            `dim` for.
        classifiers: Linear classifiers of the label prediction loss: shared by both modalities, or separate.
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
        reduction: Reduction = "mean",
        distance: Literal["mixed", "euclidean", "cosine"] = "mixed",
        unit_length: bool = False,
        within: bool = True,
        warmup_epochs: int = 0,
        bidirectional: bool = False,
        residual: bool = False,
        classifiers: Literal["shared", "separate"] = "shared",
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
        if residual and hidden != dim:
            raise UsageError(f"--model.residual true needs --model.hidden {hidden} equal to --model.dim {dim}")
        self.hidden, self.dim, self.shared_layers, self.discriminator_dim = hidden, dim, shared_layers, discriminator
        self.alpha, self.beta, self.margin = alpha, beta, margin
        self.mining, self.reduction, self.distance, self.unit_length = mining, reduction, distance, unit_length
        self.within, self.warmup_epochs = within, warmup_epochs
        self.bidirectional, self.residual = bidirectional, residual
        self.classifiers = classifiers
        self.label_prediction, self.triplet = label_prediction, triplet
        self.dropout, self.input_dropout = dropout, input_dropout

    @property
    def reversal(self) -> float:
        """The weight of the adversarial loss."""
        return self.beta

    def words(self, vocab_size: int) -> WordEncoder:
        """Encode words with a GRU, whose last state is the feature."""
        return WordEncoder(vocab_size, self.word_dim, self.hidden, self.bidirectional)

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
            if self.classifiers == "separate":
                self.text_classes = self.class_vectors(self.dim)

    def encode_images(self, images: ImageBatch) -> Tensor:
        """Embed images, (b, dim)."""
        return self._embed(self.image_net, self.image_features(images))

    def encode_texts(self, texts: TextBatch) -> Tensor:
        """Embed texts, (b, dim)."""
        return self._embed(self.text_net, self.text_features(texts))

    def _embed(self, net: nn.Sequential, features: Tensor) -> Tensor:
        drop, linear, *rest = net
        projected = linear(drop(features))
        hidden = projected
        for layer in rest:
            hidden = layer(hidden)
        embedded: Tensor = self.shared(hidden)
        return embedded + projected if self.residual else embedded

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
            of_texts = self.text_classes if self.classifiers == "separate" else self.classes
            terms["label"] = self.label_loss(images, self.classes, labels) + self.label_loss(texts, of_texts, labels)
            total = total + terms["label"]
        if self.adversarial:
            terms["discriminator"] = self.adversarial_loss(images, texts)
            total = total + terms["discriminator"]
        return terms | {"loss": total}

    def triplet_loss(self, images: Tensor, texts: Tensor, labels: Tensor) -> Tensor:
        """Return the sum of four triplet losses: image and text anchors, each across and within modalities."""
        if self.unit_length or self.distance == "cosine":
            images, texts = F.normalize(images.float(), dim=1), F.normalize(texts.float(), dim=1)
        positive = same(labels)
        negative = ~positive
        others = positive & ~torch.eye(len(positive), dtype=torch.bool, device=positive.device)
        mining = "all" if self.current_epoch < self.warmup_epochs else self.mining
        total = images.new_zeros((), dtype=torch.float32)
        compared = [(images, texts, positive), (texts, images, positive)]
        if self.within:
            compared += [(images, images, others), (texts, texts, others)]
        for anchors, candidates, matches in compared:
            distances = (_of_units if self.distance == "cosine" else batch_distances)(anchors, candidates)
            total = total + triplet_hinge(distances, matches, negative, self.margin, mining, reduction=self.reduction)
        return total

    def similarity(self, images: Encoded, texts: Encoded) -> Tensor:
        """Score every image with every text, (n_images, n_texts), by cosine or by Euclidean distance."""
        if self.distance != "euclidean":
            return super().similarity(images, texts)
        assert isinstance(images, Tensor)
        assert isinstance(texts, Tensor)
        return -euclidean(images, texts)

    def scores(self, images: Encoded, texts: Encoded) -> ScoreSource:
        """Return what scores blocks of all encoded images and texts."""
        if self.distance == "euclidean":
            return super().scores(images, texts)
        assert isinstance(images, Tensor)
        assert isinstance(texts, Tensor)
        return EmbeddingScores(images.float(), texts.float(), normalize=True, device=self.device)


@full_precision
def _of_units(a: Tensor, b: Tensor) -> Tensor:
    """Return one less the cosine of rows of unit length (a, d) and (b, d), (a, b)."""
    return 1 - a @ b.T
