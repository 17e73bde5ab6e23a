"""Deep relational similarity learning."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.checkpoint import checkpoint

from cmr_bench.datamodules.batches import ImageBatch, PairBatch, TextBatch
from cmr_bench.datamodules.views import DataSpec
from cmr_bench.models.common.feature_module import LabelledFeatureModule
from cmr_bench.models.encoders.inputs import hidden_layer, normalise
from cmr_bench.models.losses import full_precision, pair_error, relation_error, same
from cmr_bench.models.scoring import Encoded
from cmr_bench.support.errors import UsageError

# Hidden values computed at once; a chunk of this size (4 MB) fits the cache of one processor core.
_PIECE = 2**20
# Hidden values kept for the backward pass; beyond that they are recomputed.
_KEPT = 2**26
_RELEASED_BETAS = (0.5, 0.99)


class NormedLayers(nn.Sequential):
    """Layers of ReLU units, each normalised by the batch, the last one too.

    Args:
        widths: Widths of the features and of every layer.
    """

    def __init__(self, *widths: int) -> None:
        pairs = itertools.pairwise(widths)
        super().__init__(*(layer for a, b in pairs for layer in (nn.Linear(a, b), nn.BatchNorm1d(b))))

    def forward(self, features: Tensor) -> Tensor:
        """Encode features, (n, widths[0]) to (n, widths[-1])."""
        for layer in self:
            features = normalise(layer, features).relu() if isinstance(layer, nn.BatchNorm1d) else layer(features)
        return features


class PairNetwork(nn.Module):
    """Scores a pair from its two features: two layers of ReLU units, each normalised by the batch, and a linear one.

    Args:
        dim: Embedding dimension of each modality.
        width: Width of the two layers.
    """

    def __init__(self, dim: int, width: int) -> None:
        super().__init__()
        self.dim = dim
        self.first, self.second, self.score = nn.Linear(2 * dim, width), nn.Linear(width, width), nn.Linear(width, 1)
        self.first_norm, self.second_norm = nn.BatchNorm1d(width), nn.BatchNorm1d(width)

    def forward(self, images: Tensor, texts: Tensor) -> Tensor:
        """Score every image (n, dim) with every text (m, dim), normalised by all of these pairs, (n, m)."""
        left, right = self._halves(images, texts)
        hidden = normalise(self.first_norm, (left[:, None] + right[None]).flatten(0, 1)).relu()
        hidden = normalise(self.second_norm, self.second(hidden)).relu()
        scores: Tensor = self.score(hidden)
        return scores.view(len(images), len(texts))

    def _halves(self, images: Tensor, texts: Tensor) -> tuple[Tensor, Tensor]:
        weight, bias = self.first.weight, self.first.bias
        return F.linear(images, weight[:, : self.dim], bias), F.linear(texts, weight[:, self.dim :])

    def halves(self, images: Tensor, texts: Tensor) -> tuple[Tensor, Tensor]:
        """Return what the first layer makes of each side by the learned statistics, (n, width) and (m, width)."""
        left, right = self._halves(images, texts)
        scale, shift = _affine(self.first_norm)
        return left * scale + shift, right * scale

    @full_precision
    def relate(self, left: Tensor, right: Tensor) -> Tensor:
        """Score every pair of halves by the learned statistics, (n, m)."""
        scale, shift = _affine(self.second_norm)
        weight, bias = self.second.weight * scale[:, None], self.second.bias * scale + shift

        def score(images: Tensor, texts: Tensor) -> Tensor:
            hidden = torch.relu_(images[:, None] + texts[None])
            scores: Tensor = self.score(torch.relu_(F.linear(hidden, weight, bias))).squeeze(-1)
            return scores

        return in_pieces(left.float(), right.float(), score)


def _affine(norm: nn.BatchNorm1d) -> tuple[Tensor, Tensor]:
    """Return scale and shift, (width,) each, that a batch normalisation comes to in evaluation."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    return scale, norm.bias - norm.running_mean * scale


