"""Kernel canonical correlation analysis in closed form."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from cmr_bench.datamodules.batches import ImageBatch, TextBatch
from cmr_bench.datamodules.split import Split
from cmr_bench.datamodules.views import ViewKind
from cmr_bench.models.subspace.closed_form import Axis, Candidate, ClosedForm, Features
from cmr_bench.models.subspace.kernels import (
    Kernel,
    KernelMap,
    exact_map,
    kernel_rows,
    mapped_covariances,
    median_distance,
    nystrom_map,
)
from cmr_bench.models.subspace.solving import CanonicalProblem, Covariances, Matrix, Point
from cmr_bench.support.errors import DataError, UsageError

BANDWIDTHS = (0.5, 1.0, 3.0)
Solved = tuple[KernelMap, KernelMap, Covariances, Matrix, Matrix, CanonicalProblem]


class KCCA(ClosedForm):
    """Kernel canonical correlation analysis (Akaho, IMPS 2001; Hardoon et al., Neural Computation 2004), by cosine.

    Maximises ``a' K_x K_y b`` subject to ``a' (K_x^2 + r n K_x) a = 1``, and likewise for b, where K are the kernels of
    the training items centred in feature space and r is the ridge: linear CCA of the coordinates that the kernels
    span, with the same ridges. An image with several texts forms a pair with each. Above ``max_exact`` items of a side,
    its coordinates are spanned by landmarks (Williams and Seeger, NIPS 2000), drawn by the random seed of the run.
    Options of 0 are selected on the validation split by the data set's criterion.

    Args:
        kernel: Kernel of both sides: rbf, linear (which is cca), cosine, or chi2 for histograms.
        bandwidth: Bandwidth of rbf and chi2, in units of the median distance between training items; 0 selects 0.5, 1
            or 3 on the validation split.
        n_components: Embedding dimension; 0 selects it on the validation split.
        image_ridge: Ridge of the images, in units of the mean eigenvalue of their covariance; 0 selects it on the
            validation split.
        text_ridge: Ridge of the texts, in units of the mean eigenvalue of their covariance; 0 selects it on the
            validation split.
        weighting: Weight of the components: none keeps unit variance, correlation multiplies each by its canonical
            correlation.
        rank: Maximum number of coordinates per side.
        max_exact: Maximum number of training items of a side without landmarks.
        landmarks: Number of landmarks of a side with more items.
        standardise: Divide every feature by its standard deviation in the training split (each), or not (none).
        image_view: Image view: vector or regions (averaged).
        text_view: Text view: vector.
    """

    image_scale: Tensor
    image_landmarks: Tensor
    image_kernel_mean: Tensor
    image_coefficients: Tensor
    image_rate: Tensor
    text_scale: Tensor
    text_landmarks: Tensor
    text_kernel_mean: Tensor
    text_coefficients: Tensor
    text_rate: Tensor

    def __init__(
        self,
        kernel: Kernel = "rbf",
        bandwidth: float = 0.0,
        n_components: int = 0,
        image_ridge: float = 0.0,
        text_ridge: float = 0.0,
        weighting: Literal["none", "correlation"] = "none",
        rank: int = 1024,
        max_exact: int = 5000,
        landmarks: int = 2048,
        standardise: Literal["none", "each"] = "none",
        image_view: ViewKind = "vector",
        text_view: ViewKind = "vector",
        **kwargs: Any,
    ) -> None:
        super().__init__(standardise, image_view=image_view, text_view=text_view, **kwargs)
        self.refuse_negative(
            bandwidth=bandwidth, n_components=n_components, image_ridge=image_ridge, text_ridge=text_ridge
        )
        for name, value in (("rank", rank), ("max_exact", max_exact), ("landmarks", landmarks)):
            if value < 1:
                raise UsageError(f"--model.{name} {value}: must be at least 1")
        self.kernel, self.bandwidth, self.n_components = kernel, bandwidth, n_components
        self.image_ridge, self.text_ridge, self.weighting = image_ridge, text_ridge, weighting
        self.rank, self.max_exact, self.landmarks = rank, max_exact, landmarks

    def fit_split(self, train: Split, val: Split) -> None:
        """Fit the coefficients on the training pairs."""
        features = self.features(train, val)
        sides = [self._spanning(name, items) for name, items in (("image", features.images), ("text", features.texts))]

        @functools.cache
        def problem(bandwidth: float) -> Solved:
            image_map, text_map = (span(bandwidth) for span in sides)
            found, image_rows, text_rows = mapped_covariances(
                image_map, text_map, features.images, features.texts, train.image_of_text
            )
            return image_map, text_map, found, image_rows, text_rows, CanonicalProblem(found)

        @functools.cache
        def validation(bandwidth: float) -> tuple[Matrix, Matrix]:
            image_map, text_map, found, *_ = problem(bandwidth)
            return image_map(features.val_images) - found.image_mean, text_map(features.val_texts) - found.text_mean

        def solve(point: Point) -> Candidate:
            image_ridge, text_ridge, bandwidth = point
            solution = problem(bandwidth)[-1].solve(image_ridge, text_ridge, self.weighting)
            return self.choose_width(solution, *validation(bandwidth), val)

        free = self.kernel in ("rbf", "chi2")
        best = self.select(
            solve,
            (
                Axis("image_ridge", self.image_ridge),
                Axis("text_ridge", self.text_ridge),
                Axis("bandwidth", self.bandwidth if free else 1.0, BANDWIDTHS, start=BANDWIDTHS[1]),
            ),
        )
        self._keep_coefficients(best, problem(self.chosen["bandwidth"]), features)

    def _spanning(self, side: str, items: Matrix) -> Callable[[float], KernelMap]:
        """Return what makes the map of a side at a bandwidth."""
        if self.kernel == "chi2" and items.min(initial=0.0) < 0:
            raise DataError(f"--model.kernel chi2 compares histograms, and {side} features are negative; pass rbf")
        median, chosen = median_distance(items, self.kernel), items
        exact = len(items) <= self.max_exact
        if not exact:
            rows = torch.randperm(len(items))[: self.landmarks].sort().values.numpy()
            chosen = items[rows]
        span = exact_map if exact else nystrom_map
        return lambda bandwidth: span(chosen, self.kernel, 1 / (bandwidth * median), self.rank)

    def _keep_coefficients(self, best: Candidate, solved: Solved, features: Features) -> None:
        image_map, text_map, _, image_rows, text_rows, _ = solved
        width = best.width
        for side, spanned, rows, directions, scale in (
            ("image", image_map, image_rows, best.projections.image, features.image_scale),
            ("text", text_map, text_rows, best.projections.text, features.text_scale),
        ):
            solution = {
                "scale": scale,
                "landmarks": spanned.landmarks,
                "kernel_mean": rows,
                "coefficients": spanned.weights @ directions[:, :width],
                "rate": np.array(spanned.rate),
            }
            self.keep(**{f"{side}_{name}": value for name, value in solution.items()})
        self.keep(component_values=best.projections.values[:width])

    def encode_images(self, images: ImageBatch) -> Tensor:
        """Embed images, (b, n_components)."""
        items = self.image_vectors(images) / self.image_scale
        rows = kernel_rows(items, self.image_landmarks, self.kernel, float(self.image_rate))
        return (rows - self.image_kernel_mean) @ self.image_coefficients

    def encode_texts(self, texts: TextBatch) -> Tensor:
        """Embed texts, (b, n_components)."""
        items = self.text_vectors(texts) / self.text_scale
        rows = kernel_rows(items, self.text_landmarks, self.kernel, float(self.text_rate))
        return (rows - self.text_kernel_mean) @ self.text_coefficients
