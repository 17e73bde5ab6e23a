"""Deep adversarial common subspace learning."""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cmr_bench.datamodules.base import DataSpec, ImageBatch, PairBatch, Split, TextBatch, ViewKind
from cmr_bench.errors import UsageError
from cmr_bench.models.base import LabelSource, RetrievalModule
from cmr_bench.models.encoders.inputs import (
    ImageInput,
    Scaling,
    TextInput,
    fit_standardisers,
    standardiser,
    with_own_rate,
)
from cmr_bench.models.encoders.text import WordEncoder
from cmr_bench.models.losses import (
    euclidean,
    label_regression,
    modality_cross_entropy,
    norm_softmax,
    reverse_gradient,
    same,
    triplet_hinge,
)


class AdvSubspace(RetrievalModule):
    """Deep adversarial common subspace learning (Ma, Sheng and He, JAIMLD 2023).

    ``L = alpha L_tri + beta L_dis + L_pre`` in one optimiser: the encoders receive the discriminator's gradient
    reversed and multiplied by beta, the discriminator itself receives it as it is. The paper leaves open how deep the
    networks are, the margin and which triplets are formed: here each modality has one hidden layer, two more layers
    are shared, and every triplet of the batch counts, an item never being its own positive. On data without
    categories the image is the label, and a softmax over unit-length class vectors takes the place of L_pre.

    Args:
        hidden: Width of the layers of each modality and of the shared hidden layers.
        dim: Width of the common space.
        shared_layers: Layers with weights shared by both modalities.
        discriminator: Width of the hidden layer of the modality discriminator.
        alpha: Weight of the triplet term.
        beta: Weight of the adversarial term.
        margin: Margin of the triplet term.
        mining: Triplets of a batch that count: all, or the hardest positive and negative of each anchor.
        unit_length: Measure the distances of the triplet term between features of unit length.
        label_prediction: Train with the label prediction term.
        adversarial: Train with the adversarial term.
        triplet: Train with the triplet term.
        label_source: Labels to learn from: category, identity of the image, or category where the data has it (auto).
        standardise: Centre the features of vector and region views and divide each by its deviation in the training
            split (each), or all by one number (overall); none leaves them as they are.
        dropout: Share of the hidden units that is dropped in training.
        input_dropout: Share of the input features that is dropped in training.
        word_dim: Width of the word embeddings, for texts as tokens.
        cnn: Network that reads pixels: timm:NAME, torchvision:NAME or hf:NAME_OR_FOLDER.
        cnn_weights: Local weights file of that network, or random; its library's pretrained weights where not given.
        fine_tune: Train that network too.
        cnn_lr: Learning rate of that network.
        image_view: View of the images: vector or regions (averaged) or pixels.
        text_view: View of the texts: vector or tokens.
    """

    labels = "optional"
    image_views = ("vector", "regions", "pixels")
    text_views = ("vector", "tokens")

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
        adversarial: bool = True,
        triplet: bool = True,
        label_source: LabelSource = "auto",
        standardise: Scaling = "none",
        dropout: float = 0.0,
        input_dropout: float = 0.0,
        word_dim: int = 300,
        cnn: str = "torchvision:vgg19",
        cnn_weights: str | None = None,
        fine_tune: bool = False,
        cnn_lr: float = 2e-5,
        image_view: ViewKind = "vector",
        text_view: ViewKind = "vector",
        **kwargs: Any,
    ) -> None:
        super().__init__(image_view=image_view, text_view=text_view, **kwargs)
        if not (label_prediction or triplet):
            raise UsageError("adv_subspace without label prediction and without triplets has nothing to learn from")
        if shared_layers < 1:
            raise UsageError(f"--model.shared_layers {shared_layers}: the modalities share at least one layer")
        self.hidden, self.dim, self.shared_layers, self.discriminator_dim = hidden, dim, shared_layers, discriminator
        self.alpha, self.beta, self.margin = alpha, beta, margin
        self.mining, self.unit_length = mining, unit_length
        self.label_prediction, self.adversarial, self.triplet = label_prediction, adversarial, triplet
        self.label_source, self.standardise = label_source, standardise
        self.dropout, self.input_dropout, self.word_dim = dropout, input_dropout, word_dim
        self.cnn, self.cnn_weights, self.fine_tune, self.cnn_lr = cnn, cnn_weights, fine_tune, cnn_lr

    def build(self, spec: DataSpec) -> None:
        """Make the layers."""
        super().build(spec)
        self.image_input = ImageInput(spec.image, self.cnn, self.cnn_weights, self.fine_tune)
        self.image_scale = standardiser(spec.image, self.image_input.dim, self.standardise)
        self.image_net = self._net(self.image_input.dim)
        self.text_input = TextInput(spec.text, lambda words: WordEncoder(words, self.word_dim, self.hidden))
        self.text_scale = standardiser(spec.text, self.text_input.dim, self.standardise)
        self.text_net = self._net(self.text_input.dim)
        layers: list[nn.Module] = []
        for _ in range(self.shared_layers - 1):
            layers += [nn.Linear(self.hidden, self.hidden), nn.ReLU(), nn.Dropout(self.dropout)]
        self.shared = nn.Sequential(*layers, nn.Linear(self.hidden, self.dim))
        if self.adversarial:
            self.discriminator = nn.Sequential(
                nn.Linear(self.dim, self.discriminator_dim), nn.ReLU(), nn.Linear(self.discriminator_dim, 1)
            )
        if self.label_prediction:
            if self.label_space == "category":
                self.classifier = nn.Linear(self.dim, spec.n_classes, bias=False)
            else:
                self.identities = nn.Parameter(torch.randn(spec.n_train_images, self.dim) / math.sqrt(self.dim))

    def _net(self, width: int) -> nn.Module:
        return nn.Sequential(
            nn.Dropout(self.input_dropout), nn.Linear(width, self.hidden), nn.ReLU(), nn.Dropout(self.dropout)
        )

    def prepare_training(self, train: Split) -> None:
        """Learn the means and deviations of the features."""
        fit_standardisers(train, self.image_scale, self.text_scale)

    def encode_images(self, images: ImageBatch) -> Tensor:
        """Map images into the common space, (b, dim)."""
        encoded: Tensor = self.shared(self.image_net(self.image_scale(self.image_input(images))))
        return encoded

    def encode_texts(self, texts: TextBatch) -> Tensor:
        """Map texts into the common space, (b, dim)."""
        encoded: Tensor = self.shared(self.text_net(self.text_scale(self.text_input(texts))))
        return encoded

    def loss(self, batch: PairBatch) -> dict[str, Tensor]:
        """Weighted sum of the three terms that are switched on."""
        images, texts, identity, labels = self.gather(
            self.encode_images(batch.images), self.encode_texts(batch.texts), batch
        )
        assert isinstance(images, Tensor)
        assert isinstance(texts, Tensor)
        labels = self.labels_of(identity, labels)
        terms: dict[str, Tensor] = {}
        total = images.new_zeros((), dtype=torch.float32)
        if self.triplet:
            terms["triplet"] = self.triplet_loss(images, texts, labels)
            total = total + self.alpha * terms["triplet"]
        if self.label_prediction:
            terms["label"] = self.label_loss(images, labels) + self.label_loss(texts, labels)
            total = total + terms["label"]
        if self.adversarial:
            seen = [self.discriminator(reverse_gradient(side, self.beta)).squeeze(-1) for side in (images, texts)]
            terms["discriminator"] = modality_cross_entropy(*seen)
            total = total + terms["discriminator"]
        return terms | {"loss": total}

    def triplet_loss(self, images: Tensor, texts: Tensor, labels: Tensor) -> Tensor:
        """Sum of the four hinge terms: image and text anchors, against the other modality and against their own."""
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

    def label_loss(self, features: Tensor, labels: Tensor) -> Tensor:
        """Error of the labels predicted linearly from common features (b, dim) of one modality."""
        if self.label_space == "identity":
            return norm_softmax(features, self.identities, labels)
        targets = F.one_hot(labels, self.classifier.out_features) if labels.ndim == 1 else labels
        return label_regression(self.classifier(features), targets)

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Give the image network its own learning rate."""
        return with_own_rate(self, self.image_input, self.cnn_lr)
