"""CAN: discriminant eigenvalues of both modalities together, and a discriminator for each modality."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import scipy.linalg
import torch
from torch import Tensor

from cmr_bench.datamodules.batches import PairBatch
from cmr_bench.datamodules.split import Split
from cmr_bench.datamodules.views import DataSpec
from cmr_bench.models.adversarial.modality import Discriminator
from cmr_bench.models.common.fitted_top import Activation, FittedTopModule, Matrix, Outputs
from cmr_bench.models.common.labelled import one_hot
from cmr_bench.models.losses import full_precision, modality_cross_entropy, reverse_gradient
from cmr_bench.support.errors import UsageError


def side_by_side(images: Tensor, texts: Tensor) -> Tensor:
    """Stack both modalities (n, d) and (m, d) with columns of their own, (n + m, 2d): each has its own projection."""
    stacked: Tensor = torch.block_diag(images, texts)
    return stacked


def scatters(items: Tensor, members: Tensor) -> tuple[Tensor, Tensor]:
    """Return the scatter between classes and within them, (d, d) each, divided by the number of memberships.

    Args:
        items: Outputs, (n, d).
        members: Classes of each, (n, n_classes) of 0 and 1; an item of several classes counts in each of them.
    """
    mass, counts = members.sum(0), members.sum(1)
    total = mass.sum()
    x = items - (counts @ items) / total
    means = (members.T @ x) / mass.clamp(min=1)[:, None]
    between = (means.T * mass) @ means / total
    return between, (x.T * counts) @ x / total - between


@full_precision
def log_eigenvalues(items: Tensor, members: Tensor, ridge: float) -> Tensor:
    """Return the sum of ``log(1 + e)`` over the eigenvalues e of the between-class against the within-class scatter.

    It is ``log det(B + W) - log det W``, with the ridge on the diagonal of W, from Cholesky factors: no eigenvector
    is needed, and eigenvalues that coincide have a gradient. In double precision where the device has it.

    Args:
        items: Outputs, (n, d).
        members: Classes of each, (n, n_classes) of 0 and 1.
        ridge: Added to the diagonal of the scatter within classes.
    """
    precision = torch.float32 if items.device.type == "mps" else torch.float64
    between, within = scatters(items.to(precision), members.to(precision))
    within = within + ridge * torch.eye(len(within), dtype=precision, device=items.device)
    both, inner = (torch.linalg.cholesky(matrix).diagonal().log().sum() for matrix in (between + within, within))
    total: Tensor = 2 * (both - inner)
    return total.to(torch.promote_types(items.dtype, torch.float32))


class CAN(FittedTopModule):
    """Cross-modal discriminant adversarial network (Hu et al., Pattern Recognition 2021), rebuilt from what is public.

    One network per modality, trained so that projections of both, solved analytically, separate the categories in all
    directions: ``L = -(1 / (c - 1)) sum log(1 + e)`` over the eigenvalues of the scatter between the classes against
    that within them, where each modality has columns of its own. Each network also works against a discriminator of its
    own, which tells its outputs from those of the other modality. The projections are refitted on the training split
    before every validation, and rank by cosine. The exact loss, weights and targets of the discriminators are not
    published and are ours. Not defined on data without categories: an image of its own class has no scatter within.

    Args:
        ridge: Added to the diagonal of the scatter within classes.
        beta: Weight of the adversarial loss of the networks.
        adversarial: Use the adversarial loss.
        discriminators: Hidden dimensions of the discriminators.
        dim: Output dimension of the networks.
        activation: Activation of the hidden layers: relu, sigmoid or tanh.
        lr: Learning rate.
    """

    labels = "required"
    betas = (0.5, 0.999)

    def __init__(
        self,
        ridge: float = 1e-2,
        beta: float = 0.01,
        adversarial: bool = True,
        discriminators: Sequence[int] = (128,),
        dim: int = 64,
        activation: Activation = "relu",
        lr: float = 2e-4,
        **kwargs: Any,
    ) -> None:
        super().__init__(dim=dim, activation=activation, lr=lr, **kwargs)
        if ridge <= 0:
            raise UsageError(f"--model.ridge {ridge}: the scatter within classes is inverted and needs a ridge above 0")
        self.ridge, self.beta, self.adversarial = ridge, beta, adversarial
        self.discriminators = discriminators

    @property
    def top_dim(self) -> int:
        """Number of directions that can separate the categories."""
        assert self.spec is not None
        return max(1, min(self.spec.n_classes - 1, 2 * self.dim))

    def build(self, spec: DataSpec) -> None:
        """Build the networks and the discriminators."""
        super().build(spec)
        if self.adversarial:
            self.image_discriminator, self.text_discriminator = (
                Discriminator(self.dim, self.discriminators) for _ in range(2)
            )

    def loss(self, batch: PairBatch) -> dict[str, Tensor]:
        """Return the negative mean logarithm of the eigenvalues plus the discriminators' losses."""
        images, texts, _, labels = self.gather(self.image_outputs(batch.images), self.text_outputs(batch.texts), batch)
        assert isinstance(images, Tensor)
        assert isinstance(texts, Tensor)
        assert labels is not None
        assert self.spec is not None
        members = one_hot(labels, self.spec.n_classes)
        total = log_eigenvalues(side_by_side(images.float(), texts.float()), torch.cat([members, members]), self.ridge)
        terms = {"eigenvalues": -total / max(1, self.spec.n_classes - 1)}
        loss = terms["eigenvalues"]
        if self.adversarial:
            terms["discriminator"] = self.adversarial_loss(images, texts)
            loss = loss + terms["discriminator"]
        return terms | {"loss": loss}

    def adversarial_loss(self, images: Tensor, texts: Tensor) -> Tensor:
        """Return the cross-entropies of both discriminators, whose reversed gradient reaches one network each."""
        own_images, own_texts = (reverse_gradient(side, self.beta) for side in (images, texts))
        d, e = self.image_discriminator, self.text_discriminator
        return modality_cross_entropy(d(own_images), d(texts.detach())) + modality_cross_entropy(
            e(images.detach()), e(own_texts)
        )

    def solve_top(self, outputs: Outputs, train: Split) -> tuple[Matrix, Matrix, Matrix, Matrix]:
        """Solve the projections of both modalities: the directions of the largest eigenvalues."""
        assert self.spec is not None
        assert train.labels is not None
        labels = torch.from_numpy(np.asarray(train.labels)[outputs.image_rows][outputs.owner])
        members = one_hot(labels, self.spec.n_classes).double()
        images, texts = outputs.images[outputs.owner], outputs.texts
        # Not put side by side: with five captions an image the zeros would take gigabytes.
        between, within = (matrix.numpy() for matrix in _two_sided_scatters(images, texts, members))
        size = len(within)
        _, vectors = scipy.linalg.eigh(
            between, within + self.ridge * np.eye(size), subset_by_index=[size - self.top_dim, size - 1]
        )
        vectors = vectors[:, ::-1]
        return images.mean(0), vectors[: self.dim], texts.mean(0), vectors[self.dim :]


def _two_sided_scatters(images: Matrix, texts: Matrix, members: Tensor) -> tuple[Tensor, Tensor]:
    """Return the scatters of :func:`side_by_side` of the pairs' images and texts, (n, d) each, without its zeros."""
    x, y = torch.from_numpy(images), torch.from_numpy(texts)
    mass, counts = members.sum(0), members.sum(1)
    total = 2 * mass.sum()
    mean = torch.cat([counts @ x, counts @ y]) / total
    means = torch.cat([members.T @ x, members.T @ y], dim=1) / (2 * mass).clamp(min=1)[:, None] - mean
    between = (means.T * (2 * mass)) @ means / total
    second = torch.block_diag((x.T * counts) @ x, (y.T * counts) @ y) / total
    return between, second - torch.outer(mean, mean) - between
