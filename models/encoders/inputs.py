"""What stands between the views of a data set and the layers of a method: pooling and standardising."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cmr_bench.datamodules.base import ImageBatch, Rows, Split, TextBatch, View, ViewSpec
from cmr_bench.errors import CmrBenchError
from cmr_bench.models.encoders.text import WordEncoder

Scaling = Literal["none", "each", "overall"]
_CHUNK = 1024


def pool_regions(regions: Tensor, mask: Tensor | None) -> Tensor:
    """Average the real regions of each image: (b, R, d) and mask (b, R) to (b, d)."""
    if mask is None:
        return regions.mean(1)
    weight = mask.to(regions).unsqueeze(-1)
    return (regions * weight).sum(1) / weight.sum(1).clamp(min=1)


def fetch_vectors(view: View, rows: Rows | None = None) -> Tensor:
    """Load items of a view of vectors or regions as one vector each, (n, d), regions averaged; None takes them all."""
    rows = np.arange(len(view)) if rows is None else rows
    parts = []
    for start in range(0, len(rows), _CHUNK):
        fields = view.fetch(rows[start : start + _CHUNK])
        if "vector" in fields:
            parts.append(fields["vector"])
        elif "regions" in fields:
            parts.append(pool_regions(fields["regions"], fields.get("mask")))
        else:
            raise CmrBenchError(f"a view of '{view.spec.kind}' holds no feature vectors")
    return torch.cat(parts)


class ImageInput(nn.Module):
    """One feature vector an image, whatever the view: vectors as they are, regions averaged, pixels through a network.

    Args:
        spec: The image view.
        cnn: Network for pixels: timm:NAME, torchvision:NAME or hf:NAME_OR_FOLDER.
        weights: Local weights file of the network, or random; its library's pretrained weights where None.
        fine_tune: Train the network too.
    """

    def __init__(self, spec: ViewSpec, cnn: str = "", weights: str | None = None, fine_tune: bool = False) -> None:
        super().__init__()
        self.network: nn.Module | None = None
        self.dim = spec.shape[-1]
        if spec.kind == "pixels":
            from cmr_bench.models.encoders.image import PixelEncoder

            encoder = PixelEncoder(cnn, weights, None, fine_tune)
            self.network, self.dim = encoder, encoder.dim

    def forward(self, images: ImageBatch) -> Tensor:
        """Return the features of a batch, (b, dim)."""
        features = images.vector
        if self.network is not None:
            features = self.network(images.pixels)
        elif images.regions is not None:
            features = pool_regions(images.regions, images.mask)
        assert features is not None
        return features if features.ndim == 2 else features.mean(1)


class TextInput(nn.Module):
    """One feature vector a text, whatever the view: vectors as they are, words through a recurrent network.

    Args:
        spec: The text view.
        words: Makes the network for words, given the size of the vocabulary.
    """

    def __init__(self, spec: ViewSpec, words: Callable[[int], WordEncoder]) -> None:
        super().__init__()
        self.network = words(spec.vocab_size) if spec.kind == "tokens" else None
        self.dim = spec.shape[-1] if self.network is None else self.network.dim

    def forward(self, texts: TextBatch) -> Tensor:
        """Return the features of a batch, (b, dim)."""
        features = texts.vector if self.network is None else self.network(texts.tokens, texts.lengths)
        assert features is not None
        return features


class Standardise(nn.Module):
    """Centres every feature and divides by standard deviations, all learned from the training split.

    Until :meth:`fit` has been called it returns its input as it is. A feature that never varies is only centred.

    Args:
        dim: Number of features.
        scaling: ``each`` divides every feature by its own deviation, ``overall`` all of them by one number, their root
            mean square deviation, which keeps rare words and late principal components small.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, dim: int, scaling: Scaling = "each") -> None:
        super().__init__()
        self.scaling = scaling
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("deviation", torch.ones(dim))

    def fit(self, view: View, at_most: int = 20000) -> None:
        """Learn mean and deviation from a view; of a large one from ``at_most`` items evenly spread over it."""
        rows = np.unique(np.linspace(0, len(view) - 1, min(len(view), at_most)).astype(np.int64))
        values = fetch_vectors(view, rows).double()
        deviation = values.std(0, correction=0)
        if self.scaling == "overall":
            deviation = deviation.square().mean().sqrt().expand_as(deviation)
        self.mean.copy_(values.mean(0))
        self.deviation.copy_(torch.where(deviation > 1e-8, deviation, 1.0))

    def forward(self, values: Tensor) -> Tensor:
        """Standardise features, (b, dim)."""
        return (values - self.mean) / self.deviation


def standardiser(spec: ViewSpec, dim: int, scaling: Scaling) -> nn.Module:
    """Return a :class:`Standardise` for views of stored features where one is wanted, else the identity."""
    stored = spec.kind in ("vector", "regions")
    return Standardise(dim, scaling) if stored and scaling != "none" else nn.Identity()


def fit_standardisers(train: Split, image_scale: nn.Module, text_scale: nn.Module) -> None:
    """Let the standardisers of both sides learn from the training split; identities stay as they are."""
    for module, view in ((image_scale, train.images), (text_scale, train.texts)):
        if isinstance(module, Standardise):
            assert view is not None
            module.fit(view)


def with_own_rate(module: nn.Module, part: nn.Module, lr: float) -> list[dict[str, Any]]:
    """Split what is trained of ``module`` into optimiser groups: the rest, and ``part`` with learning rate ``lr``."""
    own = {id(parameter) for parameter in part.parameters()}
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    groups: list[dict[str, Any]] = [{"params": [p for p in trained if id(p) not in own]}]
    inner = [p for p in trained if id(p) in own]
    return [*groups, {"params": inner, "lr": lr}] if inner else groups


def normalise(norm: nn.BatchNorm1d | None, values: Tensor) -> Tensor:
    """Apply batch normalisation where there is some; a lone row, which has no statistics, takes the running ones."""
    if norm is None:
        return values
    if len(values) == 1:
        return F.batch_norm(values, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps)
    normalised: Tensor = norm(values)
    return normalised
