"""A data set of one's own."""

from __future__ import annotations

import glob
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cmr_bench import registry
from cmr_bench.datamodules.module import RetrievalDataModule, locate
from cmr_bench.datamodules.readers.karpathy import clean_caption, make_splits, read_photos, relative_path
from cmr_bench.datamodules.readers.tables import SUFFIXES, Row, read_rows
from cmr_bench.datamodules.split import SPLITS, Split
from cmr_bench.support.checksums import combined
from cmr_bench.support.errors import DataError, UsageError, did_you_mean
from cmr_bench.support.places import cache_dir, check_name

SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "restval": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "test": "test",
    "testing": "test",
}
_HELD_OUT = 0.1


@dataclass
class _Item:
    """One image while its rows are gathered."""

    split: str | None
    labels: tuple[str, ...] | None
    where: str
    captions: list[str] = field(default_factory=list)


def seeded_split(image_ids: Sequence[str], seed: int) -> dict[str, str]:
    """Share images out 80 / 10 / 10.

    Args:
        image_ids: The images; their order does not matter.
        seed: Seed of the draw.

    Returns:
        The split of every image.

    Raises:
        DataError: If there are fewer than three.
    """
    if len(image_ids) < len(SPLITS):
        raise DataError(f"{len(image_ids)} image(s) cannot be split into train, val and test; add a split column")
    names = sorted(image_ids)
    held_out = max(1, round(len(names) * _HELD_OUT))
    order = np.random.default_rng(seed).permutation(len(names))
    parts = np.split(order, [held_out, 2 * held_out])
    return {names[i]: part for part, rows in zip(("test", "val", "train"), parts, strict=True) for i in rows.tolist()}


