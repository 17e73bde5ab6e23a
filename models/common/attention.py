"""Stacked cross attention by Gram matrices: scores of all images with all texts, without the attended vectors.

Lee et al., Stacked Cross Attention for Image-Text Matching, ECCV 2018, section 3.1. One side attends: each of its
fragments, the query, attends to the fragments of the other side, the context. With ``s`` the cosine of query ``j`` and
context fragment ``i``, ``c = [s]+`` and ``k_ij = c_ij / |c_i.|`` of unit length over the queries, the weights are
``w = exp(lambda_softmax * k)`` and the attended vector is ``a_j = sum_i w_ij v_i``. Its cosine with the query needs
only the products ``s`` and the Gram matrix of the context, ``e.a = sum_i w_i s_i`` and ``|a|^2 = w' V V' w``; and
because a cosine does not change with the length of ``a``, the softmax needs no denominator, and a fragment of zeros,
which pads the context, no mask.

Two methods add to that. BFAN (Liu et al., ACM MM 2019) drops the fragments of the context that do not beat the others
before it attends; its tests compare weights with sums of weights of the same degree, so they need no denominator
either, but they count the real fragments. PFAN (Wang et al., IJCAI 2019) adds the largest softmax weight of each query.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

Attention = Literal["t2i", "i2t"]
Pool = Literal["avg", "lse"]
Clip = Literal["relu", "leaky"]
Focal = Literal["none", "equal", "prob"]

# Weights are exponentials without a denominator: their squares must stay within float32.
MAX_LAMBDA_SOFTMAX = 40.0
_SLOPE = {"relu": 0.0, "leaky": 0.1}
_EPS = 1e-8
_TINY = 1e-30
# The last bits of a cosine, times an inverse temperature of 20 or 40, and of the sums, with room.
_ALIKE = 1e-4
# Elements per chunk of elementwise work: its few tensors stay in the processor's cache, where they are about
# 20 times as fast as in main memory. A GPU prefers fewer and larger chunks.
_PIECE = {"cpu": 2**19, "other": 2**25}
# Cosines made by one matrix product: on a CPU without gradient, and on a GPU or where they are kept for a gradient.
_PRODUCT, _KEPT = 2**22, 2**25
# Maximum padding per real word, so that texts of different length share a chunk.
_WASTE = 1.2


@dataclass(frozen=True)
class CrossAttention:
    """The variant of cross attention.

    Attributes:
        attention: ``t2i``, words attend to regions; ``i2t``, regions attend to words.
        pool: Pooling of the cosines of the queries: mean or log-sum-exp.
        lambda_softmax: Inverse temperature of the attention, at most 40.
        lambda_lse: Inverse temperature of log-sum-exp.
        clip: What negative cosines become before the attention: 0, or a tenth of themselves.
        focal: Fragments of the context that are attended to: all; those whose weight is above the mean (equal); or
            those that are worth more than the others by the square roots of their weights (prob).
        peak: Factor of the largest softmax weight of each query, which is added to its cosine.
    """

    attention: Attention
    pool: Pool
    lambda_softmax: float
    lambda_lse: float
    clip: Clip = "relu"
    focal: Focal = "none"
    peak: float = 0.0

    # Dimensions of the cosines of a piece, (texts, words, images, regions).
    @property
    def words_ask(self) -> bool:
        """Whether words are the queries and regions the context."""
        return self.attention == "t2i"

    @property
    def over(self) -> int:
        """Dimension of the queries, over which clipped cosines get unit length."""
        return 1 if self.words_ask else 3

    @property
    def among(self) -> int:
        """Dimension of the context, over which attention is normalised."""
        return 3 if self.words_ask else 1


@dataclass(frozen=True)
class _Piece:
    """Texts of similar length that are processed together.

    Attributes:
        texts: Their positions in the order of lengths.
        length: Number of words of the longest.
        first_row: Row of the matrix of cosines where their words start.
    """

    texts: range
    length: int
    first_row: int

    @property
    def rows(self) -> slice:
        """Rows of the matrix of cosines."""
        return slice(self.first_row, self.first_row + len(self.texts) * self.length)

    @property
    def slots(self) -> slice:
        """Positions of the texts."""
        return slice(self.texts.start, self.texts.stop)


def _pieces(lengths: Sequence[int], columns: int, limit: int) -> list[_Piece]:
    """Cut texts, sorted by length (n,), into pieces of at most ``limit`` cosines with ``columns`` regions each."""
    pieces, start, real, row = [], 0, 0, 0
    for at, length in enumerate(lengths):
        count = at - start
        padded = (count + 1) * length
        if count and (padded * columns > limit or padded > _WASTE * (real + length)):
            pieces.append(_Piece(range(start, at), lengths[at - 1], row))
            row += pieces[-1].length * count
            start, real = at, 0
        real += length
    if len(lengths) > start:
        pieces.append(_Piece(range(start, len(lengths)), lengths[-1], row))
    return pieces


def cross_attention(
    regions: Tensor,
    mask: Tensor,
    words: Tensor,
    lengths: Tensor,
    how: CrossAttention | tuple[CrossAttention, ...],
    piece: int = 0,
) -> Tensor:
    """Score every image with every text by cross attention.

    Args:
        regions: Regions of unit length, (n_images, R, d).
        mask: True for real regions, at least one per image, (n_images, R).
        words: Words of unit length, (n_texts, W, d), padded on the right.
        lengths: Real words of each text, at least 1, (n_texts,).
        how: Direction, pooling and temperatures; of several, the scores are added up, from one product of cosines.
        piece: Cosines worked on at once, if at least one text fits; 0 for what suits the device.

    Returns:
        Scores, (n_images, n_texts), in float32 or the inputs' float64. Under autocast the cosines are computed in half
        precision and everything else is not.
    """
    hows = how if isinstance(how, tuple) else (how,)
    piece = piece or _PIECE.get(regions.device.type, _PIECE["other"])
    if not bool(mask.all()):
        regions = regions * mask.unsqueeze(-1)
    counts = lengths.cpu()
    order = counts.argsort(stable=True)
    again = torch.is_grad_enabled() and regions.shape[:2].numel() * int(counts.sum()) > _KEPT
    columns = []
    large = torch.is_grad_enabled() or regions.device.type != "cpu"
    for chunk, band in _chunks(counts[order].tolist(), len(regions), regions.shape[1], large):
        at = order[chunk.start : chunk.stop]
        texts = _gathered(words, at, counts[at], band * regions.shape[1], piece, all(how.words_ask for how in hows))
        parts = []
        for first in range(0, len(regions), band):
            arguments = (regions[first : first + band], mask[first : first + band], texts, hows)
            parts.append(checkpoint(_block, *arguments, use_reentrant=False) if again else _block(*arguments))
        columns.append(torch.cat(parts))
    whole = torch.cat(columns, dim=1)
    back = torch.empty_like(order)
    back[order] = torch.arange(len(order))
    return whole[:, back.to(whole.device)]


def _chunks(lengths: Sequence[int], n_images: int, n_regions: int, large: bool) -> Iterator[tuple[range, int]]:
    """Cut the texts into those that one matrix product takes at once, each with the number of images that it takes."""
    limit, most = (_KEPT, n_images) if large else (_PRODUCT, min(n_images, 64))
    band = max(1, min(most, limit // max(1, n_regions * lengths[-1])))
    start, total = 0, 0
    for at, length in enumerate(lengths):
        if at > start and (total + length) * band * n_regions > limit:
            yield range(start, at), band
            start, total = at, 0
        total += length
    yield range(start, len(lengths)), band


@dataclass(frozen=True)
class _Texts:
    """Texts that are sorted by length, for all images that they are scored with.

    Attributes:
        words: Their words, zero after the last, (n_texts, W, d); None where only words ask, which need no Gram matrix.
        real: True for those, (n_texts, W).
        pieces: Texts that are processed together.
        rows: Words as the pieces have them, zero after the last of a text, (rows, d).
        place: Row of every word, (n_texts, W).
    """

    words: Tensor | None
    real: Tensor
    pieces: list[_Piece]
    rows: Tensor
    place: Tensor


def _gathered(words: Tensor, texts: Tensor, lengths: Tensor, columns: int, piece: int, words_ask: bool) -> _Texts:
    """Cut some of the texts, sorted by length, into pieces for bands of images that have ``columns`` regions."""
    n_texts, longest = len(texts), int(lengths[-1])
    real = torch.arange(longest) < lengths[:, None]
    pieces = _pieces(lengths.tolist(), columns, piece)
    at = torch.cat([(torch.tensor(p.texts)[:, None] * longest + torch.arange(p.length)).flatten() for p in pieces])
    place = torch.zeros(n_texts * longest, dtype=torch.long)
    place[at] = torch.arange(len(at))
    source = (texts[:, None] * words.shape[1] + torch.arange(longest)).flatten()[at]
    absent = (~real.flatten()[at]).nonzero().flatten()
    device = words.device
    rows = words.flatten(0, 1)[source.to(device)].index_fill_(0, absent.to(device), 0)
    real = real.to(device)
    padded = None if words_ask else words[texts.to(device), :longest] * real.unsqueeze(-1)
    return _Texts(padded, real, pieces, rows, place.view(n_texts, longest).to(device))


def _block(regions: Tensor, mask: Tensor, texts: _Texts, hows: tuple[CrossAttention, ...]) -> Tensor:
    """Score images with texts, (n_images, n_texts)."""
    n_images, n_regions, _ = regions.shape
    cosines = texts.rows @ regions.flatten(0, 1).T
    total = cosines.new_zeros(())
    for how in hows:
        context, there = (regions, mask) if how.words_ask else (cast(Tensor, texts.words), texts.real)
        # Weights can be too large for float16, not for bfloat16.
        with torch.autocast(regions.device.type, enabled=cosines.dtype == torch.bfloat16, dtype=torch.bfloat16):
            gram = context @ context.transpose(1, 2)
        with torch.autocast(regions.device.type, enabled=False):
            shape = (n_images, n_regions)
            relevance = cast(
                Tensor,
                _Relevance.apply(cosines, gram, there, texts.pieces, shape, how),  # type: ignore[no-untyped-call]
            )
            if how.words_ask:
                scores = _pooled(relevance[texts.place], texts.real[:, :, None], 1, how)
            else:
                scores = _pooled(relevance, mask[None], 2, how)
            total = scores.T if len(hows) == 1 else total + scores.T
    return total


def _pooled(relevance: Tensor, real: Tensor, dim: int, how: CrossAttention) -> Tensor:
    """Pool the cosines of the real queries along ``dim``."""
    if how.pool == "avg":
        return (relevance * real).sum(dim) / real.sum(dim)
    return (how.lambda_lse * relevance).masked_fill(~real, -torch.inf).logsumexp(dim) / how.lambda_lse


class _Relevance(torch.autograd.Function):
    """Cosine of every query with its attended vector.

    Forward takes the cosines of words with regions (rows, n_images * R), the Gram matrices of the contexts, (n_images,
    R, R) or (n_texts, W, W), what of the contexts is real, (n_images, R) or (n_texts, W), and the pieces. It returns
    (rows, n_images) where words are the queries, else (n_texts, n_images, R). Nothing of the size of the cosines but
    their own gradient is allocated: the elementwise work goes piece by piece, and most of it in the backward pass
    again.
    """

    @staticmethod
    def forward(
        ctx: Any,
        cosines: Tensor,
        gram: Tensor,
        real: Tensor,
        pieces: list[_Piece],
        images: tuple[int, int],
        how: CrossAttention,
    ) -> Tensor:
        """Return the cosines of the queries with their attended vectors."""
        products, squares, peaks = [], [], []
        flat = 1 if how.words_ask else 0
        for piece in pieces:
            s, g, there = _of_piece(cosines, gram, real, piece, images, how)
            _, _, weights, mixed = _attend(s, g, there, how)
            if how.peak:
                peaks.append(_shares(weights, there, how).amax(how.among).flatten(0, flat))
            squares.append(mixed.mul_(weights).sum(how.among).flatten(0, flat))
            products.append(weights.mul_(s).sum(how.among).flatten(0, flat))
        product, root = torch.cat(products), torch.cat(squares).clamp_min_(_TINY).rsqrt_()
        relevance = product * root
        ctx.save_for_backward(cosines, gram, real, relevance, root)
        ctx.pieces, ctx.images, ctx.how = pieces, images, how
        return relevance.add(torch.cat(peaks), alpha=how.peak) if how.peak else relevance

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None, None, None, None]:
        """Return the gradients for the cosines and the Gram matrices."""
        cosines, gram, real, relevance, root = ctx.saved_tensors
        images, how = ctx.images, ctx.how
        # Of the products e.a and, doubled, of the squares |a|^2. Scaling all weights does not change a cosine,
        # so the denominator of the softmax does not contribute to the gradient either.
        linear = gradients[0] * root
        quadratic = -linear * relevance * root
        to_cosines = torch.empty_like(cosines)
        to_gram = torch.zeros_like(gram, dtype=linear.dtype)
        with torch.autocast(cosines.device.type, enabled=False):
            for piece in ctx.pieces:
                s, g, there = _of_piece(cosines, gram, real, piece, images, how)
                clipped, norm, weights, mixed = _attend(s, g, there, how)
                at = piece.rows if how.words_ask else piece.slots
                shape = [n for dim, n in enumerate(s.shape) if dim != how.among]
                first, second, whole = (
                    part[at].view(shape).unsqueeze(how.among) for part in (linear, quadratic, gradients[0])
                )
                _add_outer(to_gram, piece, weights.to(gram.dtype), (0.5 * second).to(gram.dtype), how)
                inverse = 1 / (norm + _EPS)
                step = (s * first).addcmul_(mixed, second).mul_(weights)
                if how.peak:
                    step.add_(_peak_gradient(_shares(weights, there, how), how) * whole, alpha=how.peak)
                step.mul_(how.lambda_softmax * inverse)
                along = (step * clipped).sum(how.over, keepdim=True) * inverse / norm.clamp_min(_TINY)
                step.addcmul_(clipped, along, value=-1)
                step = torch.ops.aten.leaky_relu_backward(step, s, _SLOPE[how.clip], False)
                to_cosines[piece.rows] = step.addcmul_(weights, first).view(-1, cosines.shape[1])
        return to_cosines, to_gram.to(gram.dtype), None, None, None, None


def _of_piece(
    cosines: Tensor, gram: Tensor, real: Tensor, piece: _Piece, images: tuple[int, int], how: CrossAttention
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the cosines of a piece, (texts, words, images, regions), the Gram matrices and the reality of its context.

    What is real comes in a shape that goes with the cosines.
    """
    s = cosines[piece.rows].view(len(piece.texts), piece.length, *images)
    if how.words_ask:
        there = real[None, None]
    else:
        gram = gram[piece.slots, : piece.length, : piece.length]
        there = real[piece.slots, : piece.length, None, None]
    return s.to(torch.promote_types(s.dtype, torch.float32)), gram, there


