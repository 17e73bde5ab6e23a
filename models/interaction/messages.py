"""Messages between the fragments of two modalities, kept as weights on the fragments that they are made of.

Wang et al., CAMP, ICCV 2019, in the form of the released program. With regions V of an image and words T of a text,
regions receive the message ``m = att(Q V, K T, T)``, where ``att(Q, K, X) = softmax(Q K' / sqrt(d)) X``; messages are
refined among themselves, ``f = att(Q' m, K' m, m)``, and words receive messages of regions likewise.

A message is a mixture of fragments of the other side, ``m = A T``. So with ``M = (T Q'') (T K'')'``, made once for a
text, the scores of the refinement are ``A M A'``, the refined messages ``B T`` with ``B = softmax(A M A' / sqrt(d))
A``, their lengths come from ``B T T' B'`` and their products with their receivers from ``B`` and ``V T'``. So nothing
that has to be known of a pair depends on the dimension of a fragment, until messages and fragments are fused.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

Kind = Literal["gated", "plain", "none"]
_EPS = 1e-8
_TINY = 1e-12


@dataclass(frozen=True)
class Side:
    """Fragments of the items of one modality, and what is made of them once.

    Attributes:
        fragments: The fragments, (n, F, d).
        there: True for real fragments, (n, F).
        gram: Their products with each other, (n, F, F).
        query: What they ask with, (n, F, d); None where there are no messages.
        key: What they are asked by, (n, F, d).
        relation: Scores by which messages made of them are refined, before they are mixed, (n, F, F).
    """

    fragments: Tensor
    there: Tensor
    gram: Tensor
    query: Tensor | None = None
    key: Tensor | None = None
    relation: Tensor | None = None

    def __len__(self) -> int:
        return len(self.fragments)

    def take(self, rows: Tensor | slice) -> Side:
        """Return some of the items."""
        return Side(*(None if part is None else part[rows] for part in vars(self).values()))  # type: ignore[arg-type]

    @property
    def there_as_float(self) -> Tensor:
        """1 for real fragments, (n, F)."""
        return self.there.to(self.gram)


@dataclass(frozen=True)
class Pairing:
    """Which images meet which texts: all of them, or one each.

    Attributes:
        image: Subscript of the images in sums over subscripts.
        text: That of the texts.
        both: That of the pairs.
    """

    image: str
    text: str
    both: str

    def at_pairs(self, of_image: Tensor | None, of_text: Tensor | None) -> Tensor:
        """Return a tensor of the images or of the texts in a shape that goes with those of the pairs."""
        given = of_text if of_image is None else of_image
        assert given is not None
        if len(self.both) == 1:
            return given
        return given.unsqueeze(0) if of_image is None else given.unsqueeze(1)


EVERY = Pairing("i", "t", "it")
ONE_EACH = Pairing("p", "p", "p")


@dataclass(frozen=True)
class Received:
    """Refined messages to the F fragments of one side, made of the G fragments of the other, at every pair.

    Attributes:
        weights: Weights on the fragments of the other side that make the refined messages, (…, F, G).
        length: Length of each refined message, (…, F).
        product: Inner product of each refined message, at unit length, with its receiver, (…, F).
    """

    weights: Tensor
    length: Tensor
    product: Tensor


def widened(values: Tensor) -> Tensor:
    """Return values of half precision as float32, others unchanged."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


class Attention(nn.Module):
    """The projections of the messages: queries, keys, and the two of the refinement, of either side.

    Args:
        dim: Dimension of the fragments.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.query, self.key, self.refine_query, self.refine_key = (nn.Linear(dim, dim, bias=False) for _ in range(4))
        nn.init.xavier_uniform_(self.key.weight)

    def forward(self, fragments: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return queries and keys (n, F, d), and the scores of the refinement, (n, F, F)."""
        asking, asked = widened(self.refine_query(fragments)), widened(self.refine_key(fragments))
        with torch.autocast(fragments.device.type, enabled=False):
            relation = asking @ asked.transpose(1, 2)
        return widened(self.query(fragments)), widened(self.key(fragments)), relation


def prepare(fragments: Tensor, there: Tensor, attention: nn.Module | None) -> Side:
    """Make what every pair needs of fragments (n, F, d), of which ``there`` (n, F) are real."""
    with torch.autocast(fragments.device.type, enabled=False):
        whole = widened(fragments)
        gram = whole @ whole.transpose(1, 2)
    if attention is None:
        return Side(fragments, there, gram)
    return Side(fragments, there, gram, *attention(fragments))


def affinity(images: Side, texts: Side, how: Pairing) -> Tensor:
    """Return the inner products of regions and words, (…, R, W)."""
    return _products(images.fragments, texts.fragments, how)


def _products(regions: Tensor, words: Tensor, how: Pairing) -> Tensor:
    return torch.einsum(f"{how.image}rd,{how.text}wd->{how.both}rw", widened(regions), widened(words))


def receive(images: Side, texts: Side, how: Pairing, affinities: Tensor) -> tuple[Received, Received]:
    """Return the refined messages that regions receive from words, and words from regions."""
    assert images.query is not None
    assert images.key is not None
    assert texts.query is not None
    assert texts.key is not None
    asked = _products(images.query, texts.key, how)
    to_regions = _received(asked, affinities, images, texts, how, True)
    asked = _products(images.key, texts.query, how).transpose(-1, -2)
    return to_regions, _received(asked, affinities.transpose(-1, -2), texts, images, how, False)


