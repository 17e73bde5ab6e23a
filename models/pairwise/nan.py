"""NAN: attention inside each modality, and a ranking loss that knows the neighbours of an item."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cmr_bench.datamodules.batches import ImageBatch, PairBatch, TextBatch
from cmr_bench.datamodules.views import DataSpec
from cmr_bench.models.common.fragment_module import FragmentModule, words_of
from cmr_bench.models.encoders.text import WordEncoder
from cmr_bench.models.losses import hinge_ranking, same


class AttentionPool(nn.Module):
    """Weighted mean of a set of features, with weights that a small network gives: ``softmax(w tanh(W f))``.

    Args:
        dim: Width of the features.
        hidden: Hidden units of the network.
        uniform: Weigh all features the same; the network is not made.
    """

    def __init__(self, dim: int, hidden: int, uniform: bool = False) -> None:
        super().__init__()
        self.score = None if uniform else nn.Sequential(nn.Linear(dim, hidden), nn.Tanh(), nn.Linear(hidden, 1))

    def forward(self, features: Tensor, mask: Tensor) -> Tensor:
        """Pool features (b, n, dim) of which ``mask`` (b, n) are real to (b, dim)."""
        scores = features.new_zeros(mask.shape) if self.score is None else self.score(features).squeeze(-1)
        weights = scores.float().masked_fill(~mask, -torch.inf).softmax(1)
        return torch.einsum("bn,bnd->bd", weights.to(features), features)


class NAN(FragmentModule):
    """Neighbour-aware network (Liu et al., ICASSP 2019), rebuilt from what is public.

    Regions of an image and states of a GRU over the words are pooled by attention inside each modality. Between the
    modalities a query ranks its own item above the k hardest negatives; inside a modality an item ranks its
    neighbours above all others of the batch. Neighbours are the items whose partners in the other modality are
    closest. How the paper finds neighbours, its margins and weights are not published and are ours.

    Args:
        dim: Embedding dimension.
        attention_dim: Hidden units of the attention; 0 weighs all regions and words the same.
        neighbours: Hardest negatives of a query, and neighbours of an item.
        margin: Margin between the modalities.
        intra_margin: Margin inside a modality.
        intra: Weight of the loss inside the modalities; 0 switches it off.
        warmup_epochs: Number of first epochs that use the mean over all negatives instead of the hardest.
    """

    def __init__(
        self,
        dim: int = 1024,
        attention_dim: int = 256,
        neighbours: int = 3,
        margin: float = 0.2,
        intra_margin: float = 0.1,
        intra: float = 0.1,
        warmup_epochs: int = 1,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.dim, self.attention_dim, self.warmup_epochs = dim, attention_dim, warmup_epochs
        self.neighbours, self.margin, self.intra_margin, self.intra = neighbours, margin, intra_margin, intra

    def build(self, spec: DataSpec) -> None:
        """Make the layers."""
        super().build(spec)
        self.text_encoder = WordEncoder(spec.text.vocab_size, self.word_dim, self.dim, bidirectional=True, pool="words")
        uniform = self.attention_dim == 0
        self.image_pool = AttentionPool(self.region_dim, self.attention_dim, uniform)
        self.text_pool = AttentionPool(self.dim, self.attention_dim, uniform)
        self.image_layer, self.text_layer = nn.Linear(self.region_dim, self.dim), nn.Linear(self.dim, self.dim)

    def encode_images(self, images: ImageBatch) -> Tensor:
        """Embed images at unit length, (b, dim)."""
        return F.normalize(self.image_layer(self.image_pool(*self.regions_of(images))), dim=1)

    def encode_texts(self, texts: TextBatch) -> Tensor:
        """Embed texts at unit length, (b, dim)."""
        tokens, lengths, mask = words_of(texts)
        words = self.text_encoder(tokens, lengths)
        return F.normalize(self.text_layer(self.text_pool(words, mask)), dim=1)

    def loss(self, batch: PairBatch) -> dict[str, Tensor]:
        """Ranking loss between the modalities plus the weighted ranking loss of neighbours inside each."""
        images, texts, identity, _ = self.gather(
            self.encode_images(batch.images), self.encode_texts(batch.texts), batch
        )
        assert isinstance(images, Tensor)
        assert isinstance(texts, Tensor)
        siblings = same(identity)
        warming = self.current_epoch < self.warmup_epochs
        inter = hinge_ranking(
            images @ texts.T, siblings, self.margin, "mean" if warming else "nearest", self.neighbours
        )
        terms = {"inter": inter if warming else inter / self.neighbours}
        total = terms["inter"]
        if self.intra:
            terms["intra"] = neighbour_ranking(images, texts, siblings, self.neighbours, self.intra_margin)
            terms["intra"] = terms["intra"] + neighbour_ranking(
                texts, images, siblings, self.neighbours, self.intra_margin
            )
            total = total + self.intra * terms["intra"]
        return terms | {"loss": total}


def neighbour_ranking(items: Tensor, partners: Tensor, siblings: Tensor, neighbours: int, margin: float) -> Tensor:
    """Rank the neighbours of every item above the other items of its modality.

    The neighbours of an item are the k items whose partners are closest to its own partner, items of the same image
    excepted. It costs ``[margin - mean c(i, neighbours) + max c(i, others)]+`` with c the cosine inside the modality.

    Args:
        items: Items of one modality at unit length, (b, d).
        partners: Their partners in the other modality at unit length, (b, d); no gradient goes there.
        siblings: True for items of the same image, (b, b).
        neighbours: Number of neighbours k.
        margin: Least difference wanted.

    Returns:
        The mean over the items that have both neighbours and others, a scalar; 0 where none has.
    """
    items = items.float()
    cosines = items @ items.T
    others = ~(siblings | torch.eye(len(items), dtype=torch.bool, device=items.device))
    closeness = (partners.detach().float() @ partners.detach().float().T).masked_fill(~others, -torch.inf)
    near = (
        torch.zeros_like(others).scatter(1, closeness.topk(min(neighbours, len(items)), dim=1).indices, True) & others
    )
    far = others & ~near
    valid = near.any(1) & far.any(1)
    mean = (cosines * near).sum(1) / near.sum(1).clamp(min=1)
    hardest = cosines.masked_fill(~far, -torch.inf).amax(1)
    cost = (margin - mean[valid] + hardest[valid]).clamp(min=0)
    return cost.sum() / valid.sum().clamp(min=1)
