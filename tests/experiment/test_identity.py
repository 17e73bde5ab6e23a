"""What a run was made from: compared when it is resumed, recorded without anybody's folders."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
import yaml

from cmr_bench.cli import main
from cmr_bench.experiment import callbacks, recipe
from cmr_bench.experiment.checkpoints import Checkpoints, read_mark
from cmr_bench.experiment.identity import other_options, same_run
from cmr_bench.leaderboard.rows import sections
from cmr_bench.results.record import Result, read_result
from cmr_bench.support.errors import CmrBenchError
from cmr_bench.support.places import without_folders
from tests.own import Toy

Writer = Callable[..., Path]
MODEL = ["--model", "vsepp", "--model.dim", "8", "--model.word_dim", "8", "--data", "flickr8k", "--data.min_count", "1"]
QUICK = ["--trainer.max_epochs", "2", "--trainer.progress", "false", "--trainer.bootstrap", "0"]
WORDS = ["run", *MODEL, *QUICK, "--trainer.accelerator", "cpu", "--data.image_features", "null"]


@pytest.fixture
def data(tmp_path: Path, write_precomputed: Writer) -> Path:
    return write_precomputed(tmp_path / "data" / "flickr8k", {"train": 24, "dev": 8, "test": 8})


def run(data: Path, folder: Path, *words: str) -> Path:
    assert main([*WORDS, "--data.root", str(data.parent), "--runs", str(folder), *words]) == 0
    return max(folder.glob("*/*/*/result.json"), key=lambda file: file.stat().st_mtime_ns)


@pytest.fixture
def stopped(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run that was stopped at the end of its first epoch."""

    def interrupt(self: Any, trainer: L.Trainer, module: L.LightningModule) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(callbacks.Alarm, "on_train_epoch_end", interrupt)
        assert main([*WORDS, "--data.root", str(data.parent), "--runs", str(tmp_path / "runs")]) == 1
    (folder,) = (tmp_path / "runs").glob("*/*/*")
    return folder