def _received(asked: Tensor, affinities: Tensor, own: Side, other: Side, how: Pairing, of_images: bool) -> Received:
    """Mix fragments of ``other`` by scores (…, F, G) before the softmax, and refine the mixtures among themselves."""
    assert other.relation is not None
    letters = how.text if of_images else how.image

    def at_pairs(side: Side) -> Tensor:
        images = (side is own) == of_images
        return how.at_pairs(side.there if images else None, None if images else side.there)

    def through(weights: Tensor, matrix: Tensor) -> Tensor:
        return torch.einsum(f"{how.both}fg,{letters}gh->{how.both}fh", weights, matrix)

    scale = math.sqrt(own.fragments.shape[-1])
    weights = _softmax(asked / scale, at_pairs(other))
    refined = through(weights, other.relation) @ weights.transpose(-1, -2)
    weights = _softmax(refined / scale, at_pairs(own)) @ weights
    length = (through(weights, other.gram) * weights).sum(-1).clamp_min(_TINY).sqrt()
    return Received(weights, length, (weights * affinities).sum(-1) / (length + _EPS))


def _softmax(scores: Tensor, there: Tensor) -> Tensor:
    """Softmax over the real fragments of the last dimension: scores (…, F, G), ``there`` (…, G)."""
    return scores.masked_fill(~there.unsqueeze(-2), -torch.inf).softmax(-1)


def mean_message_cosine(images: Side, texts: Side, how: Pairing) -> Tensor:
    """Score pairs by the cosine of the mean message to the regions and the mean message to the words, (…).

    Without projections for messages, the mean region and the mean word take their place.
    """
    affinities = affinity(images, texts, how)
    of_regions, of_words = (side.there_as_float / side.there.sum(1, keepdim=True) for side in (images, texts))
    at_regions, at_words = how.at_pairs(of_regions, None), how.at_pairs(None, of_words)
    if images.query is None:
        on_regions, on_words = at_regions, at_words
        shape = affinities.shape
        on_regions, on_words = on_regions.expand(*shape[:-2], shape[-2]), on_words.expand(*shape[:-2], shape[-1])
    else:
        to_regions, to_words = receive(images, texts, how, affinities)
        on_words = (to_regions.weights * at_regions.unsqueeze(-1)).sum(-2)
        on_regions = (to_words.weights * at_words.unsqueeze(-1)).sum(-2)
    product = torch.einsum("...r,...rw,...w->...", on_regions, affinities, on_words)
    square = torch.einsum(f"{how.both}r,{how.image}rs,{how.both}s->{how.both}", on_regions, images.gram, on_regions)
    square = square.clamp_min(_TINY) * torch.einsum(
        f"{how.both}w,{how.text}wv,{how.both}v->{how.both}", on_words, texts.gram, on_words
    ).clamp_min(_TINY)
    return product * square.rsqrt()


class Fusion(nn.Module):
    """Fuses the fragments of one side with their messages, and summarises an item by attention over them.

    Args:
        dim: Dimension of the fragments.
        heads: Heads of the summary, which are averaged.
        kind: Messages pass a gate, pass as they are, or do not come.
    """

    def __init__(self, dim: int, heads: int, kind: Kind) -> None:
        super().__init__()
        self.kind = kind
        self.own, self.sent = None, None
        if kind != "none":
            # The two halves of one layer, started together.
            both = nn.Linear(2 * dim, dim, bias=False)
            nn.init.xavier_uniform_(both.weight)
            self.own, self.sent = nn.Linear(dim, dim, bias=False), nn.Linear(dim, dim, bias=False)
            self.own.weight.data, self.sent.weight.data = (part.clone() for part in both.weight.data.chunk(2, dim=1))
        self.summary = nn.Sequential(nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, heads))

    def forward(
        self, fragments: Tensor, there: Tensor, others: Tensor, received: Received | None, how: Pairing, of_images: bool
    ) -> Tensor:
        """Return one vector of unit length for each pair, (…, d).

        Args:
            fragments: Fragments of this side, (n, F, d).
            there: True for the real ones, (n, F).
            others: Fragments of the other side, (m, G, d).
            received: Messages at every pair.
            how: Which items meet.
            of_images: Whether this side are the images.
        """

        def at_pairs(tensor: Tensor) -> Tensor:
            return how.at_pairs(tensor if of_images else None, None if of_images else tensor)

        fused = at_pairs(fragments)
        if received is not None:
            assert self.own is not None
            assert self.sent is not None
            letters = how.text if of_images else how.image
            sent = self.sent(others)
            unit = (received.weights / (received.length + _EPS).unsqueeze(-1)).to(sent)
            change = at_pairs(self.own(fragments)) + torch.einsum(f"{how.both}fg,{letters}gd->{how.both}fd", unit, sent)
            if self.kind == "gated":
                change = received.product.sigmoid().unsqueeze(-1).to(change) * change
            fused = change.relu() + fused
        heads = widened(self.summary(fused)).masked_fill(~at_pairs(there).unsqueeze(-1), -torch.inf)
        weights = heads.softmax(-2).mean(-1)
        summary = torch.einsum("...f,...fd->...d", weights.to(fused), fused)
        return nn.functional.normalize(widened(summary), dim=-1)
