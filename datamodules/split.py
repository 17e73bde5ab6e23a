"""Splits: items, the links between them, labels and raw content."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from cmr_bench.support.errors import DataError
from cmr_bench.support.places import cache_dir as cache_dir

if TYPE_CHECKING:
    from cmr_bench.datamodules.views import Rows, View

SPLITS = ("train", "val", "test")


@dataclass
class Split:
    """One part of a data set: items, links between them, labels, raw content and the loaded views.

    Attributes:
        name: train, val or test.
        image_ids: A name for every image, unique in the split, (n_images,).
        image_of_text: Row of the image that each text belongs to, (n_texts,).
        text_ids: A name for every text, (n_texts,).
        captions: The raw texts; None where the data set ships features only.
        image_files: The photographs; None where the data set ships features only.
        labels: Category (n_images,) or multi-hot (n_images, n_classes) of the images; None where there is none.
        class_names: Names of the categories.
        identity: Whom or what each image shows, (n_images,), where several images show the same; None where every image
            is its own. Images and texts of one identity match, and are never negatives of each other.
        images: The image view, set by :meth:`RetrievalDataModule.load`.
        texts: The text view, set by :meth:`RetrievalDataModule.load`.
    """

    name: str
    image_ids: Sequence[str]
    image_of_text: Rows
    text_ids: Sequence[str]
    captions: Sequence[str] | None = None
    image_files: Sequence[Path] | None = None
    labels: npt.NDArray[np.int64] | None = None
    class_names: Sequence[str] = ()
    identity: Rows | None = None
    images: View | None = None
    texts: View | None = None

    def __post_init__(self) -> None:
        self.image_of_text = np.asarray(self.image_of_text, dtype=np.int64)
        if self.identity is not None:
            self.identity = np.asarray(self.identity, dtype=np.int64)
        counts = {
            "text_ids": (len(self.text_ids), self.n_texts),
            "captions": (self.n_texts if self.captions is None else len(self.captions), self.n_texts),
            "image_files": (self.n_images if self.image_files is None else len(self.image_files), self.n_images),
            "labels": (self.n_images if self.labels is None else len(self.labels), self.n_images),
            "identity": (self.n_images if self.identity is None else len(self.identity), self.n_images),
        }
        for what, (found, expected) in counts.items():
            if found != expected:
                raise DataError(f"{self.name} split: {found} {what} for {expected} items")
        if self.n_texts and not (self.image_of_text.min() >= 0 and self.image_of_text.max() < self.n_images):
            raise DataError(f"{self.name} split: a text points to an image outside 0..{self.n_images - 1}")

    @property
    def n_images(self) -> int:
        """Number of images."""
        return len(self.image_ids)

    @property
    def n_texts(self) -> int:
        """Number of texts."""
        return len(self.image_of_text)

    @property
    def identities(self) -> Rows:
        """Number of each image's identity, from 0 without gaps, (n_images,); without identities, its own row."""
        return np.arange(self.n_images) if self.identity is None else np.unique(self.identity, return_inverse=True)[1]

    @property
    def text_labels(self) -> npt.NDArray[np.int64] | None:
        """Labels of the texts, which inherit their image's."""
        return None if self.labels is None else self.labels[self.image_of_text]

    def keep_images(self, keep: npt.NDArray[np.bool_]) -> Split:
        """Return the split without the images where ``keep`` (n_images,) is False, and without their texts."""
        texts = np.flatnonzero(keep[self.image_of_text]).tolist()
        images = np.flatnonzero(keep).tolist()
        return replace(
            self,
            image_ids=[self.image_ids[i] for i in images],
            image_of_text=(np.cumsum(keep) - 1)[self.image_of_text[texts]],
            text_ids=[self.text_ids[t] for t in texts],
            captions=None if self.captions is None else [self.captions[t] for t in texts],
            image_files=None if self.image_files is None else [self.image_files[i] for i in images],
            labels=None if self.labels is None else self.labels[images],
            identity=None if self.identity is None else self.identity[images],
        )

    def fingerprint(self) -> str:
        """SHA-256 over ids, links, labels, identities and captions: equal splits have equal ones on every machine."""
        digest = hashlib.sha256()
        for values in (self.image_ids, self.text_ids, self.captions or ()):
            for value in values:
                digest.update(value.encode() + b"\0")
            digest.update(b"\1")
        digest.update(self.image_of_text.astype("<i8").tobytes())
        if self.labels is not None:
            digest.update(self.labels.astype("<i8").tobytes())
        if self.identity is not None:
            digest.update(b"identity" + self.identity.astype("<i8").tobytes())
        return digest.hexdigest()


def undelivered(where: str, gone: int, among: int, what: str, example: str) -> DataError:
    """Return the error of images that cannot be delivered.

    Args:
        where: Data set and split.
        gone: Number of these images.
        among: Number of images of the split.
        what: What they do not have.
        example: One of them.
    """
    return DataError(
        f"{where}: {gone} of {among} images have no {what}, e.g. {example}; pass --data.skip_missing true to skip them"
    )
