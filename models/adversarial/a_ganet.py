"""A-GANet: graph attention over regions and over words, matched against an adversary."""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cmr_bench.datamodules.batches import ImageBatch, PairBatch, TextBatch
from cmr_bench.datamodules.views import DataSpec
from cmr_bench.models.adversarial.modality import AdversarialModule
from cmr_bench.models.common.fragment_module import FragmentModule, words_of
from cmr_bench.models.encoders.inputs import normalise, pool_regions
from cmr_bench.models.encoders.text import WordEncoder
from cmr_bench.models.losses import class_shares, norm_softmax, projection_matching, same

# Words at most this far apart are neighbours: there is no parser here that would make a scene graph of a sentence.
_REACH = 2


class GraphAttention(nn.Module):
    """One layer of graph attention with several heads (Velickovic et al., ICLR 2018, equations 1 to 5).

    Args:
        dim: Width of the nodes.
        hidden: Width of the output, a multiple of ``heads``.
        heads: Number of heads, whose outputs are concatenated.
    """

    def __init__(self, dim: int, hidden: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.layer = nn.Linear(dim, hidden, bias=False)
        self.own, self.other = (nn.Parameter(torch.empty(heads, hidden // heads)) for _ in range(2))
        for vector in (self.own, self.other):
            nn.init.xavier_uniform_(vector)

    def forward(self, nodes: Tensor, edges: Tensor) -> Tensor:
        """Attend to neighbours.

        Args:
            nodes: Nodes, (b, n, dim).
            edges: True where node i hears node j, (b, n, n); every node hears itself.

        Returns:
            Nodes, (b, n, hidden).
        """
        values = self.layer(nodes).unflatten(-1, (self.heads, -1))
        own, other = (torch.einsum("bnhd,hd->bhn", values, vector) for vector in (self.own, self.other))
        scores = F.leaky_relu(own.unsqueeze(-1) + other.unsqueeze(-2), 0.2).float()
        weights = scores.masked_fill(~edges[:, None], -torch.inf).softmax(-1).to(values)
        return F.elu(torch.einsum("bhij,bjhd->bihd", weights, values).flatten(-2))


class AGANet(AdversarialModule, FragmentModule):
    """Deep adversarial graph attention convolution network (Liu et al., ACM MM 2019), rebuilt from what is public.

    Two layers of graph attention over the regions of an image, each joined with the regions nearest to it, and two over
    the states of a BiLSTM, each joined with the words around it. The image feature is the mean node beside the mean
    region, the text feature the largest values of the nodes; a linear layer a side maps them into the common space,
    normalised by the batch. The losses are those of timam: projection matching, identification, and a modality
    discriminator whose gradient comes back reversed. The paper parses scene graphs of images and sentences; its parser,
    widths and losses are not published.

    Args:
        hidden: Width of the graph layers, a multiple of ``heads``, and of the states of the BiLSTM, both directions.
        dim: Embedding dimension.
        heads: Attention heads of the graph layers.
        nearest: Regions that a region is joined with, by the distance of the centres of their boxes; 0 for all.
        graph: Sides with graph attention: both, the image's alone, or none, which leaves timam's encoders over regions.
        discriminator: Hidden units of the modality discriminator.
        adversarial_weight: Factor of the discriminator's reversed gradient.
        dropout: Dropout probability of the word embeddings and of the pooled features.
    """

    def __init__(
        self,
        hidden: int = 512,
        dim: int = 512,
        heads: int = 4,
        nearest: int = 8,
        graph: Literal["both", "image", "none"] = "both",
        discriminator: int = 256,
        adversarial_weight: float = 0.1,
        dropout: float = 0.3,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.hidden, self.dim, self.heads, self.nearest, self.graph = hidden, dim, heads, nearest, graph
        self.discriminator_dim, self.adversarial_weight, self.dropout = discriminator, adversarial_weight, dropout

    @property
    def reversal(self) -> float:
        """The weight of the adversarial term."""
        return self.adversarial_weight

    def build(self, spec: DataSpec) -> None:
        """Make the layers."""
        super().build(spec)
        self.text_encoder = WordEncoder(
            spec.text.vocab_size,
            self.word_dim,
            self.hidden // 2,
            bidirectional=True,
            pool="words",
            dropout=self.dropout,
            cell="lstm",
            merge="concatenate",
        )
        image_width = self.region_dim
        if self.graph != "none":
            self.image_graph = self._layers(self.region_dim)
            image_width += self.hidden
        if self.graph == "both":
            self.text_graph = self._layers(2 * (self.hidden // 2))
        text_width = self.hidden if self.graph == "both" else 2 * (self.hidden // 2)
        # No bias: the batch normalisation would take it away again.
        self.image_layer = nn.Sequential(nn.Dropout(self.dropout), nn.Linear(image_width, self.dim, bias=False))
        self.text_layer = nn.Sequential(nn.Dropout(self.dropout), nn.Linear(text_width, self.dim, bias=False))
        self.image_norm, self.text_norm = nn.BatchNorm1d(self.dim), nn.BatchNorm1d(self.dim)
        self.classes = self.class_vectors(self.dim)
        self.discriminate_with(self.dim, [self.discriminator_dim])

    def _layers(self, width: int) -> nn.ModuleList:
        return nn.ModuleList(GraphAttention(before, self.hidden, self.heads) for before in (width, self.hidden))

    def image_vectors(self, images: ImageBatch) -> Tensor:
        """Return image features before they are normalised by the batch, (b, dim)."""
        regions, mask = self.regions_of(images)
        pooled = [pool_regions(regions, mask)]
        if self.graph != "none":
            edges = nearest_boxes(self.boxes_of(images, regions), mask, self.nearest)
            nodes = regions
            for layer in self.image_graph:
                nodes = layer(nodes, edges)
            pooled.append(pool_regions(nodes, mask))
        vectors: Tensor = self.image_layer(torch.cat(pooled, dim=1))
        return vectors

    def text_vectors(self, texts: TextBatch) -> Tensor:
        """Return text features before they are normalised by the batch, (b, dim)."""
        tokens, lengths, mask = words_of(texts)
        nodes = self.text_encoder(tokens, lengths)
        if self.graph == "both":
            edges = near_words(mask, _REACH)
            for layer in self.text_graph:
                nodes = layer(nodes, edges)
        vectors: Tensor = self.text_layer(nodes.masked_fill(~mask.unsqueeze(-1), -torch.inf).amax(1))
        return vectors

    def encode_images(self, images: ImageBatch) -> Tensor:
        """Embed images, (b, dim)."""
        return normalise(self.image_norm, self.image_vectors(images))

    def encode_texts(self, texts: TextBatch) -> Tensor:
        """Embed texts, (b, dim)."""
        return normalise(self.text_norm, self.text_vectors(texts))

    def loss(self, batch: PairBatch) -> dict[str, Tensor]:
        """Sum of matching, identification and the adversarial term."""
        # Gathered before they are normalised, so that the statistics are those of the global batch.
        raw_images, raw_texts, labels = self.gather_labelled(
            self.image_vectors(batch.images), self.text_vectors(batch.texts), batch
        )
        images, texts = normalise(self.image_norm, raw_images), normalise(self.text_norm, raw_texts)
        targets = class_shares(labels)
        terms = {
            "matching": projection_matching(images, texts, same(labels)),
            "identification": norm_softmax(images, self.classes, targets) + norm_softmax(texts, self.classes, targets),
        }
        if self.adversarial:
            terms["discriminator"] = self.adversarial_loss(images, texts)
        return terms | {"loss": torch.stack(list(terms.values())).sum()}


def nearest_boxes(boxes: Tensor, mask: Tensor, nearest: int) -> Tensor:
    """Join every region with itself and with the regions whose boxes' centres are nearest.

    Args:
        boxes: Boxes as fractions x0, y0, x1, y1, (b, R, 4).
        mask: True for real regions, (b, R).
        nearest: Number of regions that each is joined with; 0 for all. As near as the last of them counts too, so that
            the order of the regions does not matter.

    Returns:
        True where region i hears region j, (b, R, R). Padding hears itself only and nobody hears it.
    """
    n_regions = boxes.shape[1]
    own = torch.eye(n_regions, dtype=torch.bool, device=boxes.device)
    real = mask.unsqueeze(1) & mask.unsqueeze(2)
    if not nearest or nearest >= n_regions:
        return real | own
    centres = (boxes[..., :2] + boxes[..., 2:]).double() / 2
    # Rounded, as cells that are equally far differ in the last bits.
    distance = torch.cdist(centres, centres, compute_mode="donot_use_mm_for_euclid_dist").round(decimals=6)
    distance = distance.masked_fill(~real | own, torch.inf)
    last = distance.kthvalue(nearest, dim=2, keepdim=True).values
    return ((distance <= last) & real) | own


def near_words(mask: Tensor, reach: int) -> Tensor:
    """Join every word with those at most ``reach`` places away: True where word i hears word j, (b, W, W)."""
    places = torch.arange(mask.shape[1], device=mask.device)
    close = (places[:, None] - places[None, :]).abs() <= reach
    own = torch.eye(mask.shape[1], dtype=torch.bool, device=mask.device)
    return (close & mask.unsqueeze(1) & mask.unsqueeze(2)) | own
