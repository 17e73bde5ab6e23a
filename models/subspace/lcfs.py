"""Coupled feature spaces: sparse regression of both modalities to the labels, tied by a trace norm."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import scipy.linalg

from cmr_bench.datamodules.split import Split
from cmr_bench.datamodules.views import ViewKind
from cmr_bench.models.subspace.closed_form import Axis, Candidate
from cmr_bench.models.subspace.linear import LinearSubspace
from cmr_bench.models.subspace.reweighted import (
    Maps,
    Moments,
    alternate,
    deviation_scales,
    label_moments,
    mixed_solve,
    ridge_start,
    row_norms,
)
from cmr_bench.models.subspace.solving import Matrix, Point, Projections, covariances
from cmr_bench.support.errors import UsageError

STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1)
# Smoothing of the trace norm, far below the squared singular values of any useful solution.
TRACE_ROUNDING = 1e-6


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
        total += lambda1 * float(row_norms(u).sum())
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
    start = ridge_start(moments, lambda1)
    n_classes = start[0].shape[1]
    parts = slice(0, n_classes), slice(n_classes, None)
    crosses = moments.cross, moments.cross.T

    def advance(maps: Maps) -> Maps:
        values, vectors = scipy.linalg.eigh(predictions_gram(moments, maps))
        weights = lambda2 * (vectors / np.sqrt(np.maximum(values, 0.0) + TRACE_ROUNDING)) @ vectors.T
        sides = list(maps)
        for side, other in ((0, 1), (1, 0)):
            sparsity = lambda1 / row_norms(sides[side])
            wanted = moments.targets[side] - crosses[side] @ sides[other] @ weights[parts[other], parts[side]]
            own = weights[parts[side], parts[side]]
            sides[side] = mixed_solve(moments.grams[side], sparsity, own, wanted, sides[side])
        return sides[0], sides[1]

    def value(maps: Maps) -> float:
        return objective(moments, maps, lambda1, lambda2)

    return alternate(start, advance, value, iterations, tolerance)


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
        scales = deviation_scales(found)
        moments = label_moments(features, labels.astype(np.float64), train, found, scales)
        val_images, val_texts = features.val_images - found.image_mean, features.val_texts - found.text_mean

        def solve(point: Point) -> Candidate:
            maps, _ = coupled_maps(moments, point[0], point[1], self.iterations)
            sides = [u / scale for u, scale in zip(maps, scales, strict=True)]
            value = self.validation_score(val_images @ sides[0], val_texts @ sides[1], val)
            n_classes = sides[0].shape[1]
            return Candidate(Projections(sides[0], sides[1], np.ones(n_classes)), n_classes, value)

        axes = Axis("lambda1", self.lambda1, STRENGTHS), Axis("lambda2", self.lambda2, STRENGTHS)
        self.keep_maps(self.select(solve, axes), features, found.image_mean, found.text_mean)
