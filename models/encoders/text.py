"""Encoders of texts given as words."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

from cmr_bench.models.encoders.recurrence import Cell, read_packed
from cmr_bench.support.errors import UsageError
from cmr_bench.support.hub import load_text_encoder

Pool = Literal["last", "mean", "max", "words"]
Merge = Literal["mean", "concatenate"]
Init = Literal["orthogonal", "uniform"]


class _Recurrent(nn.Module):
    """A one-layer recurrent network over word features, and the pooling of its states."""

    def _add_network(
        self,
        width: int,
        hidden: int,
        bidirectional: bool,
        pool: Pool,
        cell: Cell,
        merge: Merge,
        state_dropout: float = 0.0,
    ) -> None:
        self.pool, self.merge = pool, merge
        self.state_dropout = nn.Dropout(state_dropout) if state_dropout else None
        self.directions = 2 if bidirectional else 1
        self.dim = hidden * (self.directions if merge == "concatenate" else 1)
        kind = nn.LSTM if cell == "lstm" else nn.GRU
        self.rnn = kind(width, hidden, batch_first=True, bidirectional=bidirectional)

    def _start(self, cell: Cell) -> None:
        gates = 4 if cell == "lstm" else 3
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
                    # An open forget gate lets the first words reach the end of the text early in training.
                    nn.init.ones_(parameter.chunk(gates)[1])

    def _read(self, features: Tensor, lengths: Tensor) -> Tensor:
        """Encode word features (b, W, width): one vector per text (b, dim), or per word (b, W, dim)."""
        packed = pack_padded_sequence(features, lengths.cpu(), batch_first=True, enforce_sorted=False)
        states, last = read_packed(self.rnn, packed)
        if self.pool == "last":
            return self._merge(last)
        states = self._merge(states.unflatten(-1, (self.directions, -1)))
        words = _padded(states, packed, features.shape[1])
        if self.state_dropout is not None:
            words = self.state_dropout(words)
        if self.pool == "words":
            return words
        if self.pool == "max":
            absent = torch.arange(words.shape[1], device=words.device) >= lengths[:, None]
            return words.masked_fill(absent.unsqueeze(-1), -torch.inf).amax(1)
        return words.sum(1) / lengths.to(words).unsqueeze(1)

    def _merge(self, directions: Tensor) -> Tensor:
        """Merge the states of all directions, (..., directions, hidden) to (..., dim)."""
        return directions.flatten(-2) if self.merge == "concatenate" else directions.mean(-2)


def _padded(states: Tensor, packed: PackedSequence, longest: int) -> Tensor:
    """Return the states of packed texts, (rows, dim), as (b, longest, dim), zero after the last word.

    PyTorch's pad_packed_sequence writes word by word, and every word's gradient has the size of all.
    """
    texts = packed.sorted_indices
    assert texts is not None
    rows = torch.cat([texts[:n] * longest + word for word, n in enumerate(packed.batch_sizes.tolist())])
    padded = states.new_zeros(len(texts) * longest, states.shape[1]).index_copy(0, rows, states)
    return padded.view(len(texts), longest, -1)


class WordEncoder(_Recurrent):
    """Word embeddings and a one-layer recurrent network over the words of a text.

    Args:
        vocab_size: Number of word ids; id 0 is padding.
        word_dim: Word embedding dimension.
        hidden: Hidden dimension of each direction.
        bidirectional: Use both directions.
        pool: ``last`` returns the state after the last word, ``mean`` the mean state, ``max`` the maximum of each
            unit over the words, ``words`` every state.
        dropout: Dropout probability of the word embeddings.
        cell: Recurrent unit.
        merge: How two directions are merged; ``concatenate`` doubles the output dimension.
        init: Initial weights of the recurrent network: ``orthogonal`` between states, Xavier from the words and no
            bias, or ``uniform`` in ``+-1/sqrt(hidden)`` throughout, as PyTorch makes them.
        state_dropout: Share of the entries of every state that is dropped in training before they are pooled.
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
        init: Init = "orthogonal",
        state_dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, word_dim, padding_idx=0)
        self.dropout = nn.Dropout(dropout)
        self._add_network(word_dim, hidden, bidirectional, pool, cell, merge, state_dropout)
        # The small range of the VSE++ and SCAN code; PyTorch's default of unit variance saturates the gates at first.
        nn.init.uniform_(self.embedding.weight, -0.1, 0.1)
        with torch.no_grad():
            self.embedding.weight[0] = 0
        if init == "orthogonal":
            self._start(cell)

    def forward(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        """Encode texts.

        Args:
            tokens: Word ids, (b, W), padded on the right.
            lengths: Number of words of each text, (b,), at least 1.

        Returns:
            One vector per text (b, dim), or with ``pool="words"`` one per word (b, W, dim), zero after the last.
        """
        return self._read(self.dropout(self.embedding(tokens)), lengths)


class Frozen(nn.Module):
    """A frozen pretrained network: always in evaluation mode, without gradient, and not in checkpoints.

    Its weights never change, so a checkpoint neither contains nor requires them.

    Args:
        network: The network.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> Frozen:
        """Stay in evaluation mode."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Apply the network."""
        return self.network(*args, **kwargs)

    def state_dict(self, *args: Any, destination: Any = None, **kwargs: Any) -> Any:
        """Add nothing to the state dict."""
        return {} if destination is None else destination

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        state_dict.update(self.network.state_dict(prefix=f"{prefix}network."))
        nn.Module._load_from_state_dict(self, state_dict, prefix, *rest)


def pretrained(encoder: str, longest: int, fine_tune: bool = False) -> tuple[nn.Module, int]:
    """Load a transformers encoder that gives one vector a subword.

    Args:
        encoder: Name on the Hugging Face hub, or a local folder.
        longest: Subwords of the longest text, which must fit the encoder.
        fine_tune: Train it; else it is :class:`Frozen`.

    Returns:
        The encoder and the width of its vectors.

    Raises:
        UsageError: If a text does not fit.
    """
    # transformers loads weights in the precision they are stored in.
    network: Any = load_text_encoder(encoder).float()
    config = network.config
    places = getattr(config, "max_position_embeddings", None)
    if places is not None and longest > places:
        raise UsageError(f"'{encoder}' reads {places} subwords and a text has {longest}: --data.max_words {places}")
    if getattr(network, "pooler", None) is not None:
        # Reads the first subword only; its weights would get no gradient.
        network.pooler = None
    return network if fine_tune else Frozen(network), int(config.hidden_size)


class SubwordEncoder(_Recurrent):
    """Word features of a transformers encoder, and a one-layer recurrent network over them.

    Args:
        encoder: Name on the Hugging Face Hub, or a local folder.
        longest: Number of subwords of the longest text, which must fit the encoder.
        hidden: Hidden dimension.
        dropout: Dropout probability of the word features.
        fine_tune: Fine-tune the encoder.
        cell: Recurrent unit.
        pool: As in :class:`WordEncoder`.
    """

    def __init__(
        self,
        encoder: str,
        longest: int,
        hidden: int = 512,
        dropout: float = 0.0,
        fine_tune: bool = False,
        cell: Cell = "lstm",
        pool: Pool = "last",
    ) -> None:
        super().__init__()
        self.encoder, width = pretrained(encoder, longest, fine_tune)
        self.dropout = nn.Dropout(dropout)
        self._add_network(width, hidden, False, pool, cell, "mean")
        self._start(cell)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Encode texts.

        Args:
            input_ids: Subword ids, (b, W), padded on the right.
            attention_mask: 1 for real subwords, (b, W).

        Returns:
            One vector per text (b, dim), or with ``pool="words"`` one per subword (b, W, dim), zero after the last.
        """
        features = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        return self._read(self.dropout(features), attention_mask.sum(1))