class DRSL(LabelledFeatureModule):
    """Deep relational similarity learning (Wang et al., Information Sciences 2021): a network scores every pair.

    Each modality has two layers; the relation network reads both features concatenated. Items are ranked by its logit:
    the order is that of the sigmoid, without the ties of saturation. Its first layer is the
    sum of an image part and a text part, so items are encoded as these two halves and a pair costs one
    addition per hidden unit.
    The authors' network is another: three layers a modality and three for the relation, batch normalisation (in the
    relation over all pairs of a batch), no sigmoid, squared errors summed and divided by the root of their number, and
    Adam's own weight decay. The width of the middle layer of a modality is taken to be that of the first.

    Args:
        network: Network: plain, or released: that of the released code, with its loss and optimiser and without
            dropout.
        hidden: Hidden dimension of each modality.
        dim: Embedding dimension of each modality.
        relation: Hidden dimension of the relation network.
        balanced: Give matching and non-matching pairs the same total weight in the loss.
        dropout: Dropout probability of the hidden layers.
        input_dropout: Dropout probability of the input features.
        lr: Learning rate.
        lr_decay_every: Epochs between decays of the learning rate; 0 disables.
        lr_decay: Factor by which the learning rate is multiplied at each decay.
    """

    def __init__(
        self,
        network: Literal["plain", "released"] = "plain",
        hidden: int = 1024,
        dim: int = 300,
        relation: int = 1024,
        balanced: bool = False,
        dropout: float = 0.0,
        input_dropout: float = 0.0,
        lr: float = 1e-4,
        lr_decay_every: int = 1,
        lr_decay: float = 0.98,
        **kwargs: Any,
    ) -> None:
        super().__init__(lr=lr, lr_decay_every=lr_decay_every, lr_decay=lr_decay, **kwargs)
        if network == "released" and (balanced or dropout or input_dropout):
            raise UsageError("--model.network released has no dropout and weighs all pairs the same: leave these out")
        self.network = network
        self.hidden, self.dim, self.relation_dim, self.balanced = hidden, dim, relation, balanced
        self.dropout, self.input_dropout = dropout, input_dropout

    def build(self, spec: DataSpec) -> None:
        """Build the layers."""
        super().build(spec)
        self.image_net: nn.Module
        self.text_net: nn.Module
        if self.network == "released":
            self.image_net, self.text_net = (
                NormedLayers(width, self.hidden, self.hidden, self.dim) for width in (self.image_dim, self.text_dim)
            )
            self.pairs = PairNetwork(self.dim, self.relation_dim)
            return
        self.image_net, self.text_net = self._net(self.image_dim), self._net(self.text_dim)
        self.relation = nn.Linear(2 * self.dim, self.relation_dim)
        self.score = nn.Linear(self.relation_dim, 1)

    def _net(self, width: int) -> nn.Module:
        return nn.Sequential(
            *hidden_layer(width, self.hidden, self.dropout, self.input_dropout), nn.Linear(self.hidden, self.dim)
        )

    def encode_images(self, images: ImageBatch) -> Tensor:
        """Return the image halves of the relation network's first layer, (b, relation)."""
        features = self.image_net(self.image_features(images))
        if self.network == "released":
            return self.pairs.halves(features, features[:0])[0]
        return nn.functional.linear(features, self.relation.weight[:, : self.dim], self.relation.bias)

    def encode_texts(self, texts: TextBatch) -> Tensor:
        """Return the text halves of the relation network's first layer, (b, relation)."""
        features = self.text_net(self.text_features(texts))
        if self.network == "released":
            return self.pairs.halves(features[:0], features)[1]
        return nn.functional.linear(features, self.relation.weight[:, self.dim :])

    def similarity(self, images: Encoded, texts: Encoded) -> Tensor:
        """Score every image with every text by the relation network, before its sigmoid, (n_images, n_texts)."""
        assert isinstance(images, Tensor)
        assert isinstance(texts, Tensor)
        if self.network == "released":
            return self.pairs.relate(images, texts)
        return relate(images, texts, self.score.weight[0], self.score.bias)

    def loss(self, batch: PairBatch) -> dict[str, Tensor]:
        """Squared error of the relation of every pair of the batch."""
        if self.network == "released":
            # Gathered before any layer, so that the statistics are those of the global batch.
            images, texts, labels = self.gather_labelled(
                self.image_features(batch.images), self.text_features(batch.texts), batch
            )
            scores = self.pairs(self.image_net(images), self.text_net(texts))
            return {"loss": pair_error(scores, same(labels))}
        images, texts, labels = self.gather_labelled(
            self.encode_images(batch.images), self.encode_texts(batch.texts), batch
        )
        match = same(labels)
        return {"loss": relation_error(self.similarity(images, texts), match, self.balanced)}

    def make_optimizer(self) -> Optimizer:
        """Return the optimiser: the released network's is Adam with the decay in its gradient."""
        if self.network != "released":
            return super().make_optimizer()
        return torch.optim.Adam(
            self.parameter_groups(), lr=self.lr, betas=_RELEASED_BETAS, weight_decay=self.weight_decay
        )


@full_precision
def relate(images: Tensor, texts: Tensor, weight: Tensor, bias: Tensor, piece: int = _PIECE) -> Tensor:
    """Score every pair by a layer of ReLUs over the sum of its halves: ``bias + weight . relu(images_i + texts_j)``.

    The hidden values of all pairs never exist at once: they are computed in chunks, and recomputed in a large backward
    pass.

    Args:
        images: The images' halves, (n_images, width).
        texts: The texts' halves, (n_texts, width).
        weight: Weights of the second layer, (width,).
        bias: Its bias, (1,).
        piece: Hidden values computed at once, if at least one row of images or texts fits.

    Returns:
        Scores, (n_images, n_texts).
    """

    def score(part: Tensor, others: Tensor) -> Tensor:
        return _relate_piece(part, others, weight)

    return in_pieces(images.float(), texts.float(), score, piece) + bias


def in_pieces(
    images: Tensor, texts: Tensor, score: Callable[[Tensor, Tensor], Tensor], piece: int | None = None
) -> Tensor:
    """Put the scores of all pairs together, (n, m), from ``score`` of parts of both sides, (n, width), (m, width)."""
    piece = _PIECE if piece is None else piece
    width = images.shape[1]
    columns = max(1, piece // width)
    rows = max(1, piece // (width * min(columns, max(1, len(texts)))))
    again = torch.is_grad_enabled() and len(images) * len(texts) * width > _KEPT

    def once(part: Tensor, others: Tensor) -> Tensor:
        if again:
            made: Tensor = checkpoint(score, part, others, use_reentrant=False)
            return made
        return score(part, others)

    bands = [torch.cat([once(part, o) for o in texts.split(columns)], dim=1) for part in images.split(rows)]
    return torch.cat(bands)


def _relate_piece(images: Tensor, texts: Tensor, weight: Tensor) -> Tensor:
    return torch.relu_(images[:, None] + texts[None]) @ weight
