"""BFAN: cross attention in both directions that drops irrelevant fragments before it attends."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from cmr_bench.datamodules.batches import ImageBatch, PairBatch, TextBatch
from cmr_bench.datamodules.views import DataSpec
from cmr_bench.models.common.attention import MAX_LAMBDA_SOFTMAX, CrossAttention, Focal, cross_attention
from cmr_bench.models.common.fragment_module import FragmentModule, words_of
from cmr_bench.models.common.ranking import RankingModule
from cmr_bench.models.encoders.text import WordEncoder
from cmr_bench.models.scoring import Encoded
from cmr_bench.support.errors import UsageError


class BFAN(RankingModule, FragmentModule):
    """Bidirectional focal attention network (Liu et al., ACM MM 2019), after the released program.

    Words attend to regions and regions to words, as in SCAN. Of what a query attends to, only the fragments stay whose
    weight beats those of the others; their weights are shared out anew. The score is the sum of the two mean
    cosines, between -2 and 2. The loss is summed over the pairs of a batch. Where no fragment beats the others,
    because there is but one or all are alike, all stay: the program divides by zero there.

    Args:
        dim: Embedding dimension of words and regions.
        focal: A fragment stays where its weight is above the mean (equal), or where it is worth more than the others by
            the square roots of their weights (prob); none keeps all.
        lambda_softmax: Inverse temperature of the attention, at most 40.
    """

    def __init__(self, dim: int = 1024, focal: Focal = "prob", lambda_softmax: float = 20.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not 0 < lambda_softmax <= MAX_LAMBDA_SOFTMAX:
            raise UsageError(
                f"--model.lambda_softmax {lambda_softmax}: must be above 0 and at most {MAX_LAMBDA_SOFTMAX:g}"
            )
        self.dim, self.focal = dim, focal
        self.how = (
            CrossAttention("t2i", "avg", lambda_softmax, 1.0, "leaky", focal),
            CrossAttention("i2t", "avg", lambda_softmax, 1.0, "leaky", focal),
        )

    def build(self, spec: DataSpec) -> None:
        """Make the layers."""
        super().build(spec)
        self.image_layer = nn.Linear(self.region_dim, self.dim)
        nn.init.xavier_uniform_(self.image_layer.weight)
        nn.init.zeros_(self.image_layer.bias)
        self.text_encoder = WordEncoder(spec.text.vocab_size, self.word_dim, self.dim, bidirectional=True, pool="words")

    def encode_images(self, images: ImageBatch) -> tuple[Tensor, Tensor]:
        """Embed regions at unit length, (b, R, dim), and tell which are real, (b, R)."""
        regions, mask = self.embedded_regions(self.image_layer, images)
        return F.normalize(regions, dim=-1), mask

    def encode_texts(self, texts: TextBatch) -> tuple[Tensor, Tensor]:
        """Embed words at unit length, (b, W, dim), and tell how many there are, (b,)."""
        tokens, lengths, _ = words_of(texts)
        return F.normalize(self.text_encoder(tokens, lengths), dim=-1), lengths

    def similarity(self, images: Encoded, texts: Encoded) -> Tensor:
        """Score every image with every text by focal attention in both directions, (n_images, n_texts)."""
        (regions, mask), (words, lengths) = images, texts
        return cross_attention(regions, mask, words, lengths, self.how)

    def loss(self, batch: PairBatch) -> dict[str, Tensor]:
        """Hinge ranking loss of the scores of the batch, summed over its pairs, and of one pair."""
        pair, n_pairs = self.ranking_loss(batch)
        return {"loss": pair * n_pairs, "pair": pair}
