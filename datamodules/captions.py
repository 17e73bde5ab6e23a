"""The base class of data sets with photographs and captions in Karpathy's layout."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from cmr_bench.data_sets import captioned_layout
from cmr_bench.datamodules.images.making import find
from cmr_bench.datamodules.module import RetrievalDataModule, locate
from cmr_bench.datamodules.readers import precomputed as precomputed_files
from cmr_bench.datamodules.readers.karpathy import make_splits, read_photos
from cmr_bench.datamodules.readers.parts import Parts
from cmr_bench.datamodules.readers.report import Report
from cmr_bench.datamodules.split import Split
from cmr_bench.datamodules.views import ArrayView, View, ViewKind
from cmr_bench.support.encoders import feature_name
from cmr_bench.support.errors import DataError, UsageError
from cmr_bench.support.places import MANIFEST, path_text, stores_in


def first_captions(split: Split, most: int) -> Split:
    """Return the split with at most the first ``most`` texts of every image."""
    seen: Counter[int] = Counter()
    keep = []
    for row, image in enumerate(split.image_of_text.tolist()):
        seen[image] += 1
        if seen[image] <= most:
            keep.append(row)
    return replace(
        split,
        image_of_text=split.image_of_text[keep],
        text_ids=[split.text_ids[row] for row in keep],
        captions=None if split.captions is None else [split.captions[row] for row in keep],
    )


class CaptionDataModule(RetrievalDataModule):
    """Photographs with sentences: Karpathy's JSON with an image folder, or a precomputed folder.

    Args:
        images: Image folder, absolute or relative to the data folder; null tries the usual names.
        precomputed: Folder with the precomputed features of VSE++ and SCAN ({train,dev,test}_ims.npy and _caps.txt),
            absolute or relative to the data folder; null uses such a folder only if there is no JSON.
    """

    annotation_names: ClassVar[tuple[str, ...]] = ()
    image_folders: ClassVar[tuple[str, ...]] = ("images", "Images")
    precomputed_folders: ClassVar[tuple[str, ...]] = ()
    restval = True

    def __init__(self, images: str | Path | None = None, precomputed: str | Path | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.images, self.precomputed = path_text(images), path_text(precomputed)
        self.arrays: dict[str, precomputed_files.Part] = {}
        self._told = False

    def folder(self) -> Path:
        """Folder of the data set: where the JSON lies, or the precomputed arrays."""
        if self.precomputed is not None and Path(self.precomputed).expanduser().is_absolute():
            return Path(self.precomputed).expanduser()
        subs = ["", *(f"{name}/" for name in self.precomputed_folders)]
        wanted = [f"{name}{suffix}" for name in self.annotation_names for suffix in ("", ".gz")]
        wanted += [f"{sub}test*_ims.npy" for sub in ([f"{self.precomputed}/"] if self.precomputed else subs)]
        return locate(self.root, self.data_name, wanted, captioned_layout(self.annotation_names[0]))

    def annotation_file(self) -> Path | None:
        """The JSON file; None where the data folder holds none."""
        folder = self.folder()
        places = [folder / f"{name}{suffix}" for name in self.annotation_names for suffix in ("", ".gz")]
        return next((place for place in places if place.is_file()), None)

    def precomputed_folder(self) -> Path | None:
        """The precomputed folder to read; None where the JSON is read."""
        folder = self.folder()
        if self.precomputed is not None:
            return folder / Path(self.precomputed).expanduser()
        if self.annotation_file() is not None:
            return None
        places = [folder, *(folder / name for name in self.precomputed_folders)]
        return next(place for place in places if any(place.glob("test*_ims.npy")))

    def image_folder(self) -> Path:
        """Folder of the photographs; where none of the usual ones exists, the first of them."""
        folder = self.folder()
        if self.images is not None:
            return folder / Path(self.images).expanduser()
        places = [folder / name for name in self.image_folders]
        return next((place for place in places if place.is_dir()), places[0])

    def read(self) -> Mapping[str, Split]:
        """Read the splits that the JSON or the precomputed folder holds."""
        arrays = self.precomputed_folder()
        if arrays is not None:
            self.arrays = precomputed_files.read_folder(arrays)
            return {name: part.split for name, part in self.arrays.items()}
        self.arrays = {}
        file = self.annotation_file()
        assert file is not None
        self.report = Report(self.skip_invalid)
        photos = read_photos(file, self.report)
        self.report.close()
        return make_splits(photos, self.image_folder(), str(file), Parts(restval=self.restval), self.report)

    def _reads_arrays(self) -> bool:
        """Tell whether image features come from the precomputed arrays: unless stored features are named and there."""
        if not self.arrays or self.image_features is None:
            return bool(self.arrays)
        named = feature_name(self.image_features)
        if named is not None and find(self, named) is not None:
            return False
        there = [store.name for store in stores_in(self.store_places())]
        if self.image_features in there or (Path(self.image_features).expanduser() / MANIFEST).is_file():
            return False
        # recipes name features made from photographs, which a precomputed folder does not have
        if not self._told:
            warnings.warn(
                f"{self.data_name}: no stored features '{self.image_features}'; reading the precomputed arrays in "
                f"{self.precomputed_folder()} (pass --data.image_features null to say so)",
                stacklevel=3,
            )
        self._told = True
        return True

    def missing_images(self, kind: ViewKind, split: Split) -> npt.NDArray[np.bool_]:
        """Return which images (n_images,) cannot be delivered; an absent image folder is an error of its own."""
        if kind == "pixels" and split.image_files is not None and not self.image_folder().is_dir():
            folder = self.folder()
            looked = self.images or ", ".join(self.image_folders)
            raise DataError(
                f"{self.data_name} has no images: looked for {looked} in {folder}; pass --data.images DIR, "
                "or --data.image_features NAME with a method that reads features"
            )
        if kind != "pixels" and self._reads_arrays():
            return np.zeros(split.n_images, dtype=bool)
        return super().missing_images(kind, split)

    def image_view(self, kind: ViewKind, split: Split) -> View:
        """Return the images as ``kind``; from the precomputed arrays where they are read and no others are named."""
        if kind == "pixels" or not self._reads_arrays():
            return super().image_view(kind, split)
        view = self.arrays[split.name].view(split.image_ids)
        if view.spec.kind != kind:
            raise UsageError(
                f"the method reads images as '{kind}' but {view.spec.source} is '{view.spec.kind}' "
                f"{view.spec.shape}; choose a method or --model.image_view that reads '{view.spec.kind}'"
            )
        return view

    def image_arrays(self) -> Mapping[str, Mapping[str, ArrayView]]:
        """The precomputed arrays, where they are read."""
        if not self.arrays:
            return {}
        return {"ims": {name: part.view(part.split.image_ids) for name, part in self.arrays.items()}}
