"""VSE++: one vector per item, trained on the hardest negative of the batch."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from cmr_bench.datamodules.batches import ImageBatch, PairBatch, TextBatch
from cmr_bench.datamodules.views import DataSpec, ViewKind
from cmr_bench.models.common.feature_module import FeatureModule
from cmr_bench.models.common.ranking import RankingModule
from cmr_bench.models.encoders.text import WordEncoder


class VSEPP(RankingModule, FeatureModule):
    """VSE++ (Faghri et al., BMVC 2018): linear image embedding, GRU sentence embedding, hardest negatives.

    The loss is the mean over the pairs of a batch, where the paper sums.

    Args:
        dim: Embedding dimension.
        bidirectional: Use a bidirectional GRU and average its two final states.
        dropout: Dropout probability of image features and word embeddings.
        text_view: Text view: tokens.
    """

    text_views = ("tokens",)

    def __init__(
        self,
        dim: int = 1024,
        bidirectional: bool = False,
        dropout: float = 0.0,
        cnn: str = "torchvision:resnet152",
        text_view: ViewKind = "tokens",
        **kwargs: Any,
    ) -> None:
        super().__init__(cnn=cnn, text_view=text_view, **kwargs)
        self.dim, self.bidirectional = dim, bidirectional
        self.dropout = dropout

    def words(self, vocab_size: int) -> WordEncoder:
        """Encode words with a GRU, whose last state is the embedding."""
        return WordEncoder(vocab_size, self.word_dim, self.dim, self.bidirectional, dropout=self.dropout)

    def build(self, spec: DataSpec) -> None:
        """Build the layers."""
        super().build(spec)
        linear = nn.Linear(self.image_dim, self.dim)
        nn.init.xavier_uniform_(linear.weight)
        nn.init.zeros_(linear.bias)
        self.image_layer = nn.Sequential(nn.Dropout(self.dropout), linear)

    def encode_images(self, images: ImageBatch) -> Tensor:
        """Embed images, (b, dim)."""
        embedded: Tensor = self.image_layer(self.image_features(images))
        return embedded

    def encode_texts(self, texts: TextBatch) -> Tensor:
        """Embed texts, (b, dim)."""
        return self.text_features(texts)

    def loss(self, batch: PairBatch) -> dict[str, Tensor]:
        """Return the hinge ranking loss of the cosines of the batch."""
        return {"loss": self.ranking_loss(batch)[0]}
