"""Re-ranking by the reverse direction: the best items of a query, in the order in which they would find the query."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cmr_bench.evaluation.scores import ScoreSource, checked_block, full_precision, reorder_texts, slices
from cmr_bench.support.errors import UsageError

# Scores of one pass that are held at a time.
_TILE = 2**23


@dataclass(frozen=True)
class Directed:
    """Scores for each direction, where one matrix cannot serve both.

    Attributes:
        images: What images rank texts by.
        texts: What texts rank images by.
    """

    images: ScoreSource
    texts: ScoreSource


class _Moved:
    """A source with other scores for some of its pairs, in float64.

    Args:
        source: The source.
        images: Rows of the pairs, (n,), sorted.
        texts: Columns of the pairs, (n,).
        values: Their scores, (n,).
    """

    def __init__(
        self, source: ScoreSource, images: NDArray[np.int64], texts: NDArray[np.int64], values: NDArray[np.float64]
    ) -> None:
        self.source, self.images, self.texts, self.values = source, images, texts, values
        self.n_images, self.n_texts = source.n_images, source.n_texts

    def block(self, images: slice, texts: slice) -> Tensor:
        """Return the scores of the two slices, ``(len(images), len(texts))``."""
        # A copy: the source may hand out the matrix that it reads.
        tile = self.source.block(images, texts).to(torch.float64, copy=True)
        within = slice(*np.searchsorted(self.images, [images.start, images.stop]))
        rows, columns, values = self.images[within], self.texts[within], self.values[within]
        there = (columns >= texts.start) & (columns < texts.stop)
        place = (torch.from_numpy(rows[there] - images.start), torch.from_numpy(columns[there] - texts.start))
        tile[place] = torch.from_numpy(values[there]).to(tile.device)
        return tile

    def take_texts(self, order: NDArray[np.int64]) -> _Moved:
        """Return the source whose text ``j`` is this source's text ``order[j]``."""
        back = np.full(self.n_texts, -1)
        back[order] = np.arange(len(order))
        texts = back[self.texts]
        kept = texts >= 0
        return _Moved(reorder_texts(self.source, order), self.images[kept], texts[kept], self.values[kept])


@dataclass
class _First:
    """The best items of every query: pairs (query, item) sorted by query, their scores, and the best of each query."""

    queries: NDArray[np.int64]
    items: NDArray[np.int64]
    scores: NDArray[np.float64]
    top: NDArray[np.float64]


