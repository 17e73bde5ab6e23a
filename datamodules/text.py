"""Words, vocabularies and text vectors."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from torch import Tensor

from cmr_bench.datamodules.base import Rows, View


class Vocabulary:
    """Words of the training captions and their ids."""

    @classmethod
    def fit(cls, captions: Sequence[str], min_count: int) -> Vocabulary:
        """Count the words of the training captions."""
        raise NotImplementedError


class TokenView(View):
    """Texts as word ids of a vocabulary."""

    def __init__(self, captions: Sequence[str], vocabulary: Vocabulary, max_words: int) -> None:
        raise NotImplementedError

    def __len__(self) -> int:
        raise NotImplementedError

    def fetch(self, rows: Rows, epoch: int | None = None) -> dict[str, Tensor]:
        """Return ``tokens`` (b, W), padded with 0, and ``lengths`` (b,)."""
        raise NotImplementedError


class SubwordView(View):
    """Texts as subword ids of a transformers tokenizer."""

    def __init__(self, captions: Sequence[str], tokenizer: str, max_words: int) -> None:
        raise NotImplementedError

    def __len__(self) -> int:
        raise NotImplementedError

    def fetch(self, rows: Rows, epoch: int | None = None) -> dict[str, Tensor]:
        """Return ``input_ids`` and ``attention_mask``, (b, W)."""
        raise NotImplementedError


def text_vectors(
    name: str, train: Sequence[str], texts: Sequence[str], *, dim: int, seed: int, cache: Path
) -> npt.NDArray[np.float32]:
    """Turn texts into vectors (n_texts, d) by a method fitted on the training texts only."""
    raise NotImplementedError
