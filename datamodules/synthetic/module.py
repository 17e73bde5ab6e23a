"""Drawn objects with captions: a data set that needs no files."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from cmr_bench.datamodules.module import RetrievalDataModule
from cmr_bench.datamodules.split import SPLITS, Split
from cmr_bench.datamodules.synthetic.drawing import paint
from cmr_bench.datamodules.synthetic.filters import FEATURES, feature_scale, grid_boxes
from cmr_bench.datamodules.synthetic.grammar import Meaning, write_captions
from cmr_bench.datamodules.synthetic.scenes import SETTING_NAMES, SIDE, Bytes, Floats, Key, Scenes, draw_split
from cmr_bench.datamodules.views import ArrayView, Origin, Rows, View, ViewKind, ViewSpec
from cmr_bench.support.errors import UsageError

# Checksums of what was drawn in this process, by options.
_CONTENT: dict[tuple[object, ...], dict[str, str]] = {}


class PictureView(View):
    """Drawn pictures as RGB in 0..1, (3, size, size).

    Args:
        pictures: The pictures, (n, SIDE, SIDE, 3).
        size: Side of what is delivered, in pixels.
    """

    def __init__(self, pictures: Bytes, size: int) -> None:
        self.pictures, self.size = pictures, size
        self.spec = ViewSpec("pixels", (3, size, size), "synthetic")

    def __len__(self) -> int:
        return len(self.pictures)

    def fetch(self, rows: Rows, epoch: int | None = None) -> dict[str, Tensor]:
        """Return ``pixels``; never augmented, since a flipped picture would belie captions that say left or right."""
        pixels = torch.from_numpy(self.pictures[rows]).permute(0, 3, 1, 2).float() / 255
        if self.size != SIDE:
            pixels = functional.interpolate(pixels, size=(self.size, self.size), mode="bilinear", antialias=True)
        return {"pixels": pixels}

    def origin(self) -> Origin:
        """Return the side of the pixels delivered."""
        return Origin("drawn", {"view": "pixels", "size": self.size})


class DrawnView(ArrayView):
    """Features of drawn pictures, scaled by the training split.

    Args:
        features: The features as computed, (n, d) or (n, R, d).
        kind: vector or regions.
        centre: Mean of each number, (d,).
        spread: Deviation of each number, (d,).
    """

    def __init__(self, features: Floats, kind: str, centre: Floats, spread: Floats) -> None:
        boxes = grid_boxes() if kind == "regions" else None
        super().__init__((features - centre) / spread, f"synthetic:{kind}", boxes=boxes)
        self.scale = {"centre": centre, "spread": spread}

    def content(self) -> str:
        """Nothing beside the split: the checksums of the pictures are in its ids."""
        return ""

    def origin(self) -> Origin:
        """Return kind and scale of the features."""
        return Origin("drawn", {"view": self.spec.kind}, self.scale)


class Synthetic(RetrievalDataModule):
    """Synthetic images of coloured shapes with captions; needs no files and is identical on every machine.

    The category of an image is its setting (meadow, lake, beach, ...): visible in the background, named in most
    captions and correlated with its shapes and colours. Half of the images with two or more
    objects have a twin in which the colours of two objects are swapped. By split, ``scenes`` contains the
    contents of the images with boxes and attributes, ``meanings`` the claims of captions and ``pictures`` the pixels.

    Args:
        n_train: Number of training images.
        n_val: Number of validation images.
        n_test: Number of test images.
        min_captions: Minimum number of captions per image.
        max_captions: Maximum number of captions per image.
        twins: Fraction of scenes that get a twin in the same split: the same scene with the colours of two objects
            swapped.
        noise: Amplitude of the pixel noise, from 0 to 255.
        content_seed: Random seed of the images and captions, independent of the run's seed.
        image_size: Image size in pixels; images are rendered at 64 and resized.
        text_features: Text vectors, for methods that read vectors: tfidf, doc2vec or hf:NAME_OR_FOLDER.
    """

    data_name: ClassVar[str] = "synthetic"
    selection: ClassVar[Literal["rsum", "map"]] = "rsum"

    def __init__(
        self,
        n_train: int = 1500,
        n_val: int = 250,
        n_test: int = 250,
        min_captions: int = 3,
        max_captions: int = 6,
        twins: float = 0.5,
        noise: int = 12,
        content_seed: int = 0,
        image_size: int = SIDE,
        text_features: str | None = "tfidf",
        **kwargs: Any,
    ) -> None:
        super().__init__(image_size=image_size, text_features=text_features, **kwargs)
        if min(n_train, n_val, n_test) < 1:
            raise UsageError(
                f"every split needs an image; --data.n_train, n_val, n_test are {n_train}, {n_val}, {n_test}"
            )
        if not 1 <= min_captions <= max_captions <= 20:
            raise UsageError(
                f"--data.min_captions {min_captions}, max_captions {max_captions}: need 1 <= min <= max <= 20"
            )
        if not 0 <= twins <= 1:
            raise UsageError(f"--data.twins {twins} must be between 0 and 1")
        if not 0 <= noise <= 255:
            raise UsageError(f"--data.noise {noise} must be between 0 and 255")
        if content_seed < 0:
            raise UsageError(f"--data.content_seed {content_seed} must not be negative")
        self.sizes = dict(zip(SPLITS, (n_train, n_val, n_test), strict=True))
        self.min_captions, self.max_captions = min_captions, max_captions
        self.twins, self.noise, self.content_seed = twins, noise, content_seed
        self.scenes: dict[str, Scenes] = {}
        self.meanings: dict[str, list[Meaning]] = {}
        self.pictures: dict[str, Bytes] = {}
        self._features: dict[str, dict[str, Floats]] = {}
        self._scale: dict[str, tuple[Floats, Floats]] = {}

    def content(self, image_view: ViewKind, text_view: ViewKind, tokenizer: str | None = None) -> dict[str, str]:
        """Return checksums of all that a run reads; as no files are behind them, equal options are drawn once."""
        if self.image_features is not None:
            return super().content(image_view, text_view, tokenizer)
        key = (
            *(*self.sizes.values(), self.min_captions, self.max_captions, self.twins, self.noise, self.content_seed),
            *(image_view, text_view, tokenizer, self.text_features, self.text_dim, self.seed, self.unseen_classes),
        )
        if key not in _CONTENT:
            _CONTENT[key] = super().content(image_view, text_view, tokenizer)
        return dict(_CONTENT[key])

    def expected_counts(self) -> Mapping[str, tuple[int, ...]]:
        """Images of every split."""
        return {name: (size,) for name, size in self.sizes.items()}

    def read(self) -> Mapping[str, Split]:
        """Draw everything."""
        self._features = {}
        splits: dict[str, Split] = {}
        seen: set[Key] = set()
        # The test split comes first, so that it does not change with the number of training images.
        for stream, name in reversed(list(enumerate(SPLITS))):
            scene, words, noise = (np.random.default_rng([self.content_seed, stream, part]) for part in range(3))
            self.scenes[name] = draw_split(self.sizes[name], self.twins, seen, scene)
            splits[name] = self._draw(name, words, noise)
        return {name: splits[name] for name in SPLITS}

    def _draw(self, name: str, words: np.random.Generator, noise: np.random.Generator) -> Split:
        scenes = self.scenes[name]
        captions, self.meanings[name], owners = write_captions(scenes, self.min_captions, self.max_captions, words)
        self.pictures[name] = pictures = paint(scenes, self.noise, noise)
        return Split(
            name,
            # A checksum of the picture in its name lets the split's fingerprint answer for the pictures too.
            image_ids=[f"{name}-{row:05d}-{zlib.crc32(picture.tobytes()):08x}" for row, picture in enumerate(pictures)],
            image_of_text=np.array(owners),
            text_ids=[f"{name}-text-{row:05d}" for row in range(len(captions))],
            captions=captions,
            labels=scenes.setting,
            class_names=SETTING_NAMES,
        )

    def missing_images(self, kind: ViewKind, split: Split) -> npt.NDArray[np.bool_]:
        """Nothing is missing, unless features stored by the user are asked for."""
        if kind != "pixels" and self.image_features is not None:
            return super().missing_images(kind, split)
        return np.zeros(split.n_images, dtype=bool)

    def photo(self, split: Split, row: int, at_least: int = 0) -> Image.Image:
        """Return the picture as it was drawn."""
        return Image.fromarray(self.pictures[split.name][_rows(split)[row]])

    def image_view(self, kind: ViewKind, split: Split) -> View:
        """Return pixels, 7x7 regions of local features, or a vector pooled from them; scaled by the training split."""
        rows = _rows(split)
        if kind == "pixels":
            return PictureView(self.pictures[split.name][rows], self.image_size)
        if self.image_features is not None or kind not in ("regions", "vector"):
            return super().image_view(kind, split)
        if kind not in self._features:
            self._features[kind] = {name: FEATURES[kind](part) for name, part in self.pictures.items()}
            train = self.splits.get("train")
            drawn = self._features[kind]["train"]
            self._scale[kind] = feature_scale(drawn if train is None else drawn[_rows(train)])
        return DrawnView(self._features[kind][split.name][rows], kind, *self._scale[kind])


def _rows(split: Split) -> Rows:
    """Return which of the pictures that were drawn for a split it has kept, (n_images,)."""
    return np.array([int(name.split("-")[1]) for name in split.image_ids], dtype=np.int64)
