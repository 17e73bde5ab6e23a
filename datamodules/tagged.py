"""Data sets of image features, tag vectors and multi-hot labels, by row, as work on hashing distributes them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt

from cmr_bench.data_sets import TAGGED_LAYOUT
from cmr_bench.datamodules.module import RetrievalDataModule, locate
from cmr_bench.datamodules.readers import containers
from cmr_bench.datamodules.readers.arrays import Side, Stored, find_arrays, listing, pick
from cmr_bench.datamodules.split import SPLITS, Split
from cmr_bench.datamodules.views import ArrayView, Rows, View, ViewKind
from cmr_bench.support.errors import DataError, UsageError, first_line

Role = Literal["image", "text", "label"]

FILES = tuple(f"*{suffix}" for suffix in containers.SUFFIXES)
# IAll, YAll and LAll are the names in the files of DCMH (Jiang and Li, CVPR 2017); XAll are features of its pixels.
_ROLES: dict[Role, re.Pattern[str]] = {
    "image": re.compile(r"(^|[-_/])(i|iall|x|xall|imgs?|images?)([-_]|$)", re.IGNORECASE),
    "text": re.compile(r"(^|[-_/])(y|yall|t|tall|tags?|txts?|texts?)([-_]|$)", re.IGNORECASE),
    "label": re.compile(r"(^|[-_/])(l|lall|labs?|labels?)([-_]|$)", re.IGNORECASE),
}
_WORDS: dict[Role, str] = {"image": "image features", "text": "tag vectors", "label": "labels"}
# "retrieval" has "val" in it.
_PARTS = {"train": re.compile("train"), "val": re.compile("(?<!retrie)val"), "test": re.compile("test|query")}


class TaggedFeatures(RetrievalDataModule):
    """Pairs of an image's features and its tag vector with several labels, mAP: row k of every array is one pair.

    Test pairs are the queries of the literature; training and validation pairs are drawn from the rest, its retrieval
    set, which is not searched: test images and test texts are ranked among each other.

    Args:
        train_pairs: Number of training pairs, drawn from all but the test pairs.
        val_pairs: Number of validation pairs, drawn from all but the test and training pairs.
        test_pairs: Number of test pairs, the queries of the literature.
        split_seed: Random seed of the draw; independent of the run's seed.
        indices: File or folder, also below the data, with arrays of row numbers called train, val, test or query
            that replace the draw; .mat counts from 1, other files from 0. What it does not name is drawn.
    """

    selection = "map"
    published: ClassVar[Mapping[int, int]] = {}

    def __init__(
        self,
        train_pairs: int,
        val_pairs: int = 2000,
        test_pairs: int = 2000,
        split_seed: int = 0,
        indices: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.train_pairs, self.val_pairs, self.test_pairs = train_pairs, val_pairs, test_pairs
        if min(train_pairs, val_pairs, test_pairs) < 1:
            raise UsageError("--data.train_pairs, --data.val_pairs and --data.test_pairs are at least 1")
        if split_seed < 0:
            raise UsageError(f"--data.split_seed {split_seed} is negative")
        self.split_seed, self.indices = split_seed, indices
        self._found: Mapping[str, Stored] = {}
        self._halves: int | None = None
        self._n = 0
        self._loaded: dict[str, npt.NDArray[Any]] = {}
        self._finite: set[str] = set()
        self._last: dict[str, Split] = {}

    def expected_counts(self) -> Mapping[str, tuple[int, ...]]:
        """Images and texts of every split that is drawn; none where a file may give the rows."""
        if self.indices is not None or self._halves is not None:
            return {}
        return {name: (size, size) for name, size in self._sizes().items()}

    def folder(self) -> Path:
        """Folder with the arrays."""
        return locate(self.root, self.data_name, FILES, TAGGED_LAYOUT)

    def read(self) -> Mapping[str, Split]:
        """Read the labels and draw the splits."""
        folder = self.folder()
        self._found = find_arrays(folder, labels=True)
        self._loaded.clear()
        self._finite.clear()
        stored = self._only("label")
        labels = multi_hot(stored)
        self._n, n_classes = labels.shape
        if n_classes not in self.published:
            known = " or ".join(f"{n:,}" for n in self.published)
            raise DataError(
                f"{stored.parts[0][0]}: array '{stored.name}' has {n_classes} labels a pair, "
                f"{self.data_name} has {known}"
            )
        if self._n != self.published[n_classes]:
            self.report.problem(
                f"{stored.parts[0][0]}: {self._n:,} pairs, where {self.data_name} with {n_classes} labels has "
                f"{self.published[n_classes]:,}"
            )
        self._halves = stored.shapes[0][0] if len(stored.parts) == 2 else None
        given: Mapping[str, Rows] = {}
        if self.indices is not None:
            given = read_indices(_place(self.indices, folder), self._n)
        elif self._halves is not None:
            given = {"test": np.arange(self._halves, self._n)}
        names = [f"label {k + 1}" for k in range(n_classes)]
        self._last = {}
        for name, rows in divide(self._n, self._sizes(), self.split_seed, given).items():
            ids = [str(row) for row in rows.tolist()]
            self._last[name] = Split(name, ids, np.arange(len(ids)), ids, labels=labels[rows], class_names=names)
        return self._last

    def image_arrays(self) -> Mapping[str, Mapping[str, ArrayView]]:
        """Every array of image features in the folder, by name and split."""
        return self._all("image")

    def text_arrays(self) -> Mapping[str, Mapping[str, ArrayView]]:
        """Every array of tag vectors in the folder, by name and split."""
        return self._all("text")

    def missing_images(self, kind: ViewKind, split: Split) -> npt.NDArray[np.bool_]:
        """No image is missing where an array of the folder is read; of features by image id some may be."""
        if kind != "pixels" and self._has_image_array():
            return np.zeros(split.n_images, dtype=bool)
        return super().missing_images(kind, split)

    def image_view(self, kind: ViewKind, split: Split) -> View:
        """Return the images as ``kind``, from an array of the folder or from features by image id, the row number."""
        if kind == "pixels" or not self._has_image_array():
            return super().image_view(kind, split)
        return self._chosen("image", kind, split)

    def text_view(self, kind: ViewKind, split: Split, tokenizer: str | None = None) -> View:
        """Return the tag vectors; there are no texts to read otherwise."""
        if kind != "vector":
            raise UsageError(f"the method reads texts as '{kind}' and {self.data_name} has tag vectors only")
        return self._chosen("text", kind, split)

    def _sizes(self) -> dict[str, int]:
        return {"train": self.train_pairs, "val": self.val_pairs, "test": self.test_pairs}

    def _has_image_array(self) -> bool:
        return self.image_features is None or self.image_features in self._of("image")

    def _of(self, side: Side) -> dict[str, Stored]:
        """The arrays that may belong to a modality: their name says so, or says nothing."""
        return {name: stored for name, stored in self._found.items() if _role(stored) in (side, None)}

    def _only(self, role: Role) -> Stored:
        """The one array whose name says that it holds the image features, tag vectors or labels."""
        found = [stored for stored in self._found.values() if _role(stored) == role]
        folder = self.folder()
        if not found:
            there = ", ".join(f"{name} {stored.shape}" for name, stored in self._found.items()) or "none"
            raise DataError(
                f"{self.data_name}: no array of {_WORDS[role]} in {folder}, expected {TAGGED_LAYOUT}, of shape (n, d); "
                f"there are {there}{containers.missing_library(folder)}"
            )
        if len(found) > 1:
            names = ", ".join(name for name, stored in self._found.items() if stored in found)
            how = "keep one" if role == "label" else f"choose one by --data.{role}_features"
            raise DataError(f"{self.data_name}: several arrays of {_WORDS[role]} in {folder}: {names}; {how}")
        return found[0]

    def _chosen(self, side: Side, kind: ViewKind, split: Split) -> ArrayView:
        name = self.image_features if side == "image" else self.text_features
        stored = self._only(side) if name is None else pick(self._of(side), name, self.folder(), side)
        view = self._view(stored, split)
        if stored.source not in self._finite:
            stored.require_finite(view.array)
            self._finite.add(stored.source)
        if view.spec.kind != kind:
            raise UsageError(
                f"the method reads {side}s as '{kind}' but '{stored.name}' is '{view.spec.kind}' {view.spec.shape}; "
                f"choose among {listing(self._of(side), side)}"
            )
        return view

    def _view(self, stored: Stored, split: Split) -> ArrayView:
        if stored.shape[0] != self._n or (len(stored.parts) == 2 and self._halves not in (None, stored.shapes[0][0])):
            rows_here = " + ".join(str(shape[0]) for shape in stored.shapes)
            raise DataError(
                f"{stored.parts[0][0]}: array '{stored.name}' has {rows_here} rows for the {self._n} rows of the labels"
            )
        if stored.source not in self._loaded:
            self._loaded[stored.source] = stored.load()
        rows = np.array([int(name) for name in split.image_ids], dtype=np.int64)
        return ArrayView(self._loaded[stored.source], stored.source, rows)

    def _all(self, side: Side) -> Mapping[str, Mapping[str, ArrayView]]:
        return {
            name: {split.name: self._view(stored, split) for split in self._last.values()}
            for name, stored in self._found.items()
            if _role(stored) == side
        }


def multi_hot(stored: Stored) -> npt.NDArray[np.int64]:
    """Read labels, (n, n_classes) of 0 and 1.

    Raises:
        DataError: For another shape or other values.
    """
    values = stored.load()
    where = f"{stored.parts[0][0]}: array '{stored.name}'"
    if values.ndim != 2:
        raise DataError(f"{where} has shape {values.shape}; labels are (n, n_labels), 0 and 1")
    wrong = ~((values == 0) | (values == 1))
    if wrong.any():
        row, column = (int(k) for k in np.argwhere(wrong)[0])
        raise DataError(
            f"{where} holds {values[row, column]} in row {row}, label {column}, and {int(wrong.sum()) - 1:,} more "
            "values that are not 0 or 1"
        )
    return values.astype(np.int64)


def divide(n: int, sizes: Mapping[str, int], seed: int, given: Mapping[str, Rows] | None = None) -> dict[str, Rows]:
    """Draw train, val and test from n rows without replacement.

    Test rows are drawn first and validation rows next, so that neither depends on the size of the training split.

    Args:
        n: Number of rows.
        sizes: Rows of each part that is drawn.
        seed: Seed of the draw; the same rows on every machine.
        given: Parts that are not drawn.

    Returns:
        Rows of each part, ascending where drawn.

    Raises:
        DataError: If there are too few rows.
    """
    parts = dict(given or {})
    taken = np.concatenate([np.zeros(0, np.int64), *parts.values()])
    order = np.random.default_rng(seed).permutation(n)
    free = order[~np.isin(order, taken)]
    drawn = [name for name in ("test", "val", "train") if name not in parts]
    if sum(sizes[name] for name in drawn) > len(free):
        wanted = ", ".join(f"{sizes[name]:,} {name}" for name in drawn)
        raise DataError(
            f"cannot draw {wanted} pairs from {len(free):,}; pass fewer by "
            f"{', '.join(f'--data.{name}_pairs' for name in drawn)}"
        )
    for name in drawn:
        parts[name], free = np.sort(free[: sizes[name]]), free[sizes[name] :]
    return {name: parts[name] for name in SPLITS}


def read_indices(place: Path, n: int) -> dict[str, Rows]:
    """Read row numbers of train, val and test (or query) from the arrays of a file or of the files of a folder.

    Args:
        place: The file or folder; MATLAB's files count from 1, others from 0.
        n: Number of rows of the data.

    Raises:
        DataError: If nothing is found, or numbers are out of range, occur twice or in two parts.
    """
    files = [place] if place.is_file() else [f for f in sorted(place.glob("*")) if f.suffix in containers.SUFFIXES]
    parts: dict[str, Rows] = {}
    for file in files:
        try:
            keys = [
                (key, name)
                for key in containers.shapes(file)
                for name, word in _PARTS.items()
                if word.search(key.lower())
            ]
            values = {key: np.asarray(containers.load(file, key)).ravel() for key, _ in keys}
        except DataError:
            raise
        except Exception as error:  # what is damaged can fail in any way in the libraries that read it
            raise DataError(f"{file} cannot be read ({first_line(error)})") from error
        for key, name in keys:
            if name in parts:
                raise DataError(
                    f"{place}: several arrays of {name} rows, the second is '{key}' in {file.name}; keep one"
                )
            parts[name] = _rows(values[key], n, int(file.suffix == ".mat"), f"{file}: array '{key}'")
    if not parts:
        raise DataError(f"{place}: no arrays of row numbers called train, val, test or query")
    every, counts = np.unique(np.concatenate(list(parts.values())), return_counts=True)
    if (counts > 1).any():
        raise DataError(f"{place}: {int((counts > 1).sum()):,} rows are listed twice, first {every[counts > 1][0]}")
    return parts


def _rows(values: npt.NDArray[Any], n: int, first: int, where: str) -> Rows:
    if not len(values):
        raise DataError(f"{where} is empty")
    wrong = ~((values >= first) & (values < n + first) & (values == np.floor(values)))
    if wrong.any():
        raise DataError(f"{where} holds {values[wrong][0]}, expected whole numbers in {first}..{n + first - 1}")
    return values.astype(np.int64) - first


def _place(name: str, folder: Path) -> Path:
    """Find what an option names, beside the data or from here."""
    path = Path(name).expanduser()
    for place in (folder / path, path):
        if place.exists():
            return place
    raise DataError(f"--data.indices {name}: no such file or folder, also not in {folder}")


def _role(stored: Stored) -> Role | None:
    return next((role for role, pattern in _ROLES.items() if pattern.search(stored.name)), None)
