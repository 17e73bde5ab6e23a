"""The input stage between the views of a data set and the layers of a method: pooling and standardising."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cmr_bench.datamodules.batches import ImageBatch, TextBatch
from cmr_bench.datamodules.split import Split
from cmr_bench.datamodules.views import Rows, View, ViewSpec
from cmr_bench.models.encoders.text import SubwordEncoder, WordEncoder
from cmr_bench.support.errors import CmrBenchError

if TYPE_CHECKING:
    from cmr_bench.models.encoders.image import PixelEncoder

Scaling = Literal["none", "each", "overall"]
_CHUNK = 1024


def pool_regions(regions: Tensor, mask: Tensor | None) -> Tensor:
    """Average the real regions of each image: (b, R, d) and mask (b, R) to (b, d)."""
    if mask is None:
        return regions.mean(1)
    weight = mask.to(regions).unsqueeze(-1)
    return (regions * weight).sum(1) / weight.sum(1).clamp(min=1)


def fetch_vectors(view: View, rows: Rows | None = None) -> Tensor:
    """Load items of a view as one vector each, (n, d), with regions averaged; None loads all."""
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


def hidden_layer(width: int, hidden: int, dropout: float = 0.0, input_dropout: float = 0.0) -> nn.Sequential:
    """Build a ReLU layer, (b, width) to (b, hidden), with dropout before and after."""
    return nn.Sequential(nn.Dropout(input_dropout), nn.Linear(width, hidden), nn.ReLU(), nn.Dropout(dropout))


def fetch_regions(view: View, rows: Rows) -> Tensor:
    """Load the real regions of items of a view, one per row, (n, d)."""
    parts = []
    for start in range(0, len(rows), _CHUNK):
        fields = view.fetch(rows[start : start + _CHUNK])
        parts.append(fields["regions"][fields["mask"]] if "mask" in fields else fields["regions"].flatten(0, 1))
    return torch.cat(parts)


def _network(
    spec: ViewSpec, cnn: str, weights: str | None, layer: Literal["grid"] | None, fine_tune: bool
) -> PixelEncoder | None:
    if spec.kind != "pixels":
        return None
    # Imported here because methods that read stored features need no image library.
    from cmr_bench.models.encoders.image import PixelEncoder

    return PixelEncoder(cnn, weights, layer, fine_tune)


class ImageInput(nn.Module):
    """One feature vector per image for any view: vectors unchanged, regions averaged, pixels through a backbone.

    Args:
        spec: The image view.
        cnn: Image backbone for pixels: timm:NAME, torchvision:NAME or hf:NAME_OR_FOLDER.
        weights: Local weights file of the backbone, or random; None loads the library's pretrained weights.
        fine_tune: Fine-tune the backbone.
    """

    def __init__(self, spec: ViewSpec, cnn: str = "", weights: str | None = None, fine_tune: bool = False) -> None:
        super().__init__()
        self.network = _network(spec, cnn, weights, None, fine_tune)
        self.dim = spec.shape[-1] if self.network is None else self.network.dim

    def forward(self, images: ImageBatch) -> Tensor:
        """Return the features of a batch, (b, dim)."""
        features = images.vector
        if self.network is not None:
            features = self.network(images.pixels)
        elif images.regions is not None:
            features = pool_regions(images.regions, images.mask)
        assert features is not None
        return features if features.ndim == 2 else features.mean(1)


class RegionInput(nn.Module):
    """Several feature vectors per image: regions unchanged, pixels through a backbone to the cells of its last map.

    Args:
        spec: The image view, regions or pixels.
        cnn: Image backbone for pixels: timm:NAME, torchvision:NAME or hf:NAME_OR_FOLDER.
        weights: Local weights file of the backbone, or random; None loads the library's pretrained weights.
        fine_tune: Fine-tune the backbone.
    """

    def __init__(self, spec: ViewSpec, cnn: str = "", weights: str | None = None, fine_tune: bool = False) -> None:
        super().__init__()
        self.network = _network(spec, cnn, weights, "grid", fine_tune)
        self.dim = spec.shape[-1] if self.network is None else self.network.dim

    def forward(self, images: ImageBatch) -> tuple[Tensor, Tensor]:
        """Return the regions of a batch, (b, R, dim), and True for the real ones, (b, R)."""
        regions = images.regions if self.network is None else self.network(images.pixels)
        assert regions is not None
        mask = images.mask
        if mask is None:
            mask = torch.ones(regions.shape[:2], dtype=torch.bool, device=regions.device)
        return regions, mask


class TextInput(nn.Module):
    """One feature vector per text for any view: vectors unchanged, words through a recurrent network.

    Args:
        spec: The text view.
        words: Builds the network for words, given the vocabulary size.
        subwords: Builds the network for subwords, given the length of the longest text.
    """

    def __init__(
        self,
        spec: ViewSpec,
        words: Callable[[int], WordEncoder],
        subwords: Callable[[int], SubwordEncoder] | None = None,
    ) -> None:
        super().__init__()
        self.network: WordEncoder | SubwordEncoder | None = None
        if spec.kind == "tokens":
            self.network = words(spec.vocab_size)
        elif spec.kind == "subwords":
            assert subwords is not None
            self.network = subwords(spec.shape[0])
        self.dim = spec.shape[-1] if self.network is None else self.network.dim

    def forward(self, texts: TextBatch) -> Tensor:
        """Return the features of a batch, (b, dim)."""
        features = texts.vector
        if isinstance(self.network, WordEncoder):
            features = self.network(texts.tokens, texts.lengths)
        elif self.network is not None:
            features = self.network(texts.input_ids, texts.attention_mask)
        assert features is not None
        return features


class Standardise(nn.Module):
    """Standardises features by means and standard deviations of the training split.

    Before :meth:`fit`, it returns its input unchanged. A constant feature is only centred.

    Args:
        dim: Number of features.
        scaling: ``each`` divides every feature by its own standard deviation, ``overall`` all by one number, their root
            mean square deviation, which keeps rare words and late principal components small.
        pooled: Fit on the averaged regions of each image; else on every region.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, dim: int, scaling: Scaling = "each", pooled: bool = True) -> None:
        super().__init__()
        self.scaling, self.pooled = scaling, pooled
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("deviation", torch.ones(dim))

    def fit(self, view: View, at_most: int = 20000) -> None:
        """Fit mean and standard deviation on a view.

        Of a large view, ``at_most`` evenly spaced items are read, or a tenth of that for regions.
        """
        at_most = at_most if self.pooled else at_most // 10
        rows = np.unique(np.linspace(0, len(view) - 1, min(len(view), at_most)).astype(np.int64))
        values = (fetch_vectors(view, rows) if self.pooled else fetch_regions(view, rows)).double()
        deviation = values.std(0, correction=0)
        if self.scaling == "overall":
            deviation = deviation.square().mean().sqrt().expand_as(deviation)
        self.mean.copy_(values.mean(0))
        self.deviation.copy_(torch.where(deviation > 1e-8, deviation, 1.0))

    def forward(self, values: Tensor) -> Tensor:
        """Standardise features, (..., dim)."""
        return (values - self.mean) / self.deviation


