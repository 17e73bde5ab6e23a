"""Boxes beside features: fractions or pixels, in folders of arrays and in files by image id."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from cmr_bench.datamodules.flickr30k import Flickr30k
from cmr_bench.datamodules.readers.boxes import as_fractions
from cmr_bench.datamodules.readers.featurefiles import FeatureFile
from cmr_bench.datamodules.split import Split
from cmr_bench.support.errors import DataError, Notice

Writer = Callable[..., Path]
COUNTS = {"train": 8, "dev": 4, "test": 4}


def made(n: int, seed: int = 0) -> npt.NDArray[np.float32]:
    corners = np.random.default_rng(seed).random((n, 3, 2, 2)).astype(np.float32)
    return np.sort(corners, axis=2).reshape(n, 3, 4)


@pytest.mark.parametrize("pixels", [False, True])
@pytest.mark.parametrize("repeat", [False, True])
@pytest.mark.parametrize("name", ["boxes", "ims_bbx"])
def test_boxes_of_a_folder_follow_their_images(
    tmp_path: Path, write_precomputed: Writer, pixels: bool, repeat: bool, name: str
) -> None:
    folder = write_precomputed(tmp_path / "f30k_precomp", repeat=repeat, regions=3)
    expected = {prefix: made(n, n) for prefix, n in COUNTS.items()}
    for prefix, boxes in expected.items():
        sizes = np.random.default_rng(1).integers(200, 600, (len(boxes), 2))
        rows, wide = (np.repeat(a, 5, axis=0) if repeat else a for a in (boxes, sizes))
        np.save(folder / f"{prefix}_{name}.npy", rows * np.tile(wide, 2)[:, None] if pixels else rows)
        if pixels:
            np.save(folder / f"{prefix}_ims_size.npy", wide)
    data = Flickr30k(root=str(tmp_path))
    splits = data.read()
    before = {}
    for split, prefix in (("train", "train"), ("val", "dev"), ("test", "test")):
        view = data.image_view("regions", splits[split])
        fetched = view.fetch(np.array([2, 0]))
        np.testing.assert_allclose(fetched["boxes"].numpy(), expected[prefix][[2, 0]], atol=1e-6)
        before[split] = view.content()
    # Other boxes are other content.
    np.save(folder / f"train_{name}.npy", np.load(folder / f"train_{name}.npy") * 0.5)
    again = Flickr30k(root=str(tmp_path))
    assert again.image_view("regions", again.read()["train"]).content() != before["train"]


def test_what_is_no_box_is_told_or_passed_over(tmp_path: Path, write_precomputed: Writer) -> None:
    folder = write_precomputed(tmp_path / "f30k_precomp", regions=3)
    file = folder / "train_boxes.npy"
    np.save(file, made(8) * 100)
    with pytest.raises(DataError, match=r"in pixels need the sizes of the images: train_ims_size\.npy"):
        Flickr30k(root=str(tmp_path)).read()
    np.save(file, made(7))
    with pytest.raises(DataError, match="boxes of 7 x 3 regions"):
        Flickr30k(root=str(tmp_path)).read()
    np.save(file, np.zeros((8, 3, 30)))
    data = Flickr30k(root=str(tmp_path))
    with pytest.warns(Notice, match="not four numbers a region"):
        splits = data.read()
    assert "boxes" not in data.image_view("regions", splits["train"]).fetch(np.arange(2))


@pytest.mark.parametrize(
    ("box", "said"),
    [([0.5, 0, 0.4, 1], "ends before it begins"), ([0, -0.5, 1, 1], "lies outside"), ([0, np.nan, 1, 1], "NaN")],
)
def test_boxes_that_cannot_be_are_told(box: list[float], said: str) -> None:
    boxes = made(2)
    boxes[1, 2] = box
    with pytest.raises(DataError, match=said):
        as_fractions(boxes, None, Path("b.npy"), "sizes")


@pytest.mark.parametrize("pixels", [False, True])
@pytest.mark.parametrize("suffix", [".npz", ".h5"])
def test_boxes_in_a_file_by_image_id(tmp_path: Path, suffix: str, pixels: bool) -> None:
    ids = [f"{k}.jpg" for k in range(5)]
    boxes, features = made(5), np.random.default_rng(0).random((5, 3, 4)).astype(np.float32)
    content: dict[str, Any] = {"features": features, "boxes": boxes, "ids": ids}
    if pixels:
        content |= {"image_w": np.full(5, 300), "image_h": np.arange(200, 205)}
        content["boxes"] = boxes * np.stack([content["image_w"], content["image_h"]] * 2, axis=1)[:, None]
    file = tmp_path / f"f{suffix}"
    if suffix == ".npz":
        np.savez(file, **content)
    else:
        h5py = pytest.importorskip("h5py")
        with h5py.File(file, "w") as stream:
            for name, value in content.items():
                stream[name] = value
    split = Split("test", ["3.jpg", "1.jpg"], np.arange(2), ["a", "b"])
    fetched = FeatureFile(str(file), file).view(split).fetch(np.arange(2))
    np.testing.assert_array_equal(fetched["regions"].numpy(), features[[3, 1]])
    np.testing.assert_allclose(fetched["boxes"].numpy(), boxes[[3, 1]], atol=1e-6)
