"""Photographs become the right tensors, the same ones whoever decodes them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch.utils.data import DataLoader

from cmr_bench.datamodules.images.photos import (
    CROP_AREA,
    PhotoFit,
    PixelView,
    augment_photo,
    fit_photo,
    photo_bytes,
    read_photo,
)
from cmr_bench.support.errors import DataError


def gradient(width: int, height: int) -> Image.Image:
    """Red grows to the right, green downwards, so a pixel tells where it came from."""
    x, y = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    return Image.fromarray(np.stack([x, y, np.full_like(x, 90)], axis=2).round().astype(np.uint8))


@pytest.fixture
def photos(tmp_path: Path) -> list[Path]:
    files = [tmp_path / f"{k}.png" for k in range(4)]
    for k, file in enumerate(files):
        gradient(60 + 7 * k, 40 + 5 * k).save(file)
    return files


def test_pixels_are_the_decoded_values(tmp_path: Path) -> None:
    file = tmp_path / "exact.png"
    photo = gradient(32, 32)
    photo.save(file)
    pixels = PixelView([file], 32, augment=False, seed=0).fetch(np.array([0]))["pixels"]
    assert pixels.shape == (1, 3, 32, 32)
    assert pixels.dtype == torch.float32
    np.testing.assert_allclose(pixels[0].numpy(), np.asarray(photo).transpose(2, 0, 1) / 255.0, atol=1e-7)


RAMP = np.arange(65536).reshape(256, 256)
EXACT = (RAMP / 257).round()


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.pgm"])
def test_sixteen_bits_are_scaled_and_not_cut_off(tmp_path: Path, name: str) -> None:
    file = tmp_path / name
    if name == "a.pgm":
        file.write_bytes(b"P5 256 256 65535\n" + RAMP.astype(">u2").tobytes())
    else:
        Image.fromarray(RAMP.astype(np.uint16)).save(file)
    values = np.asarray(read_photo(file))
    assert (values == EXACT[:, :, None]).all()
    if name == "a.pgm":  # a dark picture stays dark
        file.write_bytes(b"P5 256 256 65535\n" + (RAMP // 300).astype(">u2").tobytes())
        assert np.asarray(read_photo(file)).max() == 1


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (RAMP / 65535, EXACT),
        (RAMP / 257, EXACT),
        (RAMP.astype(np.int32), EXACT),
        (RAMP.astype(np.int32) // 256, RAMP // 256),
    ],
    ids=["0..1", "0..255", "int32", "int32 of 8 bits"],
)
def test_tiff_of_float_and_32_bit_values(tmp_path: Path, values: np.ndarray, expected: np.ndarray) -> None:
    file = tmp_path / "a.tif"
    Image.fromarray(values if values.dtype == np.int32 else values.astype(np.float32)).save(file)
    assert (np.asarray(read_photo(file)) == expected[:, :, None]).all()


@pytest.mark.parametrize("value", [-1.0, 255.5, np.nan, np.inf])
def test_values_without_a_known_white_are_refused(tmp_path: Path, value: float) -> None:
    values = np.full((8, 8), 0.5, dtype=np.float32)
    values[3, 3] = value
    Image.fromarray(values).save(tmp_path / "a.tif")
    with pytest.raises(DataError, match=r"a\.tif: it has values from .* convert it to 8 bits"):
        read_photo(tmp_path / "a.tif")


def test_a_16_bit_photo_is_turned_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[274] = 6
    Image.fromarray(np.full((4, 8), 25700, dtype=np.uint16)).save(tmp_path / "a.png", exif=exif)
    assert read_photo(tmp_path / "a.png").size == (4, 8)


def test_squash_keeps_all_four_corners_and_crop_cuts_the_longer_side() -> None:
    photo = gradient(120, 40)
    squashed = photo_bytes(fit_photo(photo, 20, "squash")).float()
    cropped = photo_bytes(fit_photo(photo, 20, "crop")).float()
    assert squashed[0, :, 0].max() < 20
    assert squashed[0, :, -1].min() > 235
    # The middle third of the width, the whole height.
    assert 80 < cropped[0].min() < 95
    assert 160 < cropped[0].max() < 175
    assert cropped[1, 0].max() < 20
    assert cropped[1, -1].min() > 235


@given(st.integers(1, 90), st.integers(1, 90), st.integers(1, 40), st.sampled_from([1.0, 0.875, 0.5]))
def test_every_shape_becomes_the_square(width: int, height: int, size: int, fraction: float) -> None:
    photo = Image.new("RGB", (width, height))
    assert fit_photo(photo, size, "squash").size == (size, size)
    assert fit_photo(photo, size, "crop", crop_fraction=fraction).size == (size, size)


@pytest.mark.parametrize("mode", ["L", "1", "P", "RGBA", "LA", "CMYK"])
def test_every_colour_mode_becomes_rgb(tmp_path: Path, mode: str) -> None:
    file = tmp_path / ("photo.tiff" if mode == "CMYK" else "photo.png")
    gradient(8, 8).convert(mode).save(file)
    assert read_photo(file).mode == "RGB"


def test_exif_orientation_is_applied(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    gradient(40, 20).save(tmp_path / "turned.jpg", exif=exif)
    assert read_photo(tmp_path / "turned.jpg").size == (20, 40)


def test_reduced_decoding_never_falls_below_what_is_needed(tmp_path: Path) -> None:
    gradient(800, 600).save(tmp_path / "large.jpg", quality=95)
    reduced = read_photo(tmp_path / "large.jpg", at_least=100)
    assert min(reduced.size) >= 100
    assert reduced.size != (800, 600)
    whole = photo_bytes(fit_photo(read_photo(tmp_path / "large.jpg"), 64)).float()
    assert (photo_bytes(fit_photo(reduced, 64)).float() - whole).abs().mean() < 2


def test_augmentation_depends_on_seed_epoch_and_row_only(photos: list[Path]) -> None:
    view = PixelView(photos, 24, augment=True, seed=3)
    together = view.fetch(np.array([0, 1, 2, 3]), epoch=1)["pixels"]
    torch.manual_seed(99)
    alone = torch.cat([view.fetch(np.array([row]), epoch=1)["pixels"] for row in (3, 1, 0, 2)])[[2, 1, 3, 0]]
    assert torch.equal(together, alone)
    assert not torch.equal(together, view.fetch(np.arange(4), epoch=2)["pixels"])
    assert not torch.equal(together, PixelView(photos, 24, True, seed=4).fetch(np.arange(4), epoch=1)["pixels"])
    same_photo = PixelView([photos[0]] * 2, 24, augment=True, seed=3).fetch(np.array([0, 1]), epoch=1)["pixels"]
    assert not torch.equal(same_photo[0], same_photo[1])


def test_evaluation_is_never_augmented(photos: list[Path]) -> None:
    plain = PixelView(photos, 24, augment=False, seed=3)
    as_is = plain.fetch(np.arange(4))["pixels"]
    assert torch.equal(as_is, PixelView(photos, 24, augment=True, seed=8).fetch(np.arange(4), epoch=None)["pixels"])
    assert torch.equal(as_is, plain.fetch(np.arange(4), epoch=5)["pixels"])


def test_augmentation_leaves_the_global_generator_alone(photos: list[Path]) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    PixelView(photos, 24, augment=True, seed=3).fetch(np.arange(4), epoch=0)
    assert torch.equal(torch.rand(3), expected)


def test_crops_keep_half_of_the_photo_and_both_directions_occur() -> None:
    photo = gradient(200, 200)
    areas, flipped = [], 0
    for row in range(40):
        cut = photo_bytes(augment_photo(photo, 32, (0, 0, row))).float()
        left, right = cut[0, :, 0].mean(), cut[0, :, -1].mean()
        flipped += int(left > right)
        areas.append(float((right - left).abs() / 255 * (cut[1, -1].mean() - cut[1, 0].mean()) / 255))
    # The outermost pixel centres lie half a pixel inside the crop, so the measured area is a little smaller.
    assert min(areas) > CROP_AREA[0] * 0.85
    assert max(areas) <= 1
    assert 8 < flipped < 32


def test_workers_see_the_same_pictures(photos: list[Path]) -> None:
    view = PixelView(photos, 16, augment=True, seed=1)
    loader = DataLoader(range(4), batch_size=2, num_workers=2, collate_fn=_Fetch(view))
    assert torch.equal(torch.cat(list(loader)), view.fetch(np.arange(4), epoch=0)["pixels"])


class _Fetch:
    def __init__(self, view: PixelView) -> None:
        self.view = view

    def __call__(self, rows: list[int]) -> torch.Tensor:
        return self.view.fetch(np.array(rows), epoch=0)["pixels"]


@pytest.mark.parametrize("damage", ["truncated", "text", "empty"])
def test_broken_photo_is_named_in_one_line(tmp_path: Path, damage: str) -> None:
    file = tmp_path / "broken.jpg"
    gradient(64, 64).save(file)
    content = {"truncated": file.read_bytes()[:700], "text": b"not a picture", "empty": b""}[damage]
    file.write_bytes(content)
    with pytest.raises(DataError, match=r"broken\.jpg") as caught:
        PixelView([file], 16, augment=False, seed=0).fetch(np.array([0]))
    assert "\n" not in str(caught.value)


def test_absent_photo_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"image not found: .*nowhere\.jpg"):
        PixelView([tmp_path / "nowhere.jpg"], 16, augment=False, seed=0).fetch(np.array([0]))


@pytest.mark.parametrize("size", [(90, 61), (61, 90), (64, 64), (300, 50)])
def test_fitted_photos_are_those_of_torchvision(tmp_path: Path, write_photo: Callable[..., Path], size: Any) -> None:
    from torchvision.transforms import v2

    photo = read_photo(write_photo(tmp_path / "a.jpg", 3, size))
    wide = v2.Resize(32)(photo)
    left, top = ((side - 28) // 2 for side in wide.size)
    expected = wide.crop((left, top, left + 28, top + 28))
    found = PhotoFit(28, "crop", "bilinear", 7 / 8, whole=True).read(tmp_path / "a.jpg")
    assert photo_bytes(found).equal(photo_bytes(expected))


def test_least_crop_is_the_smallest_share_of_the_area(tmp_path: Path) -> None:
    ramp = np.broadcast_to(np.arange(256, dtype=np.uint8)[None, :, None], (256, 256, 3))
    photo = Image.fromarray(np.ascontiguousarray(ramp))
    spread = []
    for row in range(60):
        cut = photo_bytes(augment_photo(photo, 32, (0, 0, row), least=0.08)).float()
        spread.append(float(cut.max() - cut.min()) / 255)
    assert min(spread) < 0.5
