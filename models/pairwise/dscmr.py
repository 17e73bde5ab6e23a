"""Deep supervised cross-modal retrieval."""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cmr_bench.datamodules.base import DataSpec, ImageBatch, PairBatch, Split, TextBatch, ViewKind
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
from cmr_bench.models.losses import cosine_likelihood, label_regression, mean_distance, norm_softmax, same


class DSCMR(RetrievalModule):
    """Deep supervised cross-modal retrieval (Zhen et al., CVPR 2019).

    ``J = J1 + alpha J2 + beta J3``: error of the labels predicted linearly from both modalities, likelihood of shared
    labels given the cosines between and within the modalities, distance of the two sides of a pair. On data without
    categories the image is the label, and a softmax over unit-length class vectors takes the place of J1. The epoch is
    chosen on the validation split. The authors' program chooses it on the test split and never shuffles its training
    data; neither is offered, so figures made that way are out of reach here by design.

    Args:
        hidden: Width of the layer of each modality.
        dim: Width of the common space.
        alpha: Weight of the likelihood term.
        beta: Weight of the distance term.
        norm: Norm of the first and third term: frobenius, the matrix norm of the batch divided by its size, as in the
            paper; or rows, the mean norm of its rows, as in the authors' program.
        label_source: Labels to learn from: category, identity of the image, or category where the data has it (auto).
        standardise: Centre the features of vector and region views and divide each by its deviation in the training
            split (each), or all by one number (overall); none leaves them as they are.
        word_dim: Width of the word embeddings, for texts as tokens.
        cnn: Network that reads pixels: timm:NAME, torchvision:NAME or hf:NAME_OR_FOLDER.
        cnn_weights: Local weights file of that network, or random; its library's pretrained weights where not given.
        fine_tune: Train that network too.
        cnn_lr: Learning rate of that network.
        image_view: View of the images: vector, regions (averaged) or pixels.
        text_view: View of the texts: vector or tokens.
        lr: Learning rate of Adam.
    """

    labels = "optional"
    image_views = ("vector", "regions", "pixels")
    text_views = ("vector", "tokens")
    betas = (0.5, 0.999)

    def __init__(
        self,
        hidden: int = 2048,
        dim: int = 1024,
        alpha: float = 1e-3,
        beta: float = 1e-1,
        norm: Literal["frobenius", "rows"] = "frobenius",
        label_source: LabelSource = "auto",
        standardise: Scaling = "none",
        word_dim: int = 300,
        cnn: str = "torchvision:vgg19",
        cnn_weights: str | None = None,
        fine_tune: bool = False,
        cnn_lr: float = 2e-5,
        image_view: ViewKind = "vector",
        text_view: ViewKind = "vector",
        lr: float = 1e-4,
        **kwargs: Any,
    ) -> None:
        super().__init__(image_view=image_view, text_view=text_view, lr=lr, **kwargs)
        self.label_source = label_source
        self.hidden, self.dim, self.alpha, self.beta, self.norm = hidden, dim, alpha, beta, norm
        self.standardise, self.word_dim = standardise, word_dim
        self.cnn, self.cnn_weights, self.fine_tune, self.cnn_lr = cnn, cnn_weights, fine_tune, cnn_lr

    def build(self, spec: DataSpec) -> None:
        """Make the layers."""
        super().build(spec)
        self.image_input = ImageInput(spec.image, self.cnn, self.cnn_weights, self.fine_tune)
        self.image_scale = standardiser(spec.image, self.image_input.dim, self.standardise)
        self.image_layer = nn.Linear(self.image_input.dim, self.hidden)
        self.text_input = TextInput(spec.text, lambda size: WordEncoder(size, self.word_dim, self.dim))
        self.text_scale = standardiser(spec.text, self.text_input.dim, self.standardise)
        self.text_layer = nn.Linear(self.text_input.dim, self.hidden)
        self.shared = nn.Linear(self.hidden, self.dim)
        if self.label_space == "category":
            self.classifier = nn.Linear(self.dim, spec.n_classes, bias=False)
        else:
            self.identities = nn.Parameter(torch.randn(spec.n_train_images, self.dim) / math.sqrt(self.dim))

    def prepare_training(self, train: Split) -> None:
        """Learn the means and deviations of the features."""
        fit_standardisers(train, self.image_scale, self.text_scale)

    def encode_images(self, images: ImageBatch) -> Tensor:
        """Map images into the common space, (b, dim)."""
        encoded: Tensor = self.shared(self.image_layer(self.image_scale(self.image_input(images))).relu())
        return encoded

    def encode_texts(self, texts: TextBatch) -> Tensor:
        """Map texts into the common space, (b, dim)."""
        encoded: Tensor = self.shared(self.text_layer(self.text_scale(self.text_input(texts))).relu())
        return encoded

    def loss(self, batch: PairBatch) -> dict[str, Tensor]:
        """Weighted sum of the three terms."""
        images, texts, identity, labels = self.gather(
            self.encode_images(batch.images), self.encode_texts(batch.texts), batch
        )
        assert isinstance(images, Tensor)
        assert isinstance(texts, Tensor)
        labels = self.labels_of(identity, labels)
        match = same(labels)
        pairings = ((images, texts), (images, images), (texts, texts))
        label = self.label_loss(images, labels) + self.label_loss(texts, labels)
        likelihood = torch.stack([cosine_likelihood(a, b, match) for a, b in pairings]).sum()
        distance = self._distance(images, texts)
        return {
            "label": label,
            "likelihood": likelihood,
            "distance": distance,
            "loss": label + self.alpha * likelihood + self.beta * distance,
        }

    def label_loss(self, features: Tensor, labels: Tensor) -> Tensor:
        """Error of the labels predicted linearly from common features (b, dim) of one modality."""
        if self.label_space == "identity":
            return norm_softmax(features, self.identities, labels)
        targets = F.one_hot(labels, self.classifier.out_features) if labels.ndim == 1 else labels
        return self._distance(self.classifier(features), targets)

    def _distance(self, found: Tensor, wanted: Tensor) -> Tensor:
        return label_regression(found, wanted) if self.norm == "frobenius" else mean_distance(found, wanted)

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Give the image network its own learning rate."""
        return with_own_rate(self, self.image_input, self.cnn_lr)
