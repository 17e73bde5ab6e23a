"""Stored features belong to the photographs they were made of: copies are accepted, others are not."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from cmr_bench import cli
from cmr_bench.datamodules.doctor.examination import check
from cmr_bench.datamodules.flickr8k import Flickr8k
from cmr_bench.datamodules.images import backbones, marks
from cmr_bench.datamodules.images.extract import Extraction, extract
from cmr_bench.datamodules.images.store import FeatureStore, read_manifest, stored_view, write_manifest
from cmr_bench.datamodules.split import Split
from cmr_bench.support.errors import DataError

Photo = Callable[..., Path]
OPTIONS = Extraction(size=32, batch_size=3, progress=False)


@pytest.fixture(scope="module")
def encoder() -> backbones.Backbone:
    torch.manual_seed(0)
    return backbones.load_backbone("timm:test_efficientnet", "random")


def of(folder: Path, count: int = 40, name: str = "train") -> Split:
    ids = [f"{k}.jpg" for k in range(count)]
    return Split(name, ids, np.arange(count), ids, captions=ids, image_files=[folder / i for i in ids])


@pytest.fixture
def photos(tmp_path: Path, write_photo: Photo) -> Path:
    for k in range(40):
        write_photo(tmp_path / "photos" / f"{k}.jpg", seed=k)
    return tmp_path / "photos"


@pytest.fixture
def store(encoder: backbones.Backbone, photos: Path, tmp_path: Path) -> FeatureStore:
    return extract(encoder, "fake", {"train": of(photos)}, tmp_path / "net", OPTIONS, "cmr-bench data features fake")


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    seen: list[Path] = []
    checksums = marks.checksums
    monkeypatch.setattr(marks, "checksums", lambda files: seen.extend(files) or checksums(files))
    return seen


def test_photographs_as_they_were_cost_a_look(store: FeatureStore, photos: Path, reads: list[Path]) -> None:
    assert store.replaced(of(photos)) == []
    assert len(reads) == 16
    assert store.replaced(of(photos), thorough=True) == []
    assert len(reads) == 56


def test_copies_with_other_times_are_accepted_by_their_content(
    store: FeatureStore, photos: Path, tmp_path: Path, reads: list[Path]
) -> None:
    shutil.copytree(photos, tmp_path / "copy", copy_function=shutil.copyfile)
    view = stored_view(store, of(tmp_path / "copy"))
    assert len(reads) == 40
    assert view.content() == stored_view(store, of(photos)).content() != stored_view(store, of(photos, 39)).content()


@pytest.mark.parametrize("row", [0, 17, 39])
def test_a_photograph_replaced_in_place_is_named(
    row: int, store: FeatureStore, photos: Path, write_photo: Photo, encoder: backbones.Backbone
) -> None:
    write_photo(photos / f"{row}.jpg", seed=1000)
    with pytest.raises(DataError) as caught:
        stored_view(store, of(photos))
    for part in ("1 of the 40 of train", f"{row}.jpg", "cmr-bench data features fake --overwrite", "--name"):
        assert part in str(caught.value)
    with pytest.raises(DataError, match=rf"other photographs \(1 of 40 .*{row}\.jpg\): pass --overwrite"):
        extract(encoder, "fake", {"train": of(photos)}, store.folder, OPTIONS)
    before = np.array(store.array)
    again = extract(encoder, "fake", {"train": of(photos)}, store.folder, replace(OPTIONS, overwrite=True))
    changed = np.flatnonzero((again.array != before).any(axis=1))
    assert changed.tolist() == [row]
    stored_view(again, of(photos))


def test_another_set_of_the_same_sizes_and_times_is_refused(encoder: backbones.Backbone, tmp_path: Path) -> None:
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        for k in range(40):
            values = np.random.default_rng([k, folder == "two"]).integers(0, 256, 27, dtype=np.uint8).tobytes()
            file = tmp_path / folder / f"{k}.jpg"
            file.write_bytes(b"P6 3 3 255\n" + values)
            os.utime(file, (1e9, 1e9))
    made = extract(encoder, "fake", {"train": of(tmp_path / "one")}, tmp_path / "net", OPTIONS)
    stored_view(made, of(tmp_path / "one"))
    with pytest.raises(DataError, match="other photographs"):
        stored_view(made, of(tmp_path / "two"))
    assert len(made.replaced(of(tmp_path / "two"), thorough=True)) == 40


def test_photographs_that_are_not_there_tell_nothing(store: FeatureStore, photos: Path) -> None:
    for k in range(40):
        (photos / f"{k}.jpg").unlink()
    assert len(stored_view(store, of(photos))) == 40
    bare = of(photos)
    bare.image_files = None
    assert len(stored_view(store, bare)) == 40


def test_an_interrupted_extraction_goes_on_with_the_same_photographs_only(
    encoder: backbones.Backbone, photos: Path, tmp_path: Path, write_photo: Photo
) -> None:
    broken = photos / "30.jpg"
    broken.write_bytes(b"")
    with pytest.raises(DataError, match=r"30\.jpg"):
        extract(encoder, "fake", {"train": of(photos)}, tmp_path / "net", OPTIONS)
    write_photo(broken, seed=30)
    done = read_manifest(tmp_path / "net")
    assert 0 < done.rows_done <= 30
    assert len(done.marks) == done.rows_done
    write_photo(photos / "2.jpg", seed=2000)
    with pytest.raises(DataError, match=r"other photographs .*2\.jpg"):
        extract(encoder, "fake", {"train": of(photos)}, tmp_path / "net", OPTIONS)
    write_photo(photos / "2.jpg", seed=2)
    made = extract(encoder, "fake", {"train": of(photos)}, tmp_path / "net", OPTIONS)
    contents = [marks.content_of(marks.mark(photos / f"{k}.jpg")) for k in range(40)]
    assert [marks.content_of(text) for text in made.manifest.marks] == contents


def test_rows_of_left_out_photographs_take_their_marks_along(
    encoder: backbones.Backbone, photos: Path, tmp_path: Path
) -> None:
    (photos / "5.jpg").write_bytes(b"no photograph")
    options = replace(OPTIONS, skip_missing=True)
    made = extract(encoder, "fake", {"train": of(photos)}, tmp_path / "net", options)
    assert made.manifest.marks == [marks.mark(photos / i) for i in made.manifest.ids]
    assert made.replaced(of(photos), thorough=True) == []
    assert extract(encoder, "fake", {"train": of(photos)}, tmp_path / "net", options).manifest == made.manifest


def test_an_array_that_was_changed_is_refused(store: FeatureStore, photos: Path) -> None:
    file = store.folder / "features.npy"
    values = np.load(file)
    values[3, 5] += 1e-3
    np.save(file, values)
    with pytest.raises(DataError, match=r"features\.npy was changed .* --overwrite"):
        stored_view(FeatureStore(store.folder), of(photos))


def as_an_earlier_version_left_it(folder: Path) -> None:
    content = json.loads((folder / "manifest.json").read_text())
    del content["marks"], content["array_sha256"]
    (folder / "manifest.json").write_text(json.dumps(content | {"schema": 1}))


def test_a_store_of_an_earlier_version_is_read_with_a_warning(store: FeatureStore, photos: Path) -> None:
    new = stored_view(store, of(photos)).content()
    as_an_earlier_version_left_it(store.folder)
    with pytest.warns(UserWarning, match="earlier version, .* not verified"):
        before = stored_view(FeatureStore(store.folder), of(photos)).content()
    assert before not in ("", new)
    values = np.load(store.folder / "features.npy")
    np.save(store.folder / "features.npy", values[::-1])
    with pytest.warns(UserWarning, match="not verified"):
        assert stored_view(FeatureStore(store.folder), of(photos)).content() != before


@pytest.mark.parametrize("bad", [["x"], ["1 2"], [3], ["1 2 " + "0" * 32] * 41])
def test_marks_that_are_none_are_one_line(bad: list[str], store: FeatureStore) -> None:
    write_manifest(store.folder, replace(store.manifest, marks=bad))
    with pytest.raises(DataError, match=r"cannot read .*marks are not those"):
        read_manifest(store.folder)


def test_the_check_of_a_data_set_compares_photographs(
    tmp_path: Path, write_karpathy: Callable[..., Path], write_photo: Photo, capsys: pytest.CaptureFixture[str]
) -> None:
    root, other = tmp_path / "data", tmp_path / "elsewhere"
    folder = write_karpathy(root)
    words = ["data", "features", "flickr8k", "--encoder", "timm:test_efficientnet", "--weights", "random"]
    assert cli.main([*words, "--size", "32", "--name", "net", "--data.root", str(root)]) == 0

    def told(**options: str | None) -> list[tuple[str, str]]:
        findings = check(Flickr8k(**options))  # type: ignore[arg-type]
        return [(one.level, one.what) for one in findings if "image features" in one.what]

    assert told(root=str(root)) == []
    # Another copy of the data set has other photographs under the same names: its features are no fault of this one.
    for k, file in enumerate(sorted((write_karpathy(other) / "images").iterdir())):
        write_photo(file, seed=500 + k)
    ((level, what),) = told(root=str(other))
    assert (level, "of other images than these" in what) == ("info", True)
    levels = {level for level, what in told(root=str(other), image_features="net") if "have changed since" in what}
    assert levels == {"error"}
    # One photograph is changed with its size and time kept: too little for a look, but not for the check.
    file = sorted((folder / "images").iterdir())[1]
    before, content = file.stat(), bytearray(file.read_bytes())
    content[-3] ^= 1
    file.write_bytes(content)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert [level for level, what in told(root=str(root)) if "have changed since" in what] == ["error"]
