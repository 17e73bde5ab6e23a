"""Ranks of the matching items in both directions, from one pass over tiles of scores."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cmr_bench.evaluation.scores import (
    ArrayLike,
    EmbeddingScores,
    FunctionScores,
    MatrixScores,
    ScoreSource,
    as_numpy,
    checked_block,
    full_precision,
    reorder_texts,
    slices,
)
from cmr_bench.evaluation.sharing import Sharing
from cmr_bench.evaluation.tally import tally
from cmr_bench.evaluation.ties import BestMatches
from cmr_bench.support.errors import DataError, UsageError

__all__ = [
    "BestMatches",
    "EmbeddingScores",
    "FunctionScores",
    "MatrixScores",
    "Ranks",
    "ScoreSource",
    "folds_of_images",
    "links",
    "retrieval_ranks",
]

Compute = Callable[[slice, slice], NDArray[Any]]

# Tiles on the diagonal are wanted twice; up to this much of them is kept instead of computed again.
_KEPT_BYTES = 256 * 2**20


@dataclass(frozen=True)
class Ranks:
    """Where the best match of every query stands, in both directions.

    Attributes:
        images: Best text of each image among the texts of other images, (n_images,) queries.
        texts: Image of each text among all images, (n_texts,) queries.
        images_in_fold: The same within the image's own fold, where there are folds.
        texts_in_fold: The same within the text's own fold.
        fold_of_image: Fold of each image, (n_images,).
    """

    images: BestMatches
    texts: BestMatches
    images_in_fold: BestMatches | None = None
    texts_in_fold: BestMatches | None = None
    fold_of_image: NDArray[np.int64] | None = None

    @property
    def i2t(self) -> NDArray[np.float64]:
        """Mid-rank of the best text of each image, (n_images,)."""
        return self.images.rank

    @property
    def t2i(self) -> NDArray[np.float64]:
        """Mid-rank of the image of each text, (n_texts,)."""
        return self.texts.rank

    @property
    def tie_rate(self) -> float:
        """Fraction of the queries of both directions whose match shares its score with an item that does not match."""
        tied = np.count_nonzero(self.images.others) + np.count_nonzero(self.texts.others)
        return float(tied / (len(self.images) + len(self.texts)))


def links(image_of_text: ArrayLike, n_images: int, n_texts: int, distractors: bool = False) -> NDArray[np.int64]:
    """Check the map from texts to images and return it as ``(n_texts,)`` int64.

    Raises:
        DataError: if it has the wrong length, is not whole numbers, names an image that is not there, or, unless there
            may be ``distractors``, leaves an image without a text.
    """
    given = as_numpy(image_of_text)
    if given.shape != (n_texts,):
        raise DataError(f"image_of_text needs one entry for each of {n_texts} texts, it has shape {given.shape}")
    if n_images == 0 or n_texts == 0:
        raise DataError(f"nothing to score: {n_images} images and {n_texts} texts")
    with np.errstate(invalid="ignore"):
        index = given.astype(np.int64) if given.dtype.kind in "iuf" else None
    if index is None or not np.array_equal(index, given):
        raise DataError(f"image_of_text holds row numbers of images, these are {given.dtype} values that are not")
    outside = np.flatnonzero((index < 0) | (index >= n_images))
    if len(outside):
        text = int(outside[0])
        raise DataError(f"text {text} belongs to image {index[text]}, but images are numbered 0 to {n_images - 1}")
    alone = np.flatnonzero(np.bincount(index, minlength=n_images) == 0)
    if len(alone) and not distractors:
        raise DataError(
            f"split without positives: image {alone[0]} has no text ({len(alone)} of {n_images} images have none)"
        )
    return index


def retrieval_ranks(
    scores: ScoreSource,
    image_of_text: ArrayLike,
    *,
    folds: int | None = None,
    distractors: bool = False,
    image_block: int = 1024,
    text_block: int = 8192,
    sharing: Sharing | None = None,
) -> Ranks:
    """Rank every image's best text and every text's image.

    Texts are put in the order of their images, so that matches lie on the diagonal of a grid of tiles. A first pass
    computes the diagonal tiles and reads the scores of the matches, a second computes every tile once and counts for
    both directions. Memory grows with the number of items and with the size of a tile, not with their product.

    Args:
        scores: what is scored.
        image_of_text: ``(n_texts,)`` row of the image that a text belongs to; any number of texts per image, any order.
        folds: if given, rank also within that many equal folds of consecutive images, texts following their image.
        distractors: whether there may be images without a text, which are found by texts; their own entries in the
            ranks count no match.
        image_block: most images in a tile.
        text_block: most texts in a tile.
        sharing: how tiles are spread over processes, all of which get the ranks; left out, this one computes them all.

    Raises:
        DataError: for an image without a text, links out of range and NaN scores.
        UsageError: if the images do not divide into the folds.
    """
    image_index = links(image_of_text, scores.n_images, scores.n_texts, distractors)
    order = np.argsort(image_index, kind="stable")
    n_folds = 1 if folds is None else folds
    fold_of_image = folds_of_images(scores.n_images, n_folds)
    owner = image_index[order]
    grid = _grid(np.searchsorted(owner, np.arange(scores.n_images + 1)), n_folds, image_block, text_block)
    in_order = reorder_texts(scores, order)

    def compute(images: slice, texts: slice) -> NDArray[Any]:
        return as_numpy(checked_block(in_order, images, texts, order))

    with full_precision():
        counts = _count(compute, owner, grid, sharing or Sharing())
    back = np.empty_like(order)
    back[order] = np.arange(len(order))
    return Ranks(
        images=_best_matches(counts.images, counts.matches_of_images),
        texts=_best_matches(counts.texts, counts.matches_of_texts).take(back),
        images_in_fold=None if folds is None else _best_matches(counts.images_in_fold, counts.matches_of_images),
        texts_in_fold=None
        if folds is None
        else _best_matches(counts.texts_in_fold, counts.matches_of_texts).take(back),
        fold_of_image=None if folds is None else fold_of_image,
    )


def _best_matches(counts: NDArray[np.int64], matching: NDArray[np.int64]) -> BestMatches:
    reaching, better = counts
    return BestMatches(better=better, tied=reaching - better + matching, matching=matching)


def folds_of_images(n_images: int, folds: int) -> NDArray[np.int64]:
    """Return the fold of every image, ``(n_images,)``: equal folds of consecutive images.

    Raises:
        UsageError: if the images do not divide into the folds.
    """
    if folds < 1 or n_images % folds:
        raise UsageError(f"{n_images} images do not divide into {folds} equal folds: pass a number that divides them")
    return np.arange(n_images) // (n_images // folds)


@dataclass(frozen=True)
class _Counts:
    """For every query the items that score (at least as well as, better than) its best match, ``(2, n)`` each.

    Its matches are counted apart: ``matches_of_...`` (n,) hold those that score as the best, all in the query's fold.
    """

    images: NDArray[np.int64]
    texts: NDArray[np.int64]
    images_in_fold: NDArray[np.int64]
    texts_in_fold: NDArray[np.int64]
    matches_of_images: NDArray[np.int64]
    matches_of_texts: NDArray[np.int64]


@dataclass(frozen=True)
class _Grid:
    """Tiles of images by texts; text tile ``j`` holds texts of images of image tile ``owner[j]`` only."""

    images: list[slice]
    texts: list[slice]
    owner: list[int]
    image_fold: list[int]


def _grid(first_text: NDArray[np.int64], n_folds: int, image_block: int, text_block: int) -> _Grid:
    """Cut images evenly within folds, and texts where their images are cut (and finer, for very many texts)."""
    n_images = len(first_text) - 1
    per_fold = n_images // n_folds
    grid = _Grid([], [], [], [])
    for fold in range(n_folds):
        for piece in slices(per_fold, image_block, fold * per_fold):
            first, last = int(first_text[piece.start]), int(first_text[piece.stop])
            texts = slices(last - first, text_block, first)
            grid.texts.extend(texts)
            grid.owner.extend([len(grid.images)] * len(texts))
            grid.images.append(piece)
            grid.image_fold.append(fold)
    return grid


def _count(compute: Compute, owner: NDArray[np.int64], grid: _Grid, sharing: Sharing) -> _Counts:
    """Count the items that reach and beat the best match of every query; texts are in the order of their images."""
    diagonal = _Diagonal(compute, owner, grid)
    (match,) = sharing.total(lambda: (diagonal.matches(sharing),))
    first_text = np.flatnonzero(np.diff(owner, prepend=-1))
    n_images = grid.images[-1].stop
    best, as_good = np.full(n_images, np.inf), np.zeros(n_images, dtype=np.int64)
    best[owner[first_text]] = np.maximum.reduceat(match, first_text)
    as_good[owner[first_text]] = np.add.reduceat(match == best[owner], first_text, dtype=np.int64)

    def count() -> tuple[NDArray[np.int64], ...]:
        images, images_in_fold = np.zeros((2, 2, len(best)), dtype=np.int64)
        texts, texts_in_fold = np.zeros((2, 2, len(match)), dtype=np.int64)
        workers = torch.get_num_threads()
        with ThreadPoolExecutor(workers) as pool:
            for row, rows in enumerate(grid.images):
                for column, columns in enumerate(grid.texts):
                    # A tile on the diagonal goes to the process that has kept it.
                    own = grid.owner[column] == row
                    if not sharing.mine(column if own else row * len(grid.texts) + column):
                        continue
                    tile = diagonal.take(column) if own else compute(rows, columns)
                    thresholds = best[rows].astype(tile.dtype), match[columns].astype(tile.dtype)
                    of_images, of_texts = tally(pool, workers, tile, *thresholds)
                    if own:
                        of_matches = _tally_of(tile, diagonal.matches_in(column), *thresholds)
                        of_images -= of_matches[0]
                        of_texts -= of_matches[1]
                    images[:, rows] += of_images
                    texts[:, columns] += of_texts
                    if grid.image_fold[row] == grid.image_fold[grid.owner[column]]:
                        images_in_fold[:, rows] += of_images
                        texts_in_fold[:, columns] += of_texts
        return images, texts, images_in_fold, texts_in_fold

    images, texts, images_in_fold, texts_in_fold = sharing.total(count)
    return _Counts(images, texts, images_in_fold, texts_in_fold, as_good, np.ones_like(owner))


def _tally_of(
    tile: NDArray[Any], matches: tuple[NDArray[np.int64], NDArray[np.int64]], *thresholds: NDArray[Any]
) -> list[NDArray[np.int64]]:
    """Count the matches of a tile, by their places in it, among its scores as :func:`tally` counts all of them."""
    scores = tile[matches]
    return [
        np.stack(
            [
                np.bincount(place[at(scores, limit[place])], minlength=len(limit))
                for at in (np.greater_equal, np.greater)
            ]
        )
        for place, limit in zip(matches, thresholds, strict=True)
    ]


class _Diagonal:
    """The tiles that hold matches: the scores of the matches, and the tiles again."""

    def __init__(self, compute: Compute, owner: NDArray[np.int64], grid: _Grid) -> None:
        self.compute, self.owner, self.grid = compute, owner, grid
        self.kept: dict[int, NDArray[Any]] = {}

    def matches(self, sharing: Sharing) -> NDArray[Any]:
        """Return the scores of the matches, (n_texts,), with 0 for those of tiles that are another process's."""
        room = _KEPT_BYTES
        found = np.zeros(len(self.owner))
        for column, texts in enumerate(self.grid.texts):
            if not sharing.mine(column):
                continue
            tile = self._tile(column)
            found[texts] = tile[self.matches_in(column)]
            room -= tile.nbytes
            if room >= 0:
                self.kept[column] = tile
        return found

    def take(self, column: int) -> NDArray[Any]:
        """Return the tile, computed again unless it was kept; it is not kept any longer."""
        tile = self.kept.pop(column, None)
        return self._tile(column) if tile is None else tile

    def _tile(self, column: int) -> NDArray[Any]:
        return self.compute(self.grid.images[self.grid.owner[column]], self.grid.texts[column])

    def matches_in(self, column: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return rows and columns of the matches in a tile."""
        texts = self.grid.texts[column]
        first = self.grid.images[self.grid.owner[column]].start
        return self.owner[texts] - first, np.arange(texts.stop - texts.start)
