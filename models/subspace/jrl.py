"""JRL: sparse regression of both modalities to the labels, smooth over the neighbours of each modality."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import scipy.sparse
import torch
from torch import Tensor

from cmr_bench.datamodules.batches import ImageBatch, TextBatch
from cmr_bench.datamodules.split import Split
from cmr_bench.datamodules.views import Rows, ViewKind
from cmr_bench.evaluation.ranks import EmbeddingScores, ScoreSource
from cmr_bench.models.scoring import Encoded
from cmr_bench.models.subspace.closed_form import Axis, Candidate
from cmr_bench.models.subspace.kernels import spaced
from cmr_bench.models.subspace.linear import LinearSubspace
from cmr_bench.models.subspace.reweighted import (
    Maps,
    Moments,
    alternate,
    deviation_scales,
    label_moments,
    ridge_start,
    row_norms,
    weighted_solve,
)
from cmr_bench.models.subspace.solving import Matrix, Point, Projections, covariances
from cmr_bench.support.errors import UsageError

STRENGTHS = (1e-3, 1e-2, 1e-1, 1.0)
COUPLINGS, SMOOTHINGS = (0.01, 0.1, 1.0, 10.0), (0.1, 1.0, 10.0)
_CHUNK = 1024


def neighbour_graph(items: Matrix, k: int) -> Any:
    """Return the symmetric graph of 0 and 1 that links every item to its k nearest others, sparse (n, n).

    Args:
        items: Features, (n, d).
        k: Number of neighbours by Euclidean distance; all others where there are fewer.
    """
    n = len(items)
    k = min(k, n - 1)
    squares = np.einsum("nd,nd->n", items, items)
    found = np.empty((n, k), dtype=np.int64)
    for start in range(0, n, _CHUNK):
        rows = np.arange(start, min(start + _CHUNK, n))
        distances = squares - 2 * items[rows] @ items.T
        distances[np.arange(len(rows)), rows] = np.inf
        found[rows] = np.argpartition(distances, k - 1, axis=1)[:, :k] if k else np.empty((len(rows), 0), np.int64)
    half = scipy.sparse.csr_matrix((np.ones(n * k), (np.repeat(np.arange(n), k), found.ravel())), (n, n))
    return half.maximum(half.T)


def smoothness(items: Matrix, graph: Any) -> Matrix:
    """Return ``X' (I - D^(-1/2) W D^(-1/2)) X / n`` for items X (n, d), their graph W and its degrees D, (d, d)."""
    degrees = np.asarray(graph.sum(1)).ravel()
    roots = np.where(degrees > 0, 1 / np.sqrt(np.maximum(degrees, 1.0)), 0.0)
    scaled = items * roots[:, None]
    smooth: Matrix = (items.T @ items - scaled.T @ (graph @ scaled)) / len(items)
    return (smooth + smooth.T) / 2


def objective(moments: Moments, graphs: Maps, maps: Maps, coupling: float, graph: float, sparsity: float) -> float:
    """Return the objective of :func:`joint_maps`, with its norms smoothed at zero.

    ``(coupling |XP - YQ|^2 + |XP - L|^2 + |YQ - L|^2) / n + graph (tr P'AP + tr Q'BQ) + sparsity (|P|_21 + |Q|_21)``
    for n pairs with features X and Y and labels L, where A and B are the smoothness of either modality.
    """
    p, q = maps
    total = 0.0
    for side, gram, target, smooth in zip(maps, moments.grams, moments.targets, graphs, strict=True):
        total += moments.label_power + float(np.sum(side * (gram @ side - 2 * target)))
        total += graph * float(np.sum(side * (smooth @ side))) + sparsity * float(row_norms(side).sum())
        total += coupling * float(np.sum(side * (gram @ side)))
    return total - 2 * coupling * float(np.sum(p * (moments.cross @ q)))


def half_step(
    moments: Moments, graphs: Maps, maps: Maps, side: int, coupling: float, graph: float, sparsity: float
) -> Matrix:
    """Return the map of one side (0 image, 1 text) that minimises the re-weighted objective with the other fixed."""
    cross = moments.cross if side == 0 else moments.cross.T
    system = (1 + coupling) * moments.grams[side] + graph * graphs[side]
    wanted = moments.targets[side] + coupling * cross @ maps[1 - side]
    return weighted_solve(system, sparsity / (2 * row_norms(maps[side])), wanted)


