"""Generalised multiview analysis: discriminant analysis of two modalities as one eigenproblem."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import scipy.linalg
import scipy.sparse
from numpy.typing import NDArray

from cmr_bench.datamodules.split import Split
from cmr_bench.datamodules.views import Rows, ViewKind
from cmr_bench.models.base import LabelSource
from cmr_bench.models.subspace.closed_form import Axis, Candidate
from cmr_bench.models.subspace.linear import LinearSubspace
from cmr_bench.models.subspace.solving import Matrix, Point, Projections, Whitened
from cmr_bench.support.errors import UsageError

ALPHAS = (1.0, 10.0, 100.0)


@dataclass(frozen=True)
class Scatter:
    """The scatter of one modality.

    Attributes:
        mean: Mean of the items, (d,).
        between: Between-class scatter, to be maximised, (d, d).
        within: Within-class scatter, to be minimised, (d, d).
        class_means: Centred means of the classes, (n_classes, d); zeros for a class without items.
        shares: Fraction of the items in each class, (n_classes,).
    """

    mean: Matrix
    between: Matrix
    within: Matrix
    class_means: Matrix
    shares: Matrix


def membership(labels: NDArray[np.int64], n_classes: int) -> Any:
    """Return a sparse matrix (n_classes, n) of 0 and 1 from labels (n,) or multi-hot labels (n, n_classes)."""
    if labels.ndim == 2:
        return scipy.sparse.csr_matrix(labels.T.astype(np.float64))
    return scipy.sparse.csr_matrix((np.ones(len(labels)), (labels, np.arange(len(labels)))), (n_classes, len(labels)))


def discriminant(items: Matrix, weights: Any) -> Scatter:
    """Return the scatter matrices of linear discriminant analysis.

    Args:
        items: Features, (n, d).
        weights: Weight of each item in each class, sparse (n_classes, n); an item of several classes counts in
            each of them.
    """
    mass = np.asarray(weights.sum(1)).ravel()
    total = mass.sum()
    counts = np.asarray(weights.sum(0)).ravel()
    mean = counts @ items / total
    x = items - mean
    means = (weights @ x) / np.maximum(mass, 1.0)[:, None]
    shares = mass / total
    between = (means.T * shares) @ means
    return Scatter(mean, between, (x.T * counts) @ x / total - between, means, shares)


def marginal_fisher(items: Matrix, members: Any, n_within: int, n_between: int) -> tuple[Matrix, Matrix]:
    """Return the scatter matrices of marginal Fisher analysis (Yan et al., TPAMI 2007).

    Within: every item is linked to its nearest neighbours of its own class. Between: every class is linked to the rest
    by its nearest pairs of an item inside and an item outside. Items that share any class are never outside.

    Args:
        items: Features, (n, d).
        members: Class membership, sparse (n_classes, n).
        n_within: Number of neighbours of an item in its class.
        n_between: Number of pairs that link a class to the rest.

    Returns:
        Mean outer product of the differences over the links between, and over the links within, (d, d) each.
    """
    n = len(items)
    squares = np.einsum("nd,nd->n", items, items)
    members = scipy.sparse.csr_matrix(members)
    by_item = members.T.tocsr()
    inside: list[NDArray[np.int64]] = []
    outside: list[NDArray[np.int64]] = []
    for label in range(members.shape[0]):
        rows = members.indices[members.indptr[label] : members.indptr[label + 1]].astype(np.int64)
        if not len(rows):
            continue
        distances = squares[rows][:, None] + squares - 2 * items[rows] @ items.T
        own = distances[:, rows].copy()
        np.fill_diagonal(own, np.inf)
        near = _smallest(own, min(n_within, len(rows) - 1))
        inside.append(_links(np.repeat(rows, near.shape[1]), rows[near.ravel()], n))
        distances[(by_item[rows] @ members).toarray() > 0] = np.inf
        flat = _smallest(distances.reshape(1, -1), min(n_between, int(np.isfinite(distances).sum()))).ravel()
        outside.append(_links(rows[flat // n], flat % n, n))
    return _spread(items, outside), _spread(items, inside)


def _smallest(values: Matrix, k: int) -> NDArray[np.int64]:
    if k >= values.shape[1]:
        return np.tile(np.arange(values.shape[1]), (len(values), 1))
    return np.argpartition(values, k, axis=1)[:, :k]


def _links(a: NDArray[np.int64], b: NDArray[np.int64], n: int) -> NDArray[np.int64]:
    return np.minimum(a, b) * n + np.maximum(a, b)


def _spread(items: Matrix, links: list[NDArray[np.int64]]) -> Matrix:
    n = len(items)
    unique = np.unique(np.concatenate([*links, np.empty(0, np.int64)]))
    if not len(unique):
        return np.zeros((items.shape[1],) * 2)
    half = scipy.sparse.csr_matrix((np.ones(len(unique)), (unique // n, unique % n)), (n, n))
    graph = half + half.T
    degrees = np.asarray(graph.sum(1)).ravel()
    spread: Matrix = ((items.T * degrees) @ items - items.T @ (graph @ items)) / len(unique)
    return spread


@dataclass(frozen=True)
class Side:
    """One modality in the basis of the eigenvectors of its within-class scatter.

    Attributes:
        within: The within-class scatter.
        between: The between-class scatter in that basis, (d, d).
        basis: The basis in the original features, (d_original, d).
    """

    within: Whitened
    between: Matrix
    basis: Matrix


def multiview(
    image: Side,
    text: Side,
    coupling: Matrix,
    *,
    alpha: float,
    mu: float,
    gamma: float,
    image_ridge: float,
    text_ridge: float,
    n_components: int,
) -> Projections:
    """Solve generalised multiview analysis (Sharma et al., CVPR 2012, eq. 7).

    Maximises ``v'A v + mu w'B w + 2 alpha v'C w`` subject to ``v'P v + gamma w'Q w = 1``, where A and B are the
    between-class scatters, P and Q the within-class scatters with their ridges, and C the coupling.

    Args:
        image: The images.
        text: The texts.
        coupling: Covariance of the class means in the bases of the two sides, (d_image, d_text).
        alpha: Weight of the coupling.
        mu: Weight of the texts' between-class scatter.
        gamma: Weight of the texts' within-class scatter; 0 uses the ratio of the two traces.
        image_ridge: Ridge of the images.
        text_ridge: Ridge of the texts.
        n_components: Number of directions.

    Returns:
        The directions of the largest eigenvalues; those whose eigenvalue is not positive are useless.
    """
    gamma = gamma or image.within.shifted(image_ridge).sum() / text.within.shifted(text_ridge).sum()
    left, right = image.within.scale(image_ridge), text.within.scale(text_ridge) / np.sqrt(gamma)
    split = len(left)
    matrix = np.empty((split + len(right),) * 2)
    matrix[:split, :split] = left[:, None] * image.between * left
    matrix[split:, split:] = mu * right[:, None] * text.between * right
    matrix[:split, split:] = alpha * left[:, None] * coupling * right
    matrix[split:, :split] = matrix[:split, split:].T
    size = len(matrix)
    values, vectors = scipy.linalg.eigh(matrix, subset_by_index=[size - min(n_components, size), size - 1])
    values, vectors = values[::-1], vectors[:, ::-1]
    return Projections(
        image.basis @ (left[:, None] * vectors[:split]), text.basis @ (right[:, None] * vectors[split:]), values
    )


def principal(items: Matrix, at_most: int) -> Matrix:
    """Return the principal directions (d, k) of centred items (n, d), k at most ``at_most`` and their rank."""
    values, vectors = scipy.linalg.eigh(items.T @ items / len(items))
    alive = int(np.count_nonzero(values > 1e-10 * values[-1])) or 1
    directions: Matrix = vectors[:, ::-1][:, : min(alive, at_most)]
    return directions


class GMA(LinearSubspace):
    """Generalised multiview analysis (Sharma et al., CVPR 2012), ranked by cosine in the common space.

    Discriminant analysis of both modalities at once, coupled by the means of their classes, as one generalised
    eigenproblem. Each side is first divided by the square root of its total variance, so that the weights do not depend
    on the features' scale, and an image counts once for each of its texts. Options of 0, except gamma, are selected on
    the validation split by the data set's criterion. On data without categories the image is the class: the
    within-class scatter of images is then the ridge alone.

    Args:
        criterion: Linear discriminant analysis (lda) or marginal Fisher analysis (mfa).
        alpha: Weight of the coupling of the class means; 0 selects 1, 10 or 100 on the validation split.
        mu: Weight of the between-class scatter of texts, relative to that of images.
        gamma: Weight of the within-class scatter of texts; 0 uses the ratio of the two traces.
        image_ridge: Ridge of the within-class scatter of images, in units of their mean variance; 0 selects it on the
            validation split.
        text_ridge: Ridge of the within-class scatter of texts, in units of their mean variance; 0 selects it on the
            validation split.
        pca: Maximum number of principal components kept per modality.
        n_within: Number of nearest neighbours within a class, for mfa.
        n_between: Number of nearest pairs between a class and the rest, for mfa.
        graph_texts: Maximum number of training texts in the graph of mfa.
        n_components: Embedding dimension; 0 selects it on the validation split.
        label_source: Labels to train on: category, identity (each image is its own class, or each identity where the
            data has them), or auto: category if the data has it.
        standardise: Divide every feature by its standard deviation in the training split (each), or not (none).
        image_view: Image view: vector or regions (averaged).
        text_view: Text view: vector.
    """

    labels = "optional"

    def __init__(
        self,
        criterion: Literal["lda", "mfa"] = "lda",
        alpha: float = 0.0,
        mu: float = 1.0,
        gamma: float = 0.0,
        image_ridge: float = 0.0,
        text_ridge: float = 0.0,
        pca: int = 1000,
        n_within: int = 50,
        n_between: int = 400,
        graph_texts: int = 10000,
        n_components: int = 0,
        label_source: LabelSource = "auto",
        standardise: Literal["none", "each"] = "none",
        image_view: ViewKind = "vector",
        text_view: ViewKind = "vector",
        **kwargs: Any,
    ) -> None:
        super().__init__(standardise, image_view=image_view, text_view=text_view, **kwargs)
        self.refuse_negative(
            n_components=n_components, alpha=alpha, gamma=gamma, image_ridge=image_ridge, text_ridge=text_ridge
        )
        self.n_components = n_components
        for name, value in (
            ("mu", mu),
            ("pca", pca),
            ("n_within", n_within),
            ("n_between", n_between),
            ("graph_texts", graph_texts),
        ):
            if value <= 0:
                raise UsageError(f"--model.{name} {value}: must be above 0")
        self.criterion, self.alpha, self.mu, self.gamma = criterion, alpha, mu, gamma
        self.image_ridge, self.text_ridge, self.pca = image_ridge, text_ridge, pca
        self.n_within, self.n_between, self.graph_texts = n_within, n_between, graph_texts
        self.label_source = label_source

    def fit_split(self, train: Split, val: Split) -> None:
        """Fit the projections on the training split."""
        features = self.features(train, val)
        owner = train.image_of_text
        classes = train.identities
        n_classes = int(classes.max()) + 1
        if self.label_space == "category":
            assert self.spec is not None
            assert train.labels is not None
            classes, n_classes = train.labels, self.spec.n_classes
        text_members = membership(classes[owner], n_classes)
        copies = scipy.sparse.csr_matrix(
            (np.ones(len(owner)), (np.arange(len(owner)), owner)), (len(owner), len(classes))
        )
        found = [discriminant(features.images, text_members @ copies), discriminant(features.texts, text_members)]
        rows = self._graph_rows(train)
        image = self._side(features.images, found[0], membership(classes, n_classes), rows[0])
        text = self._side(features.texts, found[1], text_members, rows[1])
        coupling = (image.basis.T @ found[0].class_means.T * found[1].shares) @ found[1].class_means @ text.basis
        val_images, val_texts = features.val_images - found[0].mean, features.val_texts - found[1].mean
        width = self.n_components or min(len(image.between), len(text.between))

        def solve(point: Point) -> Candidate:
            image_ridge, text_ridge, alpha = point
            solution = multiview(
                image,
                text,
                coupling,
                alpha=alpha,
                mu=self.mu,
                gamma=self.gamma,
                image_ridge=image_ridge,
                text_ridge=text_ridge,
                n_components=width,
            )
            return self.choose_width(solution, val_images, val_texts, val)

        axes = (
            Axis("image_ridge", self.image_ridge),
            Axis("text_ridge", self.text_ridge),
            Axis("alpha", self.alpha, ALPHAS, start=ALPHAS[1]),
        )
        self.keep_maps(self.select(solve, axes), features, found[0].mean, found[1].mean)

    def _side(self, items: Matrix, scatter: Scatter, members: Any, rows: Rows) -> Side:
        x = items - scatter.mean
        variance = float(np.trace(scatter.between) + np.trace(scatter.within)) or 1.0
        basis = principal(x, self.pca) / np.sqrt(variance)
        if self.criterion == "mfa":
            between, within = marginal_fisher(x[rows] @ basis, members[:, rows], self.n_within, self.n_between)
        else:
            between, within = (basis.T @ matrix @ basis for matrix in (scatter.between, scatter.within))
        whitened = Whitened(within, unit=1 / basis.shape[1])
        return Side(whitened, whitened.vectors.T @ between @ whitened.vectors, basis @ whitened.vectors)

    def _graph_rows(self, train: Split) -> tuple[Rows, Rows]:
        wanted = int(np.ceil(train.n_images * min(1.0, self.graph_texts / train.n_texts)))
        images = np.unique(np.linspace(0, train.n_images - 1, wanted).astype(np.int64))
        return images, np.flatnonzero(np.isin(train.image_of_text, images))
