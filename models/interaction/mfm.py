"""MFM: several representations of every image and sentence, matched all with all."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cmr_bench.datamodules.batches import ImageBatch, PairBatch, TextBatch
from cmr_bench.datamodules.views import DataSpec
from cmr_bench.evaluation.ranks import EmbeddingScores, ScoreSource
from cmr_bench.models.common.fragment_module import FragmentModule, words_of
from cmr_bench.models.encoders.inputs import pool_regions
from cmr_bench.models.encoders.text import WordEncoder
from cmr_bench.models.losses import Negatives, hinge_ranking, same
from cmr_bench.models.scoring import Encoded

_FACETS = 3


class MFM(FragmentModule):
    """Multi-faceted representations (Ma et al., TCSVT 2019), rebuilt from what is public.

    An image has three facets: the mean of its regions, their largest values, and a mean weighted by attention. A
    sentence has three: the last state of a GRU, the mean word embedding, and the largest responses of a convolution
    over three neighbouring words. Each facet passes its own network of two layers to unit length. The score is the
    mean cosine over all pairs of facets, which is the inner product of the two mean facets: at test an item is one
    vector. The loss is the hinge of every pair of facets across the modalities, plus those inside each modality. Which
    representations the paper takes, its loss inside a modality and its margins are not published and are ours.

    Args:
        hidden: Hidden units of each facet's network, and of the GRU.
        dim: Embedding dimension.
        margin: Margin of every hinge.
        negatives: Negatives that count: the hardest of the batch, the mean or the sum over all of them.
        intra: Weight of the losses between facets of one modality; 0 switches them off.
        warmup_epochs: Number of first epochs that use the mean over all negatives instead of the hardest.
        dropout: Dropout probability of the hidden units.
    """

    def __init__(
        self,
        hidden: int = 1024,
        dim: int = 1024,
        margin: float = 0.2,
        negatives: Negatives = "hardest",
        intra: float = 0.1,
        warmup_epochs: int = 1,
        dropout: float = 0.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.hidden, self.dim, self.margin, self.negatives = hidden, dim, margin, negatives
        self.intra, self.warmup_epochs, self.dropout = intra, warmup_epochs, dropout

    def build(self, spec: DataSpec) -> None:
        """Make the layers."""
        super().build(spec)
        self.salience = nn.Linear(self.region_dim, 1)
        self.text_encoder = WordEncoder(spec.text.vocab_size, self.word_dim, self.hidden)
        self.trigrams = nn.Conv1d(self.word_dim, self.hidden, kernel_size=3, padding=1)
        self.image_nets = self._networks([self.region_dim] * _FACETS)
        self.text_nets = self._networks([self.hidden, self.word_dim, self.hidden])

    def _networks(self, widths: list[int]) -> nn.ModuleList:
        return nn.ModuleList(
            nn.Sequential(
                nn.Linear(width, self.hidden), nn.ReLU(), nn.Dropout(self.dropout), nn.Linear(self.hidden, self.dim)
            )
            for width in widths
        )

    def image_facets(self, images: ImageBatch) -> Tensor:
        """Return the facets of images at unit length, (b, facets, dim)."""
        regions, mask = self.regions_of(images)
        weights = self.salience(regions).squeeze(-1).float().masked_fill(~mask, -torch.inf).softmax(1)
        pooled = (
            pool_regions(regions, mask),
            regions.masked_fill(~mask.unsqueeze(-1), -torch.inf).amax(1),
            torch.einsum("br,brd->bd", weights.to(regions), regions),
        )
        return _unit(self.image_nets, pooled)

    def text_facets(self, texts: TextBatch) -> Tensor:
        """Return the facets of texts at unit length, (b, facets, dim)."""
        tokens, lengths, mask = words_of(texts)
        words = self.text_encoder.embedding(tokens)
        responses = self.trigrams(words.transpose(1, 2)).transpose(1, 2)
        pooled = (
            self.text_encoder(tokens, lengths),
            pool_regions(words, mask),
            responses.masked_fill(~mask.unsqueeze(-1), -torch.inf).amax(1),
        )
        return _unit(self.text_nets, pooled)

    def encode_images(self, images: ImageBatch) -> Tensor:
        """Return the mean facet of images, (b, dim)."""
        return self.image_facets(images).mean(1)

    def encode_texts(self, texts: TextBatch) -> Tensor:
        """Return the mean facet of texts, (b, dim)."""
        return self.text_facets(texts).mean(1)

    def similarity(self, images: Encoded, texts: Encoded) -> Tensor:
        """Mean cosine over all pairs of facets, (n_images, n_texts)."""
        assert isinstance(images, Tensor)
        assert isinstance(texts, Tensor)
        return images @ texts.T

    def scores(self, images: Encoded, texts: Encoded) -> ScoreSource:
        """Return what scores blocks of all encoded images and texts."""
        assert isinstance(images, Tensor)
        assert isinstance(texts, Tensor)
        return EmbeddingScores(images.float(), texts.float(), normalize=False, device=self.device)

    def loss(self, batch: PairBatch) -> dict[str, Tensor]:
        """Hinge of every pair of facets across the modalities plus the weighted ones inside each."""
        images, texts, identity, _ = self.gather(self.image_facets(batch.images), self.text_facets(batch.texts), batch)
        assert isinstance(images, Tensor)
        assert isinstance(texts, Tensor)
        siblings = same(identity)
        warming = self.negatives == "hardest" and self.current_epoch < self.warmup_epochs
        kind: Negatives = "mean" if warming else self.negatives

        def hinge(a: Tensor, b: Tensor) -> Tensor:
            return hinge_ranking(a @ b.T, siblings, self.margin, kind)

        inter = [hinge(a, b) for a in images.unbind(1) for b in texts.unbind(1)]
        terms = {"inter": torch.stack(inter).sum()}
        total = terms["inter"]
        if self.intra:
            pairs = [pair for side in (images, texts) for pair in combinations(side.unbind(1), 2)]
            terms["intra"] = torch.stack([hinge(a, b) for a, b in pairs]).sum()
            total = total + self.intra * terms["intra"]
        return terms | {"loss": total}


def _unit(networks: nn.ModuleList, pooled: tuple[Tensor, ...]) -> Tensor:
    parts = [network(values) for network, values in zip(networks, pooled, strict=True)]
    return F.normalize(torch.stack(parts, dim=1), dim=-1)
