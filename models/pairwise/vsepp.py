"""VSE++: one vector per item, trained on the hardest negative of the batch."""

from __future__ import annotations

from typing import Any, Literal

import torch.nn.functional as F
from torch import Tensor, nn

from cmr_bench.datamodules.batches import ImageBatch, PairBatch, TextBatch
from cmr_bench.datamodules.views import DataSpec, ViewKind
from cmr_bench.models.common.feature_module import FeatureModule
from cmr_bench.models.common.ranking import RankingModule
from cmr_bench.models.common.stages import Stage, StagedModule
from cmr_bench.models.encoders.text import Init, WordEncoder


class VSEPP(StagedModule, RankingModule, FeatureModule):
    """VSE++ (Faghri et al., BMVC 2018): linear image embedding, GRU sentence embedding, hardest negatives.

    A CNN that is trained too can stay as it is for the first epochs; then everything learns at its rate, with a fresh
    optimiser, as where the paper fine-tunes a model that was trained on frozen features.

    Args:
        dim: Embedding dimension.
        bidirectional: Use a bidirectional GRU and average its two final states.
        dropout: Dropout probability of image features and word embeddings.
        normalise_features: L2-normalise image features before the linear layer, as in the paper.
        gru_init: Initialisation of the GRU: orthogonal hidden-to-hidden weights, or uniform, PyTorch's default, as in
            the released code.
        reduction: Reduction of the loss over the batch: mean, or sum, as in the paper; they differ under gradient
            clipping.
        frozen_epochs: Number of first epochs in which a fine-tuned CNN is frozen; afterwards everything trains at
            `cnn_lr`, and `lr_decay_every` restarts.
        text_view: Text view: tokens.
    """

    text_views = ("tokens",)

    def __init__(
        self,
        dim: int = 1024,
        bidirectional: bool = False,
        dropout: float = 0.0,
        normalise_features: bool = False,
        gru_init: Init = "orthogonal",
        reduction: Literal["mean", "sum"] = "mean",
        frozen_epochs: int = 0,
        cnn: str = "torchvision:resnet152",
        text_view: ViewKind = "tokens",
        **kwargs: Any,
    ) -> None:
        super().__init__(cnn=cnn, text_view=text_view, **kwargs)
        self.dim, self.bidirectional = dim, bidirectional
        self.dropout, self.normalise_features = dropout, normalise_features
        self.gru_init, self.reduction, self.frozen_epochs = gru_init, reduction, frozen_epochs

    def words(self, vocab_size: int) -> WordEncoder:
        """Encode words with a GRU, whose last state is the embedding."""
        return WordEncoder(
            vocab_size, self.word_dim, self.dim, self.bidirectional, dropout=self.dropout, init=self.gru_init
        )

    def build(self, spec: DataSpec) -> None:
        """Build the layers."""
        super().build(spec)
        linear = nn.Linear(self.image_dim, self.dim)
        nn.init.xavier_uniform_(linear.weight)
        nn.init.zeros_(linear.bias)
        self.image_layer = nn.Sequential(nn.Dropout(self.dropout), linear)

    def encode_images(self, images: ImageBatch) -> Tensor:
        """Embed images, (b, dim)."""
        features = self.image_features(images)
        embedded: Tensor = self.image_layer(F.normalize(features, dim=1) if self.normalise_features else features)
        return embedded

    def encode_texts(self, texts: TextBatch) -> Tensor:
        """Embed texts, (b, dim)."""
        return self.text_features(texts)

    def loss(self, batch: PairBatch) -> dict[str, Tensor]:
        """Return the hinge ranking loss of the cosines of the batch."""
        pair, n_pairs = self.ranking_loss(batch)
        return {"loss": pair} if self.reduction == "mean" else {"loss": pair * n_pairs, "pair": pair}

    def stages(self) -> tuple[Stage, ...]:
        """Return the stage in which the image network is frozen, and the one in which everything trains."""
        return self.frozen_first(self.frozen_epochs)
