"""The word encoder reads every word of a text once and nothing else."""

from __future__ import annotations

import pytest
import torch

from cmr_bench.models.encoders.text import Cell, Merge, Pool, WordEncoder


@pytest.mark.parametrize("cell", ["gru", "lstm"])
@pytest.mark.parametrize("merge", ["mean", "concatenate"])
@pytest.mark.parametrize("pool", ["last", "mean", "max", "words"])
def test_each_text_alone_gives_what_it_gives_padded_in_a_batch(cell: Cell, merge: Merge, pool: Pool) -> None:
    torch.manual_seed(0)
    encoder = WordEncoder(9, 4, 3, bidirectional=True, pool=pool, cell=cell, merge=merge)
    lengths = torch.tensor([2, 5, 1])
    tokens = torch.randint(1, 9, (3, 6)) * (torch.arange(6) < lengths[:, None])
    found = encoder(tokens, lengths)
    assert encoder.dim == found.shape[-1] == (6 if merge == "concatenate" else 3)
    for row, length in enumerate(lengths.tolist()):
        alone = encoder(tokens[row : row + 1, :length], lengths[row : row + 1])[0]
        if pool == "words":
            torch.testing.assert_close(found[row, :length], alone)
            assert not found[row, length:].any()
        else:
            torch.testing.assert_close(found[row], alone)


def test_pooling_is_over_the_states_of_the_words() -> None:
    torch.manual_seed(0)
    words = WordEncoder(9, 4, 3, bidirectional=True, pool="words", cell="lstm", merge="concatenate")
    tokens, lengths = torch.tensor([[3, 7, 1, 0]]), torch.tensor([3])
    states = words(tokens, lengths)[0, :3]
    for pool, expected in (
        ("max", states.amax(0)),
        ("mean", states.mean(0)),
        ("last", torch.cat([states[2, :3], states[0, 3:]])),
    ):
        words.pool = pool  # type: ignore[assignment]
        torch.testing.assert_close(words(tokens, lengths)[0], expected)


@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_uniform_weights_are_those_that_pytorch_makes(cell: Cell) -> None:
    torch.manual_seed(3)
    encoder = WordEncoder(9, 4, 5, bidirectional=True, cell=cell, init="uniform")
    torch.manual_seed(3)
    torch.nn.Embedding(9, 4, padding_idx=0)
    plain = (torch.nn.GRU if cell == "gru" else torch.nn.LSTM)(4, 5, batch_first=True, bidirectional=True)
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(encoder.rnn.state_dict()[name], value, rtol=0, atol=0)
    other = WordEncoder(9, 4, 5, bidirectional=True, cell=cell)
    gram = other.rnn.weight_hh_l0[:5] @ other.rnn.weight_hh_l0[:5].T
    torch.testing.assert_close(gram, torch.eye(5), rtol=0, atol=1e-5)


def test_states_are_dropped_before_they_are_pooled() -> None:
    torch.manual_seed(0)
    encoder = WordEncoder(9, 4, 3, True, "max", cell="lstm", merge="concatenate", state_dropout=0.5)
    tokens, lengths = torch.tensor([[3, 7, 1, 0], [2, 0, 0, 0]]), torch.tensor([3, 1])
    encoder.pool = "words"
    whole = encoder.eval()(tokens, lengths)
    encoder.train()
    torch.manual_seed(5)
    states = encoder(tokens, lengths)
    dropped = (states == 0) & (whole != 0)
    assert dropped.any()
    torch.testing.assert_close(states, torch.where(dropped, 0.0, 2 * whole))
    encoder.pool = "max"
    torch.manual_seed(5)
    pooled = encoder(tokens, lengths)
    for row, length in enumerate(lengths.tolist()):
        torch.testing.assert_close(pooled[row], states[row, :length].amax(0))
