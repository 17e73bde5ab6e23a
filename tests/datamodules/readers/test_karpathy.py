from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cmr_bench.datamodules.captions import first_captions
from cmr_bench.datamodules.flickr8k import Flickr8k
from cmr_bench.datamodules.flickr30k import Flickr30k
from cmr_bench.datamodules.mscoco import MSCOCO
from cmr_bench.datamodules.readers.cells import relative_path
from cmr_bench.datamodules.readers.karpathy import make_splits, read_photos
from cmr_bench.support.errors import DataError

Writer = Callable[..., Path]
FUZZ = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def entry(**changes: Any) -> dict[str, Any]:
    sentences = [{"raw": "a dog .", "tokens": ["a", "dog"], "sentid": 0}]
    return {"filename": "a.jpg", "split": "train", "sentences": sentences} | changes


def write(folder: Path, content: Any) -> Path:
    file = folder / "dataset_flickr8k.json"
    file.write_text(json.dumps(content), encoding="utf-8")
    return file


@pytest.mark.parametrize("compressed", [False, True])
def test_reads_every_item_with_its_links(tmp_path: Path, write_karpathy: Writer, compressed: bool) -> None:
    write_karpathy(tmp_path, captions=[5, 4, 6], compressed=compressed)
    splits = Flickr8k(root=str(tmp_path)).read()
    assert {name: s.n_images for name, s in splits.items()} == {"train": 8, "val": 4, "test": 4}
    content = json.loads(
        gzip.decompress((tmp_path / "flickr8k/dataset_flickr8k.json.gz").read_bytes())
        if compressed
        else (tmp_path / "flickr8k/dataset_flickr8k.json").read_bytes()
    )
    for image in content["images"]:
        split = splits[image["split"]]
        row = list(split.image_ids).index(image["filename"])
        texts = np.flatnonzero(split.image_of_text == row)
        assert split.captions is not None
        assert split.image_files is not None
        assert [split.captions[t] for t in texts] == [s["raw"] for s in image["sentences"]]
        assert [split.text_ids[t] for t in texts] == [str(s["sentid"]) for s in image["sentences"]]
        assert split.image_files[row].is_file()


def test_root_may_be_the_folder_itself(tmp_path: Path, write_karpathy: Writer) -> None:
    folder = write_karpathy(tmp_path)
    assert Flickr8k(root=str(folder)).read()["test"].n_images == 4


def test_the_original_archive_calls_its_file_dataset_json(tmp_path: Path, write_karpathy: Writer) -> None:
    folder = write_karpathy(tmp_path, name="flickr30k")
    (folder / "dataset_flickr30k.json").rename(folder / "dataset.json")
    assert Flickr30k(root=str(tmp_path)).read()["train"].n_texts == 40


@pytest.mark.parametrize("images", ["images", "Images", "flickr8k-images", "photos"])
def test_finds_the_image_folder(tmp_path: Path, write_karpathy: Writer, images: str) -> None:
    write_karpathy(tmp_path, images=images)
    dm = Flickr8k(root=str(tmp_path), images="photos" if images == "photos" else None)
    assert not dm.missing_images("pixels", dm.read()["train"]).any()


def test_absent_image_folder_is_told_with_the_option(tmp_path: Path, write_karpathy: Writer) -> None:
    write_karpathy(tmp_path, photos=False)
    with pytest.raises(DataError, match=r"no images: looked for images.*--data\.images DIR"):
        Flickr8k(root=str(tmp_path)).load("pixels", "tokens")


def test_missing_photo_is_named(tmp_path: Path, write_karpathy: Writer) -> None:
    folder = write_karpathy(tmp_path)
    (folder / "images" / "val_00008.jpg").unlink()
    dm = Flickr8k(root=str(tmp_path))
    assert dm.missing_images("pixels", dm.read()["val"]).tolist() == [True, False, False, False]
    with pytest.raises(DataError, match=r"val: 1 of 4 images.*val_00008\.jpg.*skip_missing"):
        dm.load("pixels", "tokens")


def test_absent_data_set_says_where_it_looked(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"flickr30k not found.*dataset_flickr30k\.json"):
        Flickr30k(root=str(tmp_path)).read()


