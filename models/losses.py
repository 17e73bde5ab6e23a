"""Losses as pure functions of tensors, computed in float32 whatever the input precision."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable
from typing import Any, Literal, ParamSpec, cast

import torch
import torch.nn.functional as F
from torch import Tensor

Negatives = Literal["hardest", "nearest", "mean", "sum"]
Mining = Literal["all", "hardest"]
Reduction = Literal["mean", "sum"]
P = ParamSpec("P")


def full_precision(function: Callable[P, Tensor]) -> Callable[P, Tensor]:
    """Disable autocast inside ``function``, where it would cast matrix products to half precision again."""

    @functools.wraps(function)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> Tensor:
        device = next(value.device.type for value in (*args, *kwargs.values()) if isinstance(value, Tensor))
        with torch.autocast(device, enabled=False):
            return function(*args, **kwargs)

    return wrapped


def same(labels: Tensor, others: Tensor | None = None) -> Tensor:
    """Return which items share a label.

    Args:
        labels: Labels (a,) or multi-hot (a, n_classes).
        others: Labels (b,) or multi-hot (b, n_classes) of other items; None compares the items with each other.

    Returns:
        Mask (a, b): True where the labels are equal, or where two multi-hot rows have a class in common.
    """
    others = labels if others is None else others
    if labels.ndim == 1:
        return labels[:, None] == others[None, :]
    return (labels.float() @ others.float().T) > 0


def hinge_ranking(
    scores: Tensor, positive: Tensor, margin: float, negatives: Negatives = "hardest", neighbours: int = 3
) -> Tensor:
    """Bidirectional hinge ranking loss over a batch of pairs, averaged over the pairs.

    With ``s`` the scores and pair k on the diagonal, pair k costs
    ``op_t [margin - s(k,k) + s(k,t)]+ + op_i [margin - s(k,k) + s(i,k)]+`` over the negatives t and i, where ``op`` is
    the maximum (Faghri et al., VSE++, BMVC 2018, eq. 6), the sum over the nearest negatives (Liu and Ye, ACL student
    workshop 2019), the mean, or the sum over all (Kiros et al. 2014).

    Args:
        scores: Similarity of every image with every text of the batch, (b, b).
        positive: True for pairs that must not serve as negatives, (b, b); the diagonal is always among them.
        margin: Least difference wanted between a pair's score and those of its negatives.
        negatives: How the negatives of a query are put together.
        neighbours: Negatives that count where they are ``nearest``; a query with fewer takes those there are.

    Returns:
        The loss, a scalar; it is ``2 * margin`` where all scores are equal and ``negatives`` is hardest or mean.
    """
    scores = scores.float()
    own = scores.diagonal()
    negative = ~(positive | torch.eye(len(scores), dtype=torch.bool, device=scores.device))
    texts = torch.where(negative, (margin - own[:, None] + scores).clamp(min=0), 0.0)
    images = torch.where(negative, (margin - own[None, :] + scores).clamp(min=0), 0.0)
    if negatives == "hardest":
        return texts.amax(1).mean() + images.amax(0).mean()
    if negatives == "nearest":
        k = min(neighbours, len(scores))
        return texts.topk(k, dim=1).values.sum(1).mean() + images.topk(k, dim=0).values.sum(0).mean()
    if negatives == "sum":
        return texts.sum(1).mean() + images.sum(0).mean()
    return (texts.sum(1) / negative.sum(1).clamp(min=1)).mean() + (images.sum(0) / negative.sum(0).clamp(min=1)).mean()


def euclidean(a: Tensor, b: Tensor) -> Tensor:
    """Euclidean distances (a, b) of rows (a, d) and (b, d); the gradient of a distance of zero is zero."""
    return torch.cdist(a.float(), b.float(), compute_mode="donot_use_mm_for_euclid_dist")


def triplet_hinge(
    distances: Tensor,
    positive: Tensor,
    negative: Tensor,
    margin: float,
    mining: Mining = "all",
    attraction: float = 1.0,
    reduction: Reduction = "mean",
) -> Tensor:
    """Triplet loss on distances: positives must be nearer to an anchor than negatives by a margin.

    Args:
        distances: Distance of every anchor to every candidate, (a, c).
        positive: True where the candidate belongs with the anchor, (a, c).
        negative: True where it does not, (a, c).
        margin: Margin between the two distances.
        mining: ``all`` averages ``[margin + attraction d(a,p) - d(a,n)]+`` over every triplet of the batch; ``hardest``
            takes the farthest positive and the nearest negative of each anchor and averages over the anchors that have
            both.
        attraction: Factor of the distances to positives.
        reduction: ``mean`` over those triplets or anchors, or their ``sum``.

    Returns:
        The loss, a scalar; 0 where the batch holds no triplet.
    """
    distances = distances.float()
    if mining == "hardest":
        far = distances.masked_fill(~positive, -torch.inf).amax(1)
        near = distances.masked_fill(~negative, torch.inf).amin(1)
        valid = positive.any(1) & negative.any(1)
        total = (margin + attraction * far[valid] - near[valid]).clamp(min=0).sum()
        return total / valid.sum().clamp(min=1) if reduction == "mean" else total
    anchor, candidate = positive.nonzero(as_tuple=True)
    usable = negative[anchor]
    near = attraction * distances[anchor, candidate]
    cost = (margin + near[:, None] - distances[anchor]).clamp(min=0)
    total = torch.where(usable, cost, 0.0).sum()
    return total / usable.sum().clamp(min=1) if reduction == "mean" else total


def batch_hinge(anchors: Tensor, positives: Tensor, negatives: Tensor, margin: float, attraction: float) -> Tensor:
    """One hinge on the squared distances of a whole batch, as the authors' program of ACMR has it.

    It is ``[margin + attraction sum_i |a_i - p_i|^2 / 2 - sum_i |a_i - n_i|^2 / 2]+``, where anchor i has one positive
    and one negative, (b, d) each: as long as the negatives of the batch together are far enough, no anchor counts.
    """
    near, far = ((anchors.float() - others.float()).square().sum() / 2 for others in (positives, negatives))
    return (margin + attraction * near - far).clamp(min=0)


@full_precision
def most_similar_other(features: Tensor, positive: Tensor) -> Tensor:
    """Return for every item the row of the batch that is most like it by cosine and not ``positive`` (b, b), (b,).

    The cosines (b, b) of positives count as 0, so that an item whose cosines with all others are negative takes the
    first positive, as in the authors' program of ACMR.

    Args:
        features: Features, (b, d).
        positive: True where two items belong together, (b, b).
    """
    unit = F.normalize(features.float(), dim=1)
    return torch.where(positive, 0.0, unit @ unit.T).argmax(1)


def label_regression(predictions: Tensor, targets: Tensor) -> Tensor:
    """Frobenius norm of the difference of predictions (b, n_classes) and targets, divided by b."""
    norm: Tensor = torch.linalg.matrix_norm(predictions.float() - targets.float())
    return norm / len(predictions)


@full_precision
def norm_softmax(features: Tensor, weight: Tensor, classes: Tensor) -> Tensor:
    """Cross-entropy of a softmax classifier whose class vectors have unit length (Zhang & Lu, ECCV 2018, eq. 9).

    Args:
        features: Features, (b, d).
        weight: One vector per class, (n_classes, d), of any length.
        classes: Class of each item, (b,), or its class probabilities, (b, n_classes).
    """
    return F.cross_entropy(F.linear(features.float(), F.normalize(weight.float(), dim=1)), classes)


def modality_cross_entropy(image_logits: Tensor, text_logits: Tensor) -> Tensor:
    """Negative of ``E[log D(image)] + E[log(1 - D(text))]`` with D the sigmoid of the logits, (b,) each."""
    return F.softplus(-image_logits.float()).mean() + F.softplus(text_logits.float()).mean()


def class_shares(labels: Tensor) -> Tensor:
    """Return labels (b,) unchanged, and multi-hot labels (b, n_classes) normalised per row."""
    return labels if labels.ndim == 1 else F.normalize(labels.float(), p=1, dim=1)


def label_cross_entropy(predictions: Tensor, targets: Tensor) -> Tensor:
    """Softmax cross-entropy of predictions (b, n_classes) with labels (b, n_classes), normalised per row."""
    return F.cross_entropy(predictions.float(), class_shares(targets))


def frobenius(weights: Iterable[Tensor]) -> Tensor:
    """Sum of the Frobenius norms of weight matrices of any shape."""
    return torch.stack([torch.linalg.matrix_norm(weight.float()) for weight in weights]).sum()


def reversal_schedule(progress: float) -> float:
    """Factor of a reversed gradient that grows from 0 to 1 as ``progress`` does (Ganin & Lempitsky 2015)."""
    return 2 / (1 + math.exp(-10 * progress)) - 1


class _Reverse(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, scale: float) -> Tensor:
        ctx.scale = scale
        return values.view_as(values)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return -ctx.scale * gradients[0], None


def reverse_gradient(values: Tensor, scale: float = 1.0) -> Tensor:
    """Return the values unchanged; their gradient is multiplied by ``-scale`` (Ganin & Lempitsky 2015)."""
    return cast(Tensor, _Reverse.apply(values, scale))  # type: ignore[no-untyped-call]


@full_precision
def projection_matching(images: Tensor, texts: Tensor, match: Tensor, epsilon: float = 1e-8) -> Tensor:
    """Cross-modal projection matching: KL divergence from the true to the projected matching, both directions.

    With ``p_ij = softmax_j(x_i . z_j / |z_j|)`` and ``q_ij`` uniform over the matches of i, one direction costs
    ``(1/b) sum_ij p_ij log(p_ij / (q_ij + epsilon))``; the other exchanges x and z (Zhang & Lu, ECCV 2018, eq. 4 to 6).

    Args:
        images: Image features of any length, (b, d).
        texts: Text features of any length, (b, d).
        match: True where image i and text j belong together, (b, b); the diagonal always does.
        epsilon: Keeps the logarithm of non-matching pairs finite.

    Returns:
        The sum of both directions, a scalar.
    """
    images, texts = images.float(), texts.float()
    truth = (match | torch.eye(len(match), dtype=torch.bool, device=match.device)).float()
    total = images.new_zeros(())
    for queries, others, target in ((images, texts, truth), (texts, images, truth.T)):
        log_p = F.log_softmax(queries @ F.normalize(others, dim=1).T, dim=1)
        log_q = (target / target.sum(1, keepdim=True) + epsilon).log()
        total = total + (log_p.exp() * (log_p - log_q)).sum(1).mean()
    return total


def project_onto(features: Tensor, others: Tensor) -> Tensor:
    """Project every feature onto the direction of its partner, (b, d): ``(x_i . z_i) z_i`` with z_i of unit length."""
    unit = F.normalize(others.float(), dim=1)
    return (features.float() * unit).sum(1, keepdim=True) * unit


@full_precision
def cosine_likelihood(a: Tensor, b: Tensor, match: Tensor) -> Tensor:
    """Negative log likelihood of the matches given cosines, averaged over all pairs.

    A pair matches with the probability ``sigmoid(cos(a_i, b_j) / 2)`` (Zhen et al., DSCMR, CVPR 2019, eq. 8).

    Args:
        a: Features, (n, d).
        b: Features, (m, d).
        match: True where the items share a label, (n, m).
    """
    half = F.normalize(a.float(), dim=1) @ F.normalize(b.float(), dim=1).T / 2
    return (F.softplus(half) - torch.where(match, half, 0.0)).mean()


def mean_distance(a: Tensor, b: Tensor) -> Tensor:
    """Euclidean distance of row i of a to row i of b, (b, d) each, averaged over the rows."""
    distance: Tensor = torch.linalg.vector_norm(a.float() - b.float(), dim=1)
    return distance.mean()


def relation_error(logits: Tensor, match: Tensor, balanced: bool = False) -> Tensor:
    """Squared error of ``sigmoid(logits)`` to 1 for matching pairs and 0 for others (Wang et al., Inf. Sci. 2021).

    Args:
        logits: Relation of every image to every text, (n_images, n_texts).
        match: True where they belong together, (n_images, n_texts).
        balanced: Average matching and non-matching pairs separately and take the mean of the two; else weight all
            pairs equally.
    """
    error = (logits.float().sigmoid() - match.float()).square()
    if not balanced:
        return error.mean()
    parts = [torch.where(kind, error, 0.0).sum() / kind.sum().clamp(min=1) for kind in (match, ~match)]
    return (parts[0] + parts[1]) / 2


def pair_error(scores: Tensor, match: Tensor) -> Tensor:
    """Sum of the squared errors of scores to 1 for matching pairs and 0 for others, over the root of their number.

    Args:
        scores: Score of every image with every text, (n_images, n_texts).
        match: True where they belong together, (n_images, n_texts).
    """
    return (scores.float() - match.float()).square().sum() / math.sqrt(scores.numel())


@full_precision
def code_likelihood(a: Tensor, b: Tensor, match: Tensor, balanced: bool = False) -> Tensor:
    """Negative log likelihood of the matches given codes, averaged over all pairs.

    A pair matches with the probability ``sigmoid(a_i . b_j / 2)`` (Ji et al., TNNLS 2020).

    Args:
        a: Codes in -1..1, (n, bits).
        b: Codes in -1..1, (m, bits).
        match: True where the items belong together, (n, m).
        balanced: Average matching and non-matching pairs separately and take the mean of the two; else weight all
            pairs equally.
    """
    half = a.float() @ b.float().T / 2
    cost = F.softplus(torch.where(match, -half, half))
    if not balanced:
        return cost.mean()
    parts = [torch.where(kind, cost, 0.0).sum() / kind.sum().clamp(min=1) for kind in (match, ~match)]
    return (parts[0] + parts[1]) / 2


def quantisation_error(codes: Tensor) -> Tensor:
    """Mean squared distance of the entries of codes (b, bits) to the nearer of -1 and 1."""
    return (codes.float().abs() - 1).square().mean()


def bit_imbalance(codes: Tensor) -> Tensor:
    """Mean over the bits of the squared mean of a bit over the batch (b, bits): 0 where each bit splits it evenly."""
    return codes.float().mean(0).square().mean()


@full_precision
def canonical_correlation(a: Tensor, b: Tensor, ridge_a: float, ridge_b: float) -> Tensor:
    """Sum of the canonical correlations of two sides of a batch (Andrew et al., ICML 2013, eq. 10).

    With the centred sides, the covariances divided by ``n - 1`` and the ridges on their diagonals, it is the sum of the
    singular values of ``Saa^(-1/2) Sab Sbb^(-1/2)``. The roots are computed as Cholesky factors, which differ from the
    symmetric ones by a rotation that does not change the singular values and have a gradient at equal eigenvalues.
    Computed in double precision, which covariances of strongly correlated features need, where the device has it.

    Args:
        a: One side of the pairs, (n, d_a), n at least 2.
        b: The other side, (n, d_b).
        ridge_a: Ridge added to the covariance of ``a``.
        ridge_b: Ridge added to the covariance of ``b``.

    Returns:
        The sum, a scalar between 0 and the smaller dimension; to be maximised.
    """
    precision = torch.float32 if a.device.type == "mps" else torch.float64
    x, y = (side.to(precision) - side.to(precision).mean(0) for side in (a, b))
    n = len(x) - 1
    left, right = (
        torch.linalg.cholesky(side.T @ side / n + ridge * torch.eye(side.shape[1], dtype=precision, device=a.device))
        for side, ridge in ((x, ridge_a), (y, ridge_b))
    )
    half = torch.linalg.solve_triangular(left, x.T @ y / n, upper=False)
    whitened = torch.linalg.solve_triangular(right, half.T, upper=False)
    total: Tensor = torch.linalg.svdvals(whitened).sum()
    return total.to(torch.promote_types(a.dtype, torch.float32))


def _cosines(images: Tensor, texts: Tensor) -> tuple[Tensor, Tensor]:
    """Return float32 cosines of all pairs, (b, b), and the mask of the diagonal."""
    cosines = F.normalize(images.float(), dim=1) @ F.normalize(texts.float(), dim=1).T
    return cosines, torch.eye(len(cosines), dtype=torch.bool, device=cosines.device)


@full_precision
def info_nce(images: Tensor, texts: Tensor, scale: Tensor, positive: Tensor) -> Tensor:
    """InfoNCE: symmetric cross-entropy of each pair against the batch (Radford et al., ICML 2021, figure 3).

    With ``l_ij = scale cos(x_i, z_j)`` and pair k on the diagonal, it is the mean over k of
    ``-(log softmax_j(l_kj)_k + log softmax_i(l_ik)_k) / 2``.

    Args:
        images: Image features of any length, (b, d).
        texts: Text features of any length, (b, d).
        scale: Inverse temperature, a scalar.
        positive: True for pairs that must not serve as negatives, (b, b); off the diagonal they are ignored.
    """
    cosines, own = _cosines(images, texts)
    logits = (scale.float() * cosines).masked_fill(positive & ~own, -torch.inf)
    target = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


@full_precision
def sigmoid_pairs(images: Tensor, texts: Tensor, scale: Tensor, bias: Tensor, positive: Tensor) -> Tensor:
    """Binary cross-entropy of every pair of the batch, summed and divided by b (Zhai et al., SigLIP, ICCV 2023, eq. 2).

    With ``l_ij = scale cos(x_i, z_j) + bias``, and y = 1 on the diagonal and -1 elsewhere, it is
    ``-(1/b) sum_ij log sigmoid(y_ij l_ij)``.

    Args:
        images: Image features of any length, (b, d).
        texts: Text features of any length, (b, d).
        scale: Inverse temperature, a scalar.
        bias: Added to every logit, a scalar.
        positive: True for pairs that must not serve as negatives, (b, b); off the diagonal they are ignored.
    """
    cosines, own = _cosines(images, texts)
    logits = scale.float() * cosines + bias.float()
    cost = F.softplus(torch.where(own, -logits, logits))
    return torch.where(positive & ~own, 0.0, cost).sum() / len(cost)
