"""Adversarial cross-modal retrieval."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cmr_bench.datamodules.batches import ImageBatch, PairBatch, TextBatch
from cmr_bench.datamodules.views import DataSpec
from cmr_bench.models.adversarial.modality import AdversarialModule
from cmr_bench.models.common.feature_module import LabelledFeatureModule
from cmr_bench.models.distances import batch_distances
from cmr_bench.models.encoders.text import WordEncoder
from cmr_bench.models.losses import (
    batch_hinge,
    frobenius,
    label_cross_entropy,
    most_similar_other,
    reversal_schedule,
    same,
    triplet_hinge,
)
from cmr_bench.support.errors import UsageError


class ACMR(AdversarialModule, LabelledFeatureModule):
    """Adversarial cross-modal retrieval (Wang et al., ACM MM 2017).

    ``L = alpha L_imi + beta L_imd + L_reg`` for the projectors, against a modality classifier: triplets between the
    modalities on Euclidean distance, the labels of both modalities by one softmax classifier, the Frobenius norms of
    the projectors' weights. The classifier's gradient is reversed and multiplied by ``2 / (1 + exp(-10 p)) - 1`` with p
    the fraction of training completed.
    The dimensions are reconstructed: one hidden layer per projector, tanh after every layer. All triplets of a batch
    are used, and both sides train in every step. On data without categories the image is the label, and the softmax is
    over class vectors of unit length.
    The authors' program differs: the reversed gradient never reaches the projectors, the label classifier keeps its
    random start, the modality classifier is linear, and its triplets are one hinge a batch on squared distances, in
    which the positive is the own partner and the negative the partner of the item of another label whose features are
    most like the anchor's before the projectors. Options give each.

    Args:
        image_layers: Hidden dimensions of the image projector.
        text_layers: Hidden dimensions of the text projector.
        dim: Embedding dimension.
        modality_layers: Hidden dimensions of the modality classifier.
        alpha: Weight of the triplet loss.
        beta: Weight of the label loss.
        regularisation: Weight of the Frobenius norms of the projectors' weights.
        margin: Margin of the triplet loss.
        attraction: Factor of the positive distance in the triplet loss.
        mining: Triplet mining: all triplets of the batch, the hardest positive and negative of each anchor, or
            released: the hinge of the released code, which ignores `unit_length`.
        unit_length: L2-normalise embeddings in the triplet loss.
        adversarial_gradient: Backpropagate the reversed gradient of the modality classifier into the projectors.
        train_classes: Train the label classifier.
        linear_discriminator: Make the modality classifier linear, without ReLU.
        xavier: Xavier-uniform initialisation of the projectors and classifiers with zero biases, as in TensorFlow.
        dropout: Dropout probability of the hidden layers.
        input_dropout: Dropout probability of the input features.
        lr: Learning rate.
    """

    betas = (0.5, 0.999)

    def __init__(
        self,
        image_layers: Sequence[int] = (2000,),
        text_layers: Sequence[int] = (500,),
        dim: int = 200,
        modality_layers: Sequence[int] = (50,),
        alpha: float = 1.0,
        beta: float = 1.0,
        regularisation: float = 1.0,
        margin: float = 1.0,
        attraction: float = 1.0,
        mining: Literal["all", "hardest", "released"] = "all",
        unit_length: bool = False,
        adversarial_gradient: bool = True,
        train_classes: bool = True,
        linear_discriminator: bool = False,
        xavier: bool = False,
        dropout: float = 0.0,
        input_dropout: float = 0.0,
        lr: float = 1e-4,
        **kwargs: Any,
    ) -> None:
        super().__init__(lr=lr, **kwargs)
        self.image_layers, self.text_layers, self.dim = image_layers, text_layers, dim
        self.modality_layers = modality_layers
        self.alpha, self.beta, self.regularisation = alpha, beta, regularisation
        self.margin, self.attraction, self.mining, self.unit_length = margin, attraction, mining, unit_length
        self.adversarial_gradient, self.train_classes = adversarial_gradient, train_classes
        self.linear_discriminator, self.xavier = linear_discriminator, xavier
        self.dropout, self.input_dropout = dropout, input_dropout
        self.progress = 0.0

    @property
    def reversal(self) -> float:
        """Return a factor that grows from 0 to 1 during training."""
        return reversal_schedule(self.progress) if self.adversarial_gradient else 0.0

    def words(self, vocab_size: int) -> WordEncoder:
        """Encode words with a GRU, whose last state is the feature."""
        return WordEncoder(vocab_size, self.word_dim, self.text_layers[0] if self.text_layers else self.dim)

    def build(self, spec: DataSpec) -> None:
        """Build the layers."""
        super().build(spec)
        if self.mining == "released" and spec.text.kind != "vector":
            raise UsageError("--model.mining released compares texts by their features: pass --model.text_view vector")
        self.image_net = self._projector(self.image_dim, self.image_layers)
        self.text_net = self._projector(self.text_dim, self.text_layers)
        self.classes = self.class_vectors(self.dim).requires_grad_(self.train_classes)
        self.discriminate_with(self.dim, self.modality_layers, self.linear_discriminator)
        if self.xavier:
            self._start()

    def _start(self) -> None:
        nn.init.xavier_uniform_(self.classes)
        parts: list[nn.Module] = [self.image_net, self.text_net, *([self.discriminator] if self.adversarial else [])]
        for layer in (layer for part in parts for layer in part.modules() if isinstance(layer, nn.Linear)):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def _projector(self, width: int, hidden: Sequence[int]) -> nn.Sequential:
        layers: list[nn.Module] = [nn.Dropout(self.input_dropout)]
        for after in hidden:
            layers += [nn.Linear(width, after), nn.Tanh(), nn.Dropout(self.dropout)]
            width = after
        return nn.Sequential(*layers, nn.Linear(width, self.dim), nn.Tanh())

    def encode_images(self, images: ImageBatch) -> Tensor:
        """Embed images, (b, dim)."""
        projected: Tensor = self.image_net(self.image_features(images))
        return projected

    def encode_texts(self, texts: TextBatch) -> Tensor:
        """Embed texts, (b, dim)."""
        projected: Tensor = self.text_net(self.text_features(texts))
        return projected

    def on_train_batch_start(self, batch: PairBatch, batch_idx: int) -> None:
        """Update the training progress from the trainer, whose state a resumed run restores."""
        self.progress = self.trainer.global_step / self.trainer.estimated_stepping_batches

    def loss(self, batch: PairBatch) -> dict[str, Tensor]:
        """Return the weighted sum of the terms; that of the modality classifier is not weighted."""
        sides = [self.encode_images(batch.images), self.encode_texts(batch.texts)]
        if self.mining == "released":
            seen = [self.image_input(batch.images).detach(), self.text_input(batch.texts)]
            image_side, text_side, identity, categories = self.gather((sides[0], seen[0]), (sides[1], seen[1]), batch)
            (images, image_features), (texts, text_features) = image_side, text_side
            labels = self.labels_of(identity, categories)
            triplet = self.released_triplets(images, texts, image_features, text_features, labels)
        else:
            images, texts, labels = self.gather_labelled(sides[0], sides[1], batch)
            triplet = self.triplet_loss(images, texts, labels)
        terms = {
            "triplet": triplet,
            "label": torch.stack(
                [self.label_loss(side, self.classes, labels, label_cross_entropy) for side in (images, texts)]
            ).sum(),
            "norms": frobenius(self._weights()),
        }
        total = self.alpha * terms["triplet"] + self.beta * terms["label"] + self.regularisation * terms["norms"]
        if self.adversarial:
            terms["discriminator"] = self.adversarial_loss(images, texts)
            total = total + terms["discriminator"]
        return terms | {"loss": total}

    def _weights(self) -> list[Tensor]:
        return [
            layer.weight for net in (self.image_net, self.text_net) for layer in net if isinstance(layer, nn.Linear)
        ]

    def triplet_loss(self, images: Tensor, texts: Tensor, labels: Tensor) -> Tensor:
        """Return the sum of the triplet losses of images among texts and of texts among images."""
        assert self.mining != "released"
        if self.unit_length:
            images, texts = F.normalize(images.float(), dim=1), F.normalize(texts.float(), dim=1)
        positive = same(labels)
        distances = batch_distances(images, texts)
        return triplet_hinge(distances, positive, ~positive, self.margin, self.mining, self.attraction) + triplet_hinge(
            distances.T, positive, ~positive, self.margin, self.mining, self.attraction
        )

    def released_triplets(
        self, images: Tensor, texts: Tensor, image_features: Tensor, text_features: Tensor, labels: Tensor
    ) -> Tensor:
        """Sum of the two hinges of the authors' program.

        An image's negative is the text of the image of another label whose features, (b, image_dim), are most like its
        own; a text's negative is the image of the text that is most like it in the same sense.
        """
        positive = same(labels)
        total = images.new_zeros((), dtype=torch.float32)
        for anchors, partners, features in ((images, texts, image_features), (texts, images, text_features)):
            negatives = partners[most_similar_other(features, positive)]
            total = total + batch_hinge(anchors, partners, negatives, self.margin, self.attraction)
        return total
