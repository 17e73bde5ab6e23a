"""The base of methods that learn from labels: categories, or the identity where there are none."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cmr_bench.datamodules.batches import PairBatch
from cmr_bench.models.base import LabelSource, RetrievalModule
from cmr_bench.models.losses import label_regression, norm_softmax


class LabelledModule(RetrievalModule):
    """A method that learns from labels: categories, or image identity without any.

    Args:
        label_source: Labels to train on: category, identity (each image is its own class, or each identity where the
            data has them), or auto: category if the data has it.
    """

    labels = "optional"

    def __init__(self, label_source: LabelSource = "auto", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.label_source = label_source

    @property
    def n_labels(self) -> int:
        """Number of labels: categories, or identities of the training split."""
        assert self.spec is not None
        return self.spec.n_identities if self.label_space == "identity" else self.spec.n_classes

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

        Predictions of categories are compared with one-hot vectors. For identities, that would take one column each;
        a softmax over class vectors of unit length is used instead.

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
