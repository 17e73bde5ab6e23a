"""Photographs to tensors: decoding, fitting to a square, and seeded augmentation."""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageOps
from torch import Tensor

from cmr_bench.datamodules.views import Origin, Rows, View, ViewSpec
from cmr_bench.support import foreign
from cmr_bench.support.checksums import checksums, combined
from cmr_bench.support.errors import DataError

Resize = Literal["squash", "crop"]
# A file, or a picture that is decoded already.
Photo = Path | Image.Image

# Captions describe most of a photo, so training crops keep at least half of it (ImageNet training goes down to .08).
CROP_AREA = (0.5, 1.0)

_FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
_BROKEN = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error, Image.DecompressionBombError)


@dataclass(frozen=True)
class PhotoFit:
    """How photographs are fitted to a square, see :func:`fit_photo`.

    Attributes:
        size: Side of the square in pixels.
        resize: squash or crop.
        interpolation: nearest, bilinear, bicubic or lanczos.
        crop_fraction: Part of the scaled photo's shorter side that a crop keeps.
        whole: Decode photographs at full size, as the processors of transformers do, where JPEG allows less.
        rounded_offset: Round half a pixel before the cut as torchvision and open_clip do; transformers drops it.
    """

    size: int
    resize: Resize = "squash"
    interpolation: str = "bicubic"
    crop_fraction: float = 1.0
    whole: bool = False
    rounded_offset: bool = False

    def read(self, file: Photo) -> Image.Image:
        """Decode a photograph and fit it, cutting fractions of a pixel off as torchvision and transformers do."""
        short = round(self.size / self.crop_fraction)
        photo = read_photo(file, at_least=0 if self.whole else short)
        kernel, fraction = self.interpolation, self.crop_fraction
        return fit_photo(photo, self.size, self.resize, kernel, fraction, False, self.rounded_offset)


@cache
def _formats() -> tuple[str, ...]:
    """Return every format of Pillow's but those for which it starts another program or asks the system to draw."""
    Image.init()
    return tuple(name for name in Image.ID if name not in ("EPS", "WMF"))


def as_photo(given: str | Path | Image.Image | npt.NDArray[Any]) -> Photo:
    """Return what a user calls a photograph as a file or a picture.

    Args:
        given: A path, a picture of Pillow, or an array (height, width) or (height, width, 3), of uint8 or of floating
            numbers in 0..1.

    Raises:
        DataError: For an array of another shape or type.
    """
    if isinstance(given, str | Path):
        return Path(given).expanduser()
    if isinstance(given, Image.Image):
        return given
    values = np.asarray(given)
    if not (values.ndim == 2 or (values.ndim == 3 and values.shape[2] == 3)) or 0 in values.shape:
        raise DataError(f"an image as an array is (height, width) or (height, width, 3), this one is {values.shape}")
    if values.dtype.kind == "f" and values.min() >= 0 and values.max() <= 1:
        values = (values * 255).round().astype(np.uint8)
    if values.dtype != np.uint8:
        raise DataError(f"an image as an array holds uint8, or floating numbers in 0..1, this one {values.dtype}")
    return Image.fromarray(values)


def read_photo(file: Photo, at_least: int = 0) -> Image.Image:
    """Decode a photograph to RGB, upright as its EXIF orientation says.

    Grey values of 16 bits (radiographs, remote sensing) are scaled from 0..65535 to 0..255, floating-point values from
    0..1, or taken as they are where they lie in 0..255.

    Args:
        file: The photograph, in any format that Pillow reads, or a picture that is decoded already.
        at_least: Both sides that are needed, in pixels; a large JPEG may be decoded at a half, quarter or eighth of
            its size while both sides stay this long. 0 decodes at full size.

    Returns:
        The photograph.

    Raises:
        DataError: If the file is missing, truncated, not a picture, or of values whose white is not known.
    """
    try:
        if isinstance(file, Image.Image):
            return ImageOps.exif_transpose(_eight_bits(file)).convert("RGB")
        with Image.open(foreign.checked(file), formats=_formats()) as photo:
            foreign.check_picture(photo.size, file.stat().st_size)
            if at_least:
                photo.draft("RGB", (at_least, at_least))
            photo.load()
            return ImageOps.exif_transpose(_eight_bits(photo)).convert("RGB")
    except FileNotFoundError as error:
        raise DataError(f"image not found: {file}") from error
    except _BROKEN as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"cannot decode image {file}: {reason}; replace it or remove it from the data set") from error


