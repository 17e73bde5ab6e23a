"""The Wikipedia featured-articles data set: an article section, its picture, one of ten categories."""

from __future__ import annotations

import html
import re
import zipfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt

from cmr_bench.data_sets import DATASETS
from cmr_bench.datamodules.module import RetrievalDataModule, locate
from cmr_bench.datamodules.readers.arrays import Side, Stored, find_arrays, listing, pick
from cmr_bench.datamodules.readers.cells import relative_path
from cmr_bench.datamodules.readers.containers import missing_library
from cmr_bench.datamodules.readers.finder import PhotoFinder
from cmr_bench.datamodules.split import Split
from cmr_bench.datamodules.stratified import stratified_parts, stratified_slice
from cmr_bench.datamodules.texts import fitting
from cmr_bench.datamodules.views import ArrayView, Rows, View, ViewKind
from cmr_bench.support import foreign
from cmr_bench.support.errors import DataError, UsageError
from cmr_bench.support.files import is_leftover

if TYPE_CHECKING:
    from cmr_bench.datamodules.images.store import FeatureStore

TRAIN_LIST, TEST_LIST, CATEGORIES = "trainset_txt_img_cat.list", "testset_txt_img_cat.list", "categories.list"
# Read where no features are named: the best of what ships, then the authors' own.
DEFAULTS: dict[Side, tuple[str, ...]] = {
    "image": ("img_cnnpca128", "I", "img_sift128"),
    "text": ("txt_tfidf1000", "txt_lda50", "txt_wordvec100", "T", "txt_lda10"),
}


@dataclass(frozen=True)
class Listed:
    """One line of a split list."""

    text_id: str
    image_id: str
    label: int


