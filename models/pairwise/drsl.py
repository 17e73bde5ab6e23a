"""Deep relational similarity learning."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from cmr_bench.datamodules.batches import ImageBatch, PairBatch, TextBatch
from cmr_bench.datamodules.views import DataSpec
from cmr_bench.models.common.feature_module import LabelledFeatureModule
from cmr_bench.models.encoders.inputs import hidden_layer
from cmr_bench.models.encoders.text import WordEncoder
from cmr_bench.models.losses import full_precision, relation_error, same
from cmr_bench.models.scoring import Encoded

# Hidden values computed at once; a chunk of this size (4 MB) fits the cache of one processor core.
_PIECE = 2**20
# Hidden values kept for the backward pass; beyond that they are recomputed.
_KEPT = 2**26


class DRSL(LabelledFeatureModule):
    """Deep relational similarity learning (Wang et al., Information Sciences 2021): a network scores every pair.

    Each modality has two layers; the relation network reads both features concatenated. Items are ranked by its logit:
    the order is that of the sigmoid, without the ties of saturation. Its first layer is the
    sum of an image part and a text part, so items are encoded as these two halves and a pair costs one
    addition per hidden unit.

    Args:
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
        self.hidden, self.dim, self.relation_dim, self.balanced = hidden, dim, relation, balanced
        self.dropout, self.input_dropout = dropout, input_dropout

    def words(self, vocab_size: int) -> WordEncoder:
        """Encode words with a GRU, whose last state is the feature."""
        return WordEncoder(vocab_size, self.word_dim, self.hidden)

    def build(self, spec: DataSpec) -> None:
        """Build the layers."""
        super().build(spec)
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
        return nn.functional.linear(features, self.relation.weight[:, : self.dim], self.relation.bias)

    def encode_texts(self, texts: TextBatch) -> Tensor:
        """Return the text halves of the relation network's first layer, (b, relation)."""
        features = self.text_net(self.text_features(texts))
        return nn.functional.linear(features, self.relation.weight[:, self.dim :])

    def similarity(self, images: Encoded, texts: Encoded) -> Tensor:
        """Score every image with every text by the relation network, before its sigmoid, (n_images, n_texts)."""
        assert isinstance(images, Tensor)
        assert isinstance(texts, Tensor)
        return relate(images, texts, self.score.weight[0], self.score.bias)

    def loss(self, batch: PairBatch) -> dict[str, Tensor]:
        """Squared error of the relation of every pair of the batch."""
        images, texts, labels = self.gather_labelled(
            self.encode_images(batch.images), self.encode_texts(batch.texts), batch
        )
        match = same(labels)
        return {"loss": relation_error(self.similarity(images, texts), match, self.balanced)}


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
    images, texts = images.float(), texts.float()
    width = images.shape[1]
    columns = max(1, piece // width)
    rows = max(1, piece // (width * min(columns, max(1, len(texts)))))
    again = torch.is_grad_enabled() and len(images) * len(texts) * width > _KEPT

    def score(part: Tensor, others: Tensor) -> Tensor:
        if again:
            made: Tensor = checkpoint(_relate_piece, part, others, weight, use_reentrant=False)
            return made
        return _relate_piece(part, others, weight)

    bands = [torch.cat([score(part, o) for o in texts.split(columns)], dim=1) for part in images.split(rows)]
    return torch.cat(bands) + bias


def _relate_piece(images: Tensor, texts: Tensor, weight: Tensor) -> Tensor:
    return torch.relu_(images[:, None] + texts[None]) @ weight
