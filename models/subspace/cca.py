"""Canonical correlation analysis in closed form."""

from __future__ import annotations

from typing import Any, Literal

from cmr_bench.datamodules.split import Split
from cmr_bench.datamodules.views import ViewKind
from cmr_bench.models.subspace.closed_form import Axis, Candidate
from cmr_bench.models.subspace.linear import LinearSubspace
from cmr_bench.models.subspace.solving import CanonicalProblem, Point, covariances


class CCA(LinearSubspace):
    """Canonical correlation analysis (Hotelling, 1936) with a ridge, ranked by cosine in the canonical space.

    An image with several texts forms a pair with each. Options of 0 are selected on the validation split by the data
    set's criterion: the number of components among powers of two, each ridge from 0.001 to 100 mean eigenvalues.

    Args:
        n_components: Embedding dimension; 0 selects it on the validation split.
        image_ridge: Ridge of the image covariance, in units of its mean eigenvalue; 0 selects it on the validation
            split.
        text_ridge: Ridge of the text covariance, in units of its mean eigenvalue; 0 selects it on the validation split.
        weighting: Weight of the components: none keeps unit variance, correlation multiplies each by its canonical
            correlation.
        standardise: Divide every feature by its standard deviation in the training split (each), or not (none).
        image_view: Image view: vector or regions (averaged).
        text_view: Text view: vector.
    """

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
        super().__init__(standardise, image_view=image_view, text_view=text_view, **kwargs)
        self.refuse_negative(n_components=n_components, image_ridge=image_ridge, text_ridge=text_ridge)
        self.n_components = n_components
        self.image_ridge, self.text_ridge, self.weighting = image_ridge, text_ridge, weighting

    def fit_split(self, train: Split, val: Split) -> None:
        """Fit the projections on the training pairs."""
        features = self.features(train, val)
        found = covariances(features.images, features.texts, train.image_of_text)
        problem = CanonicalProblem(found)
        val_images, val_texts = features.val_images - found.image_mean, features.val_texts - found.text_mean

        def solve(ridges: Point) -> Candidate:
            return self.choose_width(problem.solve(ridges[0], ridges[1], self.weighting), val_images, val_texts, val)

        axes = Axis("image_ridge", self.image_ridge), Axis("text_ridge", self.text_ridge)
        self.keep_maps(self.select(solve, axes), features, found.image_mean, found.text_mean)
