"""Coupled feature spaces: sparse regression of both modalities to the labels, tied by a trace norm."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import scipy.linalg
import scipy.sparse.linalg

from cmr_bench.datamodules.split import Split
from cmr_bench.datamodules.views import ViewKind
from cmr_bench.models.subspace.linear import Candidate, LinearSubspace
from cmr_bench.models.subspace.solving import Covariances, Matrix, Point, Projections, covariances, search
from cmr_bench.support.errors import UsageError

STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1)
# Smoothing of the two norms, far below the row norms and squared singular values of any useful solution.
ROW_ROUNDING, TRACE_ROUNDING = 1e-8, 1e-6


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


Maps = tuple[Matrix, Matrix]


def predictions_gram(moments: Moments, maps: Maps) -> Matrix:
    """Return the second moments of the predictions of both sides next to each other, (2 n_classes, 2 n_classes)."""
    u, v = maps
    off = u.T @ moments.cross @ v
    return np.block([[u.T @ moments.grams[0] @ u, off], [off.T, v.T @ moments.grams[1] @ v]])


def objective(moments: Moments, maps: Maps, lambda1: float, lambda2: float) -> float:
    """Return the objective of :func:`coupled_maps`, with its norms smoothed at zero.

    ``1/2 |XU - Y|^2 / n + 1/2 |ZV - Y|^2 / n + lambda1 (|U|_21 + |V|_21) + lambda2 |[XU ZV]|_* / sqrt(n)`` for n pairs
    with features X and Z and labels Y (Wang et al., ICCV 2013, eq. 4).
    """
    total = 0.0
    for u, gram, target in zip(maps, moments.grams, moments.targets, strict=True):
        total += 0.5 * (moments.label_power + float(np.sum(u * (gram @ u - 2 * target))))
        total += lambda1 * float(np.sqrt((u**2).sum(1) + ROW_ROUNDING).sum())
    squared = np.maximum(scipy.linalg.eigvalsh(predictions_gram(moments, maps)), 0.0)
    return total + lambda2 * float(np.sqrt(squared + TRACE_ROUNDING).sum())


def coupled_maps(
    moments: Moments, lambda1: float, lambda2: float, iterations: int, tolerance: float = 1e-4
) -> tuple[Maps, list[float]]:
    """Regress both modalities to the labels with row sparsity and a common low rank.

    Both norms are replaced in turn by the quadratic that touches them at the present solution and lies above them
    elsewhere, and the two regressions solved one after the other, so that the objective never grows. The trace norm is
    weighed by the small matrix of the columns, (2 n_classes, 2 n_classes), in place of the paper's matrix of all pairs:
    the minimum is the same, the steps towards it are longer.

    Args:
        moments: Moments of the training pairs.
        lambda1: Weight of the row sparsity.
        lambda2: Weight of the trace norm.
        iterations: Maximum number of rounds.
        tolerance: Stop when a round lowers the objective by less than this fraction.

    Returns:
        The two maps, (d, n_classes) each, and the objective at the start and after every round.
    """
    maps = [
        scipy.linalg.solve(gram + lambda1 * np.eye(len(gram)), target, assume_a="pos")
        for gram, target in zip(moments.grams, moments.targets, strict=True)
    ]
    history = [objective(moments, (maps[0], maps[1]), lambda1, lambda2)]
    n_classes = maps[0].shape[1]
    parts = slice(0, n_classes), slice(n_classes, None)
    crosses = moments.cross, moments.cross.T
    for _ in range(iterations):
        values, vectors = scipy.linalg.eigh(predictions_gram(moments, (maps[0], maps[1])))
        weights = lambda2 * (vectors / np.sqrt(np.maximum(values, 0.0) + TRACE_ROUNDING)) @ vectors.T
        for side, other in ((0, 1), (1, 0)):
            sparsity = lambda1 / np.sqrt((maps[side] ** 2).sum(1) + ROW_ROUNDING)
            wanted = moments.targets[side] - crosses[side] @ maps[other] @ weights[parts[other], parts[side]]
            maps[side] = _regress(moments.grams[side], sparsity, weights[parts[side], parts[side]], wanted, maps[side])
        history.append(objective(moments, (maps[0], maps[1]), lambda1, lambda2))
        if history[-2] - history[-1] < tolerance * abs(history[-2]):
            break
    return (maps[0], maps[1]), history


def _regress(gram: Matrix, diagonal: Matrix, weights: Matrix, wanted: Matrix, start: Matrix) -> Matrix:
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


class LCFS(LinearSubspace):
    """Learning coupled feature spaces (Wang et al., ICCV 2013), ranked by cosine in the space of the labels.

    Both modalities are regressed to the category labels, with row-sparse maps and predictions of jointly
    low rank, by iteratively re-weighted least squares. Each side is first divided by the root mean square of its
    features' deviations and the terms are averaged over the pairs, so that the weights mean the same on all data;
    an image counts once for each of its texts. Not defined on data without categories: the label space would
    have one dimension per image.

    Args:
        lambda1: Weight of the row-sparsity penalty; 0 selects 0.0001 to 0.1 on the validation split.
        lambda2: Weight of the trace-norm penalty; 0 selects 0.0001 to 0.1 on the validation split.
        iterations: Maximum number of re-weighting iterations; stops earlier on convergence.
        standardise: Divide every feature by its standard deviation in the training split (each), or not (none).
        image_view: Image view: vector or regions (averaged).
        text_view: Text view: vector.
    """

    labels = "required"

    def __init__(
        self,
        lambda1: float = 0.0,
        lambda2: float = 0.0,
        iterations: int = 20,
        standardise: Literal["none", "each"] = "none",
        image_view: ViewKind = "vector",
        text_view: ViewKind = "vector",
        **kwargs: Any,
    ) -> None:
        super().__init__(standardise, image_view=image_view, text_view=text_view, **kwargs)
        self.refuse_negative(lambda1=lambda1, lambda2=lambda2)
        if iterations < 1:
            raise UsageError(f"--model.iterations {iterations}: must be at least 1")
        self.lambda1, self.lambda2, self.iterations = lambda1, lambda2, iterations

    def fit_split(self, train: Split, val: Split) -> None:
        """Fit the two regressions on the training pairs."""
        assert self.spec is not None
        assert train.labels is not None
        features = self.features(train, val)
        found = covariances(features.images, features.texts, train.image_of_text)
        labels = train.labels if train.labels.ndim == 2 else np.eye(self.spec.n_classes)[train.labels]
        scales = [float(np.sqrt(np.trace(g) / len(g))) or 1.0 for g in (found.image, found.text)]
        moments = self._moments(features.images, features.texts, labels.astype(np.float64), train, found, scales)
        val_images, val_texts = features.val_images - found.image_mean, features.val_texts - found.text_mean

        def solve(point: Point) -> Candidate:
            maps, _ = coupled_maps(moments, point[0], point[1], self.iterations)
            sides = [u / scale for u, scale in zip(maps, scales, strict=True)]
            value = self.validation_score(val_images @ sides[0], val_texts @ sides[1], val)
            n_classes = sides[0].shape[1]
            return Candidate(Projections(sides[0], sides[1], np.ones(n_classes)), n_classes, value)

        given = self.lambda1, self.lambda2
        (lambda1, lambda2), best = search(
            solve,
            [tuple(fixed or strength for fixed in given) for strength in STRENGTHS],
            [() if fixed else STRENGTHS for fixed in given],
        )
        self.chosen = {"lambda1": lambda1, "lambda2": lambda2, "value": best.value}
        self.keep(best, features, found.image_mean, found.text_mean)

    @staticmethod
    def _moments(
        images: Matrix, texts: Matrix, labels: Matrix, train: Split, found: Covariances, scales: list[float]
    ) -> Moments:
        owner = train.image_of_text
        counts = np.bincount(owner, minlength=len(images)).astype(np.float64)
        targets = (
            ((images - found.image_mean).T * counts) @ labels / len(texts) / scales[0],
            (texts - found.text_mean).T @ labels[owner] / len(texts) / scales[1],
        )
        grams = found.image / scales[0] ** 2, found.text / scales[1] ** 2
        power = float((labels[owner] ** 2).sum() / len(texts))
        return Moments(grams, found.cross / scales[0] / scales[1], targets, power)
