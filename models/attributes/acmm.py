"""ACMM: regions and words read from a common memory before they attend to each other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from cmr_bench.datamodules.batches import ImageBatch, PairBatch, TextBatch
from cmr_bench.datamodules.views import DataSpec
from cmr_bench.models.common.fragment_module import FragmentModule, words_of
from cmr_bench.models.common.ranking import RankingModule
from cmr_bench.models.encoders.text import WordEncoder
from cmr_bench.models.scoring import Encoded
from cmr_bench.support.errors import UsageError

# Inverse temperatures of SCAN where words and where regions ask (Lee et al., ECCV 2018, section 4.3).
_WORDS_ASK, _REGIONS_ASK = 9.0, 4.0
# Elements of the largest tensor of one block of pairs, (images, texts, fragments, memory).
_BLOCK = 2**23
_EPS = 1e-8


class ACMM(RankingModule, FragmentModule):
    """Aligned cross-modal memory (Huang and Wang, ICCV 2019), rebuilt from what is public.

    For a pair, regions attend to words and words to regions; a linear layer a side makes interface vectors of a
    fragment and what it attends to. They read a memory of learned items by a softmax over cosines. A gate, one number a
    fragment, mixes the fragment with what it read, and the score is SCAN's, words asking, over the mixed fragments. The
    loss is summed over the pairs of a batch. The memory is learned with the weights and stays as it is at test: the
    paper also updates it by the items that pass, which would make scores depend on their order. Number and size of the
    items, gates, score and losses are not published and are ours.

    Args:
        dim: Embedding dimension of words and regions.
        memory: Number of memory items; 0 switches the memory off and scores the interface vectors.
        temperature: Temperature of the reading weights.
    """

    def __init__(self, dim: int = 1024, memory: int = 256, temperature: float = 0.1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if memory < 0 or temperature <= 0:
            raise UsageError(
                f"--model.memory {memory} and --model.temperature {temperature}: pass a number of items, 0 for none, "
                "and a temperature above 0"
            )
        self.dim, self.memory, self.temperature = dim, memory, temperature

    def build(self, spec: DataSpec) -> None:
        """Make the layers."""
        super().build(spec)
        self.image_layer = nn.Linear(self.region_dim, self.dim)
        nn.init.xavier_uniform_(self.image_layer.weight)
        nn.init.zeros_(self.image_layer.bias)
        self.text_encoder = WordEncoder(spec.text.vocab_size, self.word_dim, self.dim, bidirectional=True, pool="words")
        # An interface vector is own(x) + attended(a): the attended vector is never made, only what it is made of.
        self.of_region, self.of_word = (nn.Linear(self.dim, 2 * self.dim, bias=False) for _ in range(2))
        if self.memory:
            self.items = nn.Parameter(F.normalize(torch.randn(self.memory, self.dim), dim=1))
            self.region_gate, self.word_gate = (nn.Linear(2 * self.dim, 1) for _ in range(2))

    def encode_images(self, images: ImageBatch) -> tuple[Tensor, Tensor]:
        """Embed regions at unit length, (b, R, dim), and tell which are real, (b, R)."""
        regions, mask = self.embedded_regions(self.image_layer, images)
        return F.normalize(regions, dim=-1), mask

    def encode_texts(self, texts: TextBatch) -> tuple[Tensor, Tensor]:
        """Embed words at unit length, (b, W, dim), and tell how many there are, (b,)."""
        tokens, lengths, _ = words_of(texts)
        return F.normalize(self.text_encoder(tokens, lengths), dim=-1), lengths

    def similarity(self, images: Encoded, texts: Encoded) -> Tensor:
        """Score every image with every text, (n_images, n_texts), in blocks of pairs."""
        (regions, mask), (words, lengths) = images, texts
        real = torch.arange(words.shape[1], device=words.device) < lengths[:, None]
        widest = (regions.shape[1] + words.shape[1]) * max(self.memory, regions.shape[1])
        n_texts = min(len(words), max(1, _BLOCK // widest))
        n_images = max(1, _BLOCK // (widest * n_texts))
        # Made again in the backward pass, unless one block is all there is.
        again = torch.is_grad_enabled() and n_images * n_texts < len(regions) * len(words)
        bands = []
        for at in range(0, len(regions), n_images):
            rows = slice(at, at + n_images)
            band = []
            for column in range(0, len(words), n_texts):
                columns = slice(column, column + n_texts)
                arguments = (regions[rows], mask[rows], words[columns], real[columns])
                band.append(
                    checkpoint(self._block, *arguments, use_reentrant=False) if again else self._block(*arguments)
                )
            bands.append(torch.cat(band, dim=1))
        return torch.cat(bands)

    def _block(self, regions: Tensor, mask: Tensor, words: Tensor, real: Tensor) -> Tensor:
        with torch.autocast(regions.device.type, enabled=False):
            wide = torch.promote_types(regions.dtype, torch.float32)
            v = (regions * mask.unsqueeze(-1)).to(wide)[:, None]
            e = (words * real.unsqueeze(-1)).to(wide)[None]
            cosines = v @ e.transpose(-1, -2)
            regions_ask = attention(cosines, real[None, :, None, :], _REGIONS_ASK, query=2)
            words_ask = attention(cosines, mask[:, None, :, None], _WORDS_ASK, query=3)
            own_v, other_v = self.of_region(v).chunk(2, dim=-1)
            own_e, other_e = self.of_word(e).chunk(2, dim=-1)
            one = v.new_ones(())
            # A region hears words, a word hears regions: the layer of a side maps what it gives to the other too.
            left, right = Mixed(one, own_v, regions_ask, other_e), Mixed(one, own_e, words_ask.transpose(2, 3), other_v)
            if self.memory:
                left, right = self._read(v, left, self.region_gate), self._read(e, right, self.word_gate)
            return pooled(left.gram(right), left.gram(left), right.squares(), mask, real)

    def _read(self, fragments: Tensor, interface: Mixed, gate: nn.Linear) -> Mixed:
        """Mix fragments with what their interface vectors read from the memory."""
        items = self.items.to(fragments)
        keys = F.normalize(items, dim=1)
        length = interface.squares().clamp_min(_EPS**2).rsqrt().unsqueeze(-1)
        weights = (interface.products(keys) * length / self.temperature).softmax(-1)
        own, other = gate.weight.to(fragments).chunk(2, dim=1)
        kept = (fragments @ own[0] + weights @ (items @ other[0]) + gate.bias.to(fragments)).sigmoid()
        return Mixed(kept, fragments, (1 - kept).unsqueeze(-1) * weights, items)

    def loss(self, batch: PairBatch) -> dict[str, Tensor]:
        """Hinge ranking loss of the scores of the batch, summed over its pairs, and of one pair."""
        pair, n_pairs = self.ranking_loss(batch)
        return {"loss": pair * n_pairs, "pair": pair}


@dataclass(frozen=True)
class Mixed:
    """Vectors ``z_i = p_i x_i + sum_j q_ij y_j`` of every pair of an image and a text, known by their products only.

    Attributes:
        p: Factors of the fragments themselves, (images, texts, n) or a scalar.
        x: The fragments, (images or 1, texts or 1, n, dim).
        q: Weights of the others, (images, texts, n, m).
        y: The others, (images or 1, texts or 1, m, dim) or (m, dim).
    """

    p: Tensor
    x: Tensor
    q: Tensor
    y: Tensor

    @property
    def factors(self) -> Tensor:
        """Factors as a column, (images, texts, n, 1) or a scalar."""
        return self.p.unsqueeze(-1) if self.p.ndim else self.p

    def products(self, vectors: Tensor) -> Tensor:
        """Return the products with vectors, (..., k, dim), as (images, texts, n, k)."""
        across = vectors.transpose(-1, -2)
        return self.factors * (self.x @ across) + self.q @ (self.y @ across)

    def gram(self, other: Mixed) -> Tensor:
        """Return the products with those of ``other``, (images, texts, n, n of the other)."""
        with_x, with_y = self.products(other.x), self.products(other.y)
        across = other.factors.transpose(-1, -2) if other.p.ndim else other.p
        return with_x * across + with_y @ other.q.transpose(-1, -2)

    def squares(self) -> Tensor:
        """Return the squared lengths, (images, texts, n)."""
        own = self.x.square().sum(-1)
        between = (self.q * (self.x @ self.y.transpose(-1, -2))).sum(-1)
        rest = ((self.q @ (self.y @ self.y.transpose(-1, -2))) * self.q).sum(-1)
        return self.p.square() * own + 2 * self.p * between + rest


def attention(cosines: Tensor, real: Tensor, inverse_temperature: float, query: int) -> Tensor:
    """Return SCAN's weights of regions and words, (images, texts, R, W), that sum to 1 over the context.

    Positive cosines get unit length over the queries, dimension ``query`` (2 or 3); the softmax runs over the other
    one, where ``real`` tells padding apart (Lee et al., ECCV 2018, section 3.1).
    """
    positive = cosines.relu()
    length = (positive.square().sum(query, keepdim=True) + _EPS**2).sqrt()
    scaled = inverse_temperature * positive / (length + _EPS)
    return scaled.masked_fill(~real, -torch.inf).softmax(5 - query)


def pooled(products: Tensor, gram: Tensor, word_squares: Tensor, mask: Tensor, real: Tensor) -> Tensor:
    """Return SCAN's score with words asking: the mean cosine of a word with what it attends to, (images, texts).

    Args:
        products: Of regions and words, (images, texts, R, W).
        gram: Of the regions, (images, texts, R, R).
        word_squares: Squared lengths of the words, (images, texts, W).
        mask: True for real regions, (images, R).
        real: True for real words, (texts, W).
    """
    scale = gram.diagonal(dim1=-2, dim2=-1).clamp_min(_EPS**2).rsqrt()
    cosines = products * scale.unsqueeze(-1) * word_squares.clamp_min(_EPS**2).rsqrt().unsqueeze(2)
    cosines = cosines * (mask[:, None, :, None] & real[None, :, None, :])
    weights = attention(cosines, mask[:, None, :, None], _WORDS_ASK, query=3)
    unit = gram * scale.unsqueeze(-1) * scale.unsqueeze(-2)
    squares = ((unit @ weights) * weights).sum(2)
    relevance = (weights * cosines).sum(2) * squares.clamp_min(_EPS**2).rsqrt()
    counts = real.sum(1)
    total: Tensor = (relevance * real[None]).sum(-1) / counts
    return total