def joint_maps(
    moments: Moments,
    graphs: Maps,
    coupling: float,
    graph: float,
    sparsity: float,
    iterations: int,
    tolerance: float = 0.02,
) -> tuple[Maps, list[float]]:
    """Regress both modalities to the labels, close to each other, sparse in rows and smooth over the graphs.

    The two maps are solved one after the other, so that the objective never grows.

    Args:
        moments: Moments of the training pairs.
        graphs: Smoothness of either modality, (d, d) each.
        coupling: Weight of the distance between the predictions of a pair.
        graph: Weight of the smoothness over the graphs.
        sparsity: Weight of the row sparsity.
        iterations: Maximum number of rounds.
        tolerance: Stop when a round lowers the objective by less than this fraction.

    Returns:
        The two maps, (d, n_classes) each, and the objective at the start and after every round.
    """

    def advance(maps: Maps) -> Maps:
        image = half_step(moments, graphs, maps, 0, coupling, graph, sparsity)
        return image, half_step(moments, graphs, (image, maps[1]), 1, coupling, graph, sparsity)

    def value(maps: Maps) -> float:
        return objective(moments, graphs, maps, coupling, graph, sparsity)

    return alternate(ridge_start(moments, sparsity), advance, value, iterations, tolerance)


def class_posterior(codes: Tensor, known: Tensor, labels: Tensor, neighbours: int) -> Tensor:
    """Return the classes of items by their nearest training items, (n, n_classes), each row of sum 1.

    Args:
        codes: Embeddings of the items, (n, d).
        known: Embeddings of training items of both modalities, (m, d).
        labels: Their labels, (m, n_classes) of 0 and 1.
        neighbours: Number of nearest training items that vote, each with ``1 / (1 + exp(distance))``.
    """
    distances = torch.cdist(codes, known, compute_mode="donot_use_mm_for_euclid_dist")
    near = distances.topk(min(neighbours, len(known)), dim=1, largest=False)
    votes = (torch.sigmoid(-near.values)[:, :, None] * labels[near.indices]).sum(1)
    return votes / votes.sum(1, keepdim=True).clamp(min=1e-30)