def rerank(scores: ScoreSource, groups: NDArray[np.int64] | None = None, texts: int = 15, images: int = 20) -> Directed:
    """Order the best items of every query anew by the place of the query in the items' own rankings.

    Wang et al., Matching Images and Text with Multi-modal Tensor Fusion and Re-ranking, ACM MM 2019, section 3.4,
    without the scores between texts, which that method alone has. The first ``texts`` texts of an image are ordered by
    the number of images that score higher with the text than the image does; the first ``images`` images of a text by
    the number of texts that score higher with the image. Items in the same place keep the order of their scores, and
    items with the same scores too stay tied; so do those at the end of the list, which all belong to it. The result
    thus does not depend on the order of the items, and without ties it is that of a stable sort. Recalls at the length
    of the lists and beyond do not change. Transductive: the other queries decide.

    Args:
        scores: What is scored.
        groups: Number of the group that each text belongs to, (n_texts,): a text then counts as its best member, as in
            the released program, whose groups are the captions of each test image. That is ground truth.
        texts: Texts of an image that are ordered; 15 in the released program.
        images: Images of a text that are ordered; 20 in the released program.

    Returns:
        Scores that rank as described, for either direction.
    """
    if texts < 1 or images < 1:
        raise UsageError(f"mtfn_rr needs lists of at least one item, they have {texts} texts and {images} images")
    of_images, of_texts = _Found(), _Found()
    with full_precision():
        for rows in slices(scores.n_images, max(1, _TILE // scores.n_texts)):
            of_images.add(_best(checked_block(scores, rows, slice(0, scores.n_texts)), texts), rows.start)
        first_texts = of_images.joined()
        # Places of the images in the rankings of their texts need the columns, as the lists of the texts do.
        places = np.zeros(len(first_texts.queries), dtype=np.int64)
        for columns in slices(scores.n_texts, max(1, _TILE // scores.n_images)):
            tile = checked_block(scores, slice(0, scores.n_images), columns).T
            of_texts.add(_best(tile, images), columns.start)
            mine = (first_texts.items >= columns.start) & (first_texts.items < columns.stop)
            places[mine] = _places(tile)[first_texts.items[mine] - columns.start, first_texts.queries[mine]]
        first_images = of_texts.joined()
        reverse = np.zeros(len(first_images.queries), dtype=np.int64)
        for rows in slices(scores.n_images, max(1, _TILE // scores.n_texts)):
            place = _places(checked_block(scores, rows, slice(0, scores.n_texts)))
            mine = (first_images.items >= rows.start) & (first_images.items < rows.stop)
            asking = first_images.queries[mine]
            if groups is not None:
                place, asking = _of_groups(place, groups), groups[asking]
            reverse[mine] = place[first_images.items[mine] - rows.start, asking]
    return Directed(
        _Moved(scores, first_texts.queries, first_texts.items, _values(first_texts, places)),
        _by_image(scores, first_images, _values(first_images, reverse)),
    )


class _Found:
    """Collects the best items of blocks of queries."""

    def __init__(self) -> None:
        self.parts: list[_First] = []

    def add(self, part: _First, start: int) -> None:
        part.queries += start
        self.parts.append(part)

    def joined(self) -> _First:
        def join(name: str) -> NDArray[Any]:
            return np.concatenate([getattr(part, name) for part in self.parts])

        return _First(join("queries"), join("items"), join("scores"), join("top"))


def _best(tile: Tensor, k: int) -> _First:
    """Find the ``k`` best items of each query, a row of ``tile``, and all that tie with the last of them."""
    least = tile.topk(min(k, tile.shape[1]), dim=1).values[:, -1:]
    queries, items = (tile >= least).nonzero(as_tuple=True)
    scores = tile[queries, items].double()
    top = tile.amax(1).double()
    return _First(queries.cpu().numpy(), items.cpu().numpy(), scores.cpu().numpy(), top.cpu().numpy())


def _places(tile: Tensor) -> NDArray[np.int64]:
    """Count for every score the higher ones of its row."""
    tile = tile.contiguous()
    reached: NDArray[np.int64] = torch.searchsorted(tile.sort(dim=1).values, tile, right=True).cpu().numpy()
    return tile.shape[1] - reached


def _of_groups(places: NDArray[np.int64], groups: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the first place of any member of each group, (queries, groups)."""
    order = np.argsort(groups, kind="stable")
    starts = np.flatnonzero(np.diff(groups[order], prepend=-1))
    found = np.full((len(places), int(groups.max()) + 1), places.shape[1])
    found[:, groups[order][starts]] = np.minimum.reduceat(places[:, order], starts, axis=1)
    return found


def _values(first: _First, places: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return scores above all others of the query that order its best items by place, then by their old score."""
    order = np.lexsort((-first.scores, places, first.queries))
    queries, keys = first.queries[order], np.stack([places[order], first.scores[order]])
    new = np.ones(len(order), dtype=bool)
    new[1:] = (queries[1:] != queries[:-1]) | (keys[:, 1:] != keys[:, :-1]).any(0)
    number = np.cumsum(new)
    last = np.append(np.flatnonzero(np.diff(queries)), len(queries) - 1)
    above = np.repeat(number[last], np.diff(last, prepend=-1)) - number + 1
    top = first.top[queries]
    values = np.empty(len(order))
    values[order] = top + above * (1.0 + np.abs(top))
    return values


def _by_image(scores: ScoreSource, first: _First, values: NDArray[np.float64]) -> _Moved:
    order = np.argsort(first.items, kind="stable")
    return _Moved(scores, first.items[order], first.queries[order], values[order])
