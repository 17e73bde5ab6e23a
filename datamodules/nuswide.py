"""NUS-WIDE as features, tag vectors and labels of its most frequent concepts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from cmr_bench.datamodules.tagged import TaggedFeatures


class NUSWide(TaggedFeatures):
    """NUS-WIDE (Chua et al. 2009): features, 1,000 tags and the 10 or 21 most frequent of 81 concepts, mAP.

    Args:
        train_pairs: Number of training pairs, drawn from all but the test pairs.
    """

    data_name = "nuswide"
    expected: ClassVar[Mapping[str, tuple[int, ...]]] = {
        "train": (10_500, 10_500),
        "val": (2000, 2000),
        "test": (2000, 2000),
    }
    published: ClassVar[Mapping[int, int]] = {10: 186_577, 21: 195_834}

    def __init__(self, train_pairs: int = 10_500, **kwargs: Any) -> None:
        super().__init__(train_pairs=train_pairs, **kwargs)
