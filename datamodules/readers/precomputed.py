"""The precomputed folders of the VSE++/SCAN lineage: an array of image features and one caption per line, by split."""

from __future__ import annotations

import tokenize
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cmr_bench.datamodules.readers.boxes import as_fractions
from cmr_bench.datamodules.split import Split
from cmr_bench.datamodules.views import ArrayView, Rows
from cmr_bench.support import foreign
from cmr_bench.support.checksums import checksum, combined
from cmr_bench.support.errors import DataError, Notice, brief

# the lineage calls validation "dev"; COCO's whole 5K test part is "testall" and its "test" the first 1K of it
PREFIXES = {"train": ("train",), "val": ("dev", "val", "valid", "validation"), "test": ("testall", "test")}
_REPEATS = 5
_BOXES = ("boxes", "ims_bbx")
_COMPARED = 1024  # leading values that tell two rows apart: a page of a file that may hold tens of gigabytes


@dataclass(frozen=True)
class Part:
    """One split of a precomputed folder.

    Attributes:
        split: Ids, links and captions.
        array: Image features, memory-mapped, (rows, d) or (rows, regions, d).
        row_of: Row of the array for every image id.
        source: The file, for messages and the result.
        boxes: Boxes of the regions as fractions, (rows, regions, 4), and the checksum of their files; None where there
            are none.
    """

    split: Split
    array: npt.NDArray[Any]
    row_of: dict[str, int]
    source: str
    boxes: tuple[npt.NDArray[np.float32], str] | None = None

    def view(self, image_ids: Sequence[str]) -> ArrayView:
        """Return the features of the named images."""
        rows = np.fromiter((self.row_of[image] for image in image_ids), dtype=np.int64, count=len(image_ids))
        return MappedView(self.array, Path(self.source), rows, self.boxes)


class MappedView(ArrayView):
    """A view of an array on disk that data workers map again instead of receiving a copy of it.

    Args:
        array: The features, memory-mapped.
        file: Where they lie; results name it without its folder.
        rows: Row of the array for each item.
        boxes: Boxes of the regions, in the rows of the array, and the checksum of their files.
    """

    def __init__(
        self,
        array: npt.NDArray[Any],
        file: Path,
        rows: Rows,
        boxes: tuple[npt.NDArray[np.float32], str] | None = None,
    ) -> None:
        super().__init__(array, file.name, rows, None if boxes is None else boxes[0])
        self.file, self.boxes_content = file, None if boxes is None else boxes[1]

    def content(self) -> str:
        """Checksum over the files and the rows that are read of them."""
        assert self.rows is not None
        parts = {"file": checksum(self.file), "rows": " ".join(map(str, self.rows.tolist()))}
        return combined(parts if self.boxes_content is None else parts | {"boxes": self.boxes_content})

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "array": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.array = open_array(self.file)


def open_array(file: Path) -> npt.NDArray[Any]:
    """Memory-map a ``.npy`` file of numbers, (n, d) or (n, regions, d); nothing in it is executed.

    Raises:
        DataError: If it is missing, damaged, pickled or of another shape.
    """
    try:
        array = np.load(foreign.checked(file), mmap_mode="r", allow_pickle=False)
    except (OSError, EOFError, ValueError, SyntaxError, tokenize.TokenError, OverflowError, TypeError) as error:
        raise DataError(f"cannot read {file} as a NumPy array: {brief(error)}") from None
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "fiu" or array.ndim not in (2, 3):
        found = f"{array.dtype} {array.shape}" if isinstance(array, np.ndarray) else "an archive"
        raise DataError(f"{file} holds {found}; expected numbers of shape (n, d) or (n, regions, d)")
    if 0 in array.shape:
        raise DataError(f"{file} is empty: shape {array.shape}")
    return array


def read_lines(file: Path) -> list[str]:
    """Read a text file of one entry per line; only line feeds end a line, and whitespace is collapsed.

    Raises:
        DataError: If it is missing, not UTF-8, or has an empty line.
    """
    try:
        content = foreign.checked(file).read_bytes()
    except OSError as error:
        raise DataError(f"cannot read {file}: {error.strerror or error}") from None
    lines = []
    for number, raw in enumerate(content.removesuffix(b"\n").split(b"\n"), start=1):
        try:
            line = " ".join(raw.decode("utf-8-sig" if number == 1 else "utf-8").split())
        except UnicodeDecodeError:
            raise DataError(f"{file}, line {number}: not UTF-8 text") from None
        if not line:
            raise DataError(f"{file}, line {number}: empty; expected one caption or id a line")
        lines.append(line)
    return lines


