"""Losses as pure functions of tensors; every one computes in float32 whatever the precision of its input."""

from __future__ import annotations

from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor

Negatives = Literal["hardest", "mean", "sum"]
Mining = Literal["all", "hardest"]


def same(labels: Tensor, others: Tensor | None = None) -> Tensor:
    """Tell which items share a label.

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


def hinge_ranking(scores: Tensor, positive: Tensor, margin: float, negatives: Negatives = "hardest") -> Tensor:
    """Bidirectional hinge ranking loss over a batch of pairs, averaged over the pairs.

    With ``s`` the scores and pair k on the diagonal, pair k costs
    ``op_t [margin - s(k,k) + s(k,t)]+ + op_i [margin - s(k,k) + s(i,k)]+`` over the negatives t and i, where ``op`` is
    the maximum (Faghri et al., VSE++, BMVC 2018, eq. 6), the mean, or the sum (Kiros et al. 2014).

    Args:
        scores: Similarity of every image with every text of the batch, (b, b).
        positive: True for pairs that must not serve as negatives, (b, b); the diagonal is always among them.
        margin: Least difference wanted between a pair's score and those of its negatives.
        negatives: How the negatives of a query are put together.

    Returns:
        The loss, a scalar; it is ``2 * margin`` where all scores are equal and ``negatives`` is not ``sum``.
    """
    scores = scores.float()
    own = scores.diagonal()
    negative = ~(positive | torch.eye(len(scores), dtype=torch.bool, device=scores.device))
    texts = torch.where(negative, (margin - own[:, None] + scores).clamp(min=0), 0.0)
    images = torch.where(negative, (margin - own[None, :] + scores).clamp(min=0), 0.0)
    if negatives == "hardest":
        return texts.amax(1).mean() + images.amax(0).mean()
    if negatives == "sum":
        return texts.sum(1).mean() + images.sum(0).mean()
    return (texts.sum(1) / negative.sum(1).clamp(min=1)).mean() + (images.sum(0) / negative.sum(0).clamp(min=1)).mean()


def euclidean(a: Tensor, b: Tensor) -> Tensor:
    """Euclidean distances (a, b) of rows (a, d) and (b, d); the gradient of a distance of zero is zero."""
    return torch.cdist(a.float(), b.float(), compute_mode="donot_use_mm_for_euclid_dist")


def triplet_hinge(
    distances: Tensor, positive: Tensor, negative: Tensor, margin: float, mining: Mining = "all"
) -> Tensor:
    """Hinge on distances: an anchor's positives are to be nearer than its negatives by a margin.

    Args:
        distances: Distance of every anchor to every candidate, (a, c).
        positive: True where the candidate belongs with the anchor, (a, c).
        negative: True where it does not, (a, c).
        margin: Least difference wanted between the two distances.
        mining: ``all`` averages ``[margin + d(a,p) - d(a,n)]+`` over every triplet of the batch; ``hardest`` takes the
            farthest positive and the nearest negative of each anchor and averages over the anchors that have both.

    Returns:
        The loss, a scalar; 0 where the batch holds no triplet.
    """
    distances = distances.float()
    if mining == "hardest":
        far = distances.masked_fill(~positive, -torch.inf).amax(1)
        near = distances.masked_fill(~negative, torch.inf).amin(1)
        valid = positive.any(1) & negative.any(1)
        return (margin + far[valid] - near[valid]).clamp(min=0).sum() / valid.sum().clamp(min=1)
    anchor, candidate = positive.nonzero(as_tuple=True)
    usable = negative[anchor]
    cost = (margin + distances[anchor, candidate][:, None] - distances[anchor]).clamp(min=0)
    return torch.where(usable, cost, 0.0).sum() / usable.sum().clamp(min=1)


def label_regression(predictions: Tensor, targets: Tensor) -> Tensor:
    """Frobenius norm of the difference of predictions (b, n_classes) and targets, divided by b."""
    norm: Tensor = torch.linalg.matrix_norm(predictions.float() - targets.float())
    return norm / len(predictions)


def norm_softmax(features: Tensor, weight: Tensor, classes: Tensor) -> Tensor:
    """Cross-entropy of a softmax classifier whose class vectors have unit length (Zhang & Lu, ECCV 2018, eq. 9).

    Args:
        features: Features, (b, d).
        weight: One vector a class, (n_classes, d), of any length.
        classes: Class of each item, (b,).
    """
    return F.cross_entropy(F.linear(features.float(), F.normalize(weight.float(), dim=1)), classes)


def modality_cross_entropy(image_logits: Tensor, text_logits: Tensor) -> Tensor:
    """Negative of ``E[log D(image)] + E[log(1 - D(text))]`` with D the sigmoid of the logits, (b,) each."""
    return F.softplus(-image_logits.float()).mean() + F.softplus(text_logits.float()).mean()


class _Reverse(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, scale: float) -> Tensor:
        ctx.scale = scale
        return values.view_as(values)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return -ctx.scale * gradients[0], None


def reverse_gradient(values: Tensor, scale: float = 1.0) -> Tensor:
    """Return the values as they are; their gradient comes back multiplied by ``-scale`` (Ganin & Lempitsky 2015)."""
    return cast(Tensor, _Reverse.apply(values, scale))  # type: ignore[no-untyped-call]
