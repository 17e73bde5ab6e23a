"""Scores that users bring, in the layouts that other programs leave them in: ids, repeated rows, labels of any kind."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cmr_bench.support import foreign
from cmr_bench.support.errors import DataError, first_line

# Images with up to this many captions are common; more equal rows than that are a collapsed embedding.
_MOST_REPEATS = 10
_ROWS = 4096


@dataclass(frozen=True)
class Brought:
    """What is scored and what is right, before it is checked by the evaluation itself.

    Attributes:
        images: Image embeddings (n_images, dim), or the similarity matrix (n_images, n_texts).
        texts: Text embeddings (n_texts, dim); None with a similarity matrix.
        image_of_text: Row of the image of every text, (n_texts,).
        labels: Labels of the images: whole numbers (n_images,), or multi-hot (n_images, n_classes).
        image_ids: Names of the images, (n_images,); empty where none were given.
        text_ids: Names of the texts, (n_texts,); likewise.
        notes: One line for everything that was not taken as it is.
        identity: Identity of each image, (n_images,), where several share one.
    """

    images: NDArray[Any]
    texts: NDArray[Any] | None
    image_of_text: NDArray[Any]
    labels: NDArray[Any] | None = None
    image_ids: NDArray[np.str_] = field(default_factory=lambda: np.zeros(0, dtype=np.str_))
    text_ids: NDArray[np.str_] = field(default_factory=lambda: np.zeros(0, dtype=np.str_))
    notes: tuple[str, ...] = ()
    identity: NDArray[Any] | None = None

    @property
    def n_texts(self) -> int:
        """Number of texts."""
        return self.images.shape[1] if self.texts is None else len(self.texts)


def read_array(path: Path, option: str, kinds: str = "biuf") -> NDArray[Any]:
    """Open an ``.npy`` file memory-mapped, without unpickling anything.

    Args:
        path: The file.
        option: The option that names it, for errors.
        kinds: Kinds of values that are allowed, as ``dtype.kind``: ``biuf`` are numbers, ``US`` texts.

    Raises:
        DataError: If it is missing, damaged or holds something else.
    """
    if not path.exists():
        raise DataError(f"{option}: no file {path}")
    try:
        values: NDArray[Any] = np.lib.format.open_memmap(foreign.checked(path), mode="r")
    except DataError as error:
        raise DataError(f"{option}: {error}") from error
    except Exception as error:  # a damaged header can fail in any way
        raise DataError(f"{option}: {path} is not a NumPy array of numbers (.npy): {first_line(error)}") from error
    if values.dtype.kind not in kinds:
        raise DataError(f"{option}: {path} contains {values.dtype}, not numbers{' or texts' if 'U' in kinds else ''}")
    return values


def read_names(path: Path, option: str) -> NDArray[np.str_]:
    """Read ids: whole numbers or texts of an ``.npy`` file, or a text file with one a line.

    Raises:
        DataError: If the file is missing, damaged, or no list of names.
    """
    if path.suffix == ".npy":
        values = _column(read_array(path, option, "iuUS"))
        if values.ndim != 1:
            raise DataError(f"{option}: {path} has shape {values.shape}, ids are a list")
        return _as_text(values)
    try:
        lines = foreign.read_text(path, foreign.ANNOTATION_BYTES).removeprefix("\ufeff").splitlines()
    except OSError as error:
        raise DataError(f"{option}: cannot read {path}: {error.strerror or error}") from error
    return np.array([line.strip() for line in lines], dtype=np.str_)


def _as_text(values: NDArray[Any]) -> NDArray[np.str_]:
    if values.dtype.kind == "S":
        return np.char.decode(values, "utf-8")
    return np.asarray(values).astype(np.str_)


def _column(values: NDArray[Any]) -> NDArray[Any]:
    """Return a column (n, 1), as MATLAB writes a list, as (n,)."""
    return values[:, 0] if values.ndim == 2 and values.shape[1] == 1 else values


def as_labels(values: NDArray[Any]) -> NDArray[Any]:
    """Return labels as the evaluation takes them: names as numbers, a column (n, 1) as (n,), all else as it is."""
    values = _column(values)
    if values.dtype.kind not in "US":
        return values
    names = _as_text(values)
    if names.ndim != 1:
        raise DataError(f"--labels: names of categories are a list, these have shape {values.shape}")
    empty = np.flatnonzero(np.char.str_len(names) == 0)
    if len(empty):
        raise DataError(f"--labels: the label of image {empty[0]} is empty ({len(empty)} are)")
    return np.unique(names, return_inverse=True)[1]


def as_identities(values: NDArray[Any]) -> NDArray[Any]:
    """Return identities as numbers, a column (n, 1) as (n,); all else as it is."""
    values = _column(values)
    return np.unique(_as_text(values), return_inverse=True)[1] if values.dtype.kind in "US" else values


def rows_of(names: NDArray[np.str_], ids: NDArray[np.str_], what: str, where: str) -> NDArray[np.int64]:
    """Return the row of every name among ids, the first of those that are equal.

    Raises:
        DataError: If a name is none of the ids.
    """
    known, first = np.unique(ids, return_index=True)
    at = np.minimum(np.searchsorted(known, names), len(known) - 1)
    missing = np.flatnonzero(known[at] != names)
    if len(missing):
        raise DataError(f"{where}: {what} {names[missing[0]]!s} is none of the {len(ids)} ids ({len(missing)} are not)")
    return first[at].astype(np.int64)


def check_ids(brought: Brought) -> Brought:
    """Return what was brought if its ids are as many as its items, and those of the texts all different.

    Raises:
        DataError: If they are not.
    """
    for ids, n_items, what in (
        (brought.image_ids, len(brought.images), "image"),
        (brought.text_ids, brought.n_texts, "text"),
    ):
        if len(ids) not in (0, n_items):
            raise DataError(f"--{what}-ids has {len(ids)} ids for {n_items} {what}s")
    if len(np.unique(brought.text_ids)) < len(brought.text_ids):
        raise DataError("--text-ids: an id stands for two texts")
    return brought


def with_ids(brought: Brought) -> Brought:
    """Turn links that are written as ids into rows.

    With ids of the images, whole numbers and texts of ``image_of_text`` are ids; only numbers beside ids that are no
    numbers are rows. Ids that stand for several rows are allowed where the rows are the same, see :func:`collapsed`.

    Raises:
        DataError: If there are ids for another number of items, an id of two different images, or an unknown one.
    """
    check_ids(brought)
    n_images = len(brought.images)
    links = _column(brought.image_of_text)
    if not len(brought.image_ids):
        if links.dtype.kind in "US":
            raise DataError("--image-of-text contains ids: pass the ids of the rows, --image-ids FILE")
        outside = np.flatnonzero(links >= n_images) if links.dtype.kind in "iu" and links.ndim == 1 else np.zeros(0)
        if len(outside):
            text = int(outside[0])
            raise DataError(
                f"text {text} belongs to image {links[text]}, but images are numbered 0 to {n_images - 1}; "
                "if these are ids, pass the ids of the rows: --image-ids FILE"
            )
        return replace(brought, image_of_text=links)
    first = rows_of(brought.image_ids, brought.image_ids, "image", "--image-ids")
    twice = np.flatnonzero(first != np.arange(n_images))
    if len(twice) and not _same_rows(brought.images, first):
        raise DataError(f"--image-ids: {brought.image_ids[twice[0]]!s} stands for two images")
    if links.dtype.kind in "iu" and not np.char.isdigit(brought.image_ids).all():
        return replace(brought, image_of_text=links)
    rows = rows_of(_as_text(links), brought.image_ids, "image", "--image-of-text")
    return replace(brought, image_of_text=rows)


def collapsed(brought: Brought) -> Brought:
    """Take the row of an image once where it is repeated for every text, as the lineage of VSE++ stores it.

    Only rows that are equal bit by bit are taken together, and none that have ids of their own. Links may name the
    images by their number (0, 0, 0, 1, ...), by their first row (0, 0, 0, 3, ...), or every text the row beside it.

    Raises:
        DataError: If there is a row for every text, the links number the images, and the rows of one image differ.
    """
    owner = brought.image_of_text
    n_rows = len(brought.images)
    if n_rows != brought.n_texts or owner.shape != (n_rows,) or owner.dtype.kind not in "iu" or n_rows < 2:
        return brought
    if owner.min() < 0 or owner.max() >= n_rows:
        return brought
    if len(brought.image_ids) and len(np.unique(brought.image_ids)) == n_rows:
        return brought
    n_named = len(np.unique(owner))
    if n_named < n_rows and owner.max() == n_named - 1:
        first = np.full(n_named, n_rows)
        np.minimum.at(first, owner, np.arange(n_rows))
        if not _same_rows(brought.images, first[owner]):
            raise DataError(
                f"{n_rows} rows of images for {n_rows} texts, and --image-of-text numbers {n_named} images, so that a "
                "row should be repeated for the texts of its image, but such rows differ: pass one row per image, or "
                "--image-ids if some images have no text"
            )
        return _taken(brought, first, owner)
    if n_named < n_rows and _same_rows(brought.images, owner):
        first, image = np.unique(owner, return_inverse=True)
        return _taken(brought, first, image)
    starts = _equal_runs(brought.images)
    if starts is None:
        return brought
    return _taken(brought, starts, np.searchsorted(starts, owner, side="right") - 1)


def _taken(brought: Brought, rows: NDArray[np.int64], image_of_text: NDArray[np.int64]) -> Brought:
    n_rows = len(brought.images)
    labels, identity, ids = brought.labels, brought.identity, brought.image_ids
    note = f"{n_rows} image rows repeat those of {len(rows)} images, one per text: each image is used once"
    return replace(
        brought,
        images=brought.images[rows],
        image_of_text=image_of_text,
        labels=labels[rows] if labels is not None and len(labels) == n_rows else labels,
        identity=identity[rows] if identity is not None and len(identity) == n_rows else identity,
        image_ids=ids[rows] if len(ids) == n_rows else ids,
        notes=(*brought.notes, note),
    )


def _same_rows(rows: NDArray[Any], others: NDArray[np.int64]) -> bool:
    """Tell whether every row equals the row that ``others`` (n,) names for it; a part of the file at a time."""
    starts = range(0, len(rows), _ROWS)
    return all(np.array_equal(rows[at : at + _ROWS], rows[others[at : at + _ROWS]]) for at in starts)


def _equal_runs(rows: NDArray[Any]) -> NDArray[np.int64] | None:
    """Return where runs of equal rows begin, if all rows lie in runs of one length from 2 to 10."""
    n_rows = len(rows)
    new = np.ones(n_rows, dtype=bool)
    for start in range(1, n_rows, _ROWS):
        part = rows[start - 1 : start + _ROWS]
        new[start : start + _ROWS] = (part[1:] != part[:-1]).any(axis=1)
    starts = np.flatnonzero(new)
    length, rest = divmod(n_rows, len(starts))
    if rest or not 2 <= length <= _MOST_REPEATS or len(starts) < 2 or (np.diff(starts) != length).any():
        return None
    return starts


def check_way_round(brought: Brought) -> None:
    """Refuse images and texts that stand in each other's place, and say so.

    Raises:
        DataError: If the number of links fits the other side only.
    """
    n_links = len(brought.image_of_text)
    n_images, n_texts = len(brought.images), brought.n_texts
    if n_links in (0, n_texts) or n_links != n_images:
        return
    rows = brought.image_of_text.dtype.kind in "biuf" and not len(brought.image_ids)
    if rows and not brought.image_of_text.max() < n_texts:
        return
    if brought.texts is None:
        raise DataError(
            f"--similarity has {n_images} rows and {n_texts} columns, and --image-of-text is for {n_links} texts: the "
            "matrix is texts x images. Transpose it: numpy.save(FILE, numpy.load(FILE).T)"
        )
    raise DataError(
        f"--images has {n_images} rows and --texts {n_texts}, and --image-of-text is for {n_links} texts: the two "
        "files are swapped"
    )


def asked(names: NDArray[np.str_], ids: NDArray[np.str_], n_items: int, what: str, option: str) -> NDArray[np.bool_]:
    """Return which items ask, from a list of ids, or of rows where there are no ids, (n_items,).

    Raises:
        DataError: If the list is empty, or names what is not there.
    """
    if not len(names):
        raise DataError(f"{option} is empty: it lists the {what}s that are queries")
    known = ids if len(ids) else np.arange(n_items).astype(np.str_)
    chosen = np.zeros(n_items, dtype=bool)
    chosen[rows_of(names, known, what, option)] = True
    return chosen
