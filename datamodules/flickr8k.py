"""Flickr8k: 8,000 photographs, five sentences each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from cmr_bench.datamodules.captions import CaptionDataModule


class Flickr8k(CaptionDataModule):
    """Flickr8k: 6,000 / 1,000 / 1,000 images with five captions each (Hodosh et al., JAIR 2013)."""

    data_name = "flickr8k"
    expected: ClassVar[Mapping[str, tuple[int, ...]]] = {
        "train": (6000, 30000),
        "val": (1000, 5000),
        "test": (1000, 5000),
    }
    annotation_names = ("dataset_flickr8k.json", "dataset.json")
    image_folders = ("images", "Images", "flickr8k-images", "Flickr8k_Dataset", "Flicker8k_Dataset")
    precomputed_folders = ("f8k_precomp", "flickr8k_precomp")
