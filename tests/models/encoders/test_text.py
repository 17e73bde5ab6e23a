"""The word encoder: packing, pooling, directions."""

from __future__ import annotations

import pytest
import torch

from cmr_bench.models.encoders.text import Pool, WordEncoder


def encoder(pool: Pool = "last", bidirectional: bool = False) -> WordEncoder:
    torch.manual_seed(0)
    return WordEncoder(20, word_dim=6, hidden=8, bidirectional=bidirectional, pool=pool)


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("pool", ["last", "mean", "words"])
def test_padding_and_order_of_the_batch_change_nothing(pool: Pool, bidirectional: bool) -> None:
    net = encoder(pool, bidirectional)
    tokens = torch.tensor([[3, 4, 0, 0, 0], [5, 6, 7, 8, 9], [10, 0, 0, 0, 0], [1, 2, 3, 0, 0]])
    lengths = torch.tensor([2, 5, 1, 3])
    together = net(tokens, lengths)
    for row, length in enumerate(lengths.tolist()):
        alone = net(tokens[row : row + 1, :length], lengths[row : row + 1])[0]
        if pool == "words":
            torch.testing.assert_close(together[row, :length], alone)
            assert not together[row, length:].any()
        else:
            torch.testing.assert_close(together[row], alone)


def test_last_state_is_that_of_a_loop_over_the_words() -> None:
    net = encoder()
    cell = torch.nn.GRUCell(6, 8)
    cell.load_state_dict({name.removesuffix("_l0"): value for name, value in net.rnn.state_dict().items()})
    state = torch.zeros(1, 8)
    for word in (3, 7, 2):
        state = cell(net.embedding(torch.tensor([word])), state)
    found = net(torch.tensor([[3, 7, 2, 0]]), torch.tensor([3]))
    torch.testing.assert_close(found, state)


def test_both_directions_are_averaged() -> None:
    net = encoder("words", bidirectional=True)
    both, _ = net.rnn(net.embedding(torch.tensor([[3, 7, 2]])))
    expected = (both[..., :8] + both[..., 8:]) / 2
    torch.testing.assert_close(net(torch.tensor([[3, 7, 2]]), torch.tensor([3])), expected)


def test_mean_is_over_real_words() -> None:
    words = encoder("words")(torch.tensor([[3, 7, 2, 0]]), torch.tensor([3]))
    torch.testing.assert_close(encoder("mean")(torch.tensor([[3, 7, 2, 0]]), torch.tensor([3])), words[:, :3].mean(1))


def test_padding_is_never_learned() -> None:
    net = encoder()
    net(torch.tensor([[3, 0], [4, 5]]), torch.tensor([1, 2])).sum().backward()
    assert net.embedding.weight.grad is not None
    assert not net.embedding.weight.grad[0].any()
    assert not net.embedding.weight[0].any()
