"""Recipe1M: photographs of dishes and the recipes they were cooked by."""

from __future__ import annotations

from collections.abc import Collection, Container, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from cmr_bench.data_sets import DATASETS
from cmr_bench.datamodules.module import RetrievalDataModule, locate
from cmr_bench.datamodules.readers.cells import clean_caption, encodes, relative_path, short
from cmr_bench.datamodules.readers.entries import read_entries
from cmr_bench.datamodules.readers.report import Report
from cmr_bench.datamodules.split import SPLITS, Split
from cmr_bench.support.errors import DataError, UsageError, one_line
from cmr_bench.support.places import path_text

# The program that comes with the paper (torralba-lab/im2recipe-Pytorch, scripts/mk_dataset.py) keeps recipes with fewer
# than 20 instructions and, with the sign that ends them, fewer than 20 different detected ingredients.
MOST_INSTRUCTIONS, MOST_INGREDIENTS = 19, 18
REMOVED = "remove1M.txt"


class Recipe1M(RetrievalDataModule):
    """Recipe1M (Salvador et al., CVPR 2017): dishes with title, ingredients and instructions of their recipe.

    Scored on ten draws of 1,000 and of 10,000 test pairs, and on the whole test split. A recipe is used if it has an
    image, 1 to 18 different detected ingredients and at most 19 instructions, or if train.txt, val.txt and test.txt
    list it.

    Args:
        images: Image folder, absolute or relative to the data folder; null is images, or the data folder itself.
            Folders train, val and test below it are looked into.
        train_images: Images of a training recipe, at most. Each is a pair with the recipe, and those of a recipe are
            never negatives of each other; validation and test take the first.
    """

    data_name = "recipe1m"
    subsets: ClassVar[str | None] = "10x1000,10x10000"
    expected: ClassVar[Mapping[str, tuple[int, ...]]] = {
        "train": (238_408, 238_408),
        "val": (51_119, 51_119),
        "test": (51_304, 51_304),
    }

    def __init__(self, images: str | Path | None = None, train_images: int = 1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if train_images < 1:
            raise UsageError(f"--data.train_images {train_images}: a training recipe needs 1 image or more")
        self.images, self.train_images = path_text(images), train_images

    def expected_counts(self) -> Mapping[str, tuple[int, ...]]:
        """Pairs of every split; of training only where a recipe is one pair."""
        return {name: counts for name, counts in self.expected.items() if name != "train" or self.train_images == 1}

    def folder(self) -> Path:
        """Folder of the JSON files."""
        return locate(self.root, self.data_name, ["layer1.json"], DATASETS["recipe1m"].layout)

    def image_folder(self, split: str) -> Path:
        """Folder of the photographs of a split; where none of the usual ones exists, the first of them."""
        folder = self.folder()
        bases = [folder / "images", folder] if self.images is None else [folder / Path(self.images).expanduser()]
        places = [place for base in bases for place in (base / split, base)]
        return next((place for place in places if place.is_dir()), bases[0])

    def read(self) -> Mapping[str, Split]:
        """Read the recipes that are used, in the order of layer1.json, and where their images lie."""
        folder = self.folder()
        self.report = Report(self.skip_invalid)
        listed = read_lists(folder)
        images = read_images(present(folder / "layer2.json"), self.train_images, self.report)
        if listed is None:
            detected = present(folder / "det_ingrs.json")
            wanted: Collection[str] = read_detected(detected, images, removed(folder, self.report), self.report)
        else:
            wanted = {recipe for names in listed.values() for recipe in names}
        kept: dict[str, dict[str, str]] = {name: {} for name in SPLITS}
        for part, recipe, text in read_recipes(folder / "layer1.json", wanted, listed is None, self.report):
            kept[part][recipe] = text
        self.report.close()
        for name, names in (listed or {}).items():
            lost = [recipe for recipe in names if recipe not in kept[name] or recipe not in images]
            if lost:
                raise DataError(
                    f"{folder / name}.txt: {len(lost):,} of {len(names):,} recipes are not of that split in "
                    f"layer1.json or have no image in layer2.json, e.g. {lost[0]}"
                )
        return {name: self._split(name, texts, images) for name, texts in kept.items() if texts}

    def _split(self, name: str, texts: Mapping[str, str], images: Mapping[str, tuple[str, ...]]) -> Split:
        most, place = self.train_images if name == "train" else 1, self.image_folder(name)
        pairs = [(number, recipe, image) for number, recipe in enumerate(texts) for image in images[recipe][:most]]
        return Split(
            name,
            # the same photograph can be that of two recipes
            image_ids=[f"{recipe}/{image}" for _, recipe, image in pairs],
            image_of_text=np.arange(len(pairs)),
            text_ids=[f"{recipe}/{image}" for _, recipe, image in pairs] if most > 1 else list(texts),
            captions=[texts[recipe] for _, recipe, _ in pairs],
            image_files=[place.joinpath(*image[:4], image) for _, _, image in pairs],
            identity=np.array([number for number, _, _ in pairs], dtype=np.int64) if most > 1 else None,
        )


def present(file: Path) -> Path:
    """Return a file of the data set; raises DataError if it is not there."""
    if not file.is_file():
        raise DataError(f"recipe1m: {file} is missing; it comes with layer1.json")
    return file


def read_lists(folder: Path) -> dict[str, list[str]] | None:
    """Read the ids of recipes in train.txt, val.txt and test.txt, one a line; None where there are none.

    Raises:
        DataError: If only some of the lists are there, or one cannot be read.
    """
    files = {name: folder / f"{name}.txt" for name in SPLITS}
    absent = [file.name for file in files.values() if not file.is_file()]
    if len(absent) == len(files):
        return None
    if absent:
        raise DataError(f"{folder}: {' and '.join(absent)} missing beside the other lists; add it, or remove them all")
    return {name: list(dict.fromkeys(_lines(file))) for name, file in files.items()}


def removed(folder: Path, report: Report) -> Container[str]:
    """Return the recipes that the authors' program leaves out; a remark where its list is not there."""
    if (folder / REMOVED).is_file():
        return frozenset(_lines(folder / REMOVED))
    report.note(f"no {REMOVED} in {folder}: recipes that the authors' program leaves out are kept")
    return frozenset()


def read_images(file: Path, most: int, report: Report) -> dict[str, tuple[str, ...]]:
    """Read the names of the images of every recipe that has some, the first ``most`` of each, from layer2.json."""
    found: dict[str, tuple[str, ...]] = {}
    for number, entry in enumerate(read_entries(file)):
        where = f"{file}, entry {number}"
        try:
            images = entry.get("images")
            if not isinstance(images, list) or not all(isinstance(image, dict) for image in images):
                raise DataError(f"{where}: 'images' is not a list of objects")
            names = tuple(dict.fromkeys(_image(image.get("id"), where) for image in images[:most]))
            if names:
                found[_recipe(entry, where, found)] = names
        except DataError as problem:
            report.invalid(problem)
    return found


def read_detected(file: Path, among: Container[str], without: Container[str], report: Report) -> set[str]:
    """Return the recipes of which enough and not too many different ingredients were detected, from det_ingrs.json.

    Args:
        file: The file.
        among: Recipes that are looked at.
        without: Recipes that are not.
        report: Takes entries that cannot be read.
    """
    found: set[str] = set()
    seen: set[str] = set()
    for number, entry in enumerate(read_entries(file)):
        where = f"{file}, entry {number}"
        try:
            recipe = _recipe(entry, where, seen)
            seen.add(recipe)
            if recipe not in among or recipe in without:
                continue
            names, valid = _texts(entry, "ingredients", where), entry.get("valid")
            if not isinstance(valid, list) or len(valid) != len(names) or not all(isinstance(v, bool) for v in valid):
                raise DataError(f"{where} ({recipe}): 'valid' is not a list of true or false for every ingredient")
            n_detected = len({name for name, sound in zip(names, valid, strict=True) if sound and name})
            if 1 <= n_detected <= MOST_INGREDIENTS:
                found.add(recipe)
        except DataError as problem:
            report.invalid(problem)
    return found


def read_recipes(file: Path, wanted: Container[str], limited: bool, report: Report) -> Iterator[tuple[str, str, str]]:
    """Yield split, id and text, that is title, ingredients and instructions, of the recipes of layer1.json.

    Args:
        file: The file; it is never held as a whole.
        wanted: Recipes to read.
        limited: Leave out those with too many instructions.
        report: Takes recipes that cannot be read.
    """
    seen: set[str] = set()
    for number, entry in enumerate(read_entries(file)):
        where = f"{file}, recipe {number}"
        try:
            recipe = _recipe(entry, where, seen)
            seen.add(recipe)
            if recipe not in wanted:
                continue
            where = f"{where} ({recipe})"
            part, title = entry.get("partition"), entry.get("title")
            if part not in SPLITS:
                raise DataError(f"{where}: partition {short(part)} is none of {', '.join(SPLITS)}")
            if not isinstance(title, str):
                raise DataError(f"{where}: title {short(title)} is not text")
            steps = _texts(entry, "instructions", where)
            if limited and len(steps) > MOST_INSTRUCTIONS:
                continue
            yield (
                str(part),
                recipe,
                clean_caption(" ".join([title, *_texts(entry, "ingredients", where), *steps]), where),
            )
        except DataError as problem:
            report.invalid(problem)


def _recipe(entry: Mapping[str, Any], where: str, seen: Container[str]) -> str:
    name = entry.get("id")
    if not isinstance(name, str) or not name.strip() or not encodes(name):
        raise DataError(f"{where}: id {short(name)} is not the id of a recipe")
    if name in seen:
        raise DataError(f"{where}: id {short(name)} stands in the file already")
    return name


def _texts(entry: Mapping[str, Any], key: str, where: str) -> list[str]:
    rows = entry.get(key)
    if not isinstance(rows, list) or not all(isinstance(r, dict) and isinstance(r.get("text"), str) for r in rows):
        raise DataError(f"{where}: '{key}' is not a list of objects with a text")
    return [row["text"] for row in rows]


def _image(name: object, where: str) -> str:
    path = relative_path(name, where)
    if "/" in path or len(path) < 4 or "." in path[:4]:
        raise DataError(f"{where}: {short(name)} is not the name of an image, whose first four letters are folders")
    return path


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text(encoding="utf-8").split()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read {file} as text: {one_line(error)}") from None
