"""The recurrence over packed texts: values and gradients are those of PyTorch's networks."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from cmr_bench.models.encoders.recurrence import read_packed
from cmr_bench.models.encoders.text import WordEncoder, _padded

KINDS = {"gru": nn.GRU, "lstm": nn.LSTM}


def network(cell: str, bidirectional: bool, dtype: torch.dtype = torch.float64) -> Any:
    torch.manual_seed(1)
    return KINDS[cell](4, 5, batch_first=True, bidirectional=bidirectional).to(dtype)


def packed_texts(words: Tensor, lengths: list[int]) -> Any:
    return pack_padded_sequence(words, torch.tensor(lengths), batch_first=True, enforce_sorted=False)


def gradients(network: Any, words: Tensor, states: Tensor, last: Tensor, weigh: Tensor, end: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad((states * weigh).sum() + (last * end).sum(), [words, *network.parameters()]))


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("cell", KINDS)
@settings(max_examples=25, deadline=None)
@given(lengths=st.lists(st.integers(1, 7), min_size=1, max_size=6), seed=st.integers(0, 99))
def test_equals_the_network(cell: str, bidirectional: bool, lengths: list[int], seed: int) -> None:
    net, width = network(cell, bidirectional), 10 if bidirectional else 5
    random = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=random, dtype=torch.float64)

    words = draw(len(lengths), max(lengths), 4).requires_grad_()
    weigh, end = draw(sum(lengths), width), draw(len(lengths), width // 5, 5)
    states, last = read_packed(net, packed_texts(words, lengths))
    theirs, end_of_theirs = net(packed_texts(words, lengths))
    final = (end_of_theirs[0] if cell == "lstm" else end_of_theirs).transpose(0, 1)
    torch.testing.assert_close(states, theirs.data)
    torch.testing.assert_close(last, final)
    ours = gradients(net, words, states, last, weigh, end)
    for mine, other in zip(ours, gradients(net, words, theirs.data, final, weigh, end), strict=True):
        torch.testing.assert_close(mine, other)
    padded, _ = pad_packed_sequence(theirs, batch_first=True, total_length=max(lengths))
    torch.testing.assert_close(_padded(states, packed_texts(words, lengths), max(lengths)), padded)


@pytest.mark.parametrize("cell", KINDS)
def test_gradient_is_that_of_finite_differences(cell: str) -> None:
    net = network(cell, True)
    words = torch.randn(3, 4, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda x, *_: read_packed(net, packed_texts(x, [2, 4, 1])), (words, *net.parameters())
    )


@pytest.mark.parametrize("cell", KINDS)
def test_half_precision_is_close_to_full(cell: str) -> None:
    net = network(cell, True, torch.float32)
    words, lengths = torch.randn(8, 6, 4), [6, 3, 1, 5, 2, 2, 6, 4]
    exact = gradients_of(net, words, lengths, half=False)
    ours = gradients_of(net, words, lengths, half=True)
    for mine, right in zip(ours, exact, strict=True):
        assert mine.dtype == right.dtype
        torch.testing.assert_close(mine, right, rtol=0, atol=0.03 * float(right.abs().max()))


def gradients_of(net: Any, words: Tensor, lengths: list[int], half: bool) -> list[Tensor]:
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        states, last = read_packed(net, packed_texts(words, lengths))
    return list(torch.autograd.grad(states.square().sum() + last.sum(), list(net.parameters())))


def test_only_what_needs_a_gradient_gets_one() -> None:
    net = network("gru", False)
    net.weight_hh_l0.requires_grad_(False)
    read_packed(net, packed_texts(torch.randn(2, 3, 4, dtype=torch.float64), [3, 2]))[0].sum().backward()
    assert net.weight_hh_l0.grad is None
    assert net.weight_ih_l0.grad is not None


@pytest.mark.parametrize("pool", ["last", "mean", "max", "words"])
def test_training_reads_as_evaluation_does(pool: Any) -> None:
    torch.manual_seed(0)
    encoder = WordEncoder(20, 4, 6, bidirectional=True, pool=pool)
    tokens, lengths = torch.randint(1, 20, (5, 7)), torch.tensor([7, 1, 4, 4, 2])
    with torch.no_grad():
        alone = encoder(tokens, lengths)
    torch.testing.assert_close(encoder(tokens, lengths), alone)
