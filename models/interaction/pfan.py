"""PFAN: cross attention over regions that know where in the image they are."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cmr_bench.datamodules.batches import ImageBatch, PairBatch, TextBatch
from cmr_bench.datamodules.views import DataSpec
from cmr_bench.models.common.attention import Attention, CrossAttention, cross_attention
from cmr_bench.models.common.fragment_module import FragmentModule, words_of
from cmr_bench.models.common.ranking import RankingModule
from cmr_bench.models.encoders.text import WordEncoder
from cmr_bench.models.scoring import Encoded
from cmr_bench.support.errors import UsageError

# Blocks along a side of the image, blocks kept for a region, and the inverse temperatures of the two directions, as
# in the released program.
_SIDE, _KEPT = 16, 15
# Overlaps that differ only because boxes are stored in float32 count as equal, so that their order is defined.
_DIGITS = 7
_LAMBDA: dict[Attention, float] = {"t2i": 9.0, "i2t": 4.0}


class PFAN(RankingModule, FragmentModule):
    """Position focused attention network (Wang et al., IJCAI 2019), after the released program.

    The image is cut into 16 x 16 blocks. A region keeps the 15 blocks that it overlaps most; their learned embeddings,
    weighted by attention and by overlap, are its position feature, which is embedded together with the region. The
    score is SCAN's, and with words attending the mean over the words of their largest weight is added to it by a
    factor. The loss is summed over the pairs of a batch. The second softmax acts on numbers below 1 and is almost
    flat, so the position feature is close to the mean of the block embeddings, padding included: as in the program.

    Args:
        dim: Embedding dimension of words and regions.
        position_dim: Dimension of the block embeddings; 0 leaves the position out.
        attention: Words attend to regions (t2i), or regions to words (i2t).
        peak: Factor of the largest weights, where words attend: 0.5 in the program, 0 in the paper.
    """

    def __init__(
        self, dim: int = 1024, position_dim: int = 200, attention: Attention = "t2i", peak: float = 0.5, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        if position_dim < 0:
            raise UsageError(f"--model.position_dim {position_dim}: pass a dimension, or 0 to leave the position out")
        self.dim, self.position_dim = dim, position_dim
        factor = peak if attention == "t2i" else 0.0
        self.how = CrossAttention(attention, "avg", _LAMBDA[attention], 1.0, "leaky", peak=factor)

    def build(self, spec: DataSpec) -> None:
        """Make the layers."""
        super().build(spec)
        if self.position_dim:
            self.blocks = nn.Embedding(_SIDE**2 + 1, self.position_dim)
            self.position_query = nn.Linear(self.region_dim, self.position_dim)
        self.image_layer = nn.Linear(self.region_dim + self.position_dim, self.dim)
        nn.init.xavier_uniform_(self.image_layer.weight)
        nn.init.zeros_(self.image_layer.bias)
        self.text_encoder = WordEncoder(spec.text.vocab_size, self.word_dim, self.dim, bidirectional=True, pool="words")

    def encode_images(self, images: ImageBatch) -> tuple[Tensor, Tensor]:
        """Embed regions with their positions at unit length, (b, R, dim), and tell which are real, (b, R)."""
        regions, mask = self.regions_of(images)
        if self.position_dim:
            regions = torch.cat([regions, self.positions(regions, self.boxes_of(images, regions))], dim=-1)
        return F.normalize(self.image_layer(regions), dim=-1), mask

    def positions(self, regions: Tensor, boxes: Tensor) -> Tensor:
        """Return the position features of regions (b, R, region_dim) with boxes (b, R, 4), (b, R, position_dim)."""
        index, share = largest_blocks(boxes)
        blocks = self.blocks(index)
        fit = torch.einsum("brmp,brp->brm", blocks, self.position_query(regions)).tanh().softmax(-1)
        weights = (share.to(fit) * fit).softmax(-1)
        return torch.einsum("brm,brmp->brp", weights, blocks)

    def encode_texts(self, texts: TextBatch) -> tuple[Tensor, Tensor]:
        """Embed words at unit length, (b, W, dim), and tell how many there are, (b,)."""
        tokens, lengths, _ = words_of(texts)
        return F.normalize(self.text_encoder(tokens, lengths), dim=-1), lengths

    def similarity(self, images: Encoded, texts: Encoded) -> Tensor:
        """Score every image with every text by cross attention, (n_images, n_texts)."""
        (regions, mask), (words, lengths) = images, texts
        return cross_attention(regions, mask, words, lengths, self.how)

    def loss(self, batch: PairBatch) -> dict[str, Tensor]:
        """Hinge ranking loss of the scores of the batch, summed over its pairs, and of one pair."""
        pair, n_pairs = self.ranking_loss(batch)
        return {"loss": pair * n_pairs, "pair": pair}


def largest_blocks(boxes: Tensor) -> tuple[Tensor, Tensor]:
    """Find the blocks of the image that boxes overlap most.

    Blocks are numbered ``16 column + row``. The list of a box is sorted by overlap, equal overlaps by number.

    Args:
        boxes: Boxes as fractions x0, y0, x1, y1 of the image, (..., 4).

    Returns:
        Numbers of the blocks, (..., 15), 256 for a place that is left over; and their shares in the overlap of the
        blocks of the list, (..., 15), 0 for a place that is left over.
    """
    edges = torch.arange(_SIDE + 1, dtype=torch.float64, device=boxes.device) / _SIDE
    boxes = boxes.double()
    columns, rows = (
        (torch.minimum(boxes[..., high, None], edges[1:]) - torch.maximum(boxes[..., low, None], edges[:-1])).clamp(
            min=0
        )
        for low, high in ((0, 2), (1, 3))
    )
    overlap = (columns.unsqueeze(-1) * rows.unsqueeze(-2)).flatten(-2).round(decimals=_DIGITS)
    area, index = overlap.sort(dim=-1, descending=True, stable=True)
    area, index = area[..., :_KEPT], index[..., :_KEPT]
    met = area > 1e-12
    share = torch.where(met, area, 0.0)
    share = share / share.sum(-1, keepdim=True).clamp_min(1e-12)
    return torch.where(met, index, _SIDE**2), share.float()
