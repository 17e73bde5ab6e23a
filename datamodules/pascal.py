"""Pascal Sentence: photographs of twenty categories, each described by about five people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from cmr_bench.data_sets import DATASETS
from cmr_bench.datamodules.module import RetrievalDataModule, locate
from cmr_bench.datamodules.readers.cells import relative_path
from cmr_bench.datamodules.readers.finder import PHOTO_SUFFIXES, PhotoFinder, without_suffix
from cmr_bench.datamodules.readers.parts import part_named
from cmr_bench.datamodules.split import SPLITS, Split
from cmr_bench.datamodules.stratified import stratified_parts
from cmr_bench.support.errors import DataError, did_you_mean
from cmr_bench.support.files import is_leftover


class Pascal(RetrievalDataModule):
    """Pascal Sentence (Rashtchian et al. 2010): 1,000 photographs of twenty categories with their sentences, mAP.

    Args:
        sentences: Treat every sentence as a text of its own, instead of joining the sentences of an image to one
            document.
        split_seed: Random seed of a 40 / 5 / 5 split per category that replaces that of train.txt, val.txt and
            test.txt; if not given, the lists are used, or seed 0 if they are absent. Independent of the run's seed.
    """

    data_name = "pascal"
    selection = "map"
    expected: ClassVar[Mapping[str, tuple[int, ...]]] = {"train": (800, 800), "val": (100, 100), "test": (100, 100)}

    def __init__(self, sentences: bool = False, split_seed: int | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.sentences, self.split_seed = sentences, split_seed
        self.text_features = self.text_features or "tfidf"

    def expected_counts(self) -> Mapping[str, tuple[int, ...]]:
        """Images of every split, and texts where one document is one text."""
        return {name: counts[:1] for name, counts in self.expected.items()} if self.sentences else self.expected

    def folder(self) -> Path:
        """Folder with the sentences and photographs."""
        return locate(self.root, self.data_name, ["sentence/*/*.txt"], DATASETS["pascal"].layout)

    def read(self) -> Mapping[str, Split]:
        """Read the split lists or draw a split, and the sentences of every image."""
        folder = self.folder()
        categories = sorted(
            place.name for place in (folder / "sentence").iterdir() if place.is_dir() and not is_leftover(place)
        )
        photos = PhotoFinder(folder / "dataset") if (folder / "dataset").is_dir() else None
        lists = [name for name in SPLITS if list_file(folder, name).is_file()]
        if lists and len(lists) < len(SPLITS):
            absent = ", ".join(f"{name}.txt" for name in SPLITS if name not in lists)
            raise DataError(
                f"{folder}: {absent} missing beside {lists[0]}.txt; add it, or remove all lists for a random split"
            )
        parts = read_lists(folder, categories) if lists else {}
        if self.split_seed is not None or not lists:
            items = sorted(item for part in parts.values() for item in part) or all_items(folder, categories)
            # The recipes' settings were chosen on the validation list, so none of it may be tested on.
            parts = draw(items, self.split_seed or 0, parts.get("val", []))
        splits = {}
        for name, items in parts.items():
            captions: list[str] = []
            text_ids: list[str] = []
            image_of_text: list[int] = []
            for row, item in enumerate(items):
                lines = read_sentences(folder / "sentence" / f"{item}.txt")
                texts = lines if self.sentences else ["\n".join(lines)]
                captions += texts
                text_ids += [f"{item}#{number}" for number in range(len(texts))] if self.sentences else [item]
                image_of_text += [row] * len(texts)
            splits[name] = Split(
                name,
                items,
                np.array(image_of_text, dtype=np.int64),
                text_ids,
                captions=captions,
                image_files=None if photos is None else [photos.find(f"{item}.jpg") for item in items],
                labels=np.array([categories.index(item.split("/")[0]) for item in items], dtype=np.int64),
                class_names=categories,
            )
        return splits


def all_items(folder: Path, categories: Sequence[str]) -> list[str]:
    """List every item that has a photograph or a sentence file as ``category/image``."""
    photos = [file for file in folder.glob("dataset/*/*") if file.suffix.lower() in PHOTO_SUFFIXES]
    files = [*photos, *folder.glob("sentence/*/*.txt")]
    items = sorted({f"{file.parent.name}/{file.stem}" for file in files if not is_leftover(file)})
    for item in items:
        _check_category(item, categories, folder / "dataset")
    return items


def draw(items: Sequence[str], seed: int, never_test: Sequence[str] = ()) -> dict[str, list[str]]:
    """Share items out by category: a tenth is test, none of ``never_test``, a tenth validation, the rest training."""
    categories = sorted({item.split("/")[0] for item in items})
    labels = np.array([categories.index(item.split("/")[0]) for item in items], dtype=np.int64)
    tenth = len(items) // 10
    sizes = {"train": len(items) - 2 * tenth, "val": tenth, "test": tenth}
    barred = np.flatnonzero(np.isin(items, list(never_test)))
    parts = stratified_parts(labels, sizes, seed, barred)
    return {name: [items[row] for row in rows.tolist()] for name, rows in parts.items()}


def list_file(folder: Path, split: str) -> Path:
    """Return the list of a split, under the name train.txt, val.txt or test.txt or one that means the same."""
    there = (file for file in sorted(folder.glob("*.txt")) if part_named(file.stem) == split)
    return next(there, folder / f"{split}.txt")


def read_lists(folder: Path, categories: Sequence[str]) -> dict[str, list[str]]:
    """Read train.txt, val.txt and test.txt: ``category/image`` on every line, with or without an ending.

    Raises:
        DataError: If a line is malformed, names an unknown category, or stands in two places.
    """
    first: dict[str, str] = {}
    parts: dict[str, list[str]] = {}
    for name in SPLITS:
        file = list_file(folder, name)
        parts[name] = []
        for number, line in enumerate(_decoded(file).splitlines(), start=1):
            item = without_suffix(line.strip()).removesuffix(".txt")
            if not item:
                continue
            where = f"{file}:{number}"
            item = relative_path(item, where)
            if item.count("/") != 1:
                raise DataError(f"{where}: expected category/image, found {line[:80]!r}")
            _check_category(item, categories, where)
            if item in first:
                raise DataError(f"{where}: {item} is already listed at {first[item]}")
            first[item] = where
            parts[name].append(item)
    return parts


def _decoded(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read {file} as text: {error}") from error


def read_sentences(file: Path) -> list[str]:
    """Read the sentences of an image, one per line.

    Raises:
        DataError: If the file is missing or empty.
    """
    if not file.is_file():
        raise DataError(f"pascal: {file} is missing; every image needs its sentences, one per line")
    lines = [line.strip() for line in file.read_text(encoding="utf-8", errors="replace").splitlines()]
    sentences = [line for line in lines if line]
    if not sentences:
        raise DataError(f"pascal: {file} is empty; every image needs its sentences, one per line")
    return sentences


def _check_category(item: str, categories: Sequence[str], where: object) -> None:
    category = item.split("/")[0]
    if category not in categories:
        raise DataError(
            f"{where}: category '{category}' of {item} has no folder sentence/{category}."
            f"{did_you_mean(category, categories)}"
        )
