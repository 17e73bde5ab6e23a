"""Texts with a word that the training split hardly knows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from cmr_bench.datamodules.texts.splitting import SPLITS, WordSplit


def rare_texts(
    train: Sequence[str], texts: Sequence[str], below: int, split: WordSplit = "words"
) -> npt.NDArray[np.bool_]:
    """Return which texts hold a word that occurs fewer than ``below`` times in the training texts, (n_texts,).

    A word of which training has seen nothing, a misspelt one among them, is such a word too.

    Args:
        train: Texts of the training split.
        texts: Texts that are asked about.
        below: Number of occurrences from which on a word is not rare.
        split: How a text is split into words.
    """
    counts = Counter(word for text in train for word in SPLITS[split](text))
    return np.fromiter((any(counts[word] < below for word in SPLITS[split](text)) for text in texts), dtype=bool)
