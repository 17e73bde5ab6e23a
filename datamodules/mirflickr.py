"""MIRFLICKR-25K as features, tag vectors and labels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from cmr_bench.datamodules.tagged import TaggedFeatures


class MIRFlickr(TaggedFeatures):
    """MIRFLICKR-25K (Huiskes and Lew 2008): 20,015 images' features, 1,386 tags that occur 20 times, 24 labels, mAP.

    Args:
        train_pairs: Number of training pairs, drawn from all but the test pairs; papers use 10,000 or 5,000.
    """

    data_name = "mirflickr"
    expected: ClassVar[Mapping[str, tuple[int, ...]]] = {
        "train": (10_000, 10_000),
        "val": (2000, 2000),
        "test": (2000, 2000),
    }
    published: ClassVar[Mapping[int, int]] = {24: 20_015}

    def __init__(self, train_pairs: int = 10_000, **kwargs: Any) -> None:
        super().__init__(train_pairs=train_pairs, **kwargs)
