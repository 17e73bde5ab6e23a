"""The Gram-matrix form equals cross attention written out pair by pair, forward and backward."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from cmr_bench.models.common import attention
from cmr_bench.models.common.attention import CrossAttention, cross_attention

VARIANTS = [
    CrossAttention("t2i", "lse", 9.0, 6.0),
    CrossAttention("t2i", "avg", 9.0, 6.0, "leaky"),
    CrossAttention("i2t", "lse", 4.0, 5.0, "leaky"),
    CrossAttention("i2t", "avg", 4.0, 5.0),
    CrossAttention("t2i", "avg", 20.0, 5.0, "leaky", focal="equal"),
    CrossAttention("i2t", "avg", 20.0, 5.0, "leaky", focal="prob"),
    CrossAttention("i2t", "lse", 9.0, 5.0, "leaky", focal="equal"),
    CrossAttention("t2i", "lse", 9.0, 5.0, "leaky", focal="prob"),
    CrossAttention("t2i", "avg", 9.0, 6.0, "leaky", peak=0.5),
    CrossAttention("i2t", "avg", 4.0, 6.0, peak=0.25),
]


def focused(shares: Tensor, how: CrossAttention) -> Tensor:
    """Drop the fragments that do not beat the others, by the sum over pairs of fragments of the BFAN paper."""
    if how.focal == "none":
        return shares
    gains = []
    for own in shares.detach().tolist():
        gain = worth = 0.0
        for other in shares.detach().tolist():
            factor = 1.0 if how.focal == "equal" else other**0.5
            gain, worth = gain + (own - other) * factor, worth + other * factor
        gains.append((gain, worth))
    beaten = any(gain > 1e-4 * worth for gain, worth in gains)
    keep = torch.tensor([gain > 1e-12 or not beaten for gain, _ in gains])
    return shares * keep / (shares * keep).sum()


def pair_score(regions: Tensor, words: Tensor, how: CrossAttention) -> Tensor:
    """Score one image (R, d) and one text (W, d) without padding, as section 3.1 of the paper defines it."""
    queries, context = (words, regions) if how.attention == "t2i" else (regions, words)
    relevance = []
    cosines = queries @ context.T
    clipped = cosines.clamp(min=0) if how.clip == "relu" else torch.where(cosines > 0, cosines, 0.1 * cosines)
    scaled = clipped / (clipped.norm(dim=0, keepdim=True) + 1e-8)
    for query, row in zip(queries, scaled, strict=True):
        shares = (how.lambda_softmax * row).softmax(0)
        attended = focused(shares, how) @ context
        relevance.append(query @ attended / (query.norm() * attended.norm()) + how.peak * shares.max())
    values = torch.stack(relevance)
    if how.pool == "avg":
        return values.mean()
    return (how.lambda_lse * values).exp().sum().log() / how.lambda_lse


def literal(regions: Tensor, mask: Tensor, words: Tensor, lengths: Tensor, how: CrossAttention) -> Tensor:
    rows = [
        [pair_score(image[real], text[:length], how) for text, length in zip(words, lengths.tolist(), strict=True)]
        for image, real in zip(regions, mask, strict=True)
    ]
    return torch.stack([torch.stack(row) for row in rows])


def made(seed: int, n_images: int, n_texts: int, n_regions: int, longest: int, dim: int) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    mask = torch.rand(n_images, n_regions, generator=generator) > 0.3
    mask[:, int(torch.randint(n_regions, (), generator=generator))] = True
    lengths = torch.randint(1, longest + 1, (n_texts,), generator=generator)
    regions = torch.randn(n_images, n_regions, dim, generator=generator)
    return regions, mask, torch.randn(n_texts, longest, dim, generator=generator), lengths


def run(
    function: object, given: tuple[Tensor, ...], how: CrossAttention, dtype: torch.dtype, **options: int
) -> list[Tensor]:
    """Return scores and the gradients of a weighted sum of them for both inputs, before they get unit length."""
    regions, mask, words, lengths = given
    first, second = (value.to(dtype).requires_grad_() for value in (regions.clone(), words.clone()))
    assert callable(function)
    scores = function(F.normalize(first, dim=-1), mask, F.normalize(second, dim=-1), lengths, how, **options)
    weights = torch.cos(torch.arange(scores.numel(), dtype=dtype)).view_as(scores)
    (scores * weights).sum().backward()
    assert first.grad is not None
    assert second.grad is not None
    return [scores.detach(), first.grad, second.grad]


def assert_equal(found: list[Tensor], expected: list[Tensor], tolerance: float = 1e-5) -> None:
    for mine, other in zip(found, expected, strict=True):
        torch.testing.assert_close(mine.double(), other.double(), rtol=tolerance, atol=tolerance)


@given(
    seed=st.integers(0, 10**6),
    sizes=st.tuples(*(st.integers(1, most) for most in (4, 5, 6, 7))),
    how=st.sampled_from(VARIANTS),
    piece=st.sampled_from([1, 37, 200, 0]),
)
@settings(max_examples=60, deadline=None)
def test_equals_the_loop_over_pairs_forward_and_backward(
    seed: int, sizes: tuple[int, int, int, int], how: CrossAttention, piece: int
) -> None:
    given = made(seed, *sizes, dim=64)
    expected = run(literal, given, how, torch.float64)
    assert_equal(run(cross_attention, given, how, torch.float64, piece=piece), expected, tolerance=1e-7)
    # In single precision an attended vector that nearly vanishes loses digits, its gradient more than its cosine.
    assert_equal(run(cross_attention, given, how, torch.float32, piece=piece), expected, tolerance=1e-3)


@pytest.mark.parametrize("how", VARIANTS)
def test_equals_the_loop_in_double_precision(how: CrossAttention) -> None:
    given = made(1, 4, 6, 5, 9, dim=8)
    assert_equal(
        run(cross_attention, given, how, torch.float64), run(literal, given, how, torch.float64), tolerance=1e-9
    )


@pytest.mark.parametrize("how", VARIANTS)
def test_gradients_agree_with_finite_differences(how: CrossAttention) -> None:
    regions, mask, words, lengths = made(2, 2, 3, 3, 4, dim=5)

    def scores(first: Tensor, second: Tensor) -> Tensor:
        return cross_attention(F.normalize(first, dim=-1), mask, F.normalize(second, dim=-1), lengths, how, 30)

    assert torch.autograd.gradcheck(scores, (regions.double().requires_grad_(), words.double().requires_grad_()))


@pytest.mark.parametrize("how", VARIANTS)
@pytest.mark.parametrize("limit", [1, 100, 700])
def test_blocks_of_any_size_give_the_same_scores_and_gradients(
    how: CrossAttention, limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = made(3, 5, 7, 4, 6, dim=16)
    expected = run(cross_attention, given, how, torch.float64)
    monkeypatch.setattr(attention, "_KEPT", limit)
    monkeypatch.setattr(attention, "_PRODUCT", limit)
    assert_equal(run(cross_attention, given, how, torch.float64), expected, tolerance=1e-9)
    regions, mask, words, lengths = given
    with torch.no_grad():
        parts = cross_attention(
            F.normalize(regions.double(), dim=-1), mask, F.normalize(words.double(), dim=-1), lengths, how
        )
    torch.testing.assert_close(parts, expected[0])


@pytest.mark.parametrize("how", VARIANTS)
def test_padding_of_any_length_and_content_changes_nothing(how: CrossAttention) -> None:
    regions, mask, words, lengths = made(4, 3, 4, 5, 6, dim=16)
    plain = run(cross_attention, (regions, mask, words, lengths), how, torch.float32)
    wider = (
        torch.cat([regions, 9 * torch.ones(3, 2, 16)], dim=1),
        F.pad(mask, (0, 2)),
        torch.cat([words, -7 * torch.ones(4, 3, 16)], dim=1),
        lengths,
    )
    padded = run(cross_attention, wider, how, torch.float32)
    assert_equal([padded[0], padded[1][:, :5], padded[2][:, :6]], plain)
    assert not padded[1][:, 5:].any()
    assert not padded[2][:, 6:].any()
    assert not padded[1][:, :5][~mask].any()


def test_several_kinds_of_attention_add_up_from_one_product() -> None:
    given = made(6, 5, 6, 4, 7, dim=16)
    both = (VARIANTS[4], VARIANTS[5])
    whole = run(cross_attention, given, both, torch.float64)  # type: ignore[arg-type]
    parts = [run(cross_attention, given, how, torch.float64) for how in both]
    assert_equal(whole, [a + b for a, b in zip(*parts, strict=True)], tolerance=1e-9)


@pytest.mark.parametrize("focal", ["equal", "prob"])
@pytest.mark.parametrize("attention", ["t2i", "i2t"])
def test_one_fragment_and_equal_fragments_are_all_kept(attention: str, focal: str) -> None:
    how = CrossAttention(attention, "avg", 20.0, 5.0, "leaky", focal=focal)  # type: ignore[arg-type]
    plain = dataclasses.replace(how, focal="none")
    for n_regions, longest in ((1, 1), (1, 5), (4, 1)):
        given = made(7, 3, 4, n_regions, longest, dim=8)
        if (longest if attention == "i2t" else n_regions) == 1:
            assert_equal(
                run(cross_attention, given, how, torch.float64), run(cross_attention, given, plain, torch.float64)
            )
    regions = torch.randn(2, 1, 8, generator=torch.Generator().manual_seed(0)).expand(2, 3, 8)
    words = torch.randn(2, 1, 8, generator=torch.Generator().manual_seed(1)).expand(2, 4, 8)
    twins = (regions.contiguous(), torch.ones(2, 3, dtype=torch.bool), words.contiguous(), torch.tensor([4, 2]))
    found = run(cross_attention, twins, how, torch.float64)
    assert all(bool(torch.isfinite(value).all()) for value in found)
    assert_equal(found[:1], run(cross_attention, twins, plain, torch.float64)[:1])


@pytest.mark.parametrize("how", VARIANTS)
def test_half_precision_is_finite_and_close(how: CrossAttention) -> None:
    given = made(5, 6, 8, 9, 10, dim=128)
    expected = run(cross_attention, given, how, torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        found = run(cross_attention, given, how, torch.float32)
    assert found[0].dtype == torch.float32
    assert all(bool(torch.isfinite(value).all()) for value in found)
    torch.testing.assert_close(found[0], expected[0], rtol=0.02, atol=0.02)
    for mine, other in zip(found[1:], expected[1:], strict=True):
        # Rounding moves fragments across the threshold of focal attention.
        least = 0.98 if how.focal == "none" else 0.8
        assert float(F.cosine_similarity(mine.flatten(), other.flatten(), dim=0)) > least


@pytest.mark.parametrize("how", VARIANTS)
def test_extreme_inputs_give_finite_gradients(how: CrossAttention) -> None:
    line = torch.eye(8)[:1]
    regions = torch.stack([line.expand(3, 8), -line.expand(3, 8), torch.eye(8)[1:4]])
    words = torch.stack([line.expand(4, 8), torch.eye(8)[4:]])
    given = (regions, torch.ones(3, 3, dtype=torch.bool), words, torch.tensor([4, 1]))
    for strength in (how.lambda_softmax, attention.MAX_LAMBDA_SOFTMAX):
        hard = dataclasses.replace(how, lambda_softmax=strength)
        assert all(bool(torch.isfinite(value).all()) for value in run(cross_attention, given, hard, torch.float32))


@given(
    lengths=st.lists(st.integers(1, 30), min_size=1, max_size=40),
    columns=st.integers(1, 50),
    limit=st.integers(1, 9000),
)
def test_pieces_cover_every_text_once_within_their_limit(lengths: list[int], columns: int, limit: int) -> None:
    lengths = sorted(lengths)
    pieces = attention._pieces(lengths, columns, limit)
    assert list(itertools.chain.from_iterable(piece.texts for piece in pieces)) == list(range(len(lengths)))
    rows = np.concatenate([np.arange(piece.rows.start, piece.rows.stop) for piece in pieces])
    assert rows.tolist() == list(range(len(rows)))
    for piece in pieces:
        own = [lengths[text] for text in piece.texts]
        assert piece.length == max(own)
        assert len(own) == 1 or len(own) * piece.length * columns <= limit
        assert len(own) * piece.length <= attention._WASTE * sum(own)
