"""GVSE: a gate between a similarity that is learned and one over pretrained vectors of rare words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cmr_bench.datamodules.batches import ImageBatch, PairBatch, TextBatch
from cmr_bench.datamodules.split import Split
from cmr_bench.datamodules.texts.words import TokenView
from cmr_bench.datamodules.views import DataSpec
from cmr_bench.models.common.attention import CrossAttention, cross_attention
from cmr_bench.models.common.fragment_module import FragmentModule, words_of
from cmr_bench.models.common.ranking import RankingModule
from cmr_bench.models.encoders.pretrained_words import WordVectors
from cmr_bench.models.encoders.text import WordEncoder
from cmr_bench.models.scoring import Encoded
from cmr_bench.support.errors import DataError, UsageError
from cmr_bench.support.places import path_text

_HEADS = 4


class GVSE(RankingModule, FragmentModule):
    """Gated visual-semantic embedding (Huang, Long and Wang, AAAI 2019), rebuilt from what is public.

    The common similarity ``s_c`` is that of SCAN with words asking, learned from scratch. The uncommon one ``s_u`` is
    the cosine of two vectors: words as frozen pretrained vectors and regions, each with one layer of self-attention,
    then averaged with weights, of words a softmax over their inverse document frequency in training, of regions
    learned. A gate of both similarities and the caption's mean inverse document frequency balances them,
    ``s = g s_c + (1 - g) s_u``. The loss is the hinge of s plus half of that of each alone, summed over the pairs. The
    paper's external resources, relation module and gate are not published; without pretrained vectors there is no
    method, so a run needs some. A word that training has never seen is the unknown word here as elsewhere.

    Args:
        dim: Embedding dimension.
        word_vectors: Pretrained word vectors: a text file of GloVe or word2vec, or a transformers encoder, by name or
            folder, whose input embedding is taken.
        rarity: Factor of the inverse document frequencies in the weights of words; 0 weights all words equally.
        uncommon: Use the uncommon similarity and the gate; else only the common one is left.
    """

    vectors: Tensor
    rareness: Tensor

    def __init__(
        self,
        dim: int = 1024,
        word_vectors: str | Path | None = None,
        rarity: float = 1.0,
        uncommon: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.dim, self.word_vectors, self.rarity, self.uncommon = dim, path_text(word_vectors), rarity, uncommon
        self.how = CrossAttention("t2i", "avg", 9.0, 6.0)

    def build(self, spec: DataSpec) -> None:
        """Make the layers.

        Raises:
            UsageError: If no word vectors are given.
            DataError: If they cannot be read.
        """
        super().build(spec)
        if self.uncommon and not self.word_vectors:
            raise UsageError(
                "--model.word_vectors is missing: gvse needs pretrained word vectors, a GloVe or word2vec text file or "
                "a transformers encoder; without them only --model.uncommon false is left, which is SCAN"
            )
        self.image_layer = nn.Linear(self.region_dim, self.dim)
        nn.init.xavier_uniform_(self.image_layer.weight)
        nn.init.zeros_(self.image_layer.bias)
        self.text_encoder = WordEncoder(spec.text.vocab_size, self.word_dim, self.dim, bidirectional=True, pool="words")
        if not self.uncommon:
            return
        width = WordVectors(str(self.word_vectors)).dim
        self.register_buffer("vectors", torch.zeros(spec.text.vocab_size, width))
        self.register_buffer("rareness", torch.zeros(spec.text.vocab_size))
        self.word_layer, self.uncommon_region_layer = nn.Linear(width, self.dim), nn.Linear(self.region_dim, self.dim)
        self.word_relation, self.region_relation = (
            nn.MultiheadAttention(self.dim, _HEADS, batch_first=True) for _ in range(2)
        )
        self.salience = nn.Linear(self.dim, 1)
        self.gate = nn.Linear(3, 1)

    def prepare_training(self, train: Split) -> None:
        """Look the words up and count in how many training captions each stands."""
        super().prepare_training(train)
        if not self.uncommon:
            return
        view = train.texts
        if not isinstance(view, TokenView):
            raise DataError("gvse looks words up by their spelling, and the texts of this data set are ids only")
        first = self.vectors.shape[0] - len(view.vocabulary.words)
        self.vectors[first:] = WordVectors(str(self.word_vectors)).of(view.vocabulary.words)
        self.rareness.copy_(inverse_document_frequency(view, len(self.rareness)))

    def encode_images(self, images: ImageBatch) -> tuple[Tensor, ...]:
        """Embed regions at unit length, (b, R, dim), with which are real, (b, R), and what is uncommon, (b, dim)."""
        regions, mask = self.embedded_regions(self.image_layer, images)
        common = F.normalize(regions, dim=-1), mask
        if not self.uncommon:
            return common
        nodes, mask = self.embedded_regions(self.uncommon_region_layer, images)
        nodes = related(self.region_relation, nodes, mask)
        salience = self.salience(nodes).squeeze(-1)
        wide = torch.promote_types(salience.dtype, torch.float32)
        weights = salience.to(wide).masked_fill(~mask, -torch.inf).softmax(1)
        return *common, weighted_mean(nodes, weights)

    def encode_texts(self, texts: TextBatch) -> tuple[Tensor, ...]:
        """Embed words at unit length, (b, W, dim), with their number (b,), and add what the uncommon similarity needs.

        That is its vector, (b, dim), and the mean inverse document frequency of the words, (b,).
        """
        tokens, lengths, mask = words_of(texts)
        common = F.normalize(self.text_encoder(tokens, lengths), dim=-1), lengths
        if not self.uncommon:
            return common
        rareness = self.rareness[tokens]
        nodes = related(self.word_relation, self.word_layer(self.vectors[tokens]), mask)
        weights = (self.rarity * rareness).masked_fill(~mask, -torch.inf).softmax(1)
        return *common, weighted_mean(nodes, weights), (rareness * mask).sum(1) / lengths

    def parts(self, images: Encoded, texts: Encoded) -> tuple[Tensor, Tensor, Tensor]:
        """Return the gated, the common and the uncommon similarity, (n_images, n_texts) each."""
        common = cross_attention(images[0], images[1], texts[0], texts[1], self.how)
        if not self.uncommon:
            return common, common, common
        with torch.autocast(common.device.type, enabled=False):
            uncommon = images[2].to(common) @ texts[2].to(common).T
            facts = torch.stack([common, uncommon, texts[3].to(common).expand_as(common)], dim=-1)
            gate = self.gate(facts).squeeze(-1).sigmoid()
            return gate * common + (1 - gate) * uncommon, common, uncommon

    def similarity(self, images: Encoded, texts: Encoded) -> Tensor:
        """Score every image with every text by the gated similarity, (n_images, n_texts)."""
        return self.parts(images, texts)[0]

    def loss(self, batch: PairBatch) -> dict[str, Tensor]:
        """Hinge of the gated similarity and half of that of each alone, summed over the pairs of the batch."""
        images, texts, identity, _ = self.gather(
            self.encode_images(batch.images), self.encode_texts(batch.texts), batch
        )
        gated, common, uncommon = (self.hinge(scores, identity) for scores in self.parts(images, texts))
        if not self.uncommon:
            return {"loss": gated * len(identity), "pair": gated}
        total = gated + 0.5 * (common + uncommon)
        return {"gated": gated, "common": common, "uncommon": uncommon, "loss": total * len(identity), "pair": total}

    def collapse_loss(self) -> float | None:
        """Return the loss per pair when all scores are equal, of three hinges of which two count half."""
        alone = super().collapse_loss()
        return alone if alone is None or not self.uncommon else 2 * alone


def related(layer: nn.Module, nodes: Tensor, mask: Tensor) -> Tensor:
    """Return fragments (b, n, d) with what they hear of the real ones of their item, mask (b, n), added."""
    heard, _ = layer(nodes, nodes, nodes, key_padding_mask=~mask, need_weights=False)
    found: Tensor = nodes + heard
    return found


def weighted_mean(nodes: Tensor, weights: Tensor) -> Tensor:
    """Return the weighted sum of fragments (b, n, d), weights (b, n), at unit length, (b, d)."""
    return F.normalize(torch.einsum("bn,bnd->bd", weights.to(nodes), nodes), dim=-1)


def inverse_document_frequency(view: TokenView, size: int) -> Tensor:
    """Return ``log((1 + n) / (1 + df))`` of every word id, (size,), df of n texts holding the word; 0 for padding."""
    frequency = np.zeros(size)
    starts = view.ids.starts
    for row in range(len(view)):
        frequency[np.unique(view.ids.flat[starts[row] : starts[row + 1]])] += 1
    values = np.log((1 + len(view)) / (1 + frequency))
    values[0] = 0.0
    return torch.from_numpy(values).float()