def _attend(s: Tensor, gram: Tensor, real: Tensor, how: CrossAttention) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the clipped cosines, their norm over the queries, the weights, and the Gram matrices times the weights."""
    clipped = F.leaky_relu(s, _SLOPE[how.clip])
    # Not vector_norm: along any dimension but the last it is a hundred times slower.
    norm = clipped.square().sum(how.over, keepdim=True).sqrt_()
    weights = (clipped * (how.lambda_softmax / (norm + _EPS))).exp_()
    if how.focal != "none":
        weights = _focus(weights, real, how)
    factor = weights.to(gram.dtype)
    if how.words_ask:
        mixed = torch.bmm(factor.flatten(0, 1).transpose(0, 1), gram).transpose(0, 1).unflatten(0, s.shape[:2])
    else:
        mixed = torch.bmm(gram, factor.flatten(2)).view_as(s)
    return clipped, norm, weights, mixed.to(s.dtype)


def _focus(weights: Tensor, real: Tensor, how: CrossAttention) -> Tensor:
    """Set the weights of the fragments that do not beat the others to 0 (Liu et al., BFAN, 2019, section 3.2).

    A fragment i is kept where ``sum_m (w_i - w_m) g_m > 0``, with g = 1 or the square root of w. Where no fragment
    beats the others, because there is but one or all weights are equal, all are kept. Equal is what differs by rounding
    alone: with a single query every clipped cosine is 1 or -1 at unit length, give or take its last bit, and the order
    of the sums, so the batch and the number of processes, would decide what is kept.
    """
    weights = weights * real
    if how.focal == "equal":
        worth, others = weights * real.sum(how.among, keepdim=True), weights.sum(how.among, keepdim=True)
    else:
        roots = weights.sqrt()
        worth, others = weights * roots.sum(how.among, keepdim=True), (weights * roots).sum(how.among, keepdim=True)
    beaten = (worth > others * (1 + _ALIKE)).any(how.among, keepdim=True)
    return weights * ((worth > others) | ~beaten)


def _shares(weights: Tensor, real: Tensor, how: CrossAttention) -> Tensor:
    """Return the softmax weights of the real fragments of the context."""
    weights = weights * real
    return weights / weights.sum(how.among, keepdim=True).clamp_min(_TINY)


def _peak_gradient(shares: Tensor, how: CrossAttention) -> Tensor:
    """Return the derivative of the largest softmax weight by the exponents."""
    peak, at = shares.max(how.among, keepdim=True)
    return torch.zeros_like(shares).scatter_(how.among, at, 1.0).sub_(shares).mul_(peak)


def _add_outer(total: Tensor, piece: _Piece, weights: Tensor, scale: Tensor, how: CrossAttention) -> None:
    """Add to the gradient of the Gram matrices the outer products of a piece's weights, scaled."""
    scaled = weights * scale
    if how.words_ask:
        total += torch.bmm(scaled.flatten(0, 1).permute(1, 2, 0), weights.flatten(0, 1).transpose(0, 1))
    else:
        total[piece.slots, : piece.length, : piece.length] += torch.bmm(
            scaled.flatten(2), weights.flatten(2).transpose(1, 2)
        )
