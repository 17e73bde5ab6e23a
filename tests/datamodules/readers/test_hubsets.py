"""Data sets of the library `datasets` give the splits that the same content gives as a table."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cmr_bench import cli
from cmr_bench.datamodules.custom import Custom
from cmr_bench.support.errors import DataError, UsageError

datasets = pytest.importorskip("datasets")

N = {"train": 6, "validation": 3, "test": 3}


def picture(seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (12, 10, 3), dtype=np.uint8))


def part(name: str, n: int, **columns: Any) -> Any:
    content = {
        "photo": [picture(hash((name, row)) % 1000) for row in range(n)],
        "caption": [[f"{name} {row} a", f"{name} {row} b"] for row in range(n)],
        "label": [row % 2 for row in range(n)],
        **columns,
    }
    features = {
        "photo": datasets.Image(),
        "caption": datasets.Sequence(datasets.Value("string")),
        "label": datasets.ClassLabel(names=["cat", "dog"]),
        **{column: datasets.Image() for column in columns},
    }
    return datasets.Dataset.from_dict(content, features=datasets.Features(features))


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    datasets.DatasetDict({name: part(name, n) for name, n in N.items()}).save_to_disk(str(tmp_path / "saved"))
    return tmp_path / "saved"


def test_a_saved_folder_is_read_with_lists_of_captions_and_categories(saved: Path) -> None:
    data = Custom(hub=saved)
    splits = data.read()
    assert {name: (split.n_images, split.n_texts) for name, split in splits.items()} == {
        "train": (6, 12),
        "val": (3, 6),
        "test": (3, 6),
    }
    train = splits["train"]
    assert train.captions is not None
    assert train.captions[:2] == ["train 0 a", "train 0 b"]
    assert list(train.class_names) == ["cat", "dog"]
    photo = data.photo(train, 0)
    assert photo is not None
    assert np.array_equal(np.asarray(photo), np.asarray(picture(hash(("train", 0)) % 1000)))
    again = Custom(hub=str(saved)).read()
    assert {name: split.fingerprint() for name, split in again.items()} == {
        name: split.fingerprint() for name, split in splits.items()
    }


def test_names_of_splits_are_chosen(saved: Path) -> None:
    splits = Custom(hub=saved, splits={"train": "train", "val": "test", "test": "validation"}).read()
    assert splits["val"].captions[0].startswith("test")
    assert splits["test"].captions[0].startswith("validation")


def test_a_single_split_is_divided(tmp_path: Path) -> None:
    datasets.DatasetDict({"train": part("train", 20)}).save_to_disk(str(tmp_path / "one"))
    data = Custom(hub=tmp_path / "one")
    splits = data.read()
    assert sum(split.n_images for split in splits.values()) == 20
    assert set(splits) == {"train", "val", "test"}
    assert any("divided 80/10/10" in line for line in data.report.lines())
    part("alone", 20).save_to_disk(str(tmp_path / "bare"))
    assert sum(split.n_images for split in Custom(hub=tmp_path / "bare").read().values()) == 20


def test_a_name_is_loaded_from_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def load(name: str, configuration: str | None) -> Any:
        asked.append((name, configuration))
        return datasets.DatasetDict({name: part(name, n) for name, n in N.items()})

    monkeypatch.setattr(datasets, "load_dataset", load)
    assert Custom(hub="somebody/photos:small").read()["test"].n_images == 3
    assert asked == [("somebody/photos", "small")]

    def fail(name: str, configuration: str | None) -> Any:
        raise ConnectionError("no route\nto the hub")

    monkeypatch.setattr(datasets, "load_dataset", fail)
    with pytest.raises(DataError, match="somebody/photos: no route; pass a folder"):
        Custom(hub="somebody/photos").read()


def test_photographs_elsewhere_have_to_lie_among_the_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = tmp_path / "secret.png"
    picture(1).save(secret)
    content = {"image": [{"path": str(secret), "bytes": None}], "caption": ["mine"]}
    features = datasets.Features({"image": datasets.Image(decode=False), "caption": datasets.Value("string")})
    whole = datasets.Dataset.from_dict(content, features=features)
    monkeypatch.setattr(datasets, "load_dataset", lambda name, configuration: whole)
    with pytest.raises(DataError, match="leads out of"):
        Custom(hub="somebody/paths").read()


def test_what_cannot_be_read_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(DataError, match=r"no dataset_dict\.json or state\.json"):
        Custom(hub=tmp_path).read()
    with pytest.raises(UsageError, match="one of them"):
        Custom(hub=tmp_path, file="a.csv")
    second = [picture(row) for row in range(3)]
    datasets.DatasetDict({"train": part("t", 3, second=second)}).save_to_disk(str(tmp_path / "two"))
    with pytest.raises(DataError, match=r"photo, second hold pictures; pass --data\.image_column"):
        Custom(hub=tmp_path / "two").read()
    assert cli.main(["data", "check", "custom", "--data.hub", str(tmp_path / "nowhere")]) == 1
    assert "1 error(s)" in capsys.readouterr().out
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(DataError, match=r"pip install 'cmr-bench\[datasets\]'"):
        Custom(hub=tmp_path / "two").read()


def test_the_command_checks_it(saved: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cli.main(["data", "check", "custom", "--data.hub", str(saved)])
    told = capsys.readouterr()
    assert "6" in told.out
    assert "error" not in told.err
