"""The base of methods that start from one feature vector an item, whatever the views are."""

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
    """A method whose layers read one feature vector an image and one a text.

    :meth:`build` makes what stands before those layers: vectors pass as they are, regions are averaged, pixels go
    through a CNN and words through the recurrent network that :meth:`words` makes. A method reads the widths from
    ``image_dim`` and ``text_dim`` and the features from :meth:`image_features` and :meth:`text_features`.

    Args:
        standardise: Centre the features of vector and region views and divide each by its deviation in the training
            split (each), or all by one number (overall); none leaves them as they are.
        word_dim: Width of the word embeddings, for texts as tokens.
        cnn: Network that reads pixels: timm:NAME, torchvision:NAME or hf:NAME_OR_FOLDER.
        cnn_weights: Local weights file of that network, or random; its library's pretrained weights where not given.
        fine_tune: Train that network too.
        cnn_lr: Learning rate of that network.
        image_view: View of the images: vector, regions (averaged) or pixels.
        text_view: View of the texts: vector or tokens.
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
        """Make the network that turns a text given as words into one vector."""
        raise NotImplementedError

    def subwords(self, longest: int) -> SubwordEncoder:
        """Make the network that turns a text of at most ``longest`` subwords into one vector."""
        raise NotImplementedError

    def build(self, spec: DataSpec) -> None:
        """Make the input stage; a method's own layers come after ``super().build(spec)``."""
        super().build(spec)
        self.image_input = ImageInput(spec.image, self.cnn, self.cnn_weights, self.fine_tune)
        self.text_input = TextInput(spec.text, self.words, self.subwords)
        self.image_dim, self.text_dim = self.image_input.dim, self.text_input.dim
        self.image_scale = standardiser(spec.image, self.image_dim, self.standardise)
        self.text_scale = standardiser(spec.text, self.text_dim, self.standardise)

    def prepare_training(self, train: Split) -> None:
        """Learn the means and deviations of the features."""
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
        """Give the image network its own learning rate."""
        return with_own_rates(self, (self.image_input, self.cnn_lr))


class LabelledFeatureModule(FeatureModule):
    """A method of feature vectors that also learns from labels: categories, or the image where there are none.

    Args:
        label_source: Labels to learn from: category, identity of the image, or category where the data has it (auto).
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
        """Make one vector a label to be learned, (n_labels, dim)."""
        return nn.Parameter(torch.randn(self.n_labels, dim) / math.sqrt(dim))

    def gather_labelled(self, images: Tensor, texts: Tensor, batch: PairBatch) -> tuple[Tensor, Tensor, Tensor]:
        """Widen features (b, d) of both sides to the global batch, and return the labels of its pairs with them."""
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
    ) -> Tensor:
        """Error of the labels predicted linearly from common features of one modality.

        Categories are compared with the predictions as 0/1 vectors. A matrix of that kind would have as many columns
        as there are images where the image is the label; there a softmax over class vectors of unit length takes its
        place.

        Args:
            features: Common features, (b, dim).
            classes: Class vectors, (n_labels, dim).
            labels: Labels (b,) or multi-hot (b, n_classes).
            distance: Compares predictions (b, n_classes) with the 0/1 vectors.
        """
        if self.label_space == "identity":
            return norm_softmax(features, classes, labels)
        return distance(F.linear(features, classes), one_hot(labels, len(classes)))


def one_hot(labels: Tensor, n_classes: int) -> Tensor:
    """Return labels (b,) as 0/1 vectors (b, n_classes); multi-hot labels as they are."""
    return F.one_hot(labels, n_classes) if labels.ndim == 1 else labels
