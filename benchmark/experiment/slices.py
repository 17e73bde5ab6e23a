"""Recalls over a part of the test queries that asks a question of its own."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from cmr_bench.datamodules.module import RetrievalDataModule
from cmr_bench.datamodules.texts.rare import rare_texts
from cmr_bench.datamodules.texts.splitting import SPLITS
from cmr_bench.evaluation.metrics import recall_at_k
from cmr_bench.evaluation.protocol import Evaluation


def slices(data: RetrievalDataModule, evaluation: Evaluation) -> dict[str, Any]:
    """Return the recalls of the test captions with a rare word, all images being ranked.

    Args:
        data: The data set.
        evaluation: What the test measured.

    Returns:
        ``few_shot``: ``below``, the number of occurrences in training under which a word is rare; ``n_texts``, the
        captions that hold such a word; and where there are any, ``t2i_r1``, ``t2i_r5`` and ``t2i_r10`` over them, in
        percent. Empty where the option is 0, there are no captions, or instance retrieval was not scored.
    """
    below = data.evaluation.few_shot_below
    train, test = data.splits["train"].captions, data.splits["test"].captions
    if not below or train is None or test is None or evaluation.ranks is None:
        return {}
    rare = rare_texts(train, test, below, data.word_split)
    found: dict[str, Any] = {"below": below, "n_texts": int(rare.sum())}
    if rare.any():
        matches = evaluation.ranks.texts.take(rare)
        found |= {f"t2i_r{k}": recall_at_k(matches, k) for k in (1, 5, 10)}
    return {"few_shot": found}


def caption_lengths(data: RetrievalDataModule) -> NDArray[np.int64]:
    """Return the number of words of every test caption, (n_texts,), as the data set splits them; empty without any."""
    captions = data.splits["test"].captions
    words = SPLITS[data.word_split]
    return np.fromiter((len(words(text)) for text in captions or ()), dtype=np.int64)