class Custom(RetrievalDataModule):
    """Your own data: a CSV, JSONL or Parquet table of image path and caption, or a Karpathy JSON; root is its folder.

    An image with several captions has several rows, or a list of captions in JSONL and Parquet.

    Args:
        name: Name of the data set in run folders, caches and leaderboards; null stores runs under `custom` and keeps
            features by folder.
        file: Table or JSON in the folder; null takes the only one there.
        images: Folder that image paths are relative to; absolute or relative to the data folder.
        image_column: Column with the image path.
        caption_column: Column with the caption.
        split_column: Column with train, val or test; null uses the column 'split', else splits the images at random
            80/10/10.
        label_column: Column with the category; null uses the column 'label', if any.
        label_separator: Separator between several categories of an item, such as ';'.
        split_seed: Random seed of an 80/10/10 split that replaces the split column; if not given, the column is used,
            or seed 0 without one. Independent of the run's seed.
    """

    data_name = "custom"

    def __init__(
        self,
        name: str | None = None,
        file: str | None = None,
        images: str = ".",
        image_column: str = "image",
        caption_column: str = "caption",
        split_column: str | None = None,
        label_column: str | None = None,
        label_separator: str | None = None,
        split_seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.name = None if name is None else _own_name(name)
        self.file, self.images = file, images
        self.image_column, self.caption_column = image_column, caption_column
        self.split_column, self.label_column = split_column, label_column
        self.label_separator, self.split_seed = label_separator, split_seed

    def cache(self) -> Path:
        """Folder of what is made from this data set, by its name or by where its table and photographs lie."""
        if self.name is not None:
            return cache_dir(self.data_name) / self.name
        file = self.table_file().resolve()
        places = combined({"table": str(file), "images": str((file.parent / Path(self.images).expanduser()).resolve())})
        return cache_dir(self.data_name) / f"{file.parent.name[:40]}-{places[:12]}"

    def earlier_store_places(self) -> list[Path]:
        """Where earlier versions kept the features of every such data set."""
        return [cache_dir(self.data_name) / "features"]

    def folder(self) -> Path:
        """Folder with the table."""
        if self.file and Path(self.file).expanduser().is_absolute():
            return Path(self.file).expanduser().parent
        markers = [glob.escape(self.file)] if self.file else [f"*{suffix}" for suffix in SUFFIXES]
        return locate(self.root, self.data_name, markers, "a CSV, JSONL, Parquet or Karpathy JSON file, and the images")

    def table_file(self) -> Path:
        """The table or JSON to read.

        Raises:
            DataError: If there are several and none is named.
        """
        folder = self.folder()
        if self.file:
            return folder / Path(self.file).expanduser()
        found = sorted(p for p in folder.iterdir() if p.is_file() and p.name.lower().endswith(SUFFIXES))
        if len(found) != 1:
            names = ", ".join(p.name for p in found[:5]) or "none"
            raise DataError(f"{len(found)} tables in {folder} ({names}); pass --data.file NAME")
        return found[0]

    def read(self) -> Mapping[str, Split]:
        """Read the table or the Karpathy JSON."""
        file = self.table_file()
        images = self.folder() / Path(self.images).expanduser()
        if file.name.lower().endswith((".json", ".json.gz")):
            if self.split_seed is not None:
                raise UsageError(f"{file} has splits of its own: --data.split_seed needs a table")
            return make_splits(read_photos(file), images, str(file))
        return self._splits(self._gather(file), images, file)

    def _gather(self, file: Path) -> dict[str, _Item]:
        items: dict[str, _Item] = {}
        split_column, label_column = self.split_column, self.label_column
        for number, (where, row) in enumerate(read_rows(file)):
            if number == 0:
                split_column = self._column(row, self.split_column, "split", file)
                label_column = self._column(row, self.label_column, "label", file)
            for option, column in (("image_column", self.image_column), ("caption_column", self.caption_column)):
                if column not in row:
                    raise DataError(
                        f"{where}: no column '{column}', only {_columns(row)}; pass --data.{option} NAME."
                        f"{did_you_mean(column, map(str, row))}"
                    )
            name = relative_path(row[self.image_column], where)
            split = _split_name(row.get(split_column), where) if split_column else None
            labels = self._labels(row.get(label_column), where) if label_column else None
            item = items.setdefault(name, _Item(split, labels, where))
            if (item.split, item.labels) != (split, labels):
                raise DataError(f"{where}: image {name} has another split or label than at {item.where}")
            captions = row[self.caption_column]
            for caption in captions if isinstance(captions, list) else [captions]:
                item.captions.append(clean_caption(caption, f"{where} ({name})"))
        if not items:
            raise DataError(f"{file} has no rows")
        return items

    def _column(self, row: Row, chosen: str | None, default: str, file: Path) -> str | None:
        if chosen is None:
            return default if default in row else None
        if chosen not in row:
            hint = did_you_mean(chosen, map(str, row))
            raise DataError(f"{file} has no column '{chosen}', only {_columns(row)}.{hint}")
        return chosen

    def _labels(self, value: object, where: str) -> tuple[str, ...]:
        if isinstance(value, list):
            parts = [str(part) for part in value]
        elif self.label_separator:
            parts = ("" if value is None else str(value)).split(self.label_separator)
        else:
            parts = [] if value is None else [str(value)]
        names = {clean_caption(part, where, "label") for part in parts}
        if not names:
            raise DataError(f"{where}: no label; every image needs one, or drop the column")
        return tuple(sorted(names))

    def _splits(self, items: Mapping[str, _Item], images: Path, file: Path) -> dict[str, Split]:
        draws = self.split_seed is not None or next(iter(items.values())).split is None
        drawn = seeded_split(list(items), self.split_seed or 0) if draws else {}
        labelled = [item.labels for item in items.values() if item.labels is not None]
        multi = self.label_separator is not None or any(len(labels) > 1 for labels in labelled)
        class_names = sorted({label for labels in labelled for label in labels})
        split_of = drawn if draws else {image: item.split for image, item in items.items()}
        splits = {}
        for name in SPLITS:
            members = {image: item for image, item in items.items() if split_of.get(image) == name}
            if not members:
                continue
            for image, item in members.items():
                if not item.captions:
                    raise DataError(f"{item.where}: image {image} has no caption")
            splits[name] = Split(
                name=name,
                image_ids=list(members),
                image_of_text=np.repeat(np.arange(len(members)), [len(item.captions) for item in members.values()]),
                text_ids=[f"{image}#{k}" for image, item in members.items() for k in range(len(item.captions))],
                captions=[caption for item in members.values() for caption in item.captions],
                image_files=[images / image for image in members],
                labels=_label_array([item.labels or () for item in members.values()], class_names, multi),
                class_names=class_names,
            )
        return splits


def _own_name(name: str) -> str:
    if name in registry.DATASETS:
        raise UsageError(f"--data.name {name} is the name of a data set of the suite; call yours something else")
    return check_name(name)


def _columns(row: Row) -> str:
    return ", ".join(" ".join(str(name).split()) for name in row)


def _split_name(value: object, where: str) -> str:
    split = SPLIT_NAMES.get(str(value).strip().lower())
    if split is None:
        raise DataError(f"{where}: split {value!r} is none of {', '.join(SPLITS)}")
    return split


def _label_array(
    labels: Sequence[tuple[str, ...]], class_names: Sequence[str], multi: bool
) -> npt.NDArray[np.int64] | None:
    if not class_names:
        return None
    index = {name: k for k, name in enumerate(class_names)}
    if not multi:
        return np.array([index[names[0]] for names in labels], dtype=np.int64)
    hot = np.zeros((len(labels), len(class_names)), dtype=np.int64)
    for row, names in enumerate(labels):
        hot[row, [index[name] for name in names]] = 1
    return hot
