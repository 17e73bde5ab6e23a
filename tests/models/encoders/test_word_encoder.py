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
