"""`cmr-bench list` says what is there and imports nothing to find out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cmr_bench import cli, registry
from cmr_bench.commands.list import data_entry, methods
from cmr_bench.datamodules.module import RetrievalDataModule
from cmr_bench.support import places
from cmr_bench.support.errors import DataError

Capture = pytest.CaptureFixture[str]


def touch(root: Path, *names: str) -> None:
    for name in names:
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()


def store(folder: Path, **changes: Any) -> None:
    folder.mkdir(parents=True)
    manifest = {"shape": [8090, 1280], "complete": True, "ids": []} | changes
    (folder / places.MANIFEST).write_text(json.dumps(manifest))


@pytest.mark.parametrize("name", registry.METHODS)
def test_the_list_says_of_a_method_what_its_class_says(name: str) -> None:
    (entry,) = (entry for entry in methods() if entry.name == name)
    found = registry.method(name)
    assert set(entry.image_views) == set(found.image_views)
    assert set(entry.text_views) == set(found.text_views)
    assert entry.labels == found.labels
    assert entry.family in registry.FAMILIES
    assert entry.paper


LAYOUTS: dict[str, tuple[list[str], dict[str, int]]] = {
    "flickr8k": (
        ["dataset_flickr8k.json", "images/a.jpg", "images/b.jpg"],
        {"annotations": 1, "photos": 2},
    ),
    "flickr30k": (
        ["dataset_flickr30k.json.gz", "flickr30k-images/1.jpg"],
        {"annotations": 1, "photos": 1},
    ),
    "mscoco": (
        ["dataset_coco.json", "train2014/a.jpg", "val2014/b.jpg", "val2014/c.jpg"],
        {"annotations": 1, "photos": 3},
    ),
    "wikipedia": (
        ["trainset_txt_img_cat.list", "testset_txt_img_cat.list", "raw_features.mat", "images/art/a.jpg"],
        {"split lists": 2, "feature files": 1, "photos": 1},
    ),
    "pascal": (
        ["sentence/cat/a.txt", "sentence/dog/b.txt", "dataset/cat/a.jpg"],
        {"sentences": 2, "photos": 1},
    ),
    "cuhk_pedes": (
        ["reid_raw.json", "imgs/cam_a/a.png", "imgs/cam_b/b.png"],
        {"annotations": 1, "photo folders": 2},
    ),
    "recipe1m": (
        ["layer1.json", "layer2.json", "det_ingrs.json", "images/a/b/c/d/abcd.jpg"],
        {"recipes": 1, "images of recipes": 1, "detected ingredients": 1, "photo folders": 1},
    ),
    "nuswide": (["nus-wide-tc10.mat"], {"feature files": 1}),
    "mirflickr": (["IAll.npy", "YAll.npy", "LAll.npy"], {"feature files": 3}),
    "custom": (["mine.csv"], {"table": 1}),
}


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("below", [True, False])
def test_what_is_there_is_found_below_the_root_or_in_it(tmp_path: Path, name: str, below: bool) -> None:
    folder = tmp_path / name if below else tmp_path
    files, parts = LAYOUTS[name]
    touch(folder, *files)
    entry = data_entry(name, tmp_path)
    assert entry.found
    assert entry.folder == str(folder)
    assert entry.parts == parts


@pytest.mark.parametrize("name", LAYOUTS)
def test_the_list_finds_a_data_set_where_its_reader_does(tmp_path: Path, name: str) -> None:
    reader: RetrievalDataModule = registry.dataset(name)(root=str(tmp_path))
    with pytest.raises(DataError):
        reader.folder()
    assert data_entry(name, tmp_path).found is False
    files, _ = LAYOUTS[name]
    touch(tmp_path / name, *files)
    assert str(reader.folder()) == data_entry(name, tmp_path).folder


@pytest.mark.parametrize("name", ["flickr8k", "flickr30k", "mscoco"])
def test_every_name_that_a_reader_of_captions_accepts_is_looked_for(tmp_path: Path, name: str) -> None:
    reader: Any = registry.dataset(name)
    for number, annotation in enumerate(reader.annotation_names):
        touch(tmp_path / f"a{number}", f"{annotation}.gz", f"{reader.image_folders[0]}/a.jpg")
        assert data_entry(name, tmp_path / f"a{number}").found
    for number, folder in enumerate(reader.image_folders):
        touch(tmp_path / f"i{number}", reader.annotation_names[0], f"{folder}/a.jpg")
        assert data_entry(name, tmp_path / f"i{number}").parts["photos"] == 1
    for number, folder in enumerate(("", *reader.precomputed_folders)):
        touch(tmp_path / f"p{number}", f"{folder}/test_ims.npy".strip("/"), f"{folder}/dev_ims.npy".strip("/"))
        entry = data_entry(name, tmp_path / f"p{number}")
        assert entry.found
        assert entry.parts == {"precomputed arrays": 2}


def test_parts_that_are_not_there_are_named(tmp_path: Path) -> None:
    touch(tmp_path, "flickr8k/dataset_flickr8k.json")
    assert data_entry("flickr8k", tmp_path).missing == ["photos"]


def test_arrays_of_an_archive_are_named(tmp_path: Path) -> None:
    touch(tmp_path, "wikipedia/trainset_txt_img_cat.list")
    np.savez(tmp_path / "wikipedia" / "features.npz", img_a=np.zeros(2), txt_b=np.zeros(2), labels=np.zeros(2))
    (tmp_path / "wikipedia" / "other.npz").write_bytes(b"not an archive")
    assert data_entry("wikipedia", tmp_path).arrays == ["img_a", "txt_b", "other.npz (not readable)"]


def test_stored_features_are_found_beside_the_data_and_in_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CMR_BENCH_CACHE", str(tmp_path / "cache"))
    store(tmp_path / "root" / "flickr8k" / "features" / "beside")
    store(tmp_path / "cache" / "flickr8k" / "features" / "cached", shape=[10, 49, 3])
    store(tmp_path / "cache" / "flickr8k" / "features" / "begun", complete=False)
    (tmp_path / "cache" / "flickr8k" / "features" / "broken").mkdir()
    (tmp_path / "cache" / "flickr8k" / "features" / "broken" / places.MANIFEST).write_text("[")
    found = {
        entry["name"]: (entry["shape"], entry["complete"])
        for entry in data_entry("flickr8k", tmp_path / "root").features
    }
    assert found == {
        "beside": ([8090, 1280], True),
        "cached": ([10, 49, 3], True),
        "begun": ([8090, 1280], False),
        "broken": ([], False),
    }


def test_the_command_shows_methods_and_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    monkeypatch.delenv("CMR_BENCH_DATA", raising=False)
    assert cli.main(["list"]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in (*registry.METHODS, *registry.DATASETS))
    assert "Set CMR_BENCH_DATA or pass --root DIR" in out
    assert cli.main(["list", "methods"]) == 0
    assert "flickr8k  " not in capsys.readouterr().out


@pytest.mark.parametrize("option", ["--root", "--data.root", None])
def test_the_root_comes_from_an_option_or_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture, option: str | None
) -> None:
    touch(tmp_path, "flickr8k/dataset_flickr8k.json", "flickr8k/images/1.jpg")
    store(tmp_path / "flickr8k" / "features" / "net-pool")
    monkeypatch.setenv("CMR_BENCH_DATA", str(tmp_path if option is None else tmp_path / "absent"))
    assert cli.main(["list", "data", *([option, str(tmp_path)] if option else [])]) == 0
    (line,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith("flickr8k "))
    assert "annotations; photos; features net-pool 8090x1280" in line


def test_json(tmp_path: Path, capsys: Capture) -> None:
    assert cli.main(["list", "--root", str(tmp_path), "--format", "json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert [entry["name"] for entry in content["methods"]] == list(registry.METHODS)
    assert [entry["name"] for entry in content["data"]] == list(registry.DATASETS)
    assert content["root"] == str(tmp_path)
    assert {entry["name"]: entry["found"] for entry in content["data"]}["synthetic"] is True
    assert cli.main(["list", "data", "--format", "json"]) == 0
    assert set(json.loads(capsys.readouterr().out)) == {"root", "data"}


def test_a_root_that_is_no_folder_is_wrong_usage(tmp_path: Path, capsys: Capture) -> None:
    assert cli.main(["list", "--root", str(tmp_path / "absent")]) == 2
    assert "absent: no such folder" in capsys.readouterr().err


@pytest.mark.real_data
def test_real_data_is_found(data_root: Path) -> None:
    found = {name: data_entry(name, data_root) for name in registry.DATASETS}
    there = [name for name in registry.DATASETS if (data_root / name).is_dir()]
    assert there
    assert all(found[name].found for name in there)