def linear_of_scaled(scale: nn.Module, layer: nn.Linear, values: Tensor) -> Tensor:
    """Apply ``layer`` to standardised ``values``, (..., dim), without making a standardised copy of them."""
    if not isinstance(scale, Standardise):
        return F.linear(scale(values), layer.weight, layer.bias)
    weight = layer.weight / scale.deviation
    # Not a matrix product, which autocast would round.
    bias = -(weight * scale.mean).sum(1)
    return F.linear(values, weight, bias if layer.bias is None else layer.bias + bias)


def standardiser(spec: ViewSpec, dim: int, scaling: Scaling, pooled: bool = True) -> nn.Module:
    """Return a :class:`Standardise` for stored features unless ``scaling`` is none, else the identity."""
    stored = spec.kind in ("vector", "regions")
    return Standardise(dim, scaling, pooled) if stored and scaling != "none" else nn.Identity()


def fit_standardisers(train: Split, image_scale: nn.Module, text_scale: nn.Module) -> None:
    """Fit the standardisers of both sides on the training split; identities are skipped."""
    for module, view in ((image_scale, train.images), (text_scale, train.texts)):
        if isinstance(module, Standardise):
            assert view is not None
            module.fit(view)


def with_own_rates(module: nn.Module, *parts: tuple[nn.Module, float]) -> list[dict[str, Any]]:
    """Split the trained parameters of ``module`` into groups: the rest, then each part with its learning rate."""
    own = {id(parameter) for part, _ in parts for parameter in part.parameters()}
    groups: list[dict[str, Any]] = [
        {"params": [p for p in module.parameters() if p.requires_grad and id(p) not in own]},
        *({"params": [p for p in part.parameters() if p.requires_grad], "lr": lr} for part, lr in parts),
    ]
    return [groups[0], *(group for group in groups[1:] if group["params"])]


def normalise(norm: nn.BatchNorm1d | None, values: Tensor) -> Tensor:
    """Apply batch normalisation, if any; a single row, which has no batch statistics, uses the running ones."""
    if norm is None:
        return values
    if len(values) == 1:
        return F.batch_norm(values, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps)
    normalised: Tensor = norm(values)
    return normalised
