"""Canonical correlation analysis in closed form."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import scipy.linalg
import scipy.sparse
import torch
from numpy.typing import NDArray
from torch import Tensor

from cmr_bench.datamodules.base import ImageBatch, PairBatch, Rows, Split, TextBatch, ViewKind
from cmr_bench.errors import UsageError
from cmr_bench.evaluation.protocol import Protocol, evaluate
from cmr_bench.evaluation.ranks import EmbeddingScores
from cmr_bench.models.base import RetrievalModule
from cmr_bench.models.encoders.inputs import fetch_vectors, pool_regions

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
    """A covariance in the basis of its eigenvectors, so that any ridge is added without solving again.

    Args:
        covariance: Symmetric matrix (d, d).
    """

    def __init__(self, covariance: Matrix) -> None:
        values, self.vectors = scipy.linalg.eigh(covariance)
        self.values = np.maximum(values, 0.0)

    def scale(self, strength: float) -> Matrix:
        """Inverse square roots of the eigenvalues (d,) with ``strength`` times their mean added to each."""
        shifted = self.values + strength * self.values.mean()
        # Directions in which the training data do not vary at all carry nothing and would be blown up.
        alive = shifted > 1e-10 * shifted.max(initial=1e-300)
        return np.where(alive, 1.0, 0.0) / np.sqrt(np.where(alive, shifted, 1.0))


@dataclass(frozen=True)
class Projections:
    """Canonical directions of both sides, (d_image, k) and (d_text, k), and their correlations (k,)."""

    image: Matrix
    text: Matrix
    correlations: Matrix


def canonical(image: Whitened, text: Whitened, cross: Matrix, image_ridge: float, text_ridge: float) -> Projections:
    """Solve regularised CCA.

    Args:
        image: Covariance of the images.
        text: Covariance of the texts.
        cross: Covariance between the two in the eigenvectors' bases, (d_image, d_text).
        image_ridge: Ridge on the images' covariance, in units of its mean eigenvalue.
        text_ridge: Ridge on the texts' covariance, likewise.

    Returns:
        All min(d_image, d_text) components, the most correlated first.
    """
    left, right = image.scale(image_ridge), text.scale(text_ridge)
    u, values, vt = scipy.linalg.svd(left[:, None] * cross * right, full_matrices=False)
    return Projections(image.vectors @ (left[:, None] * u), text.vectors @ (right[:, None] * vt.T), values)


class CCA(RetrievalModule):
    """Canonical correlation analysis (Hotelling, 1936) with a ridge, ranked by cosine in the canonical space.

    An image with several texts makes a pair with each. What is 0 is chosen on the validation split by the data set's
    own criterion: the number of components among powers of two, each side's ridge from 0.001 to 100 mean eigenvalues.

    Args:
        n_components: Width of the canonical space; 0 chooses on the validation split.
        image_ridge: Ridge of the images' covariance in units of its mean eigenvalue; 0 chooses on the validation split.
        text_ridge: Ridge of the texts' covariance in units of its mean eigenvalue; 0 chooses on the validation split.
        weighting: Scale of the components: none leaves unit variance, correlation multiplies each by its correlation.
        standardise: Divide each feature by its standard deviation in the training split first (each), or not (none).
        image_view: View of the images: vector or regions (averaged).
        text_view: View of the texts: vector.
    """

    closed_form = True
    image_views = ("vector", "regions")
    text_views = ("vector",)
    image_mean: Tensor
    image_projection: Tensor
    text_mean: Tensor
    text_projection: Tensor

    def __init__(
        self,
        n_components: int = 0,
        image_ridge: float = 0.0,
        text_ridge: float = 0.0,
        weighting: Literal["none", "correlation"] = "none",
        standardise: Literal["none", "each"] = "none",
        image_view: ViewKind = "vector",
        text_view: ViewKind = "vector",
        **kwargs: Any,
    ) -> None:
        super().__init__(image_view=image_view, text_view=text_view, **kwargs)
        for name, value in (("n_components", n_components), ("image_ridge", image_ridge), ("text_ridge", text_ridge)):
            if value < 0:
                raise UsageError(f"--model.{name} {value} is negative; 0 chooses it on the validation split")
        self.n_components, self.image_ridge, self.text_ridge = n_components, image_ridge, text_ridge
        self.weighting, self.standardise = weighting, standardise
        self.chosen: dict[str, float] = {}

    def fit_split(self, train: Split, val: Split) -> None:
        """Fit the projections on the training pairs."""
        images, texts, val_images, val_texts = (
            fetch_vectors(view).double().numpy()
            for split in (train, val)
            for view in (split.images, split.texts)
            if view is not None
        )
        scales = [np.ones(x.shape[1]) for x in (images, texts)]
        if self.standardise == "each":
            scales = [np.where(s > 1e-8, s, 1.0) for s in (images.std(0), texts.std(0))]
        found = covariances(images / scales[0], texts / scales[1], train.image_of_text)
        image, text = Whitened(found.image), Whitened(found.text)
        cross = image.vectors.T @ found.cross @ text.vectors
        val_images = val_images / scales[0] - found.image_mean
        val_texts = val_texts / scales[1] - found.text_mean
        best: tuple[float, Projections, int] | None = None
        tried: dict[tuple[float, float], float] = {}

        def attempt(ridges: tuple[float, float]) -> float:
            nonlocal best
            if ridges in tried:
                return tried[ridges]
            solution = self._weighted(canonical(image, text, cross, *ridges))
            sides = val_images @ solution.image, val_texts @ solution.text
            scores = {k: self._score(sides[0][:, :k], sides[1][:, :k], val) for k in self._widths(solution)}
            width = max(scores, key=lambda k: scores[k])
            tried[ridges] = scores[width]
            if best is None or scores[width] > best[0]:
                best = (scores[width], solution, width)
                self.chosen = {
                    "image_ridge": ridges[0],
                    "text_ridge": ridges[1],
                    "n_components": width,
                    "value": scores[width],
                }
            return scores[width]

        start = max(
            (((self.image_ridge or s), (self.text_ridge or s)) for s in self._strengths()),
            key=attempt,
        )
        for other in () if self.image_ridge else STRENGTHS:
            attempt((other, start[1]))
        at = self.chosen["image_ridge"]
        for other in () if self.text_ridge else STRENGTHS:
            attempt((at, other))
        assert best is not None
        _, solution, width = best
        for name, value in (
            ("image_mean", found.image_mean * scales[0]),
            ("text_mean", found.text_mean * scales[1]),
            ("image_projection", solution.image[:, :width] / scales[0][:, None]),
            ("text_projection", solution.text[:, :width] / scales[1][:, None]),
            ("correlations", solution.correlations[:width]),
        ):
            self.register_buffer(name, torch.from_numpy(np.ascontiguousarray(value)).float())

    def _strengths(self) -> tuple[float, ...]:
        return (self.image_ridge,) if self.image_ridge and self.text_ridge else STRENGTHS

    def _weighted(self, solution: Projections) -> Projections:
        if self.weighting == "none":
            return solution
        scale = solution.correlations
        return Projections(solution.image * scale, solution.text * scale, scale)

    def _widths(self, solution: Projections) -> list[int]:
        most = int(np.count_nonzero(solution.correlations > 1e-6))
        if self.n_components:
            return [min(self.n_components, most)]
        return sorted({min(2**power, most) for power in range(2, most.bit_length() + 1)})

    def _score(self, images: Matrix, texts: Matrix, val: Split) -> float:
        source = EmbeddingScores(torch.from_numpy(images).float(), torch.from_numpy(texts).float(), normalize=True)
        category = self.selection == "map"
        result = evaluate(
            source,
            val.image_of_text,
            val.labels if category else None,
            protocol=Protocol(category=category, instance=not category),
        )
        return result.metrics[self.selection]

    def encode_images(self, images: ImageBatch) -> Tensor:
        """Project images into the canonical space, (b, n_components)."""
        features = images.vector
        if images.regions is not None:
            features = pool_regions(images.regions, images.mask)
        assert features is not None
        return (features.float() - self.image_mean) @ self.image_projection

    def encode_texts(self, texts: TextBatch) -> Tensor:
        """Project texts into the canonical space, (b, n_components)."""
        assert texts.vector is not None
        return (texts.vector.float() - self.text_mean) @ self.text_projection

    def loss(self, batch: PairBatch) -> dict[str, Tensor]:
        """Not trained by gradient."""
        raise NotImplementedError("cca is solved in closed form")
