"""The base of methods that start from one feature vector per item, whatever the views."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor

from cmr_bench.datamodules.batches import ImageBatch, TextBatch
from cmr_bench.datamodules.split import Split
from cmr_bench.datamodules.views import DataSpec, ViewKind
from cmr_bench.models.base import RetrievalModule
from cmr_bench.models.common.labelled import LabelledModule
from cmr_bench.models.common.stages import Stage
from cmr_bench.models.encoders.inputs import (
    ImageInput,
    Scaling,
    TextInput,
    fit_standardisers,
    standardiser,
    with_own_rates,
)
from cmr_bench.models.encoders.text import SubwordEncoder, WordEncoder
from cmr_bench.support.places import path_text


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
    hidden: int

    def __init__(
        self,
        standardise: Scaling = "none",
        word_dim: int = 300,
        cnn: str = "torchvision:vgg19",
        cnn_weights: str | Path | None = None,
        fine_tune: bool = False,
        cnn_lr: float = 2e-5,
        image_view: ViewKind = "vector",
        text_view: ViewKind = "vector",
        **kwargs: Any,
    ) -> None:
        super().__init__(image_view=image_view, text_view=text_view, **kwargs)
        self.standardise, self.word_dim = standardise, word_dim
        self.cnn, self.cnn_weights, self.fine_tune, self.cnn_lr = cnn, path_text(cnn_weights), fine_tune, cnn_lr

    def words(self, vocab_size: int) -> WordEncoder:
        """Build the network that encodes the words of a text: here a GRU of the method's ``hidden``, its last state."""
        return WordEncoder(vocab_size, self.word_dim, self.hidden)

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

    def frozen_first(self, epochs: int) -> tuple[Stage, ...]:
        """Return the stages of a fine-tuned backbone that is frozen in the first epochs; none without one.

        In the second stage everything trains at the learning rate of the backbone.
        """
        if self.image_input.network is None or not self.fine_tune or not epochs:
            return ()
        return (
            Stage("frozen", epochs, self.lr, self.lr_decay_every, waiting=("image_input",)),
            Stage("fine_tuned", None, self.cnn_lr, self.lr_decay_every),
        )

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Give the image backbone its own learning rate."""
        return with_own_rates(self, (self.image_input, self.cnn_lr))


class LabelledFeatureModule(LabelledModule, FeatureModule):
    """A method of feature vectors that also learns from labels."""
