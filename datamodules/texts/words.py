"""Texts as words of the data set's vocabulary or as subwords of a transformers tokenizer."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from cmr_bench.datamodules.texts.splitting import END, SPLITS, START, WordSplit
from cmr_bench.datamodules.views import Origin, Rows, View, ViewSpec
from cmr_bench.support.errors import DataError, UsageError, first_line
from cmr_bench.support.files import write_atomic
from cmr_bench.support.tokenizers import load_tokenizer

CHUNK = 1024
PAD, UNKNOWN = 0, 1
MANY_UNKNOWN = 1 / 3  # share of unknown words from which on they deserve a warning; 0.01 to 0.03 in Flickr8k and COCO


class Vocabulary:
    """Words of the training captions and their ids: 0 is padding, 1 any other word, then the words by frequency.

    Args:
        words: The words, without repeats; word k has id k + 2.
        split: How a text is split: ``words`` by :func:`tokenize`, ``treebank`` by :func:`treebank`.
        start_end: Put a start and an end sign around every text; both are then among the words.
    """

    def __init__(self, words: Iterable[str], split: WordSplit = "words", start_end: bool = False) -> None:
        self.words, self.split, self.start_end = list(words), split, start_end
        self._ids = {word: row for row, word in enumerate(self.words, start=2)}
        if len(self._ids) != len(self.words):
            raise DataError("vocabulary: a word is listed twice")

    @classmethod
    def fit(
        cls, captions: Sequence[str], min_count: int, split: WordSplit = "words", start_end: bool = False
    ) -> Vocabulary:
        """Collect the words that occur at least ``min_count`` times in the training captions."""
        counts = Counter(word for caption in captions for word in SPLITS[split](caption))
        kept = [(-count, word) for word, count in counts.items() if count >= min_count]
        signs = [START, END] if start_end else []
        return cls([*signs, *(word for _, word in sorted(kept))], split, start_end)

    def __len__(self) -> int:
        return len(self.words) + 2

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Vocabulary) and self.content() == other.content()

    __hash__ = None  # type: ignore[assignment]

    def encode(self, text: str, max_words: int) -> list[int]:
        """Return the ids of the first ``max_words`` words, at least one: a text of signs only is one unknown word.

        The start and the end sign, where there are any, come on top of ``max_words``.
        """
        ids = [self._ids.get(word, UNKNOWN) for word in SPLITS[self.split](text)[:max_words]] or [UNKNOWN]
        return [self._ids[START], *ids, self._ids[END]] if self.start_end else ids

    def content(self) -> dict[str, Any]:
        """Return what :meth:`of` makes the vocabulary from again."""
        return {"words": self.words, "split": self.split, "start_end": self.start_end}

    def save(self, file: Path) -> None:
        """Write the words to a JSON file."""
        write_atomic(file, json.dumps({"format": 1, **self.content()}, ensure_ascii=False, indent=1))

    @classmethod
    def load(cls, file: Path) -> Vocabulary:
        """Read a file written by :meth:`save`; raises DataError where it is none."""
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
            return cls.of(content)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(f"no vocabulary in {file}: {first_line(error)}") from error

    @classmethod
    def of(cls, content: Mapping[str, Any]) -> Vocabulary:
        """Make a vocabulary of what was stored of one; older versions stored the words only."""
        words = [str(word) for word in content["words"]]
        return cls(words, content.get("split", "words"), bool(content.get("start_end", False)))


class _Ragged:
    """Sequences of ids of different length, kept in one array."""

    def __init__(self, sequences: Iterable[Sequence[int]]) -> None:
        lengths: list[int] = []
        flat: list[npt.NDArray[np.int32]] = []
        for ids in sequences:
            lengths.append(len(ids))
            flat.append(np.asarray(ids, dtype=np.int32))
        self.flat = np.concatenate(flat) if flat else np.zeros(0, np.int32)
        self.starts = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths, dtype=np.int64)])

    def __len__(self) -> int:
        return len(self.starts) - 1

    @property
    def longest(self) -> int:
        return int(np.diff(self.starts).max(initial=1))

    def padded(self, rows: Rows, fill: int) -> tuple[Tensor, Tensor]:
        """Return ids (b, W), filled up on the right, and lengths (b,)."""
        start = self.starts[rows]
        lengths = self.starts[rows + 1] - start
        place = np.arange(lengths.max(initial=1))
        real = place < lengths[:, None]
        ids = np.full(real.shape, fill, dtype=np.int64)
        ids[real] = self.flat[(start[:, None] + place)[real]]
        return torch.from_numpy(ids), torch.from_numpy(lengths)


class TokenView(View):
    """Texts as word ids of a vocabulary.

    Args:
        captions: The texts, (n_texts,).
        vocabulary: Words of the training captions; other words become the unknown word.
        max_words: Longer texts are cut here.
    """

    def __init__(self, captions: Sequence[str], vocabulary: Vocabulary, max_words: int) -> None:
        refuse_empty(captions)
        self.vocabulary, self.max_words = vocabulary, max_words
        self.ids = _Ragged(vocabulary.encode(caption, max_words) for caption in captions)
        self.spec = ViewSpec("tokens", (self.ids.longest,), "words", len(vocabulary))

    @property
    def unknown_share(self) -> float:
        """Fraction of the words, after truncation, that the vocabulary lacks."""
        n_signs = 2 * len(self) if self.vocabulary.start_end else 0
        return float(np.sum(self.ids.flat == UNKNOWN)) / max(1, len(self.ids.flat) - n_signs)

    def __len__(self) -> int:
        return len(self.ids)

    def fetch(self, rows: Rows, epoch: int | None = None) -> dict[str, Tensor]:
        """Return ``tokens`` (b, W), padded with 0 to the longest of the batch, and ``lengths`` (b,)."""
        tokens, lengths = self.ids.padded(rows, PAD)
        return {"tokens": tokens, "lengths": lengths}

    def origin(self) -> Origin:
        """Return the words, how texts are split and the length at which they are cut."""
        return Origin("tokens", {**self.vocabulary.content(), "max_words": self.max_words})


class SubwordView(View):
    """Texts as subword ids of a transformers tokenizer.

    Args:
        captions: The texts, (n_texts,).
        tokenizer: Name on the Hugging Face Hub or a local folder.
        max_words: Longer texts are cut to this many subwords, the tokenizer's own start and end signs included, or to
            as many as its model reads where that is fewer.
        prompt: Template put around every text, whose {} is the text; empty for none.
    """

    def __init__(self, captions: Sequence[str], tokenizer: str, max_words: int, prompt: str = "") -> None:
        refuse_empty(captions)
        if prompt and prompt.count("{}") != 1:
            raise UsageError(f"--data.prompt '{prompt}' has not one {{}} for the text, e.g. 'a photo of {{}}'")
        encode = load_tokenizer(tokenizer)
        self.max_words, self.prompt = max_words, prompt
        if prompt:
            captions = [prompt.replace("{}", caption) for caption in captions]
        # A tokenizer without a padding sign (GPT-2) pads with anything: the attention mask hides it.
        self.fill = int(encode.pad_token_id or 0)
        most = min(max_words, encode.model_max_length)
        self.ids = _Ragged(
            ids
            for start in range(0, len(captions), CHUNK)
            for ids in encode(list(captions[start : start + CHUNK]), truncation=True, max_length=most)["input_ids"]
        )
        self.spec = ViewSpec("subwords", (self.ids.longest,), tokenizer, len(encode))

    def __len__(self) -> int:
        return len(self.ids)

    def fetch(self, rows: Rows, epoch: int | None = None) -> dict[str, Tensor]:
        """Return ``input_ids`` and ``attention_mask``, (b, W), padded to the longest of the batch."""
        ids, lengths = self.ids.padded(rows, self.fill)
        return {"input_ids": ids, "attention_mask": (torch.arange(ids.shape[1]) < lengths[:, None]).long()}

    def origin(self) -> Origin:
        """Return the tokenizer, the length at which texts are cut and the template around them."""
        return Origin("subwords", {"tokenizer": self.spec.source, "max_words": self.max_words, "prompt": self.prompt})


def refuse_empty(texts: Sequence[str]) -> None:
    """Raise DataError for a text without words, naming its row."""
    for row, text in enumerate(texts):
        if not text.strip():
            raise DataError(f"text {row} of {len(texts)} is empty (counted from 0); give it words or remove it")
