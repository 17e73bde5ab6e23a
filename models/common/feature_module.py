"""The base of methods that start from one feature vector per item, whatever the views."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cmr_bench.datamodules.batches import ImageBatch, PairBatch, TextBatch
from cmr_bench.datamodules.split import Split
from cmr_bench.datamodules.views import DataSpec, ViewKind
from cmr_bench.models.base import LabelSource, RetrievalModule
from cmr_bench.models.encoders.inputs import (
    ImageInput,
    Scaling,
    TextInput,
    fit_standardisers,
    standardiser,
    with_own_rates,
)
from cmr_bench.models.encoders.text import SubwordEncoder, WordEncoder
from cmr_bench.models.losses import label_regression, norm_softmax


class FeatureModule(RetrievalModule):
    """A method whose layers read one feature vector per image and per text.

    :meth:`build` makes the input stage: vectors pass unchanged, regions are averaged, pixels go
    through a CNN and words through the recurrent network of :meth:`words`. A method reads the dimensions from
    ``image_dim`` and ``text_dim`` and the features from :meth:`image_features` and :meth:`text_features`.

    Args:
        standardise: Standardise stored features by the training split: each divides every feature by its own standard
            deviation, overall divides all by one number, none disables.
        word_dim: Word embedding dimension, for texts as tokens.
        cnn: Image backbone for pixels: timm:NAME, torchvision:NAME or hf:NAME_OR_FOLDER.
        cnn_weights: Weights of the backbone: a local file, or random; null loads the library's pretrained weights.
        fine_tune: Fine-tune the backbone.
        cnn_lr: Learning rate of the backbone.
        image_view: Image view: vector, regions (averaged) or pixels.
        text_view: Text view: vector or tokens.
    """

    image_views: ClassVar[tuple[ViewKind, ...]] = ("vector", "regions", "pixels")
    text_views: ClassVar[tuple[ViewKind, ...]] = ("vector", "tokens")

    def __init__(
        self,
        standardise: Scaling = "none",
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
        self.standardise, self.word_dim = standardise, word_dim
        self.cnn, self.cnn_weights, self.fine_tune, self.cnn_lr = cnn, cnn_weights, fine_tune, cnn_lr

    def words(self, vocab_size: int) -> WordEncoder:
        """Build the network that encodes the words of a text as one vector."""
        raise NotImplementedError

    def subwords(self, longest: int) -> SubwordEncoder:
        """Build the network that encodes a text of at most ``longest`` subwords as one vector."""
        raise NotImplementedError

    def build(self, spec: DataSpec) -> None:
        """Build the input stage; a method's own layers come after ``super().build(spec)``."""
        super().build(spec)
        self.image_input = ImageInput(spec.image, self.cnn, self.cnn_weights, self.fine_tune)
        self.text_input = TextInput(spec.text, self.words, self.subwords)
        self.image_dim, self.text_dim = self.image_input.dim, self.text_input.dim
        self.image_scale = standardiser(spec.image, self.image_dim, self.standardise)
        self.text_scale = standardiser(spec.text, self.text_dim, self.standardise)

    def prepare_training(self, train: Split) -> None:
        """Fit the means and standard deviations of the features."""
        fit_standardisers(train, self.image_scale, self.text_scale)

    def image_features(self, images: ImageBatch) -> Tensor:
        """Return the features that the image layers read, (b, image_dim)."""
        features: Tensor = self.image_scale(self.image_input(images))
        return features

    def text_features(self, texts: TextBatch) -> Tensor:
        """Return the features that the text layers read, (b, text_dim)."""
        features: Tensor = self.text_scale(self.text_input(texts))
        return features

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Give the image backbone its own learning rate."""
        return with_own_rates(self, (self.image_input, self.cnn_lr))


class LabelledFeatureModule(FeatureModule):
    """A method of feature vectors that also learns from labels: categories, or image identity without any.

    Args:
        label_source: Labels to train on: category, identity (each image is its own class), or auto: category if the
            data has it.
    """

    labels = "optional"

    def __init__(self, label_source: LabelSource = "auto", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.label_source = label_source

    @property
    def n_labels(self) -> int:
        """Number of labels: categories, or images of the training split."""
        assert self.spec is not None
        return self.spec.n_train_images if self.label_space == "identity" else self.spec.n_classes

    def class_vectors(self, dim: int) -> nn.Parameter:
        """Make one learnable vector per label, (n_labels, dim)."""
        return nn.Parameter(torch.randn(self.n_labels, dim) / math.sqrt(dim))

    def gather_labelled(self, images: Tensor, texts: Tensor, batch: PairBatch) -> tuple[Tensor, Tensor, Tensor]:
        """Gather features (b, d) of both sides to the global batch, with the labels of its pairs."""
        all_images, all_texts, identity, labels = self.gather(images, texts, batch)
        assert isinstance(all_images, Tensor)
        assert isinstance(all_texts, Tensor)
        return all_images, all_texts, self.labels_of(identity, labels)

    def label_loss(
        self,
        features: Tensor,
        classes: Tensor,
        labels: Tensor,
        distance: Callable[[Tensor, Tensor], Tensor] = label_regression,
        bias: Tensor | None = None,
    ) -> Tensor:
        """Loss of the labels predicted linearly from the embeddings of one modality.

        Predictions of categories are compared with one-hot vectors. For image identity, that would take one column per
        image; a softmax over class vectors of unit length is used instead.

        Args:
            features: Embeddings, (b, dim).
            classes: Class vectors, (n_labels, dim).
            labels: Labels (b,) or multi-hot (b, n_classes).
            distance: Compares predictions (b, n_classes) with the one-hot vectors.
            bias: Added to the predictions of categories, (n_classes,).
        """
        if self.label_space == "identity":
            return norm_softmax(features, classes, labels)
        return distance(F.linear(features, classes, bias), one_hot(labels, len(classes)))


def one_hot(labels: Tensor, n_classes: int) -> Tensor:
    """Return labels (b,) as one-hot vectors (b, n_classes); multi-hot labels unchanged."""
    return F.one_hot(labels, n_classes) if labels.ndim == 1 else labels
