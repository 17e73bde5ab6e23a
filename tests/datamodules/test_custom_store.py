"""What is made from a data set of one's own belongs to that set and its photographs."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from cmr_bench import cli
from cmr_bench.datamodules.custom import Custom
from cmr_bench.datamodules.doctor.examination import check
from cmr_bench.results.record import read_result
from cmr_bench.support.errors import CmrBenchError, UsageError
from cmr_bench.support.places import cache_dir

Writer = Callable[..., Path]


def write_set(folder: Path, write_table: Writer, write_photo: Writer, seed: int, count: int = 30) -> Path:
    """A data set whose names and captions are those of every other; only the photographs differ."""
    rows = [{"image": f"{k}.jpg", "caption": f"number {k} of many"} for k in range(count)]
    for k in range(count):
        write_photo(folder / f"{k}.jpg", seed=seed + k)
    return write_table(folder / "table.csv", rows).parent


FEATURES = ["data", "features", "custom", "--encoder", "timm:test_efficientnet", "--weights", "random", "--size", "32"]
RUN = ["run", "--model", "cca", "--data", "custom", "--data.text_features", "tfidf", "--trainer.progress", "false"]
RUN += ["--data.image_features", "test_efficientnet-pool-32", "--trainer.bootstrap", "0"]


def test_two_sets_share_no_features(
    tmp_path: Path, write_table: Writer, write_photo: Writer, capsys: pytest.CaptureFixture[str]
) -> None:
    one, two = (write_set(tmp_path / name, write_table, write_photo, 100 * k) for k, name in enumerate("ab"))
    assert cli.main([*FEATURES, "--data.root", str(one)]) == 0
    assert cli.main([*RUN, "--data.root", str(two), "--runs", str(tmp_path / "runs")]) == 1
    assert "no features 'test_efficientnet-pool-32' for custom" in capsys.readouterr().err
    assert cli.main([*FEATURES, "--data.root", str(two)]) == 0
    options = {"image_features": "test_efficientnet-pool-32", "text_features": "tfidf"}
    read = [Custom(root=str(folder), **options) for folder in (one, two)]
    for data in read:
        data.load("vector", "vector")
    views = [data.splits["train"].images for data in read]
    assert not np.allclose(views[0].array, views[1].array)
    assert [finding.what for finding in check(read[1]) if finding.level == "error"] == []
    contents = [data.content("vector", "vector") for data in read]
    parts = {"train.images", "val.images", "test.images"}
    assert {part for part in contents[0] if contents[0][part] != contents[1][part]} == parts


def test_photographs_replaced_in_place_stop_features_run_and_check(
    tmp_path: Path, write_table: Writer, write_photo: Writer, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_set(tmp_path / "mine", write_table, write_photo, 0)
    assert cli.main([*FEATURES, "--data.root", str(folder)]) == 0
    write_set(folder, write_table, write_photo, 100)
    root = ["--data.root", str(folder)]
    capsys.readouterr()
    for words in ([*FEATURES, *root], [*RUN, *root, "--runs", str(tmp_path / "runs")]):
        assert cli.main(words) == 1
        error = capsys.readouterr().err
        assert "of other photographs" in error
        assert "--overwrite" in error
        assert len(error.strip().splitlines()) == 1
    assert list((tmp_path / "runs").rglob("*.json")) == []
    assert cli.main(["data", "check", "custom", *root, "--data.image_features", "test_efficientnet-pool-32"]) == 1
    assert cli.main([*FEATURES, *root, "--overwrite"]) == 0
    assert cli.main([*RUN, *root, "--runs", str(tmp_path / "runs")]) == 0


def test_a_name_keys_runs_caches_and_results(tmp_path: Path, write_table: Writer, write_photo: Writer) -> None:
    folder = write_set(tmp_path / "mine", write_table, write_photo, 0)
    words = ["--data.root", str(folder), "--data.name", "my-pets"]
    assert cli.main([*FEATURES, *words]) == 0
    assert (cache_dir("custom") / "my-pets" / "features" / "test_efficientnet-pool-32" / "manifest.json").is_file()
    assert cli.main([*RUN, *words, "--runs", str(tmp_path / "runs")]) == 0
    (file,) = (tmp_path / "runs").glob("my-pets/cca/*/result.json")
    result = read_result(file)
    assert result.data == "my-pets"
    assert "data.name" not in result.options
    # The folder may move: the name still finds its features, and the photographs are compared by content.
    moved = shutil.copytree(folder, tmp_path / "moved", copy_function=shutil.copyfile)
    Custom(name="my-pets", root=str(moved), image_features="test_efficientnet-pool-32").load("vector", "tokens")
    with pytest.raises(CmrBenchError, match="no features"):
        Custom(root=str(moved), image_features="test_efficientnet-pool-32").load("vector", "tokens")


@pytest.mark.parametrize("name", ["flickr8k", "", "../up", "a/b", "a b", ".hidden", "x" * 65, "a\nb"])
def test_names_that_cannot_be_are_one_line(name: str) -> None:
    with pytest.raises(UsageError, match=r"^--data\.name"):
        Custom(name=name)


def test_features_that_an_earlier_version_kept_for_all_are_found_by_name(
    tmp_path: Path, write_table: Writer, write_photo: Writer
) -> None:
    folder = write_set(tmp_path / "mine", write_table, write_photo, 0)
    place = cache_dir("custom") / "features" / "net"
    assert cli.main([*FEATURES, "--data.root", str(folder), "--out", str(place)]) == 0
    manifest = json.loads((place / "manifest.json").read_text())
    del manifest["marks"], manifest["array_sha256"]
    (place / "manifest.json").write_text(json.dumps(manifest | {"schema": 1}))
    with pytest.warns(UserWarning, match="not verified"):
        Custom(root=str(folder), image_features="net").load("vector", "tokens")
    assert not [one for one in check(Custom(root=str(folder))) if "image features" in one.what]
