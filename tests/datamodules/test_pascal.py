"""Pascal Sentence in its layout on disk."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cmr_bench.datamodules.pascal import Pascal
from cmr_bench.support.errors import DataError
from tests.support.layouts import write_pascal

CATEGORIES = ("bird", "cow")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_pascal(tmp_path / "pascal").parent


@pytest.fixture
def with_lists(tmp_path: Path) -> Path:
    lists = {"train": range(2, 10), "val": [0], "test": [1]}
    return write_pascal(tmp_path / "pascal", lists=lists).parent


@pytest.mark.parametrize("lists", [True, False])
def test_other_suffixes_and_leftovers_of_macos(with_lists: Path, lists: bool) -> None:
    folder = with_lists / "pascal"
    for k, photo in enumerate(sorted(folder.glob("dataset/*/*.jpg"))):
        photo.rename(photo.with_suffix((".JPG", ".jpeg", ".png")[k % 3]))
        photo.with_name(f"._{photo.name}").write_bytes(b"\0\5\x16\7")
        sentence = folder / "sentence" / photo.parent.name / f"._{photo.stem}.txt"
        sentence.write_bytes(b"\0\5\x16\7")
    (folder / "sentence/__MACOSX").mkdir()
    for name in ("train", "val", "test"):
        file = folder / f"{name}.txt"
        if lists and name == "val":
            file = file.rename(folder / "validation.txt")
        if lists:
            file.write_text("".join(f"{Path(line).with_suffix('.JPG')}\n" for line in file.read_text().splitlines()))
        else:
            file.unlink()
    data = Pascal(root=str(with_lists))
    splits = data.read()
    assert splits["train"].class_names == list(CATEGORIES)
    assert sum(split.n_images for split in splits.values()) == 20
    assert all(not data.missing_images("pixels", split).any() for split in splits.values())


def test_lists_give_order_documents_and_labels(with_lists: Path) -> None:
    splits = Pascal(root=str(with_lists)).read()
    train = splits["train"]
    assert train.image_ids[:3] == ["cow/2008_2", "bird/2008_2", "cow/2008_3"]
    assert train.captions is not None
    assert train.captions[0] == "A cow number 2.\nSentence two here\nAnd a third one."
    assert train.captions[2].endswith("A fourth.")
    assert train.labels is not None
    assert train.labels[:3].tolist() == [1, 0, 1]
    assert train.class_names == list(CATEGORIES)
    assert train.image_of_text.tolist() == list(range(16))
    assert train.image_files is not None
    assert train.image_files[0].is_file()
    assert [splits[name].n_images for name in ("train", "val", "test")] == [16, 2, 2]


def test_a_text_for_every_sentence(with_lists: Path) -> None:
    train = Pascal(root=str(with_lists), sentences=True).read()["train"]
    assert train.n_texts == 16 * 3 + 2
    assert np.bincount(train.image_of_text).tolist() == [3, 3, 4, 4] + [3] * 12
    assert train.captions is not None
    assert train.captions[9] == "A fourth."
    assert train.text_ids[9] == "cow/2008_3#3"
    assert train.image_of_text[9] == 2
    assert train.text_labels is not None
    assert train.text_labels[9] == 1


def test_drawn_split_is_stratified_and_fixed(root: Path) -> None:
    splits = Pascal(root=str(root)).read()
    for name, count in (("train", 8), ("val", 1), ("test", 1)):
        assert np.bincount(splits[name].labels).tolist() == [count, count]
    ids = [image for split in splits.values() for image in split.image_ids]
    assert len(set(ids)) == 20
    assert Pascal(root=str(root), seed=9).read()["test"].image_ids == splits["test"].image_ids
    drawn = {tuple(Pascal(root=str(root), split_seed=seed).read()["test"].image_ids) for seed in range(6)}
    assert len(drawn) > 1


def test_a_split_seed_draws_in_place_of_the_lists_and_never_tests_on_the_validation_list(with_lists: Path) -> None:
    listed = Pascal(root=str(with_lists)).read()
    everything = {image for split in listed.values() for image in split.image_ids}
    for seed in range(8):
        drawn = Pascal(root=str(with_lists), split_seed=seed).read()
        assert {image for split in drawn.values() for image in split.image_ids} == everything
        assert [split.n_images for split in drawn.values()] == [16, 2, 2]
        for name in ("val", "test"):
            assert np.bincount(drawn[name].labels).tolist() == [1, 1]
        assert not set(drawn["test"].image_ids) & set(listed["val"].image_ids)
    texts = {split.text_ids[0]: split.captions[0] for split in listed.values() if split.captions}
    again = Pascal(root=str(with_lists), split_seed=3).read()
    found = {
        name: text for split in again.values() for name, text in zip(split.text_ids, split.captions or (), strict=True)
    }
    assert all(found[name] == text for name, text in texts.items())


def test_views(with_lists: Path) -> None:
    data = Pascal(root=str(with_lists), image_size=8, min_count=1)
    spec = data.load("pixels", "vector")
    assert (spec.n_classes, spec.text.source, data.selection) == (2, "tfidf", "map")
    assert data.load("pixels", "tokens").text.vocab_size > 10
    doc2vec = Pascal(root=str(with_lists), text_features="doc2vec", text_dim=5).load("pixels", "vector")
    assert doc2vec.text.shape == (5,)


def test_features_without_photographs(with_lists: Path) -> None:
    (with_lists / "pascal" / "dataset").rename(with_lists / "elsewhere")
    assert Pascal(root=str(with_lists)).read()["train"].image_files is None
    with pytest.raises(DataError, match="no images"):
        Pascal(root=str(with_lists)).load("pixels", "vector")


def _append(name: str, line: str) -> Callable[[Path], object]:
    def append(folder: Path) -> None:
        with (folder / name).open("a") as file:
            file.write(line + "\n")

    return append


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "sentence/cow/2008_4.txt").unlink(), r"sentence/cow/2008_4\.txt is missing"),
        (lambda f: (f / "sentence/cow/2008_4.txt").write_text(" \n\n"), r"sentence/cow/2008_4\.txt is empty"),
        (lambda f: (f / "val.txt").unlink(), r"val\.txt missing beside train\.txt"),
        (
            _append("val.txt", "cows/2008_1"),
            r"val\.txt:3: category 'cows'.*no folder sentence/cows.*Did you mean 'cow'",
        ),
        (_append("val.txt", "2008_1"), r"val\.txt:3: expected category/image, found '2008_1'"),
        (_append("test.txt", "bird/2008_0.jpg"), r"test\.txt:3: bird/2008_0 is already listed at .*val\.txt:2"),
        (_append("test.txt", "bird/2009_0"), r"sentence/bird/2009_0\.txt is missing"),
        (lambda f: (f / "dataset/cow/2008_4.jpg").unlink(), "1 of 16 images have no photo, e.g. cow/2008_4"),
    ],
)
def test_damage_is_one_line(with_lists: Path, damage: Callable[[Path], Any], message: str) -> None:
    damage(with_lists / "pascal")
    with pytest.raises(DataError, match=message) as caught:
        Pascal(root=str(with_lists)).load("pixels", "vector")
    assert "\n" not in str(caught.value)


def test_damage_without_lists(root: Path) -> None:
    (root / "pascal" / "sentence" / "cow" / "2008_4.txt").unlink()
    with pytest.raises(DataError, match=r"cow/2008_4\.txt is missing"):
        Pascal(root=str(root)).read()
    (root / "pascal" / "dataset" / "cow").rename(root / "pascal" / "dataset" / "caw")
    with pytest.raises(DataError, match="category 'caw' of caw/2008_0 has no folder"):
        Pascal(root=str(root)).read()


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"pascal not found.*sentence/<category>/<image>\.txt"):
        Pascal(root=str(tmp_path)).read()


@pytest.mark.real_data
def test_real_counts(data_root: Path) -> None:
    splits = Pascal(root=str(data_root)).read()
    assert {name: (s.n_images, s.n_texts) for name, s in splits.items()} == Pascal.expected
    for split, count in (("train", 40), ("val", 5), ("test", 5)):
        assert np.bincount(splits[split].labels).tolist() == [count] * 20
    texts = Pascal(root=str(data_root), sentences=True).read()
    sizes = np.concatenate([np.bincount(split.image_of_text) for split in texts.values()])
    assert np.bincount(sizes).tolist() == [0, 0, 0, 0, 3, 996, 1]
