"""Photographs to tensors: decoding, fitting to a square, and seeded augmentation."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from cmr_bench.datamodules.views import Origin, Rows, View, ViewSpec
from cmr_bench.support.checksums import checksums, combined
from cmr_bench.support.errors import DataError

Resize = Literal["squash", "crop"]

# Captions describe most of a photo, so training crops keep at least half of it (ImageNet training goes down to .08).
CROP_AREA = (0.5, 1.0)

_FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
_BROKEN = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error, Image.DecompressionBombError)


def read_photo(file: Path, at_least: int = 0) -> Image.Image:
    """Decode a photograph to RGB, upright as its EXIF orientation says.

    Args:
        file: The photograph, in any format that Pillow reads.
        at_least: Both sides that are needed, in pixels; a large JPEG may be decoded at a half, quarter or eighth of
            its size while both sides stay this long. 0 decodes at full size.

    Returns:
        The photograph.

    Raises:
        DataError: If the file is missing, truncated or not a picture.
    """
    try:
        with Image.open(file) as photo:
            if at_least:
                photo.draft("RGB", (at_least, at_least))
            photo.load()
            return ImageOps.exif_transpose(photo).convert("RGB")
    except FileNotFoundError as error:
        raise DataError(f"image not found: {file}") from error
    except _BROKEN as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"cannot decode image {file}: {reason}; replace it or remove it from the data set") from error


def fit_photo(
    photo: Image.Image,
    size: int,
    resize: Resize = "squash",
    interpolation: str = "bicubic",
    crop_fraction: float = 1.0,
) -> Image.Image:
    """Fit a photograph to a square.

    ``squash`` scales both sides to ``size``: nothing that a caption may mention is cut off, at the price of the aspect
    ratio. ``crop`` scales the shorter side to ``size / crop_fraction`` and cuts the square from the centre, as ImageNet
    networks are evaluated.
    """
    kernel = _FILTERS[interpolation]
    if resize == "squash":
        return photo if photo.size == (size, size) else photo.resize((size, size), kernel)
    short = round(size / crop_fraction)
    scale = short / min(photo.size)
    width, height = (max(short, round(side * scale)) for side in photo.size)
    left, top = (width - size) // 2, (height - size) // 2
    return photo.resize((width, height), kernel).crop((left, top, left + size, top + size))


def photo_bytes(photo: Image.Image) -> Tensor:
    """Return an RGB photograph as uint8, (3, height, width)."""
    return torch.from_numpy(np.array(photo, dtype=np.uint8)).permute(2, 0, 1)


@cache
def _augmentation(size: int) -> Any:
    from torchvision.transforms import v2

    return v2.Compose(
        [
            v2.RandomResizedCrop(size, scale=CROP_AREA, interpolation=v2.InterpolationMode.BICUBIC),
            v2.RandomHorizontalFlip(),
        ]
    )


def augment_photo(photo: Image.Image, size: int, seed: Sequence[int]) -> Image.Image:
    """Cut a random part of a photograph, scale it to a square and flip half of them; the seed decides everything."""
    state = int(np.random.SeedSequence(list(seed)).generate_state(1, np.uint64)[0] >> np.uint64(1))
    # The transforms draw from torch's global generator. Only the CPU's is touched: torch.manual_seed would also
    # reseed the GPUs, and with them the dropout of the model that is being trained.
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(state)
        result: Image.Image = _augmentation(size)(photo)
    return result


class PixelView(View):
    """Photographs as RGB in 0..1, (3, size, size), not normalised: the encoder knows its own mean and deviation.

    Outside training epochs a photo is squashed to the square and always the same. In training epochs with ``augment`` a
    random crop of at least half its area is scaled to the square and flipped half of the time; the draw depends on
    (seed, epoch, row) only, so the pictures are the same with any number of data workers.

    Args:
        files: The photographs, one per item.
        size: Side of the square in pixels.
        augment: Augment when an epoch is given.
        seed: Seed of the augmentation.
    """

    def __init__(self, files: Sequence[Path], size: int, augment: bool, seed: int) -> None:
        self.files, self.size, self.augment, self.seed = files, size, augment, seed
        self.spec = ViewSpec("pixels", (3, size, size), "photographs")

    def __len__(self) -> int:
        return len(self.files)

    def fetch(self, rows: Rows, epoch: int | None = None) -> dict[str, Tensor]:
        """Decode, fit and, in training epochs, augment: ``pixels`` (b, 3, size, size)."""
        pixels = torch.empty(len(rows), 3, self.size, self.size)
        for k, row in enumerate(rows.tolist()):
            if self.augment and epoch is not None:
                # A crop of half the area is still about as wide as the square it becomes.
                photo = read_photo(self.files[row], at_least=round(1.5 * self.size))
                photo = augment_photo(photo, self.size, (self.seed, epoch, row))
            else:
                photo = fit_photo(read_photo(self.files[row], at_least=self.size), self.size)
            pixels[k] = photo_bytes(photo)
        return {"pixels": pixels.div_(255)}

    def content(self) -> str:
        """Checksum over the contents of the photographs."""
        return combined((str(row), value) for row, value in enumerate(checksums(self.files)))

    def origin(self) -> Origin:
        """Return the side of the square that photographs are squashed to."""
        return Origin("pixels", {"size": self.size})
