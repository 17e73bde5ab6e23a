"""Moments, eigenproblems and ridge search, shared by the closed forms."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np
import scipy.linalg
import scipy.sparse
from numpy.typing import NDArray

from cmr_bench.datamodules.views import Rows

Matrix = NDArray[np.float64]
STRENGTHS = (1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0)


@dataclass(frozen=True)
class Covariances:
    """Moments of paired features, with every pair counted once.

    Attributes:
        image_mean: Mean of the images, (d_image,); an image counts once for each of its texts.
        text_mean: Mean of the texts, (d_text,).
        image: Covariance of the images, (d_image, d_image).
        text: Covariance of the texts, (d_text, d_text).
        cross: Covariance between the two, (d_image, d_text).
    """

    image_mean: Matrix
    text_mean: Matrix
    image: Matrix
    text: Matrix
    cross: Matrix


def covariances(images: Matrix, texts: Matrix, owner: Rows) -> Covariances:
    """Return the moments of the pairs (image ``owner[k]``, text k) without repeating an image for its texts.

    Args:
        images: Features of the images, (n_images, d_image).
        texts: Features of the texts, (n_texts, d_text).
        owner: Row of the image that each text belongs to, (n_texts,).
    """
    n_texts = len(texts)
    counts = np.bincount(owner, minlength=len(images)).astype(np.float64)
    image_mean, text_mean = counts @ images / n_texts, texts.mean(0)
    x, y = images - image_mean, texts - text_mean
    gather = scipy.sparse.csr_matrix((np.ones(n_texts), (owner, np.arange(n_texts))), (len(images), n_texts))
    return Covariances(
        image_mean, text_mean, (x.T * counts) @ x / n_texts, y.T @ y / n_texts, x.T @ (gather @ y) / n_texts
    )


class Whitened:
    """A covariance in its eigenbasis, so that any ridge can be added without solving again.

    Args:
        covariance: Symmetric matrix (d, d).
        unit: What a ridge of 1 adds to every eigenvalue; None uses their mean.
    """

    def __init__(self, covariance: Matrix, unit: float | None = None) -> None:
        values, self.vectors = scipy.linalg.eigh(covariance)
        self.values = np.maximum(values, 0.0)
        self.unit = float(self.values.mean()) if unit is None else unit

    def shifted(self, strength: float) -> Matrix:
        """Eigenvalues (d,) with a ridge of ``strength`` units."""
        shifted: Matrix = self.values + strength * self.unit
        return shifted

    def scale(self, strength: float) -> Matrix:
        """Inverse square roots of the eigenvalues (d,) with a ridge of ``strength`` units."""
        shifted = self.shifted(strength)
        # Directions without any variance in the training data are uninformative and would be amplified.
        alive = shifted > 1e-10 * shifted.max(initial=1e-300)
        inverse: Matrix = np.where(alive, 1.0, 0.0) / np.sqrt(np.where(alive, shifted, 1.0))
        return inverse


@dataclass(frozen=True)
class Projections:
    """Directions of both sides, (d_image, k) and (d_text, k), and their values (k,), in decreasing order."""

    image: Matrix
    text: Matrix
    values: Matrix


def canonical(image: Whitened, text: Whitened, cross: Matrix, image_ridge: float, text_ridge: float) -> Projections:
    """Solve regularised CCA.

    Args:
        image: Covariance of the images.
        text: Covariance of the texts.
        cross: Covariance between the two in the eigenvectors' bases, (d_image, d_text).
        image_ridge: Ridge on the images' covariance, in its units.
        text_ridge: Ridge on the texts' covariance, likewise.

    Returns:
        All min(d_image, d_text) components with their correlations, the most correlated first.
    """
    left, right = image.scale(image_ridge), text.scale(text_ridge)
    u, values, vt = scipy.linalg.svd(left[:, None] * cross * right, full_matrices=False)
    return Projections(image.vectors @ (left[:, None] * u), text.vectors @ (right[:, None] * vt.T), values)


class CanonicalProblem:
    """CCA of the moments of paired features, with everything computed once that does not depend on the ridges.

    Args:
        found: The moments.
        unit: What a ridge of 1 adds to every eigenvalue; None uses their mean.
    """

    def __init__(self, found: Covariances, unit: float | None = None) -> None:
        self.image, self.text = Whitened(found.image, unit), Whitened(found.text, unit)
        self.cross = self.image.vectors.T @ found.cross @ self.text.vectors

    def solve(self, image_ridge: float, text_ridge: float, weighting: str = "none") -> Projections:
        """Solve with the ridges given, in their units.

        Args:
            image_ridge: Ridge on the images' covariance.
            text_ridge: Ridge on the texts' covariance.
            weighting: ``none``, or ``correlation``, which multiplies each component by its canonical correlation.
        """
        solution = canonical(self.image, self.text, self.cross, image_ridge, text_ridge)
        if weighting == "none":
            return solution
        scale = solution.values
        return Projections(solution.image * scale, solution.text * scale, scale)


class Scored(Protocol):
    """A solution with its value on the validation split."""

    @property
    def value(self) -> float:
        """Higher is better."""


Solution = TypeVar("Solution", bound=Scored)
Point = tuple[float, ...]


def search(
    solve: Callable[[Point], Solution], first: Iterable[Point], axes: Sequence[Sequence[float]]
) -> tuple[Point, Solution]:
    """Search options without trying every combination: a line of points, then coordinate descent.

    Args:
        solve: Solves at a point.
        first: Points tried first.
        axes: Values to try for each coordinate, in order, with the others at the best point so far; may be empty.

    Returns:
        The best point, the first of equals, and its solution.
    """
    seen: set[Point] = set()
    best: tuple[Point, Solution] | None = None

    def attempt(point: Point) -> None:
        nonlocal best
        if point in seen:
            return
        seen.add(point)
        solution = solve(point)
        if best is None or solution.value > best[1].value:
            best = point, solution

    for point in first:
        attempt(point)
    assert best is not None
    for axis, values in enumerate(axes):
        centre = best[0]
        for value in values:
            attempt((*centre[:axis], value, *centre[axis + 1 :]))
    return best
