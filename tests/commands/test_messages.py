"""Commands that a message offers can be pasted: they exist, and read what the command before them read."""

from __future__ import annotations

import argparse
import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

from cmr_bench import cli
from cmr_bench.commands import data_check, data_features
from cmr_bench.experiment import recipe


@pytest.fixture
def photos(tmp_path: Path, write_photo: Callable[..., Path]) -> Path:
    folder = tmp_path / "my data"
    rows = ["file,caption,split"]
    for number, split in enumerate(("train", "train", "val", "test")):
        write_photo(folder / "pictures" / f"{number}.jpg", number)
        rows.append(f"{number}.jpg,picture {number},{split}")
    (folder / "table.csv").write_text("\n".join(rows) + "\n")
    return folder


@pytest.mark.parametrize("features", [None, "none-of-these"])
def test_the_command_for_features_keeps_the_options_of_the_data_set(
    features: str | None, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--data.root", str(photos), "--data.images", "pictures", "--data.image_column", "file"]
    words = ["run", "--model", "vsepp", "--data", "custom", *options, "--data.batch_size", "7"]
    words += ["--data.make_features", "false"] if features is None else ["--data.image_features", features]
    assert cli.main(words) in (1, 2)
    (offered,) = re.findall("`(cmr-bench data features [^`]*)`", capsys.readouterr().err)
    program, data, features_, *rest = shlex.split(offered)
    assert [program, data, features_] == ["cmr-bench", "data", "features"]
    parser = argparse.ArgumentParser(exit_on_error=False, allow_abbrev=False)
    data_features.add_arguments(parser)
    args, others = parser.parse_known_args(rest)
    made = recipe.data_module(args.data, others)
    assert {name: split.n_images for name, split in made.read().items()} == {"train": 2, "val": 1, "test": 1}
    assert "batch_size" not in offered


@pytest.mark.parametrize("option", ["--root", "--data.root"])
def test_check_and_features_take_the_same_options(
    option: str, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["custom", option, str(photos), "--data.images", "pictures", "--data.image_column", "file"]
    encoder = ["--encoder", "timm:test_resnet", "--weights", "random", "--out", str(tmp_path / "store")]
    where = words[:1] + words[1:3]
    assert cli.main(["data", "check", *where, *words[3:]]) == 0
    assert cli.main(["data", "features", *where, *encoder, *words[3:]]) == 0, capsys.readouterr().err
    assert (tmp_path / "store" / "manifest.json").is_file()


def test_a_photograph_that_cannot_be_identified_is_named_without_its_stream(photos: Path, tmp_path: Path) -> None:
    (photos / "pictures" / "2.jpg").write_bytes(b"no picture")
    words = ["--data.images", "pictures", "--data.image_column", "file"]
    out = tmp_path / "found.json"
    assert cli.main(["data", "check", "custom", "--root", str(photos), "--json", str(out), *words]) == 1
    (error,) = (one for one in json.loads(out.read_text())["findings"] if one["level"] == "error")
    assert error["examples"] == ["2.jpg: cannot identify image file"]


def test_options_that_a_missing_download_names_exist() -> None:
    parser = argparse.ArgumentParser()
    data_features.add_arguments(parser)
    assert "--weights" in parser._option_string_actions
    assert "model.cnn_weights" in recipe.option_names(recipe.option_parser("vsepp", "custom"))
    check = argparse.ArgumentParser()
    data_check.add_arguments(check)
    assert "--root" in check._option_string_actions
