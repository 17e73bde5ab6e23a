"""CAMP: gated messages between words and regions, and a classifier that tells whether the fused pair matches."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import SGD, Optimizer

from cmr_bench.datamodules.batches import ImageBatch, PairBatch, TextBatch
from cmr_bench.datamodules.views import DataSpec
from cmr_bench.models.common.fragment_module import FragmentModule, words_of
from cmr_bench.models.common.stages import Groups, Stage, StagedModule, divided
from cmr_bench.models.encoders.text import WordEncoder
from cmr_bench.models.interaction.messages import (
    EVERY,
    ONE_EACH,
    Attention,
    Fusion,
    Kind,
    Pairing,
    Side,
    affinity,
    mean_message_cosine,
    prepare,
    receive,
    widened,
)
from cmr_bench.models.losses import same
from cmr_bench.models.scoring import Encoded
from cmr_bench.support.errors import UsageError

# As in the released program: bound of a cosine in the loss, heads of the summary, optimiser of the later stages.
_LEAST = 1e-6
_HEADS = 4
_MOMENTUM, _WEIGHT_DECAY = 0.9, 1e-4
# Images and texts that meet in a block, and numbers in its largest tensor.
_IMAGES, _TEXTS, _PIECE = 128, 64, {"cpu": 2**20, "other": 2**26}


class CAMP(StagedModule, FragmentModule):
    """Cross-modal adaptive message passing (Wang et al., ICCV 2019), after the released program.

    Regions receive messages made of words and words messages made of regions. A gate, one number per fragment, weighs
    what is fused with the fragment; attention over the fused fragments gives one vector per modality, and two layers
    turn both into the score. Training has three stages: encoders and messages alone, scored by the cosine of the mean
    messages, by Adam; then the fusion and the classifier alone, by SGD; then everything, by SGD. The loss is a binary
    cross-entropy of the pairs, which count twice, and the hardest negative of each image and text, summed over the
    batch. With these alone all scores can become one half; the first epochs of each stage take any negative of the
    batch instead, in turn.

    Padded words take no part in the first stage, where the program averages over them. Later stages rank by the score
    before its sigmoid and take the loss from it, which saturates nowhere; the program clamps. The loss only depends on
    the pairs and on the negatives that are chosen, so all pairs of a batch are scored without gradient first, and
    those that count are scored again.

    Args:
        dim: Embedding dimension of words and regions.
        messages: Messages pass a gate (gated), pass as they are (plain), or are left out (none).
        stages: Epochs of the three stages, in a run of their sum; a run of another length is divided in their ratio. 0
            skips a stage, and without the last two the cosine of the mean messages is the score.
        lr: Learning rate of the first stage, by Adam.
        match_lr: Learning rate of the later stages, by SGD.
        warmup_epochs: Number of first epochs of each stage with any negative of the batch instead of the hardest.
        lr_decay_every: Epochs between decays of the learning rate, counted from the start of each stage; 0 disables.
    """

    def __init__(
        self,
        dim: int = 1024,
        messages: Kind = "gated",
        stages: Sequence[int] = (22, 13, 30),
        lr: float = 1e-3,
        match_lr: float = 1e-2,
        warmup_epochs: int = 1,
        lr_decay_every: int = 10,
        **kwargs: Any,
    ) -> None:
        super().__init__(lr=lr, lr_decay_every=lr_decay_every, **kwargs)
        if len(stages) != 3 or min(stages) < 0 or sum(stages) == 0:
            raise UsageError(f"--model.stages {list(stages)}: pass the epochs of three stages, at least one above 0")
        self.dim, self.messages, self.parts = dim, messages, tuple(stages)
        self.match_lr, self.warmup_epochs = match_lr, warmup_epochs

    def build(self, spec: DataSpec) -> None:
        """Build the layers."""
        super().build(spec)
        self.image_layer = nn.Linear(self.region_dim, self.dim)
        nn.init.xavier_uniform_(self.image_layer.weight)
        nn.init.zeros_(self.image_layer.bias)
        self.text_encoder = WordEncoder(spec.text.vocab_size, self.word_dim, self.dim, bidirectional=True, pool="words")
        self.attention = nn.ModuleDict()
        if self.messages != "none":
            self.attention.update({side: Attention(self.dim) for side in ("images", "texts")})
        self.matching = nn.ModuleDict()
        if self.parts[1] or self.parts[2]:
            self.matching.update({side: Fusion(self.dim, _HEADS, self.messages) for side in ("images", "texts")})
            self.matching["score"] = nn.Sequential(nn.Linear(2 * self.dim, self.dim), nn.ReLU(), nn.Linear(self.dim, 1))
            for layer in self.matching["score"].modules():
                if isinstance(layer, nn.Linear):
                    nn.init.xavier_uniform_(layer.weight)
                    nn.init.zeros_(layer.bias)

    def stages(self) -> tuple[Stage, ...]:
        """Return the three stages."""
        first, second, third = divided(self.parts, self.run_epochs())
        decay = self.lr_decay_every
        encoders = ("image_input", "image_layer", "text_encoder", "attention")
        return (
            Stage("messages", first, self.lr, decay, ("matching",), selectable=False),
            Stage("matching", second, self.match_lr, decay, encoders, self._sgd),
            Stage("everything", third, self.match_lr, decay, optimizer=self._sgd),
        )

    def _sgd(self, groups: Groups) -> Optimizer:
        return SGD(groups, lr=self.match_lr, momentum=_MOMENTUM, nesterov=True, weight_decay=_WEIGHT_DECAY)

    @property
    def matches(self) -> bool:
        """True in the stages that score by the classifier."""
        return int(self.stage_number) > 0

    def encode_images(self, images: ImageBatch) -> tuple[Tensor, Tensor]:
        """Embed regions, (b, R, dim), and return which are real, (b, R)."""
        return self.embedded_regions(self.image_layer, images)

    def encode_texts(self, texts: TextBatch) -> tuple[Tensor, Tensor]:
        """Embed words, (b, W, dim), and return how many there are, (b,)."""
        tokens, lengths, _ = words_of(texts)
        return self.text_encoder(tokens, lengths), lengths

    def prepared_images(self, encoded: Encoded) -> Side:
        """Make what every pair needs of encoded images."""
        regions, mask = encoded
        return prepare(regions, mask, self.attention["images"] if self.attention else None)

    def prepared_texts(self, encoded: Encoded) -> Side:
        """Make what every pair needs of encoded texts."""
        words, lengths = encoded
        there = torch.arange(words.shape[1], device=words.device) < lengths[:, None]
        return prepare(words, there, self.attention["texts"] if self.attention else None)

    def score(self, images: Side, texts: Side, how: Pairing) -> Tensor:
        """Score pairs by the cosine of the mean messages, or in later stages by the classifier, before its sigmoid."""
        with torch.autocast(images.fragments.device.type, enabled=False):
            if not self.matches:
                return mean_message_cosine(images, texts, how)
            messages = receive(images, texts, how, affinity(images, texts, how)) if self.attention else (None, None)
        on_images, on_texts = messages
        of_image = self.matching["images"](images.fragments, images.there, texts.fragments, on_images, how, True)
        of_text = self.matching["texts"](texts.fragments, texts.there, images.fragments, on_texts, how, False)
        both = torch.cat(torch.broadcast_tensors(of_image, of_text), dim=-1)
        logits: Tensor = self.matching["score"](both).squeeze(-1)
        return widened(logits)

    def similarity(self, images: Encoded, texts: Encoded) -> Tensor:
        """Score every image with every text, (n_images, n_texts), in blocks of pairs."""
        (regions, mask), (words, lengths) = images, texts
        order = lengths.argsort(stable=True)
        scores = regions.new_zeros(len(regions), len(words), dtype=torch.promote_types(regions.dtype, torch.float32))
        for start in range(0, len(regions), _IMAGES):
            rows = slice(start, start + _IMAGES)
            side = self.prepared_images((regions[rows], mask[rows]))
            for at in order.split(_TEXTS):
                longest = int(lengths[at].max())
                other = self.prepared_texts((words[at, :longest], lengths[at]))
                for part in self._parts(side, other):
                    block = self.score(side.take(part), other, EVERY)
                    scores[start + part.start : start + part.stop, at] = block.to(scores.dtype)
        return scores

    def _parts(self, images: Side, texts: Side) -> Iterator[slice]:
        """Cut images so that the largest tensor of their pairs with the texts stays small."""
        regions, words = images.there.shape[1], texts.there.shape[1]
        numbers = (regions + words) * (self.dim if self.matches else max(regions, words))
        limit = _PIECE.get(images.fragments.device.type, _PIECE["other"])
        step = max(1, limit // max(1, numbers * len(texts)))
        for start in range(0, len(images), step):
            yield slice(start, min(start + step, len(images)))

    def loss(self, batch: PairBatch) -> dict[str, Tensor]:
        """Return the cross-entropy of the pairs and their hardest negatives, summed over the batch, and per pair."""
        # Several processes keep the gradients of encoders that wait, and cuDNN has none of a GRU that does.
        with torch.set_grad_enabled(torch.is_grad_enabled() and int(self.stage_number) != 1):
            encoded = self.encode_images(batch.images), self.encode_texts(batch.texts)
        images, texts, identity, _ = self.gather(*encoded, batch)
        with torch.no_grad():
            siblings = same(identity)
            ranked = self._in_turn(siblings) if self.warming else self.similarity(images, texts)
            image_rows, text_rows, weights = counted(ranked, siblings)
        first, second = self.prepared_images(images), self.prepared_texts(texts)
        scores = self.score(first.take(image_rows), second.take(text_rows), ONE_EACH)
        pair = matching_loss(scores, weights, self.matches) / len(identity)
        return {"loss": pair * len(identity), "pair": pair}

    @property
    def warming(self) -> bool:
        """True in the first epochs of a stage."""
        return self.epochs_in_stage < self.warmup_epochs

    def _in_turn(self, siblings: Tensor) -> Tensor:
        """Rank the negatives of a batch of b pairs, (b, b), so that each comes first in turn."""
        rows = torch.arange(len(siblings), device=siblings.device)
        apart = (rows[None, :] - rows[:, None] - self.global_step) % len(rows)
        return -apart.to(torch.float32)

    def collapse_loss(self) -> float | None:
        """Return the loss of a pair where every score is one half, which hardest negatives cannot leave."""
        return None if self.warming else 4 * math.log(2)


def counted(scores: Tensor, siblings: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the pairs of a batch that its loss depends on.

    Args:
        scores: Score of every image with every text, (b, b).
        siblings: True for pairs of an image and a text of the same image, which are no negatives, (b, b).

    Returns:
        Rows of the images (p,) and of the texts (p,) of the pairs, and their weights (p,): 2 for the b pairs that
        match, -1 for the hardest negative text of each image and the hardest negative image of each text.
    """
    n = len(scores)
    rows = torch.arange(n, device=scores.device)
    negative = scores.masked_fill(siblings | torch.eye(n, dtype=torch.bool, device=scores.device), -torch.inf)
    texts, images = negative.max(1), negative.max(0)
    has_text, has_image = texts.values > -torch.inf, images.values > -torch.inf
    image_rows = torch.cat([rows, rows[has_text], images.indices[has_image]])
    text_rows = torch.cat([rows, texts.indices[has_text], rows[has_image]])
    weights = scores.new_full((len(image_rows),), -1.0)
    weights[:n] = 2.0
    return image_rows, text_rows, weights


def matching_loss(scores: Tensor, weights: Tensor, logits: bool) -> Tensor:
    """Binary cross-entropy of scored pairs, summed: ``-2 log c`` for one that matches, ``-log(1 - c)`` for another.

    Args:
        scores: Scores, (p,).
        weights: Positive for pairs that match, (p,); the size is the factor of the pair.
        logits: Whether the scores are logits, and c their sigmoid; else c is the score clamped to 1e-6..1 - 1e-6, as in
            the released program, where a score outside has no gradient.
    """
    if logits:
        return (weights.abs() * F.softplus(torch.where(weights > 0, -scores, scores))).sum()
    bounded = scores.clamp(_LEAST, 1 - _LEAST)
    return -(weights.abs() * torch.where(weights > 0, bounded, 1 - bounded).log()).sum()
