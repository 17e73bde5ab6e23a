"""MSCOCO captions in Karpathy's split."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from cmr_bench.datamodules.captions import CaptionDataModule, first_captions
from cmr_bench.datamodules.split import Split

_LINEAGE_CAPTIONS = 5


class MSCOCO(CaptionDataModule):
    """MSCOCO: 113,287 / 5,000 / 5,000 images with five or more captions (Lin et al., ECCV 2014).

    Args:
        restval: Also train on the remaining validation images: 113,287 training images instead of 82,783.
        five_captions: Keep the first five captions of every image, as SCAN does: 25,000 test captions instead of
            25,010.
    """

    data_name = "mscoco"
    folds = 5
    expected: ClassVar[Mapping[str, tuple[int, ...]]] = {
        "train": (113287, 566747),
        "val": (5000, 25010),
        "test": (5000, 25010),
    }
    annotation_names = ("dataset_coco.json", "dataset_mscoco.json", "dataset.json")
    precomputed_folders = ("coco_precomp", "mscoco_precomp")

    def __init__(self, restval: bool = True, five_captions: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.restval, self.five_captions = restval, five_captions

    def expected_counts(self) -> Mapping[str, tuple[int, ...]]:
        """Images and texts of every split under the options chosen."""
        counts = dict(self.expected)
        if not self.restval:
            counts["train"] = (82783, 414113)
        if self.five_captions or self.arrays:
            counts = {name: (images, images * _LINEAGE_CAPTIONS) for name, (images, *_) in counts.items()}
        return counts

    def image_folder(self) -> Path:
        """Folder that holds train2014/ and val2014/, or those of 2017: the data folder itself where they lie there."""
        folder = self.folder()
        here = any((folder / name).is_dir() for name in ("val2014", "train2017"))
        return folder if self.images is None and here else super().image_folder()

    def read(self) -> Mapping[str, Split]:
        """Read the splits, with all sentences or the first five."""
        splits = super().read()
        if not self.five_captions:
            return splits
        return {name: first_captions(split, _LINEAGE_CAPTIONS) for name, split in splits.items()}
