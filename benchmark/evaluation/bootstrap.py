"""Bootstrap over queries: how far a metric would move with another sample of the same kind of images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from cmr_bench.evaluation.metrics import Floats

# Weights of about this many (resample, query) pairs are held at a time.
_CHUNK = 2**23


class Resamples:
    """Resamples of the images with replacement; the texts of an image come and go with it.

    The texts of one image are no independent queries: drawn one by one, they would make intervals too narrow. The
    gallery stays as it is.

    Args:
        n_images: how many images to draw from, and to draw.
        image_of_text: ``(n_texts,)`` row of the image that a text belongs to.
        resamples: number of resamples.
        seed: of the draws.
    """

    def __init__(self, n_images: int, image_of_text: NDArray[np.int64], resamples: int, seed: int) -> None:
        self.image_of_text = image_of_text
        drawn = np.random.default_rng(seed).integers(0, n_images, size=(resamples, n_images))
        offsets = np.arange(resamples)[:, None] * n_images
        counts = np.bincount((drawn + offsets).ravel(), minlength=resamples * n_images)
        self.weights = counts.reshape(resamples, n_images).astype(np.float32)

    def mean_of_images(self, values: Floats) -> Floats:
        """Return the mean of ``values`` (n_images,) in every resample, or of each column of (n_images, k).

        NaN values are left out.
        """
        return self._mean(values, np.arange(len(values)))

    def mean_of_texts(self, values: Floats) -> Floats:
        """Return the mean of ``values`` (n_texts,) in every resample, or of each column of (n_texts, k); as above."""
        return self._mean(values, self.image_of_text)

    def median_of_images(self, values: Floats) -> Floats:
        """Return the median of ``values`` (n_images,) in every resample."""
        return self._median(values, np.arange(len(values)))

    def median_of_texts(self, values: Floats) -> Floats:
        """Return the median of ``values`` (n_texts,) in every resample."""
        return self._median(values, self.image_of_text)

    def _mean(self, values: Floats, image: NDArray[np.int64]) -> Floats:
        columns = values.reshape(len(values), -1)
        present = ~np.isnan(columns)
        sums, counts = (self._by_image(part, image) for part in (np.where(present, columns, 0.0), present))
        total = self.weights @ counts
        means: Floats = np.divide(self.weights @ sums, total, out=np.full(total.shape, np.nan), where=total > 0)
        return means.reshape(-1, *values.shape[1:])

    def _by_image(self, columns: NDArray[np.floating | np.bool_], image: NDArray[np.int64]) -> Floats:
        n_images = self.weights.shape[1]
        sums = [np.bincount(image, column, minlength=n_images) for column in columns.T]
        return np.stack(sums, axis=1).astype(np.float64)

    def _median(self, values: Floats, image: NDArray[np.int64]) -> Floats:
        ascending = np.argsort(values, kind="stable")
        found = [self._median_of(part, values[ascending], image[ascending]) for part in self._chunks(len(values))]
        return np.concatenate(found)

    def _median_of(self, part: slice, ascending: Floats, image: NDArray[np.int64]) -> Floats:
        reached = np.cumsum(self.weights[part][:, image], axis=1, dtype=np.float64)
        total = reached[:, -1:]
        lower = np.count_nonzero(reached <= (total - 1) // 2, axis=1)
        upper = np.count_nonzero(reached <= total // 2, axis=1)
        return np.asarray((ascending[lower] + ascending[upper]) / 2)

    def _chunks(self, n_queries: int) -> list[slice]:
        size = max(1, _CHUNK // n_queries)
        return [slice(start, start + size) for start in range(0, len(self.weights), size)]


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
        """Whether the interval leaves out zero."""
        return self.low > 0 or self.high < 0


def paired(difference: float, draws: Floats, confidence: float = 0.95) -> Paired:
    """Judge a difference by the paired bootstrap (Efron and Tibshirani 1993, chapters 15 and 16).

    Args:
        difference: The metric of one run minus that of another on the whole test split.
        draws: The same difference in every resample, ``(resamples,)``; both runs see the same resamples.
        confidence: Share of the resamples inside the interval.

    Returns:
        The verdict; its ``p`` is never 0, as more resamples might have held an exception.
    """
    low, high = interval(draws, confidence)
    fewest = min(np.count_nonzero(draws <= 0), np.count_nonzero(draws >= 0))
    return Paired(difference, low, high, min(1.0, 2 * (fewest + 1) / (len(draws) + 1)))
