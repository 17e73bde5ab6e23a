"""Shared by closed-form methods: two linear maps, selected on validation and ranked by cosine."""

from __future__ import annotations

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
from cmr_bench.models.subspace.solving import Matrix, Projections
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


class LinearSubspace(RetrievalModule):
    """A closed form whose sides are linear maps of centred features, ranked by cosine.

    Args:
        standardise: Divide every feature by its standard deviation in the training split (each), or not (none).
        image_view: Image view: vector or regions (averaged).
        text_view: Text view: vector.
    """

    closed_form = True
    image_views = ("vector", "regions")
    text_views = ("vector",)
    n_components = 0
    image_mean: Tensor
    image_projection: Tensor
    text_mean: Tensor
    text_projection: Tensor

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

    def validation_score(self, images: Matrix, texts: Matrix, val: Split) -> float:
        """Score projected items of the validation split by the criterion of the data set."""
        source = EmbeddingScores(torch.from_numpy(images).float(), torch.from_numpy(texts).float(), normalize=True)
        category = self.selection == "map"
        result = evaluate(
            source,
            val.image_of_text,
            val.labels if category else None,
            protocol=Protocol(category=category, instance=not category),
        )
        return result.metrics[self.selection]

    def keep(self, best: Candidate, features: Features, image_mean: Matrix, text_mean: Matrix) -> None:
        """Store the selected projections, for unscaled features, as buffers."""
        found, width = best.projections, best.width
        for name, value in (
            ("image_mean", image_mean * features.image_scale),
            ("text_mean", text_mean * features.text_scale),
            ("image_projection", found.image[:, :width] / features.image_scale[:, None]),
            ("text_projection", found.text[:, :width] / features.text_scale[:, None]),
            ("component_values", found.values[:width]),
        ):
            self.register_buffer(name, torch.from_numpy(np.ascontiguousarray(value)).float())

    def encode_images(self, images: ImageBatch) -> Tensor:
        """Embed images, (b, n_components)."""
        features = images.vector
        if images.regions is not None:
            features = pool_regions(images.regions, images.mask)
        assert features is not None
        return (features.float() - self.image_mean) @ self.image_projection

    def encode_texts(self, texts: TextBatch) -> Tensor:
        """Embed texts, (b, n_components)."""
        assert texts.vector is not None
        return (texts.vector.float() - self.text_mean) @ self.text_projection

    def loss(self, batch: PairBatch) -> dict[str, Tensor]:
        """Raise NotImplementedError: there is no gradient training."""
        raise NotImplementedError(f"{type(self).__name__} is solved in closed form")
