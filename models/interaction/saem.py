"""SAEM: a transformer layer over regions, convolutions over contextual words, and an angular loss beside the hinge."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cmr_bench.datamodules.batches import ImageBatch, PairBatch, TextBatch
from cmr_bench.datamodules.views import DataSpec, ViewKind
from cmr_bench.models.common.fragment_module import FragmentModule, words_of
from cmr_bench.models.common.ranking import RankingModule
from cmr_bench.models.encoders.inputs import pool_regions
from cmr_bench.models.encoders.text import pretrained
from cmr_bench.models.losses import frobenius, same


class SAEM(RankingModule, FragmentModule):
    """Self-attention embeddings (Wu et al., ACM MM 2019), after the released program.

    Two encoders that do not see each other: one transformer layer over the regions, averaged; and convolutions over
    one, two and three neighbouring states of a frozen BERT, their largest responses. To the hinge come an angular loss,
    whose weight falls with the epochs, and the sum of the norms of the image encoder's weight matrices. Ours keeps
    BERT's dropout off, as it is not trained, and gives no response to windows that reach into the padding; captions of
    the same image are no negatives. Words in place of subwords have learned embeddings.

    Args:
        dim: Embedding dimension, a multiple of ``heads``.
        heads: Attention heads of the transformer layer.
        feed_forward: Hidden units of its feed-forward network.
        filters: Filters of each of the three convolutions.
        dropout: Dropout probability of the transformer layer and of the text's pooled responses.
        angular: Weight of the angular loss in the first epochs; 0 switches it off.
        angular_decay_every: Epochs after which that weight falls to a tenth; after four times as many it is 0.
        norms: Weight of the sum of the norms of the image encoder's weight matrices.
        bert: Transformers encoder for subwords, a name on the Hugging Face hub or a local folder.
        text_view: View of the texts: subwords or tokens.
    """

    text_views = ("subwords", "tokens")

    def __init__(
        self,
        dim: int = 256,
        heads: int = 16,
        feed_forward: int = 2048,
        filters: int = 512,
        dropout: float = 0.1,
        angular: float = 0.5,
        angular_decay_every: int = 5,
        norms: float = 0.01,
        bert: str = "bert-base-uncased",
        lr: float = 1e-4,
        text_view: ViewKind = "subwords",
        **kwargs: Any,
    ) -> None:
        super().__init__(lr=lr, text_view=text_view, **kwargs)
        self.dim, self.heads, self.feed_forward, self.filters = dim, heads, feed_forward, filters
        self.dropout, self.norms, self.bert = dropout, norms, bert
        self.angular, self.angular_decay_every = angular, angular_decay_every

    @property
    def tokenizer(self) -> str | None:
        """Tokenizer of the subwords."""
        return self.bert if self.text_view == "subwords" else None

    def build(self, spec: DataSpec) -> None:
        """Make the layers."""
        super().build(spec)
        self.image_layer = nn.Linear(self.region_dim, self.dim)
        self.image_attention = nn.TransformerEncoderLayer(
            self.dim,
            self.heads,
            self.feed_forward,
            self.dropout,
            activation="gelu",
            layer_norm_eps=1e-12,
            batch_first=True,
        )
        if spec.text.kind == "subwords":
            self.text_encoder, width = pretrained(self.bert, spec.text.shape[0])
        else:
            self.text_encoder, width = nn.Embedding(spec.text.vocab_size, self.word_dim, padding_idx=0), self.word_dim
        self.convolutions = nn.ModuleList(nn.Conv1d(width, self.filters, size) for size in (1, 2, 3))
        self.text_layer = nn.Sequential(nn.Dropout(self.dropout), nn.Linear(3 * self.filters, self.dim))

    def encode_images(self, images: ImageBatch) -> Tensor:
        """Embed images at unit length, (b, dim)."""
        regions, mask = self.embedded_regions(self.image_layer, images)
        return F.normalize(pool_regions(self.image_attention(regions, src_key_padding_mask=~mask), mask), dim=1)

    def encode_texts(self, texts: TextBatch) -> Tensor:
        """Embed texts at unit length, (b, dim)."""
        if texts.tokens is None:
            assert texts.attention_mask is not None
            states = self.text_encoder(input_ids=texts.input_ids, attention_mask=texts.attention_mask)
            features, lengths = states.last_hidden_state, texts.attention_mask.sum(1)
        else:
            tokens, lengths, _ = words_of(texts)
            features = self.text_encoder(tokens)
        pooled = [largest_response(convolution, features, lengths) for convolution in self.convolutions]
        return F.normalize(self.text_layer(torch.cat(pooled, dim=1)), dim=1)

    def loss(self, batch: PairBatch) -> dict[str, Tensor]:
        """Hinge, weighted angular loss and norms, the first two summed over the pairs of the batch."""
        images, texts, identity, _ = self.gather(
            self.encode_images(batch.images), self.encode_texts(batch.texts), batch
        )
        assert isinstance(images, Tensor)
        assert isinstance(texts, Tensor)
        pair, n_pairs = self.hinge(images @ texts.T, identity), len(identity)
        terms = {"hinge": pair * n_pairs, "pair": pair}
        total = terms["hinge"]
        if weight := self.angular_weight(self.current_epoch):
            terms["angular"] = angular_loss(images, texts, same(identity))
            total = total + weight * terms["angular"]
        if self.norms:
            image_layers = (self.image_layer, self.image_attention)
            terms["norms"] = frobenius(p for layer in image_layers for p in layer.parameters() if p.ndim == 2)
            total = total + self.norms * terms["norms"]
        return terms | {"loss": total}

    def angular_weight(self, epoch: int) -> float:
        """Return the weight of the angular loss in an epoch."""
        falls = epoch // self.angular_decay_every
        return self.angular * 0.1**falls if epoch <= 4 * self.angular_decay_every else 0.0


def largest_response(convolution: nn.Module, features: Tensor, lengths: Tensor) -> Tensor:
    """Return the largest rectified response of each filter over the windows of real words, (b, filters).

    Args:
        convolution: Filters over neighbouring words.
        features: Word features, (b, W, d).
        lengths: Real words of each text, (b,). A text shorter than the window is read with zeros after its end.
    """
    assert isinstance(convolution, nn.Conv1d)
    size = convolution.kernel_size[0]
    places = torch.arange(features.shape[1], device=features.device)
    features = features * (places < lengths[:, None]).unsqueeze(-1)
    responses: Tensor = convolution(F.pad(features, (0, 0, 0, size - 1)).transpose(1, 2)).relu()
    inside = places <= (lengths - size).clamp(min=0)[:, None]
    return responses.masked_fill(~inside[:, None], 0.0).amax(2)


def angular_loss(images: Tensor, texts: Tensor, siblings: Tensor) -> Tensor:
    """Angular loss of pairs at unit length (b, d) each, both ways, summed over the pairs (tan of the angle is 1).

    The image side costs ``log(1 + exp(max_j x_ij))`` with ``x_ij = 4 (i_i . t_j + t_i . t_j) - 4 i_i . t_i`` over the
    texts j of other images (Wu et al., SAEM, ACM MM 2019, after Wang et al., ICCV 2017); the other exchanges the sides.

    Args:
        images: Images.
        texts: Texts.
        siblings: True for pairs of the same image, (b, b).
    """
    images, texts = images.float(), texts.float()
    cross = images @ texts.T
    own = cross.diagonal()[:, None]
    others = ~(siblings | torch.eye(len(cross), dtype=torch.bool, device=cross.device))
    total = images.new_zeros(())
    for scores, within in ((cross, texts @ texts.T), (cross.T, images @ images.T)):
        worst = (4 * (scores + within) - 4 * own).masked_fill(~others, -torch.inf).amax(1)
        total = total + F.softplus(worst[others.any(1)]).sum()
    return total
