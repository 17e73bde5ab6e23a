"""Iteratively re-weighted least squares from both modalities to the labels, shared by lcfs and jrl."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import scipy.linalg
import scipy.sparse.linalg

from cmr_bench.datamodules.split import Split
from cmr_bench.models.subspace.closed_form import Features
from cmr_bench.models.subspace.solving import Covariances, Matrix

# Smoothing of the norm of a row, far below the row norms of any useful solution.
ROW_ROUNDING = 1e-8
Maps = tuple[Matrix, Matrix]


@dataclass(frozen=True)
class Moments:
    """Sufficient statistics of the pairs for the regression, so that its cost does not depend on their number.

    Attributes:
        grams: Second moments of the centred features of images and texts, (d, d) each.
        cross: Second moments between images and texts, (d_image, d_text).
        targets: Second moments of each side's features with the labels, (d, n_classes) each.
        label_power: Mean squared length of the labels.
    """

    grams: tuple[Matrix, Matrix]
    cross: Matrix
    targets: tuple[Matrix, Matrix]
    label_power: float


def label_moments(
    features: Features, labels: Matrix, train: Split, found: Covariances, scales: tuple[float, float]
) -> Moments:
    """Return the moments of the training pairs with their labels.

    Args:
        features: Features of the splits.
        labels: Labels of the training images, (n_images, n_classes) of 0 and 1.
        train: The training split.
        found: Moments of the features of the pairs.
        scales: Divisors of the features of images and texts.
    """
    owner, n_texts = train.image_of_text, train.n_texts
    counts = np.bincount(owner, minlength=len(features.images)).astype(np.float64)
    targets = (
        ((features.images - found.image_mean).T * counts) @ labels / n_texts / scales[0],
        (features.texts - found.text_mean).T @ labels[owner] / n_texts / scales[1],
    )
    grams = found.image / scales[0] ** 2, found.text / scales[1] ** 2
    power = float((labels[owner] ** 2).sum() / n_texts)
    return Moments(grams, found.cross / scales[0] / scales[1], targets, power)


def deviation_scales(found: Covariances) -> tuple[float, float]:
    """Return the root mean square of the deviations of the features of images and of texts; 1 where they are 0."""
    image, text = (float(np.sqrt(np.trace(gram) / len(gram))) or 1.0 for gram in (found.image, found.text))
    return image, text


def row_norms(rows: Matrix) -> Matrix:
    """Return the lengths (d,) of the rows (d, n_classes), smoothed at zero."""
    norms: Matrix = np.sqrt((rows**2).sum(1) + ROW_ROUNDING)
    return norms


def ridge_start(moments: Moments, ridge: float) -> Maps:
    """Return the ridge regressions of each modality to the labels, (d, n_classes) each."""
    image, text = (
        scipy.linalg.solve(gram + ridge * np.eye(len(gram)), target, assume_a="pos")
        for gram, target in zip(moments.grams, moments.targets, strict=True)
    )
    return image, text


def alternate(
    maps: Maps,
    advance: Callable[[Maps], Maps],
    objective: Callable[[Maps], float],
    iterations: int,
    tolerance: float,
) -> tuple[Maps, list[float]]:
    """Re-weight and solve until the objective stops falling.

    Args:
        maps: The maps to begin with, (d, n_classes) each.
        advance: One round: re-weights the norms at the maps and solves for one map after the other.
        objective: What the rounds minimise.
        iterations: Maximum number of rounds.
        tolerance: Stop when a round lowers the objective by less than this fraction.

    Returns:
        The two maps, and the objective at the start and after every round.
    """
    history = [objective(maps)]
    for _ in range(iterations):
        maps = advance(maps)
        history.append(objective(maps))
        if history[-2] - history[-1] < tolerance * abs(history[-2]):
            break
    return maps, history


def weighted_solve(gram: Matrix, diagonal: Matrix, wanted: Matrix) -> Matrix:
    """Solve ``gram U + diag(diagonal) U = wanted`` for U (d, n_classes)."""
    solution: Matrix = scipy.linalg.cho_solve(scipy.linalg.cho_factor(gram + np.diag(diagonal)), wanted)
    return solution


def mixed_solve(gram: Matrix, diagonal: Matrix, weights: Matrix, wanted: Matrix, start: Matrix) -> Matrix:
    """Solve ``gram U + diag(diagonal) U + gram U weights = wanted`` for U (d, c) by conjugate gradients from ``start``.

    With ``weights`` near a multiple of the identity, which they are, one factorisation serves all columns.
    """
    middle = 1 + float(np.trace(weights)) / len(weights)
    factor = scipy.linalg.cho_factor(middle * gram + np.diag(diagonal))
    shape = wanted.shape
    mixing = np.eye(len(weights)) + weights

    def left(flat: Matrix) -> Matrix:
        u = flat.reshape(shape)
        side: Matrix = gram @ (u @ mixing) + diagonal[:, None] * u
        return side.ravel()

    def precondition(flat: Matrix) -> Matrix:
        solved: Matrix = scipy.linalg.cho_solve(factor, flat.reshape(shape))
        return solved.ravel()

    size = (wanted.size, wanted.size)
    operator = scipy.sparse.linalg.LinearOperator(size, matvec=left, dtype=np.float64)
    approximate = scipy.sparse.linalg.LinearOperator(size, matvec=precondition, dtype=np.float64)
    found, _ = scipy.sparse.linalg.cg(operator, wanted.ravel(), x0=start.ravel(), rtol=1e-6, maxiter=100, M=approximate)
    solution: Matrix = found.reshape(shape)
    return solution
