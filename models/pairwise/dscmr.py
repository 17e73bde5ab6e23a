"""Deep supervised cross-modal retrieval."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

from cmr_bench.datamodules.batches import ImageBatch, PairBatch, TextBatch
from cmr_bench.datamodules.views import DataSpec
from cmr_bench.models.common.feature_module import LabelledFeatureModule
from cmr_bench.models.encoders.inputs import hidden_layer
from cmr_bench.models.encoders.text import WordEncoder
from cmr_bench.models.losses import cosine_likelihood, label_regression, mean_distance, same


class DSCMR(LabelledFeatureModule):
    """Deep supervised cross-modal retrieval (Zhen et al., CVPR 2019).

    ``J = J1 + alpha J2 + beta J3``: error of linear label predictions from both modalities, likelihood of shared
    labels given the cosines between and within the modalities, distance of the two sides of a pair. On data without
    categories the image is the label, and a softmax over unit-length class vectors takes the place of J1. The epoch is
    chosen on the validation split. The authors' program chooses it on the test split, which the variant `released`
    repeats under a flag, and never shuffles its training data, which is not repeated; it reads features as they are and
    has a bias in the layer that predicts labels.

    Args:
        hidden: Hidden dimension of each modality's layer.
        dim: Embedding dimension.
        alpha: Weight of the likelihood loss.
        beta: Weight of the distance loss.
        norm: Norm of the first and third loss: frobenius, the matrix norm divided by the batch size, as in the paper;
            or rows, the mean row norm, as in the released code.
        label_bias: Predict categories by a linear layer with bias and PyTorch's default initialisation.
        dropout: Dropout probability of the hidden layers.
        input_dropout: Dropout probability of the input features.
        lr: Learning rate.
    """

    betas = (0.5, 0.999)

    def __init__(
        self,
        hidden: int = 2048,
        dim: int = 1024,
        alpha: float = 1e-3,
        beta: float = 1e-1,
        norm: Literal["frobenius", "rows"] = "frobenius",
        label_bias: bool = False,
        dropout: float = 0.0,
        input_dropout: float = 0.0,
        lr: float = 1e-4,
        **kwargs: Any,
    ) -> None:
        super().__init__(lr=lr, **kwargs)
        self.hidden, self.dim, self.alpha, self.beta, self.norm = hidden, dim, alpha, beta, norm
        self.label_bias, self.dropout, self.input_dropout = label_bias, dropout, input_dropout

    def words(self, vocab_size: int) -> WordEncoder:
        """Encode words with a GRU, whose last state is the feature."""
        return WordEncoder(vocab_size, self.word_dim, self.dim)

    def build(self, spec: DataSpec) -> None:
        """Build the layers."""
        super().build(spec)
        self.image_layer, self.text_layer = (
            hidden_layer(width, self.hidden, self.dropout, self.input_dropout)
            for width in (self.image_dim, self.text_dim)
        )
        self.shared = nn.Linear(self.hidden, self.dim)
        self.class_bias: nn.Parameter | None = None
        if self.label_bias and self.label_space == "category":
            layer = nn.Linear(self.dim, self.n_labels)
            self.classes, self.class_bias = layer.weight, layer.bias
        else:
            self.classes = self.class_vectors(self.dim)

    def encode_images(self, images: ImageBatch) -> Tensor:
        """Embed images, (b, dim)."""
        encoded: Tensor = self.shared(self.image_layer(self.image_features(images)))
        return encoded

    def encode_texts(self, texts: TextBatch) -> Tensor:
        """Embed texts, (b, dim)."""
        encoded: Tensor = self.shared(self.text_layer(self.text_features(texts)))
        return encoded

    def loss(self, batch: PairBatch) -> dict[str, Tensor]:
        """Return the weighted sum of the three terms."""
        images, texts, labels = self.gather_labelled(
            self.encode_images(batch.images), self.encode_texts(batch.texts), batch
        )
        error = label_regression if self.norm == "frobenius" else mean_distance
        match = same(labels)
        pairings = ((images, texts), (images, images), (texts, texts))
        label = torch.stack(
            [self.label_loss(side, self.classes, labels, error, self.class_bias) for side in (images, texts)]
        ).sum()
        likelihood = torch.stack([cosine_likelihood(a, b, match) for a, b in pairings]).sum()
        distance = error(images, texts)
        return {
            "label": label,
            "likelihood": likelihood,
            "distance": distance,
            "loss": label + self.alpha * likelihood + self.beta * distance,
        }
