"""Pretrained vectors of the words of a vocabulary, from a file of vectors or from a transformers encoder."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cmr_bench.support.errors import DataError, first_line
from cmr_bench.support.hub import load_text_encoder, load_tokenizer


class WordVectors:
    """Pretrained word vectors: a text file as of GloVe or word2vec, or the input embedding of an encoder.

    Args:
        source: The file, or the name or folder of a transformers encoder; its word vectors are means over subwords.

    Raises:
        DataError: If the file has no vectors, or there is neither a file nor an encoder of that name.
    """

    def __init__(self, source: str) -> None:
        self.file = Path(source).expanduser()
        self.source, self.encoder = source, None if self.file.is_file() else load_text_encoder(source)
        self.dim = len(next(self._lines())[1]) if self.encoder is None else self._embedding.shape[1]

    @property
    def _embedding(self) -> Tensor:
        weight: Tensor = self.encoder.get_input_embeddings().weight.detach().float()  # type: ignore[union-attr]
        return weight

    def of(self, words: Sequence[str]) -> Tensor:
        """Return the vectors of words, (n, dim); zeros for a word without one.

        Raises:
            DataError: If none of the words has one, or a line of the file cannot be read.
        """
        found = torch.zeros(len(words), self.dim)
        if self.encoder is not None:
            tokenizer: Any = load_tokenizer(self.source)
            ids = tokenizer(list(words), add_special_tokens=False)["input_ids"] if words else []
            for row, subwords in enumerate(ids):
                known = [one for one in subwords if one != tokenizer.unk_token_id]
                if known:
                    found[row] = self._embedding[known].mean(0)
        else:
            row_of = {word: row for row, word in enumerate(words)}
            for number, (word, values) in enumerate(self._lines(), start=1):
                if word in row_of:
                    found[row_of[word]] = torch.tensor(self._numbers(values, number))
        if not bool(found.any()):
            raise DataError(f"none of the {len(words)} words of the vocabulary has a vector in {self.source}")
        return found

    def _numbers(self, values: Sequence[str], line: int) -> list[float]:
        try:
            found = [float(value) for value in values]
        except ValueError:
            found = []
        if len(found) != self.dim or not all(-1e30 < value < 1e30 for value in found):
            raise DataError(f"{self.file} line {line}: not a word and {self.dim} numbers")
        return found

    def _lines(self) -> Iterator[tuple[str, list[str]]]:
        """Yield word and numbers of every line; a first line of two numbers, word2vec's, is passed over."""
        there = False
        try:
            with self.file.open(encoding="utf-8") as lines:
                for number, line in enumerate(lines):
                    word, *values = line.rstrip().split(" ")
                    if number == 0 and len(values) == 1 and word.isdigit():
                        continue
                    if values:
                        there = True
                        yield word, values
        except (OSError, UnicodeDecodeError, EOFError) as error:
            raise DataError(f"{self.file} is no text file of word vectors: {first_line(error)}") from error
        if not there:
            raise DataError(f"{self.file} holds no word vectors: a line is a word and its numbers, with blanks between")