def test_mscoco_parts_and_captions(tmp_path: Path, write_karpathy: Writer) -> None:
    counts = {"train": 4, "restval": 3, "val": 2, "test": 2}
    filepath = {"train": "train2014", "restval": "val2014", "val": "val2014", "test": "val2014"}
    folder = write_karpathy(tmp_path, "mscoco", counts, captions=[5, 7], filepath=filepath)
    whole = MSCOCO(root=str(tmp_path))
    train = whole.read()["train"]
    assert (train.n_images, train.n_texts) == (7, 5 + 7 + 5 + 7 + 5 + 7 + 5)
    assert train.image_files is not None
    assert train.image_files[0] == folder / "images/train2014/train_00000.jpg"
    assert not whole.missing_images("pixels", train).any()
    assert MSCOCO(root=str(tmp_path), restval=False).read()["train"].n_images == 4
    five = MSCOCO(root=str(tmp_path), five_captions=True).read()
    assert all(np.bincount(split.image_of_text).tolist() == [5] * split.n_images for split in five.values())
    assert whole.expected_counts()["train"][0] == 113287
    assert MSCOCO(restval=False).expected_counts()["train"][0] == 82783
    assert MSCOCO.folds == 5


@pytest.mark.parametrize("place", ["flat", "beside"])
def test_mscoco_photos_may_lie_flat_or_beside_the_json(tmp_path: Path, write_karpathy: Writer, place: str) -> None:
    folder = write_karpathy(tmp_path, "mscoco", {"val": 2}, filepath={"val": "val2014"})
    if place == "beside":
        (folder / "images/val2014").rename(folder / "val2014")
    else:
        (folder / "images/val2014").rename(folder / "flat")
    (folder / "images").rmdir()
    dm = MSCOCO(root=str(tmp_path), images="flat" if place == "flat" else None)
    assert not dm.missing_images("pixels", dm.read()["val"]).any()


def test_only_the_parts_that_are_there(tmp_path: Path, write_karpathy: Writer) -> None:
    write_karpathy(tmp_path, "mscoco", {"val": 2, "test": 2})
    dm = MSCOCO(root=str(tmp_path))
    assert set(dm.read()) == {"val", "test"}


def test_first_captions(tmp_path: Path, write_karpathy: Writer) -> None:
    write_karpathy(tmp_path, captions=[3, 1, 2])
    split = Flickr8k(root=str(tmp_path)).read()["train"]
    cut = first_captions(split, 2)
    assert np.bincount(cut.image_of_text).tolist() == [min(2, n) for n in np.bincount(split.image_of_text)]
    for row, text in enumerate(cut.text_ids):
        old = list(split.text_ids).index(text)
        assert split.image_of_text[old] == cut.image_of_text[row]
        assert split.captions is not None
        assert cut.captions is not None
        assert split.captions[old] == cut.captions[row]


