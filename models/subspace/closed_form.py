"""Shared by closed forms: features, options searched on validation, and what is kept of the solution."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from cmr_bench.datamodules.batches import ImageBatch, PairBatch, TextBatch
from cmr_bench.datamodules.split import Split
from cmr_bench.datamodules.views import ViewKind
from cmr_bench.evaluation.protocol import Protocol, evaluate
from cmr_bench.evaluation.ranks import EmbeddingScores
from cmr_bench.models.base import RetrievalModule
from cmr_bench.models.encoders.inputs import fetch_vectors, pool_regions
from cmr_bench.models.subspace.solving import STRENGTHS, Matrix, Point, Projections, search
from cmr_bench.support.errors import UsageError


@dataclass(frozen=True)
class Features:
    """Features of the training and validation split, each column divided by its scale.

    Attributes:
        images: Training images, (n_images, d_image).
        texts: Training texts, (n_texts, d_text).
        val: The validation split.
        val_images: Its images.
        val_texts: Its texts.
        image_scale: Divisor of each image feature, (d_image,).
        text_scale: Divisor of each text feature, (d_text,).
    """

    images: Matrix
    texts: Matrix
    val: Split
    val_images: Matrix
    val_texts: Matrix
    image_scale: Matrix
    text_scale: Matrix


@dataclass(frozen=True)
class Candidate:
    """Projections, the number of components selected on validation, and the value reached."""

    projections: Projections
    width: int
    value: float


@dataclass(frozen=True)
class Axis:
    """An option that the validation split may select.

    Attributes:
        name: Name of the option.
        given: Its value; 0 leaves it to the validation split.
        values: Values to try, in order.
        start: Value at which the search begins; None takes all values in turn, together with the other such axes,
            which have as many.
    """

    name: str
    given: float
    values: Sequence[float] = STRENGTHS
    start: float | None = None


class ClosedForm(RetrievalModule):
    """A method that is solved on the training split, with options selected on the validation split.

    Args:
        standardise: Divide every feature by its standard deviation in the training split (each), or not (none).
        image_view: Image view: vector or regions (averaged).
        text_view: Text view: vector.
    """

    closed_form = True
    image_views = ("vector", "regions")
    text_views = ("vector",)
    n_components = 0

    def __init__(
        self,
        standardise: Literal["none", "each"] = "none",
        image_view: ViewKind = "vector",
        text_view: ViewKind = "vector",
        **kwargs: Any,
    ) -> None:
        super().__init__(image_view=image_view, text_view=text_view, **kwargs)
        self.standardise = standardise
        self.chosen: dict[str, float] = {}

    def refuse_negative(self, **options: float) -> None:
        """Raise UsageError if an option, for which 0 means selection on validation, is negative."""
        for name, value in options.items():
            if value < 0:
                raise UsageError(f"--model.{name} {value} is negative; 0 selects it on the validation split")

    def features(self, train: Split, val: Split) -> Features:
        """Load both splits and standardise them."""
        images, texts, val_images, val_texts = (
            fetch_vectors(view).double().numpy()
            for split in (train, val)
            for view in (split.images, split.texts)
            if view is not None
        )
        image_scale, text_scale = (np.ones(x.shape[1]) for x in (images, texts))
        if self.standardise == "each":
            image_scale, text_scale = (np.where(s > 1e-8, s, 1.0) for s in (images.std(0), texts.std(0)))
        return Features(
            images / image_scale,
            texts / text_scale,
            val,
            val_images / image_scale,
            val_texts / text_scale,
            image_scale,
            text_scale,
        )

    def select(self, solve: Callable[[Point], Candidate], axes: Sequence[Axis]) -> Candidate:
        """Search the options that were not given, note them in ``chosen`` and return the best solution.

        Args:
            solve: Solves with a value for each axis.
            axes: The options.
        """
        moving = [len(axis.values) for axis in axes if not axis.given and axis.start is None]
        line = [
            tuple(axis.given or (axis.values[k] if axis.start is None else axis.start) for axis in axes)
            for k in range(max(moving, default=1))
        ]
        point, best = search(solve, line, [() if axis.given else axis.values for axis in axes])
        self.chosen = dict(zip((axis.name for axis in axes), point, strict=True))
        self.chosen |= {"n_components": best.width, "value": best.value}
        return best

    def choose_width(self, found: Projections, images: Matrix, texts: Matrix, val: Split) -> Candidate:
        """Score the first components of a solution on the validation split.

        Args:
            found: The solution; useless components are dropped.
            images: Centred validation images, (n_images, d_image).
            texts: Centred validation texts, (n_texts, d_text).
            val: The validation split.
        """
        most = max(1, int(np.count_nonzero(found.values > 1e-6)))
        widths = [min(self.n_components, most)]
        if not self.n_components:
            widths = sorted({min(2**power, most) for power in range(2, most.bit_length() + 1)} or {most})
        left, right = images @ found.image[:, :most], texts @ found.text[:, :most]
        scores = {k: self.validation_score(left[:, :k], right[:, :k], val) for k in widths}
        width = max(scores, key=lambda k: scores[k])
        return Candidate(found, width, scores[width])

    def validation_score(self, images: Matrix, texts: Matrix, val: Split, cosine: bool = True) -> float:
        """Score encoded items of the validation split by the criterion of the data set.

        Args:
            images: Encoded images, (n_images, d).
            texts: Encoded texts, (n_texts, d).
            val: The validation split.
            cosine: Rank by cosine; else by inner product.
        """
        source = EmbeddingScores(torch.from_numpy(images).float(), torch.from_numpy(texts).float(), normalize=cosine)
        category = self.selection == "map"
        result = evaluate(
            source,
            val.image_of_text,
            val.labels if category else None,
            identity=val.identity,
            protocol=Protocol(category=category, instance=not category),
        )
        return result.metrics[self.selection]

    def keep(self, **solution: Matrix) -> None:
        """Store what encoding needs as buffers, by name."""
        for name, value in solution.items():
            self.register_buffer(name, torch.from_numpy(np.ascontiguousarray(value)).float())

    def image_vectors(self, images: ImageBatch) -> Tensor:
        """Return the features of a batch of images, (b, d_image)."""
        features = images.vector
        if images.regions is not None:
            features = pool_regions(images.regions, images.mask)
        assert features is not None
        return features.float()

    def text_vectors(self, texts: TextBatch) -> Tensor:
        """Return the features of a batch of texts, (b, d_text)."""
        assert texts.vector is not None
        return texts.vector.float()

    def loss(self, batch: PairBatch) -> dict[str, Tensor]:
        """Raise NotImplementedError: there is no gradient training."""
        raise NotImplementedError(f"{type(self).__name__} is solved in closed form")