class JRL(LinearSubspace):
    """Joint representation learning with sparse and semi-supervised regularisation (Zhai et al., TCSVT 2014).

    Both modalities are regressed to the category labels, with the predictions of a pair close to each other, row-sparse
    maps, and predictions that are smooth over the nearest neighbours within each modality, by iteratively
    re-weighted least squares. The authors' program puts the test items into the graph; here it is that of the training
    split, a symmetric graph with its normalised Laplacian, and the maps start from ridge regression, not from noise.
    Each side is divided by the root mean square of its features' deviations and the terms are averages, so that the
    weights mean the same on all data; an image counts once for each of its texts. Options of 0 are selected on the
    validation split. Not defined on data without categories.

    Args:
        coupling: Weight of the distance between the predictions of a pair; 0 selects 0.01 to 10 on the validation
            split.
        graph: Weight of the smoothness over the graph; 0 selects 0.1, 1 or 10 on the validation split.
        sparsity: Weight of the row sparsity; 0 selects 0.001 to 1 on the validation split.
        neighbours: Number of neighbours of an item in the graph; 0 leaves the graph out.
        graph_items: Maximum number of training items of a modality in the graph, evenly spaced.
        iterations: Maximum number of re-weighting iterations; stops earlier on convergence.
        score: Rank by the cosine of the predictions (cosine), or by the inner product of class posteriors that the
            nearest training items of both modalities vote for (posterior), as the authors' program does.
        voters: Number of training items that vote for a posterior.
        standardise: Divide every feature by its standard deviation in the training split (each), or not (none).
        image_view: Image view: vector or regions (averaged).
        text_view: Text view: vector.
    """

    labels = "required"
    known_codes: Tensor
    known_labels: Tensor

    def __init__(
        self,
        coupling: float = 0.0,
        graph: float = 0.0,
        sparsity: float = 0.0,
        neighbours: int = 100,
        graph_items: int = 10000,
        iterations: int = 5,
        score: Literal["cosine", "posterior"] = "cosine",
        voters: int = 100,
        standardise: Literal["none", "each"] = "none",
        image_view: ViewKind = "vector",
        text_view: ViewKind = "vector",
        **kwargs: Any,
    ) -> None:
        super().__init__(standardise, image_view=image_view, text_view=text_view, **kwargs)
        self.refuse_negative(coupling=coupling, graph=graph, sparsity=sparsity)
        if neighbours < 0:
            raise UsageError(f"--model.neighbours {neighbours} is negative; 0 leaves the graph out")
        for name, value in (("graph_items", graph_items), ("iterations", iterations), ("voters", voters)):
            if value < 1:
                raise UsageError(f"--model.{name} {value}: must be at least 1")
        self.coupling, self.graph, self.sparsity = coupling, graph, sparsity
        self.neighbours, self.graph_items, self.iterations = neighbours, graph_items, iterations
        self.score, self.voters = score, voters

    def fit_split(self, train: Split, val: Split) -> None:
        """Fit the two regressions on the training pairs."""
        assert self.spec is not None
        assert train.labels is not None
        features = self.features(train, val)
        found = covariances(features.images, features.texts, train.image_of_text)
        labels = train.labels if train.labels.ndim == 2 else np.eye(self.spec.n_classes)[train.labels]
        labels = labels.astype(np.float64)
        scales = deviation_scales(found)
        moments = label_moments(features, labels, train, found, scales)
        images, texts = features.images - found.image_mean, features.texts - found.text_mean
        val_images, val_texts = features.val_images - found.image_mean, features.val_texts - found.text_mean
        graphs = self._smoothness(images / scales[0]), self._smoothness(texts / scales[1])
        voting = labels[self._voting(len(images))], labels[train.image_of_text[self._voting(len(texts))]]

        def known(sides: Maps) -> tuple[Matrix, Matrix]:
            codes = [x[self._voting(len(x))] @ side for x, side in zip((images, texts), sides, strict=True)]
            return np.concatenate(codes), np.concatenate(voting)

        def solve(point: Point) -> Candidate:
            coupling, sparsity, graph = point
            maps, _ = joint_maps(moments, graphs, coupling, graph, sparsity, self.iterations)
            sides = maps[0] / scales[0], maps[1] / scales[1]
            encoded = [val_images @ sides[0], val_texts @ sides[1]]
            if self.score == "posterior":
                codes, classes = (torch.from_numpy(part) for part in known(sides))
                encoded = [
                    class_posterior(torch.from_numpy(side), codes, classes, self.voters).numpy() for side in encoded
                ]
            value = self.validation_score(encoded[0], encoded[1], val, cosine=self.score == "cosine")
            n_classes = sides[0].shape[1]
            return Candidate(Projections(sides[0], sides[1], np.ones(n_classes)), n_classes, value)

        axes = (
            Axis("coupling", self.coupling, COUPLINGS, start=1.0),
            Axis("sparsity", self.sparsity, STRENGTHS),
            Axis("graph", self.graph if self.neighbours else 1.0, SMOOTHINGS, start=1.0),
        )
        best = self.select(solve, axes)
        self.keep_maps(best, features, found.image_mean, found.text_mean)
        if self.score == "posterior":
            codes, classes = known((best.projections.image, best.projections.text))
            self.keep(known_codes=codes, known_labels=classes)

    def _voting(self, n: int) -> Rows:
        return spaced(n, self.graph_items)

    def _smoothness(self, items: Matrix) -> Matrix:
        if not self.neighbours:
            return np.zeros((items.shape[1],) * 2)
        items = items[spaced(len(items), self.graph_items)]
        return smoothness(items, neighbour_graph(items, self.neighbours))

    def encode_images(self, images: ImageBatch) -> Tensor:
        """Return the predictions of images, or their class posteriors, (b, n_classes)."""
        return self._scored(super().encode_images(images))

    def encode_texts(self, texts: TextBatch) -> Tensor:
        """Return the predictions of texts, or their class posteriors, (b, n_classes)."""
        return self._scored(super().encode_texts(texts))

    def _scored(self, codes: Tensor) -> Tensor:
        if self.score == "cosine":
            return codes
        return class_posterior(codes, self.known_codes, self.known_labels, self.voters)

    def similarity(self, images: Encoded, texts: Encoded) -> Tensor:
        """Score by cosine, or by the inner product of posteriors, (n_images, n_texts)."""
        if self.score == "cosine":
            return super().similarity(images, texts)
        assert isinstance(images, Tensor)
        assert isinstance(texts, Tensor)
        return images @ texts.T

    def scores(self, images: Encoded, texts: Encoded) -> ScoreSource:
        """Return the score source of all items: both scores are products of vectors."""
        assert isinstance(images, Tensor)
        assert isinstance(texts, Tensor)
        return EmbeddingScores(images.float(), texts.float(), normalize=self.score == "cosine")