def test_equal_file_names_in_two_folders_are_told_apart(tmp_path: Path) -> None:
    file = write(tmp_path, {"images": [entry(filepath="cats"), entry(filepath="dogs")]})
    assert list(make_splits(read_photos(file), tmp_path, "x")["train"].image_ids) == ["cats/a.jpg", "dogs/a.jpg"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], "no list 'images'"),
        ({"images": {}}, "no list 'images'"),
        ({"images": []}, "no list 'images'"),
        ({"images": [3]}, r"image 0: 3 is not an object"),
        ({"images": [{"split": "train"}]}, "no 'filename'"),
        (
            {"images": [entry(split="holdout")]},
            r"no split is called train, val, test or the like, only 'holdout' \(1\)",
        ),
        ({"images": [entry(split=["train"])]}, "is none of"),
        ({"images": [entry(sentences=[])]}, "no caption"),
        ({"images": [entry(sentences=[{"raw": " \n", "sentid": 1}])]}, r"a\.jpg.*empty caption"),
        ({"images": [entry(sentences=[{"raw": 7, "sentid": 1}])]}, "a caption is 7, not text"),
        ({"images": [entry(sentences=[{"raw": "\ud800", "sentid": 1}])]}, "not valid Unicode"),
        ({"images": [entry(sentences=[{"raw": "x", "sentid": [1]}])]}, "sentid"),
        ({"images": [entry(filename="../a.jpg")]}, "leads out"),
        ({"images": [entry(filename="/etc/passwd")]}, "leads out"),
        ({"images": [entry(filename="..\\a.jpg")]}, "leads out"),
        ({"images": [entry(filename="C:\\a.jpg")]}, "leads out"),
        ({"images": [entry(filepath="x/../..")]}, "leads out"),
        ({"images": [entry(filename="a\0.jpg")]}, "cannot be the name"),
        ({"images": [entry(filename="a" * 300)]}, "cannot be the name"),
        ({"images": [entry(filename="a\nb.jpg", sentences=[])]}, "cannot be the name"),
        ({"images": [entry(filename=".")]}, "cannot be the name"),
        ({"images": [entry(), entry()]}, r"stand twice in the train split, e\.g\. a\.jpg"),
    ],
)
def test_malformed_entries_are_one_line(tmp_path: Path, content: Any, message: str) -> None:
    write(tmp_path, content)
    with pytest.raises(DataError, match=message) as error:
        Flickr8k(root=str(tmp_path)).read()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"\xff\xfe\x00",
        b"[" * 100_000,
        b'{"images": ' + b"1" * 5000 + b"}",
        gzip.compress(b'{"images": []}', mtime=0)[:-9],
        b"\x1f\x8bgarbage",
        b"version https://git-lfs.github.com/spec/v1\n",
    ],
)
def test_damaged_files_are_one_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "dataset_flickr8k.json").write_bytes(content)
    with pytest.raises(DataError, match=r"dataset_flickr8k\.json") as error:
        Flickr8k(root=str(tmp_path)).read()
    assert "\n" not in str(error.value)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.just("\ud800"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
SENTENCE = st.fixed_dictionaries({}, optional={"raw": JSON, "tokens": JSON, "sentid": JSON})
ENTRY = st.fixed_dictionaries(
    {},
    optional={
        "filename": JSON | st.sampled_from(["a.jpg", "b.jpg", "../a.jpg", "x/y.jpg"]),
        "filepath": JSON | st.sampled_from(["", "val2014", ".."]),
        "split": JSON | st.sampled_from(["train", "restval", "val", "test"]),
        "sentences": JSON | st.lists(SENTENCE | JSON, max_size=3) | st.just([{"raw": "a dog", "sentid": 1}]),
    },
)


@FUZZ
@given(st.fixed_dictionaries({"images": st.lists(ENTRY | JSON, max_size=3)}) | JSON)
def test_any_json_is_read_or_refused_in_one_line(tmp_path: Path, one_line: Callable[..., Any], content: Any) -> None:
    write(tmp_path, content)
    dm = MSCOCO(root=str(tmp_path), five_captions=True)
    dm.annotation_names = ("dataset_flickr8k.json",)  # type: ignore[misc]
    for split in (one_line(dm.read) or {}).values():
        split.fingerprint()
        assert split.image_files is not None
        assert all(file.resolve().is_relative_to(tmp_path.resolve()) for file in split.image_files)
        assert not any(file.is_file() for file in split.image_files)


@FUZZ
@given(st.text(max_size=20) | st.lists(st.sampled_from(["..", ".", "a", "/", "\\", "C:", "~"])).map("/".join))
def test_a_relative_path_stays_below_its_folder(one_line: Callable[..., Any], text: str) -> None:
    path = one_line(lambda: relative_path(text, "file"))
    assert path is None or (Path("/data") / path).resolve().is_relative_to("/data")


@pytest.mark.real_data
def test_flickr8k_is_complete_but_for_one_photo(data_root: Path) -> None:
    dm = Flickr8k(root=str(data_root))
    splits = dm.read()
    assert {name: (s.n_images, s.n_texts) for name, s in splits.items()} == dm.expected_counts()
    absent = {
        name: [image for image, gone in zip(s.image_ids, dm.missing_images("pixels", s), strict=True) if gone]
        for name, s in splits.items()
    }
    assert absent == {"train": ["3050606344_af711c726c.jpg"], "val": [], "test": []}


@pytest.mark.real_data
def test_flickr30k_has_the_published_counts(data_root: Path) -> None:
    dm = Flickr30k(root=str(data_root))
    assert {name: (s.n_images, s.n_texts) for name, s in dm.read().items()} == dm.expected_counts()


@pytest.mark.real_data
def test_mscoco_without_train_cannot_be_trained_on(data_root: Path) -> None:
    dm = MSCOCO(root=str(data_root))
    splits = dm.read()
    assert {name: (s.n_images, s.n_texts) for name, s in splits.items()} == {"val": (106, 530), "test": (5000, 25000)}
    assert splits["test"].image_ids[0] == "COCO_val2014_000000391895.jpg"
