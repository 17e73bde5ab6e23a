"""Data sets of other layouts written as Karpathy's JSON, and read back: nothing is lost."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cmr_bench import cli
from cmr_bench.datamodules.acquire.writing import write_karpathy
from cmr_bench.datamodules.custom import Custom
from cmr_bench.datamodules.pascal import Pascal
from cmr_bench.datamodules.split import Split
from cmr_bench.experiment import recipe
from cmr_bench.support.errors import CmrBenchError, DataError


def facts(splits: Mapping[str, Split]) -> dict[str, set[tuple[Any, ...]]]:
    """Return every sentence with its id, its image and the image's content and category, whatever the order."""
    found = {}
    for name, split in splits.items():
        assert split.captions is not None
        rows = set()
        for text, image in enumerate(split.image_of_text.tolist()):
            file = None if split.image_files is None else split.image_files[image]
            content = file.read_bytes() if file is not None and file.is_file() else None
            rows.add((split.image_ids[image], content, str(split.text_ids[text]), split.captions[text]))
        assert len(rows) == split.n_texts
        found[name] = rows
    return found


def read_back(folder: Path) -> Mapping[str, Split]:
    return Custom(root=str(folder), file="dataset.json", images="images").read()


def labels_in(folder: Path) -> dict[str, str]:
    images = json.loads((folder / "dataset.json").read_text())["images"]
    return {image["filename"]: image["label"] for image in images}


@pytest.fixture
def table(tmp_path: Path, write_photo: Callable[..., Path]) -> Path:
    folder = tmp_path / "mine"
    rows = ["file,caption,split"]
    for number, split in enumerate(("train", "train", "val", "test")):
        write_photo(folder / "photos" / "sub folder" / f"ü {number}.jpg", number)
        rows += [f'sub folder/ü {number}.jpg,"picture, {number} «{k}»",{split}' for k in range(1 + number)]
    (folder / "table.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return folder


@pytest.mark.parametrize("photos", ["copy", "link"])
def test_a_table_is_written_and_read_back(
    photos: str, table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--data.images", "photos", "--data.image_column", "file"]
    dest = tmp_path / "out"
    assert cli.main(["data", "import", "custom", str(table), str(dest), "--photos", photos, *options]) == 0
    told = capsys.readouterr().out
    assert "4 images with 10 captions, 4 image files" in told
    before = recipe.data_module("custom", ["--data.root", str(table), *options]).read()
    assert facts(read_back(dest)) == facts(before)
    linked = (dest / "images" / "sub folder" / "ü 0.jpg").stat().st_nlink
    assert linked == (2 if photos == "link" else 1)
    assert cli.main(["data", "import", "custom", str(table), str(dest), *options]) == 1
    assert "is there already" in capsys.readouterr().err


def test_pascal_keeps_its_sentences_apart_and_its_categories(tmp_path: Path, write_photo: Callable[..., Path]) -> None:
    root = tmp_path / "data" / "pascal"
    for category in ("bird", "boat"):
        for number in range(20):
            write_photo(root / "dataset" / category / f"{number}.jpg", number)
            text = root / "sentence" / category / f"{number}.txt"
            text.parent.mkdir(parents=True, exist_ok=True)
            text.write_text("".join(f"{category} {number}, sentence {k}.\n" for k in range(1 + number % 6)))
    dest = tmp_path / "out"
    assert cli.main(["data", "import", "pascal", str(tmp_path / "data"), str(dest)]) == 0
    before = Pascal(root=str(tmp_path / "data"), sentences=True).read()
    assert facts(read_back(dest)) == facts(before)
    expected = {image: image.split("/")[0] for split in before.values() for image in split.image_ids}
    assert labels_in(dest) == expected


TEXT = st.text(st.characters(exclude_categories=("Cs", "Cc", "Zs", "Zl", "Zp")), min_size=1, max_size=12)


@settings(max_examples=50, deadline=None)
@given(st.data())
def test_whatever_was_read_is_read_back(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    folder = tmp_path_factory.mktemp("written")
    splits, same = {}, data.draw(st.booleans())
    for name in ("train", "val", "test"):
        n_images = data.draw(st.integers(1, 4))
        owner = [*range(n_images), *data.draw(st.lists(st.integers(0, n_images - 1), max_size=5))]
        owner = data.draw(st.permutations(owner))
        splits[name] = Split(
            name,
            [f"{'' if same else name}{row}.jpg" for row in range(n_images)],
            np.array(owner),
            [f"{name}#{text}" if data.draw(st.booleans()) else str(1000 + text) for text in range(len(owner))],
            captions=[data.draw(TEXT) for _ in owner],
            labels=np.array([[data.draw(st.booleans()) for _ in range(3)] for _ in range(n_images)], dtype=np.int64),
            class_names=["a;b", "c", "d"],
        )
    written = write_karpathy("made up", splits, folder, "none")
    assert written.separator == "|"
    found = facts(read_back(folder))
    assert {name: {row[2:] for row in rows} for name, rows in found.items()} == {
        name: {row[2:] for row in rows} for name, rows in facts(splits).items()
    }
    images = json.loads((folder / "dataset.json").read_text())["images"]
    for name, split in splits.items():
        assert split.labels is not None
        told = [set(image["label"].split("|") if image["label"] else []) for image in images if image["split"] == name]
        assert told == [{"a;b" * a, "c" * c, "d" * d} - {""} for a, c, d in split.labels.tolist()]
    if not same:
        assert {name: {row[0] for row in rows} for name, rows in found.items()} == {
            name: set(split.image_ids) for name, split in splits.items()
        }


def test_photographs_of_one_name_in_two_splits_stay_apart(tmp_path: Path, write_photo: Callable[..., Path]) -> None:
    splits = {}
    for number, name in enumerate(("train", "val", "test")):
        file = write_photo(tmp_path / "src" / name / "0.jpg", number)
        splits[name] = Split(name, ["0.jpg"], np.array([0]), [name], captions=[name], image_files=[file])
    write_karpathy("made up", splits, tmp_path / "out")
    found = facts(read_back(tmp_path / "out"))
    assert {name: {row[1:] for row in rows} for name, rows in found.items()} == {
        name: {row[1:] for row in rows} for name, rows in facts(splits).items()
    }


def test_what_cannot_be_written(tmp_path: Path) -> None:
    bare = Split("test", ["a"], np.array([0]), ["t"])
    with pytest.raises(DataError, match="no raw text in its test split"):
        write_karpathy("bare", {"test": bare}, tmp_path / "out")
    for name in ("../a.jpg", "/a.jpg", "a//b.jpg", "a\0"):
        odd = Split("test", [name], np.array([0]), ["t"], captions=["a"])
        with pytest.raises(DataError):
            write_karpathy("odd", {"test": odd}, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    (tmp_path / "file").write_text("")
    sound = Split("test", ["a.jpg"], np.array([0]), ["t"], captions=["a"])
    with pytest.raises(CmrBenchError, match="cannot write"):
        write_karpathy("sound", {"test": sound}, tmp_path / "file")


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["custom", "nowhere", "out"], 2, "SRC nowhere is no folder"),
        (["costum", ".", "out"], 2, "Did you mean 'custom'?"),
        (["custom", ".", "out", "--data.sepp", ";"], 2, "unknown option '--data.sepp'"),
        (["custom", ".", "out"], 1, "custom not found"),
    ],
)
def test_wrong_usage_is_one_line(
    words: list[str],
    code: int,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(["data", "import", *words]) == code
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
