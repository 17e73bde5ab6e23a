"""MCITR: an autoencoder across modalities, whose reconstructions are judged by a network of relations."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cmr_bench.datamodules.batches import ImageBatch, PairBatch, TextBatch
from cmr_bench.datamodules.split import Split
from cmr_bench.datamodules.views import DataSpec, Rows, View
from cmr_bench.evaluation.ranks import EmbeddingScores, ScoreSource
from cmr_bench.models.common.feature_module import FeatureModule
from cmr_bench.models.common.stages import Stage, StagedModule, divided
from cmr_bench.models.encoders.inputs import fetch_vectors
from cmr_bench.models.scoring import Encoded
from cmr_bench.support.errors import UsageError

Reconstruction = Literal["relation", "error", "none"]
# Training items among which neighbours are searched, items compared with them at once, and items that tell the scale.
_CANDIDATES, _CHUNK, _SCALE = 20_000, 2_048, 20_000


class MCITR(StagedModule, FeatureModule):
    """Multitask cross-modal image-text retrieval (Luo et al., CIKM 2019), after the released program.

    Training has up to three stages. First a network of relations learns to tell an image and a text that belong
    together from others; what belongs together is a neighbour of the image and a neighbour of its text, of the
    features of the training split. Then it is frozen, and encoders of both sides are trained: codes of a pair agree,
    the image decoded from the text's code and the text decoded from the image's have to pass for related, and the
    cosines of the codes in a batch have to vary. A third stage, left out by default, makes binary codes that keep the
    cosines.

    The program reads bags of tags; here any vector is divided by its standard deviation over all entries and passes a
    hyperbolic tangent, as images do in the program, and both decoders end in one. Neighbours are searched among at
    most 20,000 evenly spaced training items. In the second stage the dropout of the relation network is off, as in
    the program's file for MSCOCO.

    Args:
        hidden: Hidden dimension of every network.
        code_dim: Dimension of the codes.
        bits: Length of the binary codes of the third stage.
        neighbours: Number of nearest training items, itself included, of which one stands for an item in the first
            stage.
        reconstruction: Judge reconstructions by the relation network (relation) or by squared error (error), or leave
            them out (none); the last two skip the first stage.
        variance: Variance of the cosines of a batch below which it is penalised.
        variance_weight: Weight of that penalty; 0 disables it.
        dropout: Dropout probability before the last layer of the relation network.
        input_dropout: Dropout probability of features and reconstructions.
        stages: Epochs of the relation network, the autoencoder and the binary codes, in a run of their sum; a run of
            another length is divided in their ratio. 0 skips a stage.
        lr: Learning rate.
    """

    image_views = ("vector", "regions")
    text_views = ("vector",)
    betas = (0.5, 0.9)

    def __init__(
        self,
        hidden: int = 1024,
        code_dim: int = 64,
        bits: int = 64,
        neighbours: int = 3,
        reconstruction: Reconstruction = "relation",
        variance: float = 0.04,
        variance_weight: float = 100.0,
        dropout: float = 0.5,
        input_dropout: float = 0.5,
        stages: Sequence[int] = (10, 50, 0),
        lr: float = 1e-4,
        **kwargs: Any,
    ) -> None:
        super().__init__(lr=lr, **kwargs)
        if len(stages) != 3 or min(stages) < 0 or stages[1] == 0:
            raise UsageError(f"--model.stages {list(stages)}: pass the epochs of three stages, of which the second > 0")
        if neighbours < 1:
            raise UsageError(f"--model.neighbours {neighbours}: at least 1, the item itself")
        self.hidden, self.code_dim, self.bits, self.neighbours = hidden, code_dim, bits, neighbours
        self.reconstruction, self.variance, self.variance_weight = reconstruction, variance, variance_weight
        self.dropout, self.input_dropout = dropout, input_dropout
        self.parts = (stages[0] if reconstruction == "relation" else 0, *stages[1:])
        self.register_buffer("deviations", torch.ones(2))
        self._train: Split | None = None
        self._identities: Rows = np.zeros(0, dtype=np.int64)
        self._near: tuple[Rows, Rows] | None = None

    deviations: Tensor

    def build(self, spec: DataSpec) -> None:
        """Build the layers."""
        super().build(spec)
        if self.reconstruction == "relation":
            self.relation = Relation(self.image_dim, self.text_dim, self.hidden, self.dropout)
        self.coders = nn.ModuleDict(
            {
                "images": _tanh_layers(self.image_dim, self.hidden, self.hidden, self.code_dim),
                "texts": _tanh_layers(self.text_dim, self.hidden, self.hidden, self.code_dim),
            }
        )
        if self.reconstruction != "none":
            self.coders["to_images"] = self._decoder(self.image_dim)
            self.coders["to_texts"] = self._decoder(self.text_dim)
        if self.parts[2]:
            self.binary = _tanh_layers(self.code_dim, self.hidden, self.hidden, self.bits)

    def _decoder(self, width: int) -> nn.Module:
        return nn.Sequential(
            nn.Linear(self.code_dim, self.hidden),
            nn.Linear(self.hidden, self.hidden),
            nn.Linear(self.hidden, width),
            nn.Tanh(),
        )

    def stages(self) -> tuple[Stage, ...]:
        """Return the stages of the relation network, the autoencoder and the binary codes."""
        first, second, third = divided(self.parts, self.run_epochs())
        relation = ("relation",) if self.reconstruction == "relation" else ()
        binary = ("binary",) if self.parts[2] else ()
        decay = self.lr_decay_every
        return (
            Stage("relation", first, self.lr, decay, ("coders", *binary), selectable=False),
            Stage("autoencoder", second, self.lr, decay, (*relation, *binary), selectable=not binary),
            Stage("binary", third, self.lr, decay, (*relation, "coders")),
        )

    @property
    def hashes(self) -> bool:
        """True in the stage of the binary codes."""
        return int(self.stage_number) == 2

    def prepare_training(self, train: Split) -> None:
        """Learn the scale of the features, and find the neighbours of every training item."""
        super().prepare_training(train)
        assert train.images is not None
        assert train.texts is not None
        self._train, self._identities = train, train.identities
        views = ((train.images, self.image_scale), (train.texts, self.text_scale))
        scales = [_scaled(view, scale, _spaced(len(view), _SCALE)).double().std(correction=0) for view, scale in views]
        self.deviations.copy_(torch.stack(scales).clamp_min(1e-8))
        if self.parts[0]:
            first, second = (
                nearest(_Source(view, scale), self.neighbours, deviation)
                for (view, scale), deviation in zip(views, self.deviations.tolist(), strict=True)
            )
            self._near = first, second

    def squashed(self, features: Tensor, side: int) -> Tensor:
        """Return features (b, d) of images (side 0) or texts (side 1) as entries between -1 and 1."""
        return torch.tanh(features / self.deviations[side])

    def _drop(self, values: Tensor) -> Tensor:
        return F.dropout(values, self.input_dropout, self.training and not self.hashes)

    def encode_images(self, images: ImageBatch) -> Tensor:
        """Return the codes of images, (b, code_dim), or in the third stage (b, bits), before they are binary."""
        return self._code(self.squashed(self.image_features(images), 0), "images")

    def encode_texts(self, texts: TextBatch) -> Tensor:
        """Return the codes of texts, (b, code_dim), or in the third stage (b, bits), before they are binary."""
        return self._code(self.squashed(self.text_features(texts), 1), "texts")

    def _code(self, values: Tensor, side: str) -> Tensor:
        codes: Tensor = self.coders[side](self._drop(values))
        return self.binary(codes) if self.hashes else codes

    def similarity(self, images: Encoded, texts: Encoded) -> Tensor:
        """Score by cosine, or in the third stage by the number of equal minus different bits, (n_images, n_texts)."""
        if not self.hashes:
            return super().similarity(images, texts)
        assert isinstance(images, Tensor)
        assert isinstance(texts, Tensor)
        return signs(images) @ signs(texts).T

    def scores(self, images: Encoded, texts: Encoded) -> ScoreSource:
        """Return the score source of all codes: both similarities are inner products of precomputed vectors."""
        assert isinstance(images, Tensor)
        assert isinstance(texts, Tensor)
        if self.hashes:
            return EmbeddingScores(signs(images), signs(texts), normalize=False, device=self.device)
        return EmbeddingScores(images.float(), texts.float(), normalize=True, device=self.device)

    def loss(self, batch: PairBatch) -> dict[str, Tensor]:
        """Return the loss of the stage and its terms."""
        if int(self.stage_number) == 0 and self.parts[0]:
            return self.relation_loss(batch)
        x = self.squashed(self.image_features(batch.images), 0)
        y = self.squashed(self.text_features(batch.texts), 1)
        coded = self.coders["images"](self._drop(x)), self.coders["texts"](self._drop(y))
        (u, x), (v, y), _, _ = self.gather((coded[0], x), (coded[1], y), batch)
        if self.hashes:
            middle = ((u + v) / 2).detach()
            return {"loss": code_error(self.binary(middle), middle)}
        terms = {"agreement": (u - v).square().mean()}
        if self.reconstruction != "none":
            terms |= self._reconstruction_terms(u, v, x, y)
        total = torch.stack(list(terms.values())).sum()
        if self.variance_weight:
            terms["variance"] = variance_penalty((u + v) / 2, self.variance)
            total = total + self.variance_weight * terms["variance"]
        return terms | {"loss": total}

    def _reconstruction_terms(self, u: Tensor, v: Tensor, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        images, texts = self.coders["to_images"](v), self.coders["to_texts"](u)
        if self.reconstruction == "error":
            return {"images": (images - x).square().mean(), "texts": (texts - y).square().mean()}
        return {
            "images": F.softplus(-self.relation(self._drop(images), y)).mean(),
            "texts": F.softplus(-self.relation(x, self._drop(texts))).mean(),
        }

    def relation_loss(self, batch: PairBatch) -> dict[str, Tensor]:
        """Return the cross-entropy of relations between neighbours of pairs, and between texts of other images."""
        images, texts, _, _ = self.gather(batch.images.rows, batch.texts.rows, batch)
        assert isinstance(images, Tensor)
        assert isinstance(texts, Tensor)
        assert self._train is not None
        assert self._near is not None
        # The same draws in every process, and again after a resume.
        random = np.random.default_rng([self.global_step, len(images), int(images[0]), int(texts[0])])
        image_rows, text_rows, other_rows = draw(
            images.cpu().numpy(),
            texts.cpu().numpy(),
            *self._near,
            self._train.image_of_text,
            self._identities,
            random,
        )
        assert self._train.images is not None
        assert self._train.texts is not None
        x = self._drop(self._read(self._train.images, self.image_scale, image_rows, 0))
        positive = self.relation(x, self._drop(self._read(self._train.texts, self.text_scale, text_rows, 1)))
        loss = F.softplus(-positive).mean()
        if len(other_rows):
            other = self._drop(self._read(self._train.texts, self.text_scale, other_rows, 1))
            loss = loss + F.softplus(self.relation(x, other)).mean()
        return {"loss": loss}

    def _read(self, view: View, scale: nn.Module, rows: Rows, side: int) -> Tensor:
        features: Tensor = scale(fetch_vectors(view, rows).to(self.device))
        return self.squashed(features, side)


class Relation(nn.Module):
    """Tells how likely an image and a text belong together, from the product of two layers of either.

    Args:
        image_dim: Dimension of the images.
        text_dim: Dimension of the texts.
        hidden: Dimension of the layers.
        dropout: Dropout probability of the product.
    """

    def __init__(self, image_dim: int, text_dim: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.images, self.texts = (_tanh_layers(width, hidden, hidden) for width in (image_dim, text_dim))
        self.last = nn.Sequential(nn.Dropout(dropout), nn.Linear(hidden, 1))

    def forward(self, images: Tensor, texts: Tensor) -> Tensor:
        """Return the logit of every pair of row i and row i, (b,)."""
        logits: Tensor = self.last(self.images(images) * self.texts(texts)).squeeze(-1)
        return logits.float()


class _Source:
    """Scaled features of a view, read by rows."""

    def __init__(self, view: View, scale: nn.Module) -> None:
        self.view, self.scale = view, scale

    def __len__(self) -> int:
        return len(self.view)

    def __getitem__(self, rows: Rows) -> Tensor:
        return _scaled(self.view, self.scale, rows)


def _scaled(view: View, scale: nn.Module, rows: Rows) -> Tensor:
    with torch.no_grad():
        values: Tensor = scale.cpu()(fetch_vectors(view, rows))
    return values


def _spaced(n: int, most: int) -> Rows:
    return np.unique(np.linspace(0, n - 1, min(n, most)).astype(np.int64))


def _tanh_layers(*widths: int) -> nn.Sequential:
    return nn.Sequential(*(layer for a, b in pairwise(widths) for layer in (nn.Linear(a, b), nn.Tanh())))


def signs(codes: Tensor) -> Tensor:
    """Return -1 or 1 for every entry of codes, (n, bits) as float32; 0 counts as positive."""
    return torch.where(codes < 0, -1.0, 1.0)


def nearest(features: Any, k: int, deviation: float) -> Rows:
    """Find the nearest training items of every item, itself included where it is a candidate.

    Args:
        features: Features by rows, with a length.
        k: Number of neighbours; fewer where there are fewer candidates.
        deviation: The features are divided by it and pass a hyperbolic tangent before they are compared.

    Returns:
        Rows of the neighbours by Euclidean distance, the nearest first, (n, k).
    """
    candidates = _spaced(len(features), _CANDIDATES)
    others = torch.tanh(features[candidates] / deviation)
    squares = others.square().sum(1)
    found = []
    for start in range(0, len(features), _CHUNK):
        rows = np.arange(start, min(start + _CHUNK, len(features)))
        distances = squares - 2 * torch.tanh(features[rows] / deviation) @ others.T
        found.append(distances.topk(min(k, len(candidates)), dim=1, largest=False).indices.numpy())
    return np.asarray(candidates[np.concatenate(found)])


def draw(
    images: Rows,
    texts: Rows,
    near_images: Rows,
    near_texts: Rows,
    image_of_text: Rows,
    identities: Rows,
    random: np.random.Generator,
) -> tuple[Rows, Rows, Rows]:
    """Draw the pairs of the first stage for a batch of pairs.

    Args:
        images: Rows of the images of the batch, (b,).
        texts: Rows of its texts, (b,).
        near_images: Neighbours of every training image, (n_images, k).
        near_texts: Neighbours of every training text, (n_texts, k).
        image_of_text: Image of every training text, (n_texts,).
        identities: Identity of every training image, (n_images,).
        random: Source of the draws.

    Returns:
        Rows of the images of both kinds of pairs (b,), of the texts that are related to them (b,), and of texts that
        are not (b,): those of images that are neither in the batch nor a neighbour of it nor have a text that is one,
        nor share their identity with such an image. Where there are none, neighbours may be among them but no text of
        these images or those of the batch; where there are still none, the last is empty.
    """
    n = len(images)
    columns = random.integers(near_images.shape[1], size=n), random.integers(near_texts.shape[1], size=n)
    image_rows, text_rows = near_images[images, columns[0]], near_texts[texts, columns[1]]
    wide = (images, near_images[images].ravel(), image_of_text[near_texts[texts].ravel()])
    for excluded in (np.concatenate(wide), np.concatenate([images, image_rows])):
        left = np.flatnonzero(~np.isin(identities[image_of_text], identities[excluded]))
        if len(left):
            return image_rows, text_rows, random.choice(left, n)
    return image_rows, text_rows, left


def variance_penalty(codes: Tensor, least: float) -> Tensor:
    """Square of what the variance of all cosines of a batch, each item with itself included, lacks to ``least``."""
    unit = F.normalize(codes.float(), dim=1)
    return (least - (unit @ unit.T).var(correction=0)).clamp(0, least).square()


def code_error(codes: Tensor, middle: Tensor) -> Tensor:
    """Mean squared difference of the similarities of binary codes from those of the codes that they stand for.

    Cosines of ``middle`` (b, d) are stretched about 1 so that the mean of the smallest of each item becomes -1, and cut
    off below; those of ``codes`` (b, bits) are inner products over the number of bits.
    """
    unit = F.normalize(middle.float(), dim=1)
    target = unit @ unit.T
    span = (1 - target.amin(1).mean()).clamp_min(1e-6)
    target = (1 - 2 * (1 - target) / span).clamp(-1, 1)
    return (codes.float() @ codes.float().T / codes.shape[1] - target).square().mean()
