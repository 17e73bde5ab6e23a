"""Cross-modal projection learning: matching (CMPM) and classification (CMPC)."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

from cmr_bench.datamodules.batches import PairBatch
from cmr_bench.datamodules.views import DataSpec, ViewKind
from cmr_bench.models.common.matching import MatchingModule
from cmr_bench.models.common.stages import Stage, StagedModule
from cmr_bench.models.encoders.text import WordEncoder
from cmr_bench.models.losses import class_shares, norm_softmax, project_onto, projection_matching, same


class CMPM(StagedModule, MatchingModule):
    """Cross-modal projection matching (Zhang and Lu, ECCV 2018): image features and max-pooled BiLSTM states.

    Pairs that share a category match, or on data without categories those of the same image. Batch normalisation is
    that of the authors' program and sees the batch of all devices. The program drops entries of every state before the
    largest is taken, which is an option; here entries of the pooled feature are dropped. A CNN that is
    trained too stays as it is for the first epochs, then everything learns at its rate with a fresh optimiser. Texts as
    vectors pass one hidden layer in place of the BiLSTM.

    Args:
        hidden: Number of LSTM units per direction; the hidden layer of texts as vectors has twice as many.
        dim: Embedding dimension.
        word_dim: Word embedding dimension.
        dropout: Dropout probability of word embeddings and text states.
        dropout_on: Where the dropout of text states applies: pooled, after pooling, or states, to every word before it.
        frozen_epochs: Number of first epochs in which a fine-tuned backbone is frozen; afterwards everything trains at
            `cnn_lr`, and `lr_decay_every` restarts.
    """

    def __init__(
        self,
        hidden: int = 512,
        dim: int = 512,
        word_dim: int = 512,
        dropout: float = 0.3,
        dropout_on: Literal["pooled", "states"] = "pooled",
        frozen_epochs: int = 15,
        cnn: str = "torchvision:resnet152",
        text_view: ViewKind = "tokens",
        **kwargs: Any,
    ) -> None:
        super().__init__(word_dim=word_dim, cnn=cnn, text_view=text_view, **kwargs)
        self.hidden, self.dim = hidden, dim
        self.dropout, self.dropout_on, self.frozen_epochs = dropout, dropout_on, frozen_epochs

    def build(self, spec: DataSpec) -> None:
        """Build the layers."""
        super().build(spec)
        width = 2 * self.hidden
        states = self.dropout_on == "states" and spec.text.kind == "tokens"
        before = [] if spec.text.kind == "tokens" else [nn.Linear(self.text_dim, width), nn.ReLU()]
        self.embed_with(
            nn.Linear(self.image_dim, self.dim),
            nn.Sequential(*before, nn.Dropout(0.0 if states else self.dropout), nn.Linear(width, self.dim)),
            self.dim,
        )

    def words(self, vocab_size: int) -> WordEncoder:
        """Encode words with a BiLSTM and max pooling."""
        return WordEncoder(
            vocab_size,
            self.word_dim,
            self.hidden,
            True,
            "max",
            self.dropout,
            cell="lstm",
            merge="concatenate",
            state_dropout=self.dropout if self.dropout_on == "states" else 0.0,
        )

    def loss(self, batch: PairBatch) -> dict[str, Tensor]:
        """Return the loss of the batch and its terms."""
        terms = self.terms(*self.embed(batch))
        return terms | {"loss": torch.stack(list(terms.values())).sum()}

    def terms(self, images: Tensor, texts: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Return the terms of the loss, given features (b, dim) and the labels that define matches."""
        return {"matching": projection_matching(images, texts, same(labels))}

    def stages(self) -> tuple[Stage, ...]:
        """Return the stage in which the image network is frozen, and the one in which everything trains."""
        return self.frozen_first(self.frozen_epochs)


class CMPMCMPC(CMPM):
    """Cross-modal projection matching and classification (Zhang and Lu, ECCV 2018).

    Adds to the loss of cmpm a softmax over unit-length class vectors, applied to the features of one modality
    projected onto those of the other. The classes are the categories, or the training images on data without them.
    """

    def build(self, spec: DataSpec) -> None:
        """Build the layers and the class vectors."""
        super().build(spec)
        self.classes = self.class_vectors(self.dim)

    def terms(self, images: Tensor, texts: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Return the terms of the loss, given features (b, dim) and the labels that define matches."""
        targets = class_shares(labels)
        classification = norm_softmax(project_onto(images, texts), self.classes, targets) + norm_softmax(
            project_onto(texts, images), self.classes, targets
        )
        return super().terms(images, texts, labels) | {"classification": classification}