def undecodable(files: Sequence[Path]) -> npt.NDArray[np.int64]:
    """Return the rows of photographs that cannot be decoded; every one is read, in as many threads as processors."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        broken = list(pool.map(_is_broken, files))
    return np.flatnonzero(np.array(broken, dtype=bool))


def _is_broken(file: Path) -> bool:
    try:
        read_photo(file)
    except DataError:
        return True
    return False


def _eight_bits(photo: Image.Image) -> Image.Image:
    """Return grey values of more than 8 bits scaled to 0..255, which Pillow would cut off there; others as they are."""
    if photo.mode not in ("I", "F") and not photo.mode.startswith("I;16"):
        return photo
    values = np.asarray(photo)
    low, high = float(values.min()), float(values.max())
    if photo.mode == "F":
        scale = 255.0 if high <= 1 else 1.0
        known = low >= 0 and high <= 255  # false for NaN
    else:
        # Pillow reads 16-bit PGM as 32-bit integers; elsewhere those may hold 8-bit values.
        scale = 1.0 if photo.mode == "I" and photo.format != "PPM" and high <= 255 else 1 / 257
        known = low >= 0 and high <= 65535
    if not known:
        raise ValueError(f"it has values from {low:g} to {high:g}, of which white is not known: convert it to 8 bits")
    grey = Image.fromarray((values * scale).round().astype(np.uint8))
    grey.info = photo.info  # holds the EXIF orientation
    return grey


def fit_photo(
    photo: Image.Image,
    size: int,
    resize: Resize = "squash",
    interpolation: str = "bicubic",
    crop_fraction: float = 1.0,
    rounded: bool = True,
    rounded_offset: bool = False,
) -> Image.Image:
    """Fit a photograph to a square.

    ``squash`` scales both sides to ``size``: nothing that a caption may mention is cut off, at the price of the aspect
    ratio. ``crop`` scales the shorter side to ``size / crop_fraction`` and cuts the square from the centre, as ImageNet
    networks are evaluated; the longer side is then rounded to whole pixels, or cut down to them.
    """
    kernel = _FILTERS[interpolation]
    if resize == "squash":
        return photo if photo.size == (size, size) else photo.resize((size, size), kernel)
    short = round(size / crop_fraction)
    scale = short / min(photo.size)
    if rounded:
        width, height = (max(short, round(side * scale)) for side in photo.size)
    else:
        width, height = (short * side // min(photo.size) for side in photo.size)
    gaps = (width - size, height - size)
    left, top = (round(gap / 2) if rounded_offset else gap // 2 for gap in gaps)
    return photo.resize((width, height), kernel).crop((left, top, left + size, top + size))


def photo_bytes(photo: Image.Image) -> Tensor:
    """Return an RGB photograph as uint8, (3, height, width)."""
    return torch.from_numpy(np.array(photo, dtype=np.uint8)).permute(2, 0, 1)


@cache
def _augmentation(size: int, least: float) -> Any:
    from torchvision.transforms import v2

    return v2.Compose(
        [
            v2.RandomResizedCrop(size, scale=(least, CROP_AREA[1]), interpolation=v2.InterpolationMode.BICUBIC),
            v2.RandomHorizontalFlip(),
        ]
    )


def augment_photo(photo: Image.Image, size: int, seed: Sequence[int], least: float = CROP_AREA[0]) -> Image.Image:
    """Cut a random part of a photograph, scale it to a square and flip half of them; the seed decides everything.

    The part keeps at least the share ``least`` of the area.
    """
    state = int(np.random.SeedSequence(list(seed)).generate_state(1, np.uint64)[0] >> np.uint64(1))
    # The transforms draw from torch's global generator. Only the CPU's is touched: torch.manual_seed would also
    # reseed the GPUs, and with them the dropout of the model that is being trained.
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(state)
        result: Image.Image = _augmentation(size, least)(photo)
    return result


class PixelView(View):
    """Photographs as RGB in 0..1, (3, size, size), not normalised: the encoder knows its own mean and deviation.

    Outside training epochs a photo is fitted to the square and always the same. In training epochs with ``augment`` a
    random crop of at least a share of its area is scaled to the square and flipped half of the time; the draw depends
    on (seed, epoch, row) only, so the pictures are the same with any number of data workers.

    Args:
        files: The photographs, one per item.
        size: Side of the square in pixels.
        augment: Augment when an epoch is given.
        seed: Seed of the augmentation.
        fit: How photographs are fitted to the square, of its size; None squashes them.
        least_crop: Smallest share of a photo's area that a random crop keeps.
    """

    def __init__(
        self,
        files: Sequence[Path],
        size: int,
        augment: bool,
        seed: int,
        fit: PhotoFit | None = None,
        least_crop: float = CROP_AREA[0],
    ) -> None:
        self.files, self.size, self.augment, self.seed = files, size, augment, seed
        self.fit, self.least_crop = fit or PhotoFit(size), least_crop
        self.spec = ViewSpec("pixels", (3, size, size), "photographs")

    def __len__(self) -> int:
        return len(self.files)

    def fetch(self, rows: Rows, epoch: int | None = None) -> dict[str, Tensor]:
        """Decode, fit and, in training epochs, augment: ``pixels`` (b, 3, size, size)."""
        pixels = torch.empty(len(rows), 3, self.size, self.size)
        for k, row in enumerate(rows.tolist()):
            try:
                pixels[k] = photo_bytes(self._fitted(row, epoch))
            except DataError as error:
                raise DataError(f"{error}, or pass --data.skip_invalid true to skip it") from error
        return {"pixels": pixels.div_(255)}

    def _fitted(self, row: int, epoch: int | None) -> Image.Image:
        if not self.augment or epoch is None:
            return self.fit.read(self.files[row])
        # A crop of half the area is still about as wide as the square it becomes.
        enough = round(1.5 * self.size * (CROP_AREA[0] / self.least_crop) ** 0.5)
        photo = read_photo(self.files[row], at_least=enough)
        return augment_photo(photo, self.size, (self.seed, epoch, row), self.least_crop)

    def content(self) -> str:
        """Checksum over the contents of the photographs."""
        return combined((str(row), value) for row, value in enumerate(checksums(self.files)))

    def origin(self) -> Origin:
        """Return how photographs are fitted to the square."""
        return Origin("pixels", asdict(self.fit))
