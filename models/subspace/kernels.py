"""Kernels and the feature maps that they span, exact or by landmarks (Nyström)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import scipy.linalg
import scipy.sparse
import torch
import torch.nn.functional as F
from torch import Tensor

from cmr_bench.datamodules.views import Rows
from cmr_bench.models.subspace.solving import Covariances, Matrix, covariances

Kernel = Literal["rbf", "linear", "cosine", "chi2"]
KERNELS: tuple[Kernel, ...] = get_args(Kernel)
# Items that the median distance is estimated from, and items whose kernel rows are in memory at once.
MEDIAN_ITEMS, CHUNK = 2000, 4096
# Eigenvalues of a kernel matrix below this fraction of the largest are left out.
SMALLEST = 1e-6


def kernel_rows(items: Tensor, landmarks: Tensor, kernel: Kernel, rate: float) -> Tensor:
    """Return the kernel of items (n, d) with landmarks (m, d), (n, m).

    Args:
        items: Features.
        landmarks: Features of the landmarks.
        kernel: rbf is ``exp(-rate |x - y|^2)``, chi2 is ``exp(-rate sum (x - y)^2 / (x + y))`` of features that are not
            negative, linear is the inner product and cosine that of vectors of unit length.
        rate: Factor of the distance.
    """
    if kernel == "linear":
        return items @ landmarks.T
    if kernel == "cosine":
        return F.normalize(items, dim=1) @ F.normalize(landmarks, dim=1).T
    return torch.exp(-rate * distances(items, landmarks, kernel))


def distances(items: Tensor, others: Tensor, kernel: Kernel) -> Tensor:
    """Return the distances that rbf (squared Euclidean) or chi2 decay with, (n, m), of rows (n, d) and (m, d)."""
    if kernel == "rbf":
        squares = items.square().sum(1)[:, None] + others.square().sum(1)
        return (squares - 2 * items @ others.T).clamp(min=0)
    total = items.new_zeros(len(items), len(others))
    # A column at a time: all of them at once would take n x m x d numbers.
    for a, b in zip(items.T, others.T, strict=True):
        both = a[:, None] + b
        total += torch.where(both > 0, (a[:, None] - b).square() / both.clamp(min=1e-30), 0.0)
    return total


def median_distance(items: Matrix, kernel: Kernel) -> float:
    """Return the median distance between different items, estimated from at most 2,000 of them; 1 where it is 0."""
    if kernel in ("linear", "cosine"):
        return 1.0
    rows = spaced(len(items), MEDIAN_ITEMS)
    some = torch.from_numpy(items[rows])
    upper = np.triu_indices(len(rows), k=1)
    values = distances(some, some, kernel).numpy()[upper]
    return float(np.median(values)) or 1.0 if len(values) else 1.0


def spaced(n: int, most: int) -> Rows:
    """Return at most ``most`` rows of n, evenly spaced."""
    return np.unique(np.linspace(0, n - 1, min(n, most)).astype(np.int64))


@dataclass(frozen=True)
class KernelMap:
    """A map from items to coordinates whose inner products are the kernel, up to a translation.

    Attributes:
        landmarks: The items that the kernel is evaluated with, (m, d).
        kernel: The kernel.
        rate: Its factor of the distance.
        weights: From kernel rows to coordinates, (m, r).
    """

    landmarks: Matrix
    kernel: Kernel
    rate: float
    weights: Matrix

    def rows(self, items: Matrix) -> Matrix:
        """Return the kernel of items (n, d) with the landmarks, (n, m)."""
        landmarks = torch.from_numpy(self.landmarks)
        parts = [
            kernel_rows(torch.from_numpy(items[start : start + CHUNK]), landmarks, self.kernel, self.rate)
            for start in range(0, len(items), CHUNK)
        ]
        return torch.cat(parts).numpy()

    def __call__(self, items: Matrix) -> Matrix:
        """Return the coordinates of items (n, d), (n, r)."""
        coordinates: Matrix = self.rows(items) @ self.weights
        return coordinates


def exact_map(items: Matrix, kernel: Kernel, rate: float, rank: int) -> KernelMap:
    """Span the coordinates by all training items: the principal axes of the kernel centred in its feature space.

    With ``H K H = U S U'`` for the centring H, the coordinates of the training items are ``U S^(1/2)`` and those of an
    item with the kernel row k are ``k U S^(-1/2)``, up to the same translation for all.

    Args:
        items: Training items, (n, d).
        kernel: The kernel.
        rate: Its factor of the distance.
        rank: Maximum number of coordinates.
    """
    return _spanned(items, kernel, rate, rank, centred=True)


def nystrom_map(landmarks: Matrix, kernel: Kernel, rate: float, rank: int) -> KernelMap:
    """Span the coordinates by landmarks (m, d): ``k(x, L) K_LL^(-1/2)`` in the basis of the eigenvectors of K_LL.

    Args:
        landmarks: Training items that stand for all.
        kernel: The kernel.
        rate: Its factor of the distance.
        rank: Maximum number of coordinates.
    """
    return _spanned(landmarks, kernel, rate, rank, centred=False)


def _spanned(items: Matrix, kernel: Kernel, rate: float, rank: int, centred: bool) -> KernelMap:
    whole = KernelMap(items, kernel, rate, np.eye(len(items))).rows(items)
    if centred:
        means = whole.mean(0)
        whole = whole - means - means[:, None] + means.mean()
    n = len(whole)
    values, vectors = scipy.linalg.eigh((whole + whole.T) / 2, subset_by_index=[max(0, n - rank), n - 1])
    alive = values > SMALLEST * max(values[-1], 1e-300)
    if not alive.any():
        return KernelMap(items, kernel, rate, np.zeros((n, 1)))
    return KernelMap(items, kernel, rate, vectors[:, alive] / np.sqrt(values[alive]))


def mapped_covariances(
    image_map: KernelMap, text_map: KernelMap, images: Matrix, texts: Matrix, owner: Rows
) -> tuple[Covariances, Matrix, Matrix]:
    """Return the moments of the pairs in the coordinates of both maps, and the mean kernel rows of both sides.

    The pairs are read in chunks, so that memory does not grow with their number.

    Args:
        image_map: Map of the images to r_image coordinates.
        text_map: Map of the texts to r_text coordinates.
        images: Images, (n_images, d_image).
        texts: Texts, (n_texts, d_text).
        owner: Row of the image that each text belongs to, (n_texts,).

    Returns:
        Moments of the pairs, and the means over the pairs of the kernel rows, (m_image,) and (m_text,).
    """
    order = np.argsort(owner, kind="stable")
    parts: list[tuple[int, Covariances]] = []
    sums = [np.zeros(len(side.landmarks)) for side in (image_map, text_map)]
    for start in range(0, len(order), CHUNK):
        rows = order[start : start + CHUNK]
        of, local = np.unique(owner[rows], return_inverse=True)
        image_rows, text_rows = image_map.rows(images[of]), text_map.rows(texts[rows])
        sums[0] += np.bincount(local, minlength=len(of)) @ image_rows
        sums[1] += text_rows.sum(0)
        parts.append((len(rows), covariances(image_rows @ image_map.weights, text_rows @ text_map.weights, local)))
    return merged(parts), sums[0] / len(order), sums[1] / len(order)


def merged(parts: Sequence[tuple[int, Covariances]]) -> Covariances:
    """Return the moments of all pairs from those of parts of them, each with its number of pairs."""
    if len(parts) == 1:
        return parts[0][1]
    shares = np.array([n for n, _ in parts], dtype=np.float64) / sum(n for n, _ in parts)
    found = [part for _, part in parts]
    image_mean = shares @ np.stack([part.image_mean for part in found])
    text_mean = shares @ np.stack([part.text_mean for part in found])
    image, text, cross = (np.zeros_like(matrix) for matrix in (found[0].image, found[0].text, found[0].cross))
    for share, part in zip(shares, found, strict=True):
        x, y = part.image_mean - image_mean, part.text_mean - text_mean
        image += share * (part.image + np.outer(x, x))
        text += share * (part.text + np.outer(y, y))
        cross += share * (part.cross + np.outer(x, y))
    return Covariances(image_mean, text_mean, image, text, cross)
