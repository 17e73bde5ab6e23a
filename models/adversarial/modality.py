"""Shared by adversarial methods: a modality discriminator and the reversal of its gradient."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from cmr_bench.models.common.labelled import LabelledModule
from cmr_bench.models.losses import modality_cross_entropy, reverse_gradient


class Discriminator(nn.Sequential):
    """Discriminates image from text features: hidden layers with ReLU, then the logit of an image.

    Args:
        dim: Embedding dimension.
        hidden: Dimensions of the hidden layers.
        linear: Leave the ReLUs out.
    """

    def __init__(self, dim: int, hidden: Sequence[int], linear: bool = False) -> None:
        widths = [dim, *hidden]
        layers: list[nn.Module] = []
        for before, after in itertools.pairwise(widths):
            layers += [nn.Linear(before, after), *([] if linear else [nn.ReLU()])]
        super().__init__(*layers, nn.Linear(widths[-1], 1))

    def forward(self, features: Tensor) -> Tensor:
        """Return one logit per item, (b,)."""
        for layer in self:
            features = layer(features)
        return features.squeeze(-1)


class AdversarialModule(LabelledModule):
    """A method whose encoders train against a modality discriminator, in one optimiser.

    The discriminator descends its loss; the gradient of that loss reaches the encoders multiplied by ``-reversal``. A
    method makes its discriminator in :meth:`build` by :meth:`discriminate_with` and adds :meth:`adversarial_loss`.

    Args:
        adversarial: Use the adversarial loss.
    """

    discriminator: Discriminator

    def __init__(self, adversarial: bool = True, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.adversarial = adversarial

    @property
    def reversal(self) -> float:
        """Factor of the reversed discriminator gradient that reaches the encoders."""
        raise NotImplementedError

    def discriminate_with(self, dim: int, hidden: Sequence[int], linear: bool = False) -> None:
        """Build the discriminator of embeddings of dimension ``dim`` if the adversarial loss is used."""
        if self.adversarial:
            self.discriminator = Discriminator(dim, hidden, linear)

    def adversarial_loss(self, images: Tensor, texts: Tensor) -> Tensor:
        """Return the cross-entropy of the discriminator on embeddings (b, dim) of both modalities."""
        seen = [self.discriminator(reverse_gradient(side, self.reversal)) for side in (images, texts)]
        return modality_cross_entropy(*seen)