class Wikipedia(RetrievalDataModule):
    """Wikipedia (Rasiwasia et al. 2010): 2,866 pairs of article section and picture in ten categories, mAP.

    Images and texts are vectors that ship with the data, chosen by name; the articles and photographs are read as
    well where the folders `texts` and `images` are there.

    Args:
        full_test: Test on all 693 pairs of the test list and validate on 231 of the training pairs (1,942 / 231 / 693),
            instead of validating on the first 231 of the test list (2,173 / 231 / 462).
        split_seed: Random seed of a split of the same sizes, stratified by category, that replaces that of the two
            lists; independent of the run's seed.
    """

    data_name = "wikipedia"
    selection = "map"
    expected: ClassVar[Mapping[str, tuple[int, ...]]] = {"train": (2173, 2173), "val": (231, 231), "test": (462, 462)}

    def __init__(self, full_test: bool = False, split_seed: int | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.full_test, self.split_seed = full_test, split_seed
        self._last: dict[str, Split] = {}
        self._image_row: dict[str, int] = {}
        self._text_row: dict[str, int] = {}
        self._found: Mapping[str, Stored] = {}
        self._loaded: dict[str, npt.NDArray[Any]] = {}

    def expected_counts(self) -> Mapping[str, tuple[int, ...]]:
        """Images and texts of every split under the options chosen."""
        return {"train": (1942, 1942), "val": (231, 231), "test": (693, 693)} if self.full_test else self.expected

    def folder(self) -> Path:
        """Folder with the split lists."""
        return locate(self.root, self.data_name, [TRAIN_LIST], DATASETS["wikipedia"].layout)

    def read(self) -> Mapping[str, Split]:
        """Read the lists, and the articles and the names of the photographs where their folders are there."""
        folder = self.folder()
        # The categories name the folders of the photographs.
        class_names = [relative_path(line, str(folder / CATEGORIES)) for line in _lines(folder / CATEGORIES)]
        train = read_list(folder / TRAIN_LIST, len(class_names))
        test = read_list(folder / TEST_LIST, len(class_names))
        items = train + test
        for kind, ids in (("text", [i.text_id for i in items]), ("image", [i.image_id for i in items])):
            name, count = Counter(ids).most_common(1)[0]
            if count > 1:
                raise DataError(f"{folder}: {kind} {name} is listed {count} times in {TRAIN_LIST} and {TEST_LIST}")
        labels = np.array([item.label for item in items], dtype=np.int64)
        captions = read_articles(folder / "texts", items) if (folder / "texts").is_dir() else None
        photos = PhotoFinder(folder / "images") if (folder / "images").is_dir() else None
        listed = split_rows(labels[: len(train)], len(test), self.full_test)
        sizes = {name: len(rows) for name, rows in listed.items()}
        # The recipes' settings were chosen on the validation rows of the lists, so none of them may be tested on.
        drawn = None if self.split_seed is None else stratified_parts(labels, sizes, self.split_seed, listed["val"])
        parts = listed if drawn is None else drawn
        for archive in sorted(file for file in folder.glob("*.npz") if not is_leftover(file)):
            check_order(archive, items, listed if not self.full_test else {})
        self._image_row = {item.image_id: row for row, item in enumerate(items)}
        self._text_row = {item.text_id: row for row, item in enumerate(items)}
        self._loaded.clear()
        self._found = find_arrays(folder)
        by_source = {stored.source: name for name, stored in self._found.items()}
        self.image_features = by_source.get(self.image_features or "", self.image_features)
        self.text_features = by_source.get(self.text_features or "", self.text_features)
        self._last = {}
        for name, rows in parts.items():
            members = [items[row] for row in rows]
            self._last[name] = Split(
                name,
                [item.image_id for item in members],
                np.arange(len(members)),
                [item.text_id for item in members],
                captions=None if captions is None else [captions[row] for row in rows],
                image_files=None
                if photos is None
                else [photos.find(f"{class_names[item.label]}/{item.image_id}.jpg") for item in members],
                labels=labels[rows],
                class_names=class_names,
            )
        return self._last

    def image_arrays(self) -> Mapping[str, Mapping[str, ArrayView]]:
        """Every array of image features in the folder, by name and split."""
        return self._all("image")

    def text_arrays(self) -> Mapping[str, Mapping[str, ArrayView]]:
        """Every array of text features in the folder, by name and split."""
        return self._all("text")

    def missing_images(self, kind: ViewKind, split: Split) -> npt.NDArray[np.bool_]:
        """No image is missing where an array of the folder is read; photographs and stored features may be."""
        if kind != "pixels" and self._chosen("image") is not None:
            return np.zeros(split.n_images, dtype=bool)
        return super().missing_images(kind, split)

    def feature_store(self) -> FeatureStore:
        """Stored image features, for names that no array of the folder has."""
        try:
            return super().feature_store()
        except DataError as error:
            raise DataError(
                f"{error}; arrays in {self.folder()}: {listing(self._found, 'image')}{missing_library(self.folder())}"
            ) from error

    def image_view(self, kind: ViewKind, split: Split) -> View:
        """Return the images as ``kind``; vectors and regions from an array of the folder or from stored features."""
        stored = self._chosen("image")
        if kind == "pixels" or stored is None:
            return super().image_view(kind, split)
        view = self._view(stored, "image", split)
        stored.require_finite(view.array)
        if view.spec.kind != kind:
            raise UsageError(
                f"the method reads images as '{kind}' but '{stored.name}' is '{view.spec.kind}' {view.spec.shape}; "
                f"choose among {listing(self._found, 'image')}"
            )
        return view

    def text_view(self, kind: ViewKind, split: Split, tokenizer: str | None = None) -> View:
        """Return the texts as ``kind``; vectors from an array of the folder or computed from the articles."""
        if kind == "vector":
            stored = self._chosen("text")
            if stored is not None:
                vectors = self._view(stored, "text", split)
                stored.require_finite(vectors.array)
                return vectors
            if split.captions is None:
                raise DataError(
                    f"text vectors '{self.text_features or 'tfidf'}' are computed from the articles and there is no "
                    f"folder {self.folder() / 'texts'}; choose among {listing(self._found, 'text')}"
                )
            self.text_features = self.text_features or "tfidf"
        elif split.captions is None:
            raise DataError(
                f"the method reads texts as '{kind}' and there are no articles in {self.folder() / 'texts'}; "
                f"as vectors there are {listing(self._found, 'text')}"
            )
        return super().text_view(kind, split, tokenizer)

    def _chosen(self, side: Side) -> Stored | None:
        """The array that an option names, or the default; None where the features come from elsewhere."""
        arrays, folder = self._found, self.folder()
        name = self.image_features if side == "image" else self.text_features
        if name is None:
            there = [n for n in DEFAULTS[side] if n in arrays] + [n for n in arrays if arrays[n].holds(side)]
            return arrays[there[0]] if there else None
        if name in arrays:
            return pick(arrays, name, folder, side)
        if side == "text" and name not in fitting.FITTED and not name.startswith(fitting.ENCODERS):
            return pick(arrays, name, folder, side)
        return None

    def _view(self, stored: Stored, side: Side, split: Split) -> ArrayView:
        if stored.source not in self._loaded:
            array = stored.load()
            if len(array) != len(self._image_row):
                raise DataError(
                    f"{stored.parts[0][0]}: array '{stored.name}' has {len(array)} rows for the {len(self._image_row)} "
                    f"items of {TRAIN_LIST} and {TEST_LIST}"
                )
            self._loaded[stored.source] = array
        row_of, ids = (self._image_row, split.image_ids) if side == "image" else (self._text_row, split.text_ids)
        rows = np.array([row_of[name] for name in ids], dtype=np.int64)
        return ArrayView(self._loaded[stored.source], stored.source, rows)

    def _all(self, side: Side) -> Mapping[str, Mapping[str, ArrayView]]:
        return {
            name: {split.name: self._view(stored, side, split) for split in self._last.values()}
            for name, stored in self._found.items()
            if stored.holds(side)
        }


def read_list(file: Path, n_classes: int) -> list[Listed]:
    """Read a split list: text, image and category (from 1) on every line, separated by white space.

    Raises:
        DataError: If the file is not there or a line is something else.
    """
    items = []
    for number, line in enumerate(_lines(file), start=1):
        parts = line.split()
        if len(parts) != 3 or not parts[2].isdecimal() or not 1 <= int(parts[2]) <= n_classes:
            raise DataError(
                f"{file}:{number}: expected text id, image id and category in 1..{n_classes}, found {line[:80]!r}"
            )
        text_id, image_id = (relative_path(part, f"{file}:{number}") for part in parts[:2])
        items.append(Listed(text_id, image_id, int(parts[2]) - 1))
    return items


def split_rows(train_labels: npt.NDArray[np.int64], n_test: int, full_test: bool) -> dict[str, Rows]:
    """Return the rows of train, val and test, counted through the training list and then the test list.

    A third of the test list's length is validation: its first 231 rows, as in the code of MRL (Hu et al. 2021),
    or, where the whole test list is tested, as many training pairs, drawn by category and the same for every seed.
    """
    n_train, n_val = len(train_labels), n_test // 3
    every = np.arange(n_train + n_test)
    if not full_test:
        return {"train": every[:n_train], "val": every[n_train : n_train + n_val], "test": every[n_train + n_val :]}
    val = stratified_slice(train_labels, n_val, seed=0)
    return {"train": np.setdiff1d(every[:n_train], val), "val": val, "test": every[n_train:]}


def check_order(archive: Path, items: Sequence[Listed], parts: Mapping[str, Rows]) -> None:
    """Compare the ids, labels and split rows that an archive may state beside its features with the lists.

    Raises:
        DataError: If they differ: the rows of its features would then belong to other items.
    """
    told: dict[str, npt.NDArray[Any]] = {
        "text_id": np.array([item.text_id for item in items]),
        "image_id": np.array([item.image_id for item in items]),
        "labels": np.array([item.label for item in items]) - min(item.label for item in items),
        **{f"{name}_rows": rows for name, rows in parts.items()},
    }
    try:
        foreign.check_zip(foreign.checked(archive))
        with np.load(archive, allow_pickle=False) as content:
            for key in sorted(told.keys() & set(content.files)):
                values = content[key]
                if key == "labels":
                    values = values - values.min()
                # Arrays of another length than the lists are reported when they are read.
                if (values.shape == told[key].shape or key.endswith("_rows")) and not np.array_equal(values, told[key]):
                    raise DataError(
                        f"{archive}: its '{key}' differs from {TRAIN_LIST} followed by {TEST_LIST}, so its rows "
                        "belong to other items"
                    )
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise DataError(f"{archive} cannot be read ({error}); download it again") from error


def read_articles(folder: Path, items: Sequence[Listed]) -> list[str]:
    """Read the text of every article from ``<text id>.xml``.

    The files are not all well-formed XML, so the content of their ``text`` element is cut out and freed of tags
    without a parser; what stands outside it, the category for one, is not part of the text.

    Raises:
        DataError: If a file is missing or empty.
    """
    missing = [item.text_id for item in items if not (folder / f"{item.text_id}.xml").is_file()]
    if missing:
        raise DataError(
            f"{folder}: {len(missing)} of {len(items)} articles are missing, e.g. {missing[0]}.xml; complete the "
            "folder, or move it away to use the feature arrays only"
        )
    texts = []
    for item in items:
        file = folder / f"{item.text_id}.xml"
        raw = file.read_text(encoding="utf-8", errors="replace")
        body = re.search(r"<text[^>]*>(.*)</text>", raw, re.DOTALL)
        content = re.sub(r"<!\[CDATA\[|\]\]>", " ", body.group(1) if body else raw)
        words = html.unescape(re.sub(r"<[^<>]*>", " ", content)).split()
        if not words:
            raise DataError(f"{file} contains no text")
        texts.append(" ".join(words))
    return texts


def _lines(file: Path) -> list[str]:
    if not file.is_file():
        raise DataError(f"wikipedia: {file} is missing; it comes with the data set's lists")
    lines = [line.strip() for line in file.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    if not lines:
        raise DataError(f"wikipedia: {file} is empty")
    return lines
