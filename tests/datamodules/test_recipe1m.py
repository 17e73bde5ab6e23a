"""Recipe1M in its layout on disk."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cmr_bench import cli
from cmr_bench.datamodules.doctor.examination import check
from cmr_bench.datamodules.readers import entries
from cmr_bench.datamodules.recipe1m import Recipe1M
from cmr_bench.support.errors import DataError, UsageError
from tests.support.layouts import write_recipe1m

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_recipe1m(tmp_path / "recipe1m").parent


def change(root: Path, layer: str, edit: Callable[[list[dict[str, Any]]], object]) -> None:
    file = root / f"recipe1m/{layer}.json"
    content = json.loads(file.read_text())
    edit(content)
    file.write_text(json.dumps(content))


def names(root: Path, split: str = "train", **options: Any) -> list[str]:
    return [*Recipe1M(root=str(root), **options).read()[split].text_ids]


def test_recipes_and_their_first_images(root: Path) -> None:
    splits = Recipe1M(root=str(root)).read()
    sizes = {name: (split.n_images, split.n_texts) for name, split in splits.items()}
    assert sizes == {"train": (8, 8), "val": (3, 3), "test": (4, 4)}
    val = splits["val"]
    assert val.text_ids == ["0000000008", "0000000009", "000000000a"]
    assert val.image_ids[1] == "0000000009/0900000009.jpg"
    assert val.captions is not None
    assert val.captions[0] == (
        "black horse number8 1 cups of child0 2 cups of tree1 3 cups of dog2 Stir step0. Stir step1."
    )
    assert val.image_files is not None
    assert val.image_files[1] == root / "recipe1m/images/0/9/0/0/0900000009.jpg"
    assert all(file.is_file() for split in splits.values() for file in split.image_files or ())
    assert all(split.identity is None for split in splits.values())


def test_several_images_of_a_training_recipe_are_no_negatives_of_each_other(root: Path) -> None:
    splits = Recipe1M(root=str(root), train_images=2).read()
    train = splits["train"]
    assert (train.n_images, splits["val"].n_images, splits["test"].n_images) == (12, 3, 4)
    assert train.identity is not None
    assert np.bincount(train.identities).tolist() == [1, 2] * 4
    assert train.captions is not None
    assert train.captions[1] == train.captions[2]
    assert len(set(train.text_ids)) == 12
    assert splits["test"].identity is None
    with pytest.raises(UsageError, match="needs 1 image or more"):
        Recipe1M(train_images=0)


@pytest.mark.parametrize(("number", "kept"), [(18, True), (19, False)])
def test_up_to_eighteen_different_valid_ingredients(root: Path, number: int, kept: bool) -> None:
    def edit(layer: list[dict[str, Any]]) -> None:
        texts = [{"text": f"thing{j}"} for j in (*range(number), 0)]
        layer[0].update(ingredients=[*texts, *({"text": f"other{j}"} for j in range(9))])
        layer[0].update(valid=[True] * (number + 1) + [False] * 9)

    change(root, "det_ingrs", edit)
    assert ("0000000000" in names(root)) == kept


@pytest.mark.parametrize(("number", "kept"), [(19, True), (20, False)])
def test_up_to_nineteen_instructions(root: Path, number: int, kept: bool) -> None:
    change(root, "layer1", lambda layer: layer[0].update(instructions=[{"text": "stir"}] * number))
    assert ("0000000000" in names(root)) == kept


def test_recipes_that_the_program_leaves_out(root: Path) -> None:
    data = Recipe1M(root=str(root))
    data.read()
    assert any("no remove1M.txt" in line for line in data.report.lines())
    (root / "recipe1m/remove1M.txt").write_text("0000000001\nffffffffff\n")
    assert names(root) == [f"000000000{k}" for k in (0, 2, 3, 4, 5, 6, 7)]


def test_lists_take_the_place_of_the_filter(root: Path) -> None:
    folder = root / "recipe1m"
    lists = {"train": ["0000000010", "0000000002"], "val": ["0000000009"], "test": ["000000000b", "000000000c"]}
    for name, ids in lists.items():
        (folder / f"{name}.txt").write_text("\n".join(ids) + "\n")
    (folder / "det_ingrs.json").unlink()
    # recipe 16 has 20 instructions; the order is that of layer1.json
    assert names(root) == ["0000000002", "0000000010"]
    assert names(root, "test") == lists["test"]
    for lost in ("000000000b", "000000000f", "ffffffffff"):
        (folder / "val.txt").write_text(f"0000000009\n{lost}\n")
        with pytest.raises(DataError, match=rf"val\.txt: 1 of 2 recipes are not of that split .*e\.g\. {lost}"):
            names(root)
    (folder / "val.txt").unlink()
    with pytest.raises(DataError, match=r"val\.txt missing beside the other lists"):
        names(root)


@pytest.mark.parametrize("place", ["images/{split}", "{split}", "elsewhere", "elsewhere/{split}"])
def test_images_in_the_places_where_programs_keep_them(root: Path, place: str) -> None:
    photos = shutil.move(root / "recipe1m/images", root / "all")
    for split in ("train", "val", "test"):
        shutil.copytree(photos, root / "recipe1m" / place.format(split=split), dirs_exist_ok=True)
    data = Recipe1M(root=str(root), images="elsewhere" if "elsewhere" in place else None)
    for name, split in data.read().items():
        assert split.image_files is not None
        assert split.image_files[0].is_relative_to(root / "recipe1m" / place.format(split=name))
        assert all(file.is_file() for file in split.image_files)


@pytest.mark.parametrize("layer", ["layer1", "layer2", "det_ingrs"])
def test_a_file_that_is_missing_is_named(root: Path, layer: str) -> None:
    (root / f"recipe1m/{layer}.json").unlink()
    with pytest.raises(DataError, match=rf"{layer}\.json"):
        Recipe1M(root=str(root)).read()


@pytest.mark.parametrize(
    ("layer", "broken", "said"),
    [
        ("layer1", {"id": 7}, "recipe 0: id 7 is not the id of a recipe"),
        ("layer1", {"title": None}, "recipe 0 (0000000000): title None is not text"),
        ("layer1", {"partition": "dev"}, "partition 'dev' is none of train, val, test"),
        ("layer1", {"instructions": ["stir"]}, "'instructions' is not a list of objects with a text"),
        ("layer1", {"ingredients": {}}, "'ingredients' is not a list of objects with a text"),
        ("layer1", {"title": " ", "ingredients": [], "instructions": []}, "empty caption"),
        ("layer2", {"images": None}, "entry 0: 'images' is not a list of objects"),
        ("layer2", {"images": [{"id": "../../../x.jpg"}]}, "leads out of the image folder"),
        ("layer2", {"images": [{"id": "a.jpg"}]}, "'a.jpg' is not the name of an image"),
        ("layer2", {"id": "0000000001"}, "entry 1: id '0000000001' stands in the file already"),
        ("det_ingrs", {"valid": [True]}, "'valid' is not a list of true or false for every ingredient"),
        ("det_ingrs", {"ingredients": None}, "'ingredients' is not a list of objects with a text"),
    ],
)
def test_a_broken_row_is_named_or_skipped(root: Path, layer: str, broken: dict[str, Any], said: str) -> None:
    change(root, layer, lambda content: content[0].update(broken))
    with pytest.raises(DataError) as told:
        names(root)
    assert said in str(told.value)
    assert f"{layer}.json" in str(told.value)
    assert len(str(told.value).splitlines()) == 1
    assert len(names(root, skip_invalid=True)) == 7


def test_rows_of_recipes_that_are_not_used_are_not_looked_at(root: Path) -> None:
    change(root, "layer1", lambda content: content[-4].update(title=None, instructions=None))
    assert len(names(root)) == 8


def test_a_list_is_read_piece_by_piece(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = root / "recipe1m/layer1.json"
    whole = json.loads(file.read_text())
    file.write_text(json.dumps(whole, indent=3, ensure_ascii=False), encoding="utf-8")
    for chunk in (1, 7, 100, 2**22):
        monkeypatch.setattr(entries, "_CHUNK", chunk)
        assert [*entries.read_entries(file)] == whole
    monkeypatch.setattr(entries, "_CHUNK", 64)
    window = entries._Window((tmp_path / "w.json").open("w+", encoding="utf-8"))
    window.stream.write(json.dumps([{"a": k} for k in range(1000)]))
    window.stream.seek(0)
    held = [len(window.text) for _ in entries._entries(window, file)]
    assert len(held) == 1000
    assert max(held) < 200
    (tmp_path / "empty.json").write_text(" [ ] ")
    assert [*entries.read_entries(tmp_path / "empty.json")] == []


def test_an_entry_without_end_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(entries, "_CHUNK", 10)
    monkeypatch.setattr(entries, "_LONGEST", 100)
    (tmp_path / "x.json").write_text('[{"a": ' + "1" * 10_000)
    with pytest.raises(DataError, match="entry 0: not JSON"):
        [*entries.read_entries(tmp_path / "x.json")]


def test_the_check_compares_with_the_published_numbers(root: Path) -> None:
    found = [finding.what for finding in check(Recipe1M(root=str(root)), decode=False)]
    assert any("test: 4 images" in what and "51,304 images" in what for what in found)
    assert any("238,408" in what for what in found)
    found = [finding.what for finding in check(Recipe1M(root=str(root), train_images=2), decode=False)]
    assert not any("238,408" in what for what in found)


def test_a_run_is_scored_on_draws_of_pairs(root: Path, tmp_path: Path, capsys: Capture) -> None:
    words = ["run", "--model", "vsepp", "--data", "recipe1m", "--data.root", str(root), "--data.min_count", "1"]
    words += ["--model.image_view", "pixels", "--data.image_features", "null", "--data.image_size", "32"]
    words += ["--model.cnn", "timm:tf_efficientnet_lite0", "--model.cnn_weights", "random", "--model.dim", "16"]
    words += ["--trainer.max_epochs", "1", "--trainer.progress", "false", "--runs", str(tmp_path / "runs")]
    assert cli.main(words) != 0
    assert "subsets 10x1000 draws 1,000 pairs, and only 4 images" in capsys.readouterr().err
    assert cli.main([*words, "--trainer.subsets", "10x3"]) == 0, capsys.readouterr()
    (file,) = (tmp_path / "runs").rglob("result.json")
    result = json.loads(file.read_text())
    assert result["protocol"]["subsets"] == ["10x3"]
    assert 1 <= result["metrics"]["subsets10x3_i2t_medr"] <= 3
    assert result["options"]["data.max_words"] == 200
