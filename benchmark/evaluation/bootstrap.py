"""Bootstrap over queries: how far a metric would move with another sample of the same kind of images."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from cmr_bench.evaluation.metrics import Floats

# About this many draws are held at a time.
_CHUNK = 2**23
# BLAS gives a product of no more multiplications than this to one thread.
_ONE_THREAD = 2**18
# Values at which a search for medians looks at a time.
_POINTS = 32
# Up to here float32 holds every whole number.
_WHOLE = 2**24


class Resamples:
    """Resamples of the images with replacement; the texts of an image come and go with it.

    The texts of one image are no independent queries: drawn one by one, they would make intervals too narrow. Nor are
    the images of one identity: where there are identities, these are what is drawn. The gallery stays as it is. What is
    resampled are sums and counts for each image, not the queries themselves.

    Args:
        n_images: how many images to draw from, and to draw.
        image_of_text: ``(n_texts,)`` row of the image that a text belongs to.
        resamples: number of resamples.
        seed: of the draws.
        identity: ``(n_images,)`` identity of each image, all images of one coming and going together; if omitted, every
            image is its own.
    """

    def __init__(
        self,
        n_images: int,
        image_of_text: NDArray[np.int64],
        resamples: int,
        seed: int,
        identity: NDArray[np.int64] | None = None,
    ) -> None:
        self._of_image = np.arange(n_images) if identity is None else np.unique(identity, return_inverse=True)[1]
        self._of_text = self._of_image[image_of_text]
        n_images = n_images if identity is None else int(self._of_image.max()) + 1
        self.weights = np.empty((resamples, n_images), dtype=np.float32)
        rng = np.random.default_rng(seed)
        size = max(1, _CHUNK // n_images)
        for start in range(0, resamples, size):
            part = self.weights[start : start + size]
            # Whole numbers of 32 bits come out of the generator as those of 64 do, in half the room.
            drawn = rng.integers(0, n_images, size=part.shape, dtype=np.int32)
            drawn += np.arange(0, part.size, n_images, dtype=np.int32)[:, None]
            part[:] = np.bincount(drawn.ravel(), minlength=part.size).reshape(part.shape)

    def within(self, images: NDArray[np.int64], image_of_text: NDArray[np.int64]) -> Resamples:
        """Return the same resamples for the queries of a part of the split.

        Args:
            images: Rows of the images that ask, (n,).
            image_of_text: Row of the image of each text that asks, (m,).
        """
        part = copy.copy(self)
        part._of_image, part._of_text = self._of_image[images], self._of_image[image_of_text]
        return part

    def mean_of_images(self, values: Floats) -> Floats:
        """Return the mean of ``values`` (n_images,) in every resample, or of each column of (n_images, k).

        NaN values are omitted.
        """
        return self._mean(values, self._of_image)

    def mean_of_texts(self, values: Floats) -> Floats:
        """Return the mean of ``values`` (n_texts,) in every resample, or of each column of (n_texts, k); as above."""
        return self._mean(values, self._of_text)

    def median_of_images(self, values: Floats) -> Floats:
        """Return the median of ``values`` (n_images,) in every resample."""
        return self._median(values, self._of_image)

    def median_of_texts(self, values: Floats) -> Floats:
        """Return the median of ``values`` (n_texts,) in every resample."""
        return self._median(values, self._of_text)

    def _mean(self, values: Floats, image: NDArray[np.int64]) -> Floats:
        columns = values.reshape(len(values), -1)
        present = ~np.isnan(columns)
        if present.all():
            # Columns without a gap share their count.
            present = present[:, :1]
        else:
            columns = np.where(present, columns, 0.0)
        found = self._times(np.hstack([self._by_image(columns, image), self._by_image(present, image)]))
        sums, counts = found[:, : columns.shape[1]], found[:, columns.shape[1] :]
        means: Floats = np.divide(sums, counts, out=np.full(sums.shape, np.nan), where=counts > 0)
        return means.reshape(-1, *values.shape[1:])

    def _by_image(self, columns: NDArray[np.floating | np.bool_], image: NDArray[np.int64]) -> Floats:
        n_images = self.weights.shape[1]
        sums = [np.bincount(image, column, minlength=n_images) for column in columns.T]
        return np.stack(sums, axis=1).astype(np.float64)

    def _times(self, table: NDArray[Any]) -> NDArray[Any]:
        """Return the sums of a table (n_images, k) over every resample, ``(resamples, k)``, of its type.

        A few resamples at a time: threads would wait for each other longer than they take, and the sums have the same
        bits for any number of threads.
        """
        found = np.empty((len(self.weights), table.shape[1]), dtype=table.dtype)
        rows = max(1, _ONE_THREAD // table.size)
        for start in range(0, len(found), rows):
            weights = self.weights[start : start + rows].astype(table.dtype, copy=False)
            np.matmul(weights, table, out=found[start : start + rows])
        return found

    def _median(self, values: Floats, image: NDArray[np.int64]) -> Floats:
        """Find the two middle values of every resample among the distinct values, at a few of them at a time.

        Resamples have their middles close together, so that what lies between the values looked at and holds a middle
        gets narrow soon.
        """
        distinct, place = np.unique(values, return_inverse=True)
        candidates = np.arange(len(distinct))
        while len(candidates) > _POINTS:
            looked_at = np.linspace(0, len(candidates) - 1, _POINTS).astype(np.int64)
            ends = np.unique(self._reach_middle(candidates[looked_at], place, image))
            ends = ends[ends < len(looked_at)]
            starts = np.concatenate([[-1], looked_at])
            near = np.concatenate([np.arange(starts[end] + 1, looked_at[end] + 1) for end in ends])
            if len(near) > len(candidates) // 2:
                break
            candidates = candidates[near]
        lower, upper = self._reach_middle(candidates, place, image)
        # Images without a query may be all that a resample has; it reaches no middle.
        none = upper == len(candidates)
        lower, upper = (candidates[np.where(none, 0, middle)] for middle in (lower, upper))
        return np.where(none, np.nan, (distinct[lower] + distinct[upper]) / 2)

    def _reach_middle(
        self, points: NDArray[np.int64], place: NDArray[np.int64], image: NDArray[np.int64]
    ) -> NDArray[np.int64]:
        """Find the first of some ascending places that reaches the lower and the upper middle of every resample.

        Args:
            points: Places, the last of which reaches the middle.
            place: Place of the value of every query, (n_queries,).
            image: Image of every query, (n_queries,).

        Returns:
            Where in ``points`` they are, ``(2, resamples)``.
        """
        n_images = self.weights.shape[1]
        own = np.bincount(image, minlength=n_images)
        kind = np.float32 if n_images * own.max() < _WHOLE else np.float64
        total = self._times(own[:, None].astype(kind))
        short = np.zeros((2, len(total)), dtype=np.int64)
        reached_at = np.searchsorted(points, place)
        for start in range(0, len(points), _POINTS):
            width = min(_POINTS, len(points) - start)
            column = np.maximum(reached_at - start, 0)
            kept = column < width
            counts = np.bincount(image[kept] * width + column[kept], minlength=n_images * width)
            reached = self._times(counts.reshape(n_images, width).cumsum(axis=1).astype(kind))
            short += [np.count_nonzero(reached <= middle, axis=1) for middle in ((total - 1) // 2, total // 2)]
        return short


def interval(draws: Floats, confidence: float) -> tuple[float, float]:
    """Return the percentile interval of ``draws`` that holds the share ``confidence`` of them."""
    tail = (1.0 - confidence) / 2.0
    low, high = np.nanquantile(draws, [tail, 1.0 - tail])
    return float(low), float(high)


@dataclass(frozen=True)
class Paired:
    """Whether one run beats another on the same queries.

    Attributes:
        difference: Metric of the one minus that of the other.
        low: Lower end of the interval of the difference.
        high: Upper end of it.
        p: Two-sided achieved significance level: how easily resamples turn the difference round.
    """

    difference: float
    low: float
    high: float
    p: float

    @property
    def distinct(self) -> bool:
        """Whether the interval excludes zero."""
        return self.low > 0 or self.high < 0


def paired(difference: float, draws: Floats, confidence: float = 0.95) -> Paired:
    """Judge a difference by the paired bootstrap (Efron and Tibshirani 1993, chapters 15 and 16).

    Args:
        difference: The metric of one run minus that of another on the whole test split.
        draws: The same difference in every resample, ``(resamples,)``; both runs see the same resamples.
        confidence: Fraction of the resamples inside the interval.

    Returns:
        The verdict; its ``p`` is never 0, as more resamples might have held an exception.
    """
    low, high = interval(draws, confidence)
    fewest = min(np.count_nonzero(draws <= 0), np.count_nonzero(draws >= 0))
    return Paired(difference, low, high, min(1.0, 2 * (fewest + 1) / (len(draws) + 1)))
