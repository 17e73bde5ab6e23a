"""CUHK-PEDES in its layout on disk."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cmr_bench import cli
from cmr_bench.datamodules.cuhk_pedes import CUHKPedes
from cmr_bench.datamodules.doctor.examination import check
from cmr_bench.support.errors import DataError
from tests.support.layouts import write_cuhk_pedes

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_cuhk_pedes(tmp_path / "cuhk_pedes").parent


def change(root: Path, edit: Callable[[list[dict[str, Any]]], object]) -> None:
    file = root / "cuhk_pedes/reid_raw.json"
    entries = json.loads(file.read_text())
    edit(entries)
    file.write_text(json.dumps(entries))


def test_photographs_sentences_and_persons(root: Path) -> None:
    splits = CUHKPedes(root=str(root)).read()
    assert {name: (split.n_images, split.n_texts) for name, split in splits.items()} == {
        "train": (13, 27), "val": (5, 11), "test": (7, 15)
    }  # fmt: skip
    test = splits["test"]
    assert test.identity is not None
    assert test.identity.tolist() == [9, 9, 9, 10, 10, 11, 11]
    assert test.identities.tolist() == [0, 0, 0, 1, 1, 2, 2]
    assert test.image_ids[:3] == ["cam_a/p0009_0.png", "CUHK01/p0009_1.png", "test_query/p0009_2.jpg"]
    assert test.image_of_text.tolist()[:8] == [0, 0, 1, 1, 2, 2, 2, 3]
    assert test.captions is not None
    assert test.captions[6] == "A third sentence."
    assert test.text_ids[6] == "test_query/p0009_2.jpg#2"
    assert test.image_files is not None
    assert all(file.is_file() for file in test.image_files)
    assert len({split.fingerprint() for split in splits.values()}) == 3


def test_photographs_elsewhere_or_with_another_suffix(root: Path) -> None:
    folder = root / "cuhk_pedes"
    (folder / "imgs/cam_a/p0009_0.png").rename(folder / "imgs/cam_a/p0009_0.JPG")
    (folder / "imgs").rename(root / "people")
    data = CUHKPedes(root=str(root), images=root / "people")
    (first, *_) = data.read()["test"].image_files or ()
    assert first == root / "people/cam_a/p0009_0.JPG"
    assert any("another suffix" in line for line in data.report.lines())


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        ({"file_path": None}, "image 1: the path of the image is None, not text"),
        ({"file_path": "../../secret.png"}, "leads out of the image folder"),
        ({"file_path": "cam_a/p0001_0.png"}, "stands in the file already"),
        ({"captions": []}, "no list 'captions' with entries, so the image has no caption"),
        ({"captions": "a man"}, "no list 'captions' with entries"),
        ({"captions": ["a man", " "]}, "caption 1: empty caption"),
        ({"id": "1"}, "id '1' is not the number of a person"),
        ({"id": True}, "id True is not the number of a person"),
        ({"id": -1}, "id -1 is not the number of a person"),
        ({"split": 3}, "split 3 is none of train, val, test"),
    ],
)
def test_a_broken_row_is_named_or_skipped(root: Path, broken: dict[str, Any], said: str) -> None:
    change(root, lambda entries: entries[1].update(broken))
    with pytest.raises(DataError, match=r"reid_raw\.json, image 1") as told:
        CUHKPedes(root=str(root)).read()
    assert said in str(told.value)
    assert len(str(told.value).splitlines()) == 1
    data = CUHKPedes(root=str(root), skip_invalid=True)
    assert data.read()["train"].n_images == 12
    assert data.report.count == 1


def test_the_first_release_has_no_splits(root: Path) -> None:
    change(root, lambda entries: [entry.pop("split") for entry in entries])
    with pytest.raises(DataError, match=r"25 rows cannot be read: .*no 'split'; .*caption_all\.json may not"):
        CUHKPedes(root=str(root)).read()
    (root / "cuhk_pedes/reid_raw.json").rename(root / "cuhk_pedes/caption_all.json")
    with pytest.raises(DataError, match=r"looked for reid_raw\.json .*caption_all\.json has no splits"):
        CUHKPedes(root=str(root)).read()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "is not a JSON list of objects"),
        ('{"images": []}', "is not a JSON list of objects"),
        ('[{"id": 1}, 2]', "entry 1: not an object"),
        ('[{"id": 1} {"id": 2}]', "no comma or end of the list after entry 0"),
        ('[{"id": 1}', "no comma or end of the list after entry 0"),
        ('[{"id": 1},', "entry 1: not an object, or the file breaks off"),
        ('[{"id": 1}, {"id": ', r"entry 1: not JSON \(Expecting value\)"),
        ("[" + '{"a": [' * 100_000, "entry 0: nested too deep"),
    ],
)
def test_a_file_of_another_kind_is_refused(root: Path, content: str, said: str) -> None:
    (root / "cuhk_pedes/reid_raw.json").write_text(content)
    with pytest.raises(DataError, match=said) as told:
        CUHKPedes(root=str(root), skip_invalid=True).read()
    assert len(str(told.value)) < 300


def test_a_person_in_two_splits_and_wrong_counts_are_found(root: Path) -> None:
    change(root, lambda entries: entries[-1].update(id=1))
    found = {finding.what: finding for finding in check(CUHKPedes(root=str(root)), decode=False)}
    shared = found["identities that are in train and in test"]
    assert (shared.level, shared.count, shared.examples) == ("error", 1, ("1",))
    assert found["train: 6 identities; expected 11,003"].level == "error"
    # Sentences of one person are the same here, and still found.
    assert not any("cannot exceed" in what for what in found)
    assert any(what.startswith("test: 7 images and 15 texts") and "3,074 images" in what for what in found)


def test_the_published_numbers_are_those_of_the_whole() -> None:
    assert np.sum([*CUHKPedes.expected.values()], axis=0).tolist() == [40_206, 80_440]
    assert sum(CUHKPedes.expected_identities.values()) == 13_003


def test_missing_photographs_are_named(root: Path) -> None:
    (root / "cuhk_pedes/imgs/cam_a/p0010_0.png").unlink()
    with pytest.raises(DataError, match=r"test: 1 of 7 images have no photo, e\.g\. cam_a/p0010_0\.png"):
        CUHKPedes(root=str(root), min_count=1).load("pixels", "tokens")


def test_a_run_is_scored_by_person(root: Path, tmp_path: Path, capsys: Capture) -> None:
    words = ["run", "--model", "cmpm_cmpc", "--data", "cuhk_pedes", "--data.root", str(root)]
    words += ["--model.image_view", "pixels", "--data.image_features", "null", "--data.image_size", "32"]
    words += ["--model.cnn", "timm:tf_efficientnet_lite0", "--model.cnn_weights", "random"]
    words += ["--data.min_count", "1", "--trainer.max_epochs", "1", "--trainer.progress", "false"]
    assert cli.main([*words, "--runs", str(tmp_path / "runs")]) == 0, capsys.readouterr()
    (file,) = (tmp_path / "runs").rglob("result.json")
    result = json.loads(file.read_text())
    assert result["protocol"]["identities"] == 3
    assert 0 < result["metrics"]["identity_t2i_map"] <= 1
    assert 0 < result["metrics"]["identity_t2i_minp"] <= 1
    assert "all of the query's identity matches" in result["protocol"]["definitions"]["t2i_r1"]