def set_option(folder: Path, name: str, value: Any) -> None:
    content = yaml.safe_load((folder / "config.yaml").read_text())
    part, _, option = name.rpartition(".")
    (content[part] if part else content)[option] = value
    (folder / "config.yaml").write_text(yaml.safe_dump(content))


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("data.batch_size", 16, "--data.batch_size 128, not 16"),
        ("data.max_words", 3, "--data.max_words 64, not 3"),
        ("trainer.gradient_clip", 0.5, "--trainer.gradient_clip 2.0, not 0.5"),
        ("trainer.max_epochs", 7, "--trainer.max_epochs 2, not 7"),
        ("trainer.precision", "bf16-mixed", "--trainer.precision 32-true, not bf16-mixed"),
        ("trainer.accumulate", 3, "--trainer.accumulate 1, not 3"),
        ("trainer.select_on", "test", "--trainer.select_on val, not test"),
        ("model.dim", 16, "--model.dim 8, not 16"),
        ("seed", 4, "--seed 0, not 4"),
    ],
)
def test_a_run_is_resumed_as_it_was_begun_or_not_at_all(
    name: str, value: Any, told: str, stopped: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    set_option(stopped, name, value)
    capsys.readouterr()
    assert main(["run", "--resume", str(stopped)]) == 1
    error = capsys.readouterr().err.strip()
    assert len(error.splitlines()) == 1
    assert told in error
    assert error.endswith("delete it to train from the start")
    assert not (stopped / "result.json").exists()
    (stopped / "checkpoints" / "last.ckpt").unlink()
    assert main(["run", "--resume", str(stopped)]) == 0
    assert (stopped / "result.json").is_file()


def test_every_option_that_differs_is_named(stopped: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, value in (("data.batch_size", 16), ("trainer.gradient_clip", 0.5), ("trainer.max_epochs", 4)):
        set_option(stopped, name, value)
    capsys.readouterr()
    assert main(["run", "--resume", str(stopped)]) == 1
    error = capsys.readouterr().err
    for option in ("data.batch_size", "trainer.gradient_clip", "trainer.max_epochs"):
        assert f"--{option}" in error


def other_captions(data: Path) -> str:
    lines = (data / "train_caps.txt").read_text().splitlines()
    (data / "train_caps.txt").write_text("\n".join(lines[::-1]) + "\n")
    return "train"


def other_validation_captions(data: Path) -> str:
    lines = (data / "dev_caps.txt").read_text().splitlines()
    (data / "dev_caps.txt").write_text("\n".join(["another caption", *lines[1:]]) + "\n")
    return "val"


def other_features(data: Path) -> str:
    np.save(data / "train_ims.npy", np.load(data / "train_ims.npy") + 1)
    return "train.images"


@pytest.mark.parametrize("change", [other_captions, other_validation_captions, other_features])
def test_a_run_is_not_resumed_on_other_data(
    change: Callable[[Path], str], stopped: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    part = change(data)
    capsys.readouterr()
    assert main(["run", "--resume", str(stopped)]) == 1
    error = capsys.readouterr().err.strip()
    assert f"another content of {part};" in error
    assert len(error.splitlines()) == 1


def test_what_changes_no_number_does_not_stop_a_resume(stopped: Path, data: Path, tmp_path: Path) -> None:
    moved = shutil.copytree(data.parent, tmp_path / "moved")
    shutil.rmtree(data.parent)
    for name, value in (("data.root", str(moved)), ("data.num_workers", 1), ("trainer.bootstrap", 3)):
        set_option(stopped, name, value)
    assert main(["run", "--resume", str(stopped)]) == 0


def test_a_checkpoint_of_an_earlier_version_is_resumed(stopped: Path) -> None:
    """It marked method and model only, and knew fewer options."""
    file = stopped / "checkpoints" / "last.ckpt"
    content = torch.load(file, weights_only=True)
    mark = content["cmr_bench"]
    kept = {name: mark[name] for name in ("format", "version", "method", "model")}
    kept["model"] = {name: value for name, value in kept["model"].items() if name != "warmup_epochs"}
    assert kept["model"] != mark["model"]
    torch.save({**content, "cmr_bench": kept}, file)
    assert main(["run", "--resume", str(stopped)]) == 0


def test_younger_options_had_their_defaults_for_all_who_ask() -> None:
    config = recipe.resolve("vsepp", "synthetic", ["--model.dim", "8"])
    stored = json.loads(json.dumps(config.__dict__))
    assert same_run(stored, config)
    del stored["model"]["lr"], stored["data"]["noise"], stored["trainer"]["patience"]
    default = recipe.option_parser("vsepp", "synthetic").get_defaults()
    expected = {
        name
        for name in ("model.lr", "data.noise", "trainer.patience")
        if default[name] != getattr(config, name.partition(".")[0])[name.partition(".")[2]]
    }
    assert {one.name for one in other_options(stored, config)} == expected
    gone = json.loads(json.dumps(config.__dict__))
    gone["model"]["an_option_of_old"] = 3
    assert [one.name for one in other_options(gone, config)] == ["model.an_option_of_old"]
    assert not same_run(gone, config)


def test_a_mark_is_read_without_the_weights(tmp_path: Path) -> None:
    config = recipe.resolve("vsepp", "synthetic", ["--model.dim", "8"])
    file = tmp_path / "last.ckpt"
    Checkpoints(config, {"train": "ab"}).save_checkpoint({"state_dict": {"w": torch.zeros(3)}}, file)
    assert read_mark(file)["content"] == {"train": "ab"}
    assert read_mark(tmp_path / "absent.ckpt") == {}
    file.write_bytes(file.read_bytes()[:-40])
    with pytest.raises(CmrBenchError, match="cannot be read as a checkpoint"):
        read_mark(file)


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("/home/me/weights.pth", "weights.pth"),
        ("~/weights.pth", "weights.pth"),
        ("../../data/table.csv", "table.csv"),
        ("./own.py:Linear", "own.py:Linear"),
        (r"C:\Users\me\net.pt", "net.pt"),
        ("hf:/models/mini", "hf:mini"),
        ("hf:sentence/mini", "hf:sentence/mini"),
        ("timm:net", "timm:net"),
        ("photos/small", "photos/small"),
        ("/", "/"),
        (";", ";"),
        ("..", ".."),
        (["/a/b", {"c": "/d/e"}], ["b", {"c": "e"}]),
        (3, 3),
        (None, None),
    ],
)
def test_of_paths_the_last_name_is_shown(value: Any, shown: Any) -> None:
    assert without_folders(value) == shown
    assert without_folders(shown) == shown


def test_a_relative_and_an_absolute_root_give_one_row(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run(data, Path("runs"), "--seed", "0")
    run(data, tmp_path / "runs", "--seed", "1", "--data.root", "data")
    run(data, tmp_path / "runs", "--seed", "2", "--data.root", str(data))
    results = [read_result(file) for file in tmp_path.glob("runs/*/*/*/result.json")]
    (section,) = sections(results)
    assert [row.seeds for row in section.rows] == [(0, 1, 2)]
    for file in tmp_path.glob("runs/*/*/*/result.json"):
        assert str(tmp_path) not in file.read_text()
    assert {result.views["image"]["source"] for result in results} == {"train_ims.npy"}


def test_runs_on_other_features_are_no_repetitions(data: Path, tmp_path: Path) -> None:
    """The names and captions stay; an average over both would be of nothing."""
    run(data, tmp_path / "runs", "--seed", "0")
    run(data, tmp_path / "runs", "--seed", "1")
    for prefix in ("train", "dev", "test"):
        file = data / f"{prefix}_ims.npy"
        np.save(file, np.random.default_rng(5).normal(size=np.load(file).shape).astype(np.float32))
    run(data, tmp_path / "runs", "--seed", "2")
    results = [read_result(file) for file in (tmp_path / "runs").glob("*/*/*/result.json")]
    assert len({result.fingerprint for result in results}) == 1
    (section,) = sections(results)
    first, later = sorted(section.rows, key=lambda row: row.seeds)
    assert (first.seeds, later.seeds) == ((0, 1), (2,))
    # The oldest row keeps its name, and the later one says what sets it apart.
    assert re.fullmatch(r"images [0-9a-f]{8}", later.detail.removeprefix(f"{first.detail}, "))


def test_the_record_knows_the_content_of_every_split(data: Path, tmp_path: Path) -> None:
    first = read_result(run(data, tmp_path / "runs"))
    parts = {f"{name}{side}" for name in ("train", "val", "test") for side in ("", ".images")}
    assert set(first.content) == parts
    assert first.content["test"] == first.fingerprint
    assert all(re.fullmatch("[0-9a-f]{64}", value) for value in first.content.values())
    changed = other_validation_captions(data)
    second = read_result(run(data, tmp_path / "runs"))
    assert {part for part in parts if first.content[part] != second.content[part]} == {changed}


def test_files_that_options_of_the_method_name_are_content(tmp_path: Path) -> None:
    from cmr_bench.experiment.identity import file_content

    config = recipe.resolve("vsepp", "synthetic", [])
    (tmp_path / "w.pth").write_bytes(b"1")
    (tmp_path / "bert").mkdir()
    (tmp_path / "bert" / "config.json").write_text("{}")
    config.model |= {"weights": str(tmp_path / "w.pth"), "bert": str(tmp_path / "bert"), "pool": "max"}
    before = file_content(config)
    assert set(before) == {"model.weights", "model.bert"}
    (tmp_path / "bert" / "config.json").write_text("{} ")
    after = file_content(config)
    assert {name for name in before if before[name] != after[name]} == {"model.bert"}


def test_arrays_of_a_data_set_of_ones_own_are_content() -> None:
    data = Toy()
    before = data.content("vector", "vector")
    data.load("vector", "vector")
    assert data.content("vector", "vector") == before
    assert {f"{name}.{side}" for name in ("train", "val", "test") for side in ("images", "texts")} <= set(before)
    image = data.arrays["val"][0]
    image[3, 2] += 1e-9
    after = data.content("vector", "vector")
    assert {part for part in before if before[part] != after[part]} == {"val.images"}


def test_arrays_that_an_earlier_version_named_with_their_folder(tmp_path: Path) -> None:
    views = {"image": {"kind": "vector", "source": "/home/me/f30k/train_ims.npy", "shape": [3]}}
    file = tmp_path / "result.json"
    file.write_text(Result("vsepp", "flickr30k", {"rsum": 1.0}, views=views).to_json())
    assert read_result(file).views["image"]["source"] == "train_ims.npy"