def image_starts(array: npt.NDArray[Any], n_texts: int) -> tuple[Rows, Rows]:
    """Find which rows of an array are distinct images, and the image of every text.

    A folder has either one row per image, with the same number of texts for each, or one row per text, with an image's
    row repeated for each of its texts.

    Args:
        array: Image features, one item per row.
        n_texts: Number of texts.

    Returns:
        The first row of each image (n_images,), and the image of each text (n_texts,).

    Raises:
        DataError: If the texts cannot be shared out evenly.
    """
    n_rows = len(array)
    if n_texts % n_rows:
        raise DataError(f"{n_texts} captions for {n_rows} rows of features; expected as many, or a multiple")
    if n_texts > n_rows:
        return np.arange(n_rows), np.repeat(np.arange(n_rows), n_texts // n_rows)
    # regions lie behind one another in a row, so the leading values are the first of region 0
    head = array.reshape(n_rows, -1)[:, :_COMPARED] if array.ndim == 2 else array[:, 0, :_COMPARED]
    same = np.zeros(n_rows, dtype=bool)
    for start in range(1, n_rows, 4096):
        stop = min(start + 4096, n_rows)
        block = np.asarray(head[start - 1 : stop])
        same[start:stop] = (block[1:] == block[:-1]).all(axis=1)
    # blocks of five first: two different images with one and the same photograph may stand side by side
    if n_rows % _REPEATS == 0 and same.reshape(-1, _REPEATS)[:, 1:].all():
        same = np.arange(n_rows) % _REPEATS != 0
    return np.flatnonzero(~same), np.cumsum(~same) - 1


def read_part(folder: Path, prefix: str, name: str) -> Part:
    """Read one split.

    Args:
        folder: The precomputed folder.
        prefix: How its files begin, such as ``dev``.
        name: train, val or test.

    Raises:
        DataError: If files are missing, damaged, or disagree about their number.
    """
    file = folder / f"{prefix}_ims.npy"
    array = open_array(file)
    captions = read_lines(folder / f"{prefix}_caps.txt")
    try:
        starts, image_of_text = image_starts(array, len(captions))
    except DataError as error:
        raise DataError(f"{file} and {prefix}_caps.txt: {error}") from None
    image_ids = [f"{prefix}{row}" for row in range(len(starts))]
    id_file = folder / f"{prefix}_ids.txt"
    if id_file.is_file():
        image_ids = _ids(id_file, image_of_text, len(starts))
    split = Split(
        name=name,
        image_ids=image_ids,
        image_of_text=image_of_text,
        text_ids=[f"{prefix}{line}" for line in range(len(captions))],
        captions=captions,
    )
    boxes = read_boxes(folder, prefix, array.shape) if array.ndim == 3 else None
    return Part(split, array, dict(zip(image_ids, starts.tolist(), strict=True)), str(file), boxes)


def read_boxes(folder: Path, prefix: str, shape: tuple[int, ...]) -> tuple[npt.NDArray[np.float32], str] | None:
    """Read the boxes of the regions of one split, ``<prefix>_boxes.npy`` or ``<prefix>_ims_bbx.npy``.

    Boxes in pixels need ``<prefix>_ims_size.npy``, width and height of each image. An array that is not four numbers a
    region, such as the lists of blocks of PFAN's folders, is passed over with a notice.

    Args:
        folder: The precomputed folder.
        prefix: How its files begin.
        shape: Shape of the features, (rows, regions, d).

    Returns:
        The boxes as fractions of the image, (rows, regions, 4), and the checksum of their files; None without any.

    Raises:
        DataError: If they are damaged, not of these regions, or in pixels of images of unknown size.
    """
    file = next((f for name in _BOXES if (f := folder / f"{prefix}_{name}.npy").is_file()), None)
    if file is None:
        return None
    array = open_array(file)
    if array.ndim != 3 or array.shape[2] != 4:
        from lightning.pytorch.utilities import rank_zero_warn  # takes seconds, and few folders need it

        rank_zero_warn(f"{file} is {array.shape}, not four numbers a region, and is not read", category=Notice)
        return None
    if array.shape[:2] != shape[:2]:
        raise DataError(f"{file} has boxes of {array.shape[0]} x {array.shape[1]} regions, features of {shape[:2]}")
    sizes, size_file = None, folder / f"{prefix}_ims_size.npy"
    parts = {"boxes": checksum(file)}
    if size_file.is_file():
        sizes = open_array(size_file)
        if sizes.shape != (shape[0], 2):
            raise DataError(f"{size_file} is {sizes.shape}; expected width and height of each row, ({shape[0]}, 2)")
        parts["sizes"] = checksum(size_file)
    return as_fractions(array, sizes, file, size_file.name), combined(parts)


def _ids(file: Path, image_of_text: Rows, n_images: int) -> list[str]:
    lines = read_lines(file)
    if len(lines) == len(image_of_text) != n_images:
        first = np.searchsorted(image_of_text, np.arange(n_images))
        if any(lines[text] != lines[first[image]] for text, image in enumerate(image_of_text.tolist())):
            raise DataError(f"{file}: the ids change inside the captions of one image; ids and features disagree")
        lines = [lines[row] for row in first.tolist()]
    if len(lines) != n_images:
        raise DataError(f"{file}: {len(lines)} ids for {n_images} images and {len(image_of_text)} captions")
    if len(set(lines)) != n_images:
        raise DataError(f"{file}: {n_images - len(set(lines))} ids belong to more than one image")
    return lines


def read_folder(folder: Path) -> dict[str, Part]:
    """Read every split that a precomputed folder holds.

    Raises:
        DataError: If there is none, or one is damaged.
    """
    parts = {}
    for name, prefixes in PREFIXES.items():
        prefix = next((p for p in prefixes if (folder / f"{p}_ims.npy").is_file()), None)
        if prefix is not None:
            parts[name] = read_part(folder, prefix, name)
    if not parts:
        raise DataError(f"no precomputed features: looked for train_ims.npy, dev_ims.npy and test_ims.npy in {folder}")
    return parts
