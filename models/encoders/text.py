"""Encoders of texts given as words."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

Pool = Literal["last", "mean", "max", "words"]
Cell = Literal["gru", "lstm"]
Merge = Literal["mean", "concatenate"]


class WordEncoder(nn.Module):
    """Word embeddings and a one-layer recurrent network over the words of a text.

    Args:
        vocab_size: Number of word ids; id 0 is padding.
        word_dim: Width of the word embeddings.
        hidden: Width of the states; with two directions each has this width.
        bidirectional: Read the text in both directions.
        pool: ``last`` returns the state after the last word, ``mean`` the mean state, ``max`` the largest value of each
            unit over the words, ``words`` every state.
        dropout: Share of the entries of the word embeddings that is dropped in training.
        cell: Recurrent unit.
        merge: What becomes of two directions; ``concatenate`` makes the output twice as wide.
    """

    def __init__(
        self,
        vocab_size: int,
        word_dim: int = 300,
        hidden: int = 1024,
        bidirectional: bool = False,
        pool: Pool = "last",
        dropout: float = 0.0,
        cell: Cell = "gru",
        merge: Merge = "mean",
    ) -> None:
        super().__init__()
        self.pool, self.merge = pool, merge
        self.directions = 2 if bidirectional else 1
        self.dim = hidden * (self.directions if merge == "concatenate" else 1)
        self.embedding = nn.Embedding(vocab_size, word_dim, padding_idx=0)
        self.dropout = nn.Dropout(dropout)
        kind = nn.LSTM if cell == "lstm" else nn.GRU
        self.rnn = kind(word_dim, hidden, batch_first=True, bidirectional=bidirectional)
        gates = 4 if cell == "lstm" else 3
        # The small range of the VSE++ and SCAN programs; the default of unit variance saturates the gates at first.
        nn.init.uniform_(self.embedding.weight, -0.1, 0.1)
        with torch.no_grad():
            self.embedding.weight[0] = 0
        for name, parameter in self.rnn.named_parameters():
            if name.startswith("weight_hh"):
                for gate in parameter.chunk(gates):
                    nn.init.orthogonal_(gate)
            elif name.startswith("weight_ih"):
                for gate in parameter.chunk(gates):
                    nn.init.xavier_uniform_(gate)
            else:
                nn.init.zeros_(parameter)
                if cell == "lstm" and name.startswith("bias_ih"):
                    # An open forget gate lets the first words reach the end of the text from the start of training.
                    nn.init.ones_(parameter.chunk(gates)[1])

    def forward(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        """Encode texts.

        Args:
            tokens: Word ids, (b, W), padded on the right.
            lengths: Number of words of each text, (b,), at least 1.

        Returns:
            One vector a text (b, dim), or with ``pool="words"`` one a word (b, W, dim), zero after the last.
        """
        packed = pack_padded_sequence(
            self.dropout(self.embedding(tokens)), lengths.cpu(), batch_first=True, enforce_sorted=False
        )
        states, last = self.rnn(packed)
        if self.pool == "last":
            final = last[0] if isinstance(last, tuple) else last
            return self._merge(final.transpose(0, 1))
        words, _ = pad_packed_sequence(states, batch_first=True, total_length=tokens.shape[1])
        words = self._merge(words.unflatten(-1, (self.directions, -1)))
        if self.pool == "words":
            return words
        if self.pool == "max":
            absent = torch.arange(words.shape[1], device=words.device) >= lengths[:, None]
            return words.masked_fill(absent.unsqueeze(-1), -torch.inf).amax(1)
        return words.sum(1) / lengths.to(words).unsqueeze(1)

    def _merge(self, directions: Tensor) -> Tensor:
        """Make one vector of the states of all directions, (..., directions, hidden) to (..., dim)."""
        return directions.flatten(-2) if self.merge == "concatenate" else directions.mean(-2)
