"""Cross-modal projection learning: matching (CMPM) and classification (CMPC)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

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
from cmr_bench.models.losses import norm_softmax, project_onto, projection_matching, same


class CMPM(RetrievalModule):
    """Cross-modal projection matching (Zhang and Lu, ECCV 2018): image features and max-pooled BiLSTM states.

    Pairs that share a category match, or on data without categories those of the same image. Dropout and batch
    normalisation are those of the authors' program; normalisation sees the batch of all devices. A CNN that is
    trained too stays as it is for the first epochs, then everything learns with its rate. Texts as vectors pass one
    hidden layer in place of the BiLSTM.

    Args:
        hidden: Units of the LSTM in each direction; half the width of the hidden layer for texts as vectors.
        dim: Width of the common space.
        word_dim: Width of the word embeddings.
        dropout: Share of the word embeddings and of the text's pooled states that is dropped in training.
        batch_norm: Normalise the common features by the batch.
        label_source: Labels to learn from: category, identity of the image, or category where the data has it (auto).
        standardise: Centre the features of vector and region views and divide each by its deviation in the training
            split (each), or all by one number (overall); none leaves them as they are.
        cnn: Network that reads pixels: timm:NAME, torchvision:NAME or hf:NAME_OR_FOLDER.
        cnn_weights: Local weights file of that network, or random; its library's pretrained weights where not given.
        fine_tune: Train that network too.
        cnn_lr: Learning rate of that network, and of everything once it learns.
        frozen_epochs: First epochs, in which that network does not learn.
        image_view: View of the images: vector, regions (averaged) or pixels.
        text_view: View of the texts: tokens or vector.
    """

    labels = "optional"
    image_views = ("vector", "regions", "pixels")
    text_views = ("tokens", "vector")

    def __init__(
        self,
        hidden: int = 512,
        dim: int = 512,
        word_dim: int = 512,
        dropout: float = 0.3,
        batch_norm: bool = True,
        label_source: LabelSource = "auto",
        standardise: Scaling = "none",
        cnn: str = "torchvision:resnet152",
        cnn_weights: str | None = None,
        fine_tune: bool = False,
        cnn_lr: float = 2e-5,
        frozen_epochs: int = 15,
        image_view: ViewKind = "vector",
        text_view: ViewKind = "tokens",
        **kwargs: Any,
    ) -> None:
        super().__init__(image_view=image_view, text_view=text_view, **kwargs)
        self.label_source = label_source
        self.hidden, self.dim, self.word_dim = hidden, dim, word_dim
        self.dropout, self.batch_norm, self.standardise = dropout, batch_norm, standardise
        self.cnn, self.cnn_weights, self.fine_tune, self.cnn_lr = cnn, cnn_weights, fine_tune, cnn_lr
        self.frozen_epochs = frozen_epochs

    def build(self, spec: DataSpec) -> None:
        """Make the layers."""
        super().build(spec)
        self.image_input = ImageInput(spec.image, self.cnn, self.cnn_weights, self.fine_tune)
        self.image_scale = standardiser(spec.image, self.image_input.dim, self.standardise)
        self.image_layer = nn.Linear(self.image_input.dim, self.dim)
        self.text_input = TextInput(spec.text, self._words)
        self.text_scale = standardiser(spec.text, self.text_input.dim, self.standardise)
        width = 2 * self.hidden
        before = [] if spec.text.kind == "tokens" else [nn.Linear(self.text_input.dim, width), nn.ReLU()]
        self.text_layer = nn.Sequential(*before, nn.Dropout(self.dropout), nn.Linear(width, self.dim))
        self.image_norm = nn.BatchNorm1d(self.dim) if self.batch_norm else None
        self.text_norm = nn.BatchNorm1d(self.dim) if self.batch_norm else None

    def _words(self, vocab_size: int) -> WordEncoder:
        return WordEncoder(
            vocab_size, self.word_dim, self.hidden, True, "max", self.dropout, cell="lstm", merge="concatenate"
        )

    def prepare_training(self, train: Split) -> None:
        """Learn the means and deviations of the features."""
        fit_standardisers(train, self.image_scale, self.text_scale)

    def _image(self, images: ImageBatch) -> Tensor:
        embedded: Tensor = self.image_layer(self.image_scale(self.image_input(images)))
        return embedded

    def _text(self, texts: TextBatch) -> Tensor:
        embedded: Tensor = self.text_layer(self.text_scale(self.text_input(texts)))
        return embedded

    def encode_images(self, images: ImageBatch) -> Tensor:
        """Embed images, (b, dim)."""
        return normalise(self.image_norm, self._image(images))

    def encode_texts(self, texts: TextBatch) -> Tensor:
        """Embed texts, (b, dim)."""
        return normalise(self.text_norm, self._text(texts))

    def loss(self, batch: PairBatch) -> dict[str, Tensor]:
        """Sum of the terms of the batch."""
        # Gathered before they are normalised, so that the statistics are those of the global batch.
        images, texts, identity, labels = self.gather(self._image(batch.images), self._text(batch.texts), batch)
        assert isinstance(images, Tensor)
        assert isinstance(texts, Tensor)
        labels = self.labels_of(identity, labels)
        terms = self.terms(normalise(self.image_norm, images), normalise(self.text_norm, texts), labels)
        return terms | {"loss": torch.stack(list(terms.values())).sum()}

    def terms(self, images: Tensor, texts: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Return the terms of the loss, given features (b, dim) and the labels that say what matches."""
        return {"matching": projection_matching(images, texts, same(labels))}

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Give the image network its own learning rate."""
        return with_own_rate(self, self.image_input, self.cnn_lr)

    def configure_optimizers(self) -> Any:
        """Adam; where the image network is trained, in two stages."""
        if not self.fine_tune:
            return super().configure_optimizers()
        optimizer = self.make_optimizer()
        later = self.cnn_lr / self.lr

        def others(epoch: int) -> float:
            return self._decayed(epoch) * (1.0 if epoch < self.frozen_epochs else later)

        def network(epoch: int) -> float:
            return 0.0 if epoch < self.frozen_epochs else self._decayed(epoch)

        schedules: list[Callable[[int], float]] = [others, network]
        return {
            "optimizer": optimizer,
            "lr_scheduler": LambdaLR(optimizer, schedules[: len(optimizer.param_groups)]),
        }

    def on_train_epoch_start(self) -> None:
        """Keep the statistics of the image network's batch normalisation while it waits."""
        if self.fine_tune:
            self.image_input.train(self.current_epoch >= self.frozen_epochs)

    def _decayed(self, epoch: int) -> float:
        return self.lr_decay ** (epoch // self.lr_decay_every) if self.lr_decay_every else 1.0


class CMPMCMPC(CMPM):
    """Cross-modal projection matching and classification (Zhang and Lu, ECCV 2018).

    To the loss of cmpm comes that of a softmax over unit-length class vectors, which sees the features of one modality
    projected on those of the other. The classes are the categories, or on data without them the training images.
    """

    def build(self, spec: DataSpec) -> None:
        """Make the layers and the class vectors."""
        super().build(spec)
        n_classes = spec.n_train_images if self.label_space == "identity" else spec.n_classes
        self.classes = nn.Parameter(torch.randn(n_classes, self.dim) / math.sqrt(self.dim))

    def terms(self, images: Tensor, texts: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Return the terms of the loss, given features (b, dim) and the labels that say what matches."""
        targets = labels if labels.ndim == 1 else F.normalize(labels.float(), p=1, dim=1)
        classification = norm_softmax(project_onto(images, texts), self.classes, targets) + norm_softmax(
            project_onto(texts, images), self.classes, targets
        )
        return super().terms(images, texts, labels) | {"classification": classification}


def normalise(norm: nn.BatchNorm1d | None, values: Tensor) -> Tensor:
    """Apply batch normalisation where there is some; a lone row, which has no statistics, takes the running ones."""
    if norm is None:
        return values
    if len(values) == 1:
        return F.batch_norm(values, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps)
    normalised: Tensor = norm(values)
    return normalised
