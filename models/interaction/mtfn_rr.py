"""MTFN-RR: a tensor fusion of two vectors gives the score, and the test scores are ranked again."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from cmr_bench.datamodules.batches import ImageBatch, PairBatch, TextBatch
from cmr_bench.datamodules.views import DataSpec, ViewKind
from cmr_bench.evaluation.ranks import EmbeddingScores, ScoreSource
from cmr_bench.models.common.feature_module import FeatureModule
from cmr_bench.models.common.ranking import RankingModule
from cmr_bench.models.scoring import Encoded


class MTFNRR(RankingModule, FeatureModule):
    """Multi-modal tensor fusion network (Wang et al., ACM MM 2019), after the released program.

    An image and a text are one vector each, x and y after a layer with tanh. The score is
    ``sigmoid(w . f + b)`` with ``f = sum_r (A_r x + a_r) * (B_r y + b_r)``, a tensor of low rank. With its one output
    that is a bilinear form: training takes the inner products of the stacked factors, and a test folds them, so that
    an item is one vector and ranking is by the logit. The loss is summed over the pairs of a batch.

    The re-ranking is ``--trainer.postprocess mtfn_rr``, for every method; mtfn_rr_groups is that of the released
    program, which groups the captions of each test image. The branch that scores texts with texts was not released and
    is not here. The GRU's last state stands in for skip-thought vectors.

    Args:
        dim: Dimension of x, y and the fusion.
        hidden: Hidden dimension of the GRU over the words.
        rank: Number of terms of the fusion.
        dropout: Dropout probability of the features of images and texts.
        text_view: Text view: tokens or vector.
    """

    def __init__(
        self,
        dim: int = 1024,
        hidden: int = 1024,
        rank: int = 20,
        dropout: float = 0.25,
        lr: float = 1e-4,
        text_view: ViewKind = "tokens",
        **kwargs: Any,
    ) -> None:
        super().__init__(lr=lr, text_view=text_view, **kwargs)
        self.dim, self.hidden, self.rank, self.dropout = dim, hidden, rank, dropout

    def build(self, spec: DataSpec) -> None:
        """Build the layers."""
        super().build(spec)
        self.image_layer, self.text_layer = (
            nn.Sequential(nn.Dropout(self.dropout), nn.Linear(width, self.dim), nn.Tanh())
            for width in (self.image_dim, self.text_dim)
        )
        self.image_factors, self.text_factors = (nn.Linear(self.dim, self.rank * self.dim) for _ in range(2))
        self.output = nn.Linear(self.dim, 1)

    def encode_images(self, images: ImageBatch) -> Tensor:
        """Return the vectors of images that are fused, (b, dim)."""
        found: Tensor = self.image_layer(self.image_features(images))
        return found

    def encode_texts(self, texts: TextBatch) -> Tensor:
        """Return the vectors of texts that are fused, (b, dim)."""
        found: Tensor = self.text_layer(self.text_features(texts))
        return found

    def similarity(self, images: Encoded, texts: Encoded) -> Tensor:
        """Score every image with every text by the logit of the fusion, (n_images, n_texts)."""
        assert isinstance(images, Tensor)
        assert isinstance(texts, Tensor)
        weights = self.output.weight.repeat(1, self.rank)
        logits: Tensor = (self.image_factors(images) * weights) @ self.text_factors(texts).T + self.output.bias
        return logits

    def folded(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return M (dim, dim), p (dim,), q (dim,) and c with which the logit is ``x' M y + p . x + q . y + c``."""
        weights = self.output.weight.repeat(1, self.rank).T
        a, b = self.image_factors, self.text_factors
        weighted = a.weight * weights
        return (
            weighted.T @ b.weight,
            weighted.T @ b.bias,
            (weights[:, 0] * a.bias) @ b.weight,
            self.output.bias[0] + (weights[:, 0] * a.bias) @ b.bias,
        )

    @torch.no_grad()
    def scores(self, images: Encoded, texts: Encoded) -> ScoreSource:
        """Return the score source of all encoded images and texts: inner products of dim + 2 numbers."""
        assert isinstance(images, Tensor)
        assert isinstance(texts, Tensor)
        matrix, of_image, of_text, constant = (part.detach().cpu() for part in self.folded())
        x, y = images.float().cpu(), texts.float().cpu()
        return EmbeddingScores(
            torch.cat([x @ matrix, (x @ of_image + constant)[:, None], torch.ones(len(x), 1)], dim=1),
            torch.cat([y, torch.ones(len(y), 1), (y @ of_text)[:, None]], dim=1),
            normalize=False,
        )

    def loss(self, batch: PairBatch) -> dict[str, Tensor]:
        """Hinge ranking loss of the probabilities of the batch, summed over its pairs, and of one pair."""
        images, texts, identity, _ = self.gather(
            self.encode_images(batch.images), self.encode_texts(batch.texts), batch
        )
        pair = self.hinge(self.similarity(images, texts).float().sigmoid(), identity)
        return {"loss": pair * len(identity), "pair": pair}
