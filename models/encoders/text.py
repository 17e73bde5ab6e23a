"""Encoders of texts given as words."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

Pool = Literal["last", "mean", "words"]


class WordEncoder(nn.Module):
    """Word embeddings and a one-layer GRU over the words of a text.

    Args:
        vocab_size: Number of word ids; id 0 is padding.
        word_dim: Width of the word embeddings.
        hidden: Width of the output; with two directions each has this width and they are averaged.
        bidirectional: Read the text in both directions.
        pool: ``last`` returns the state after the last word, ``mean`` the mean state, ``words`` every state.
        dropout: Share of the entries of the word embeddings that is dropped in training.
    """

    def __init__(
        self,
        vocab_size: int,
        word_dim: int = 300,
        hidden: int = 1024,
        bidirectional: bool = False,
        pool: Pool = "last",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.pool, self.dim = pool, hidden
        self.embedding = nn.Embedding(vocab_size, word_dim, padding_idx=0)
        self.dropout = nn.Dropout(dropout)
        self.rnn = nn.GRU(word_dim, hidden, batch_first=True, bidirectional=bidirectional)
        # The small range of the VSE++ and SCAN programs; the default of unit variance saturates the gates at first.
        nn.init.uniform_(self.embedding.weight, -0.1, 0.1)
        with torch.no_grad():
            self.embedding.weight[0] = 0
        for name, parameter in self.rnn.named_parameters():
            if name.startswith("weight_hh"):
                for gate in parameter.chunk(3):
                    nn.init.orthogonal_(gate)
            elif name.startswith("weight_ih"):
                for gate in parameter.chunk(3):
                    nn.init.xavier_uniform_(gate)
            else:
                nn.init.zeros_(parameter)

    def forward(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        """Encode texts.

        Args:
            tokens: Word ids, (b, W), padded on the right.
            lengths: Number of words of each text, (b,), at least 1.

        Returns:
            One vector a text (b, hidden), or with ``pool="words"`` one a word (b, W, hidden), zero after the last.
        """
        packed = pack_padded_sequence(
            self.dropout(self.embedding(tokens)), lengths.cpu(), batch_first=True, enforce_sorted=False
        )
        states, last = self.rnn(packed)
        if self.pool == "last":
            state: Tensor = last.mean(0)
            return state
        words, _ = pad_packed_sequence(states, batch_first=True, total_length=tokens.shape[1])
        if self.rnn.bidirectional:
            words = words.unflatten(-1, (2, self.dim)).mean(-2)
        if self.pool == "words":
            return words
        return words.sum(1) / lengths.to(words).unsqueeze(1)
