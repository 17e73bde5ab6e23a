"""Flickr30K: 31,014 photographs, five sentences each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from cmr_bench.datamodules.captions import CaptionDataModule


class Flickr30k(CaptionDataModule):
    """Flickr30K: 29,000 / 1,014 / 1,000 images with five captions each (Young et al., TACL 2014)."""

    data_name = "flickr30k"
    expected: ClassVar[Mapping[str, tuple[int, ...]]] = {
        "train": (29000, 145000),
        "val": (1014, 5070),
        "test": (1000, 5000),
    }
    annotation_names = ("dataset_flickr30k.json", "dataset.json")
    image_folders = ("images", "Images", "flickr30k-images", "flickr30k_images")
    precomputed_folders = ("f30k_precomp", "flickr30k_precomp")
