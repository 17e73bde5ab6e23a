"""Shared by methods with a hinge ranking loss: the choice of negatives, and a warm-up that avoids collapse."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from cmr_bench.datamodules.batches import PairBatch
from cmr_bench.models.base import RetrievalModule
from cmr_bench.models.losses import Negatives, hinge_ranking, same
from cmr_bench.support.errors import UsageError


class RankingModule(RetrievalModule):
    """A method trained by the hinge ranking loss of its scores (Faghri et al., VSE++, BMVC 2018, equations 5 and 6).

    Images and texts of one identity, such as the captions of one image, are never negatives of each other. The hardest
    negative alone can collapse all embeddings to one point, where the loss per pair stays at twice the margin; warm-up
    epochs with the mean over all negatives avoid that.

    Args:
        margin: Margin of the ranking loss.
        negatives: Negatives that count: the hardest of the batch, the nearest of it (summed), or the mean or sum over
            all of them.
        neighbours: Number of nearest negatives, where these count.
        warmup_epochs: Number of first epochs that use the mean over all negatives instead of the hardest.
    """

    def __init__(
        self,
        margin: float = 0.2,
        negatives: Negatives = "hardest",
        neighbours: int = 3,
        warmup_epochs: int = 1,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if neighbours < 1:
            raise UsageError(f"--model.neighbours {neighbours}: at least one negative has to count")
        self.margin, self.negatives, self.neighbours = margin, negatives, neighbours
        self.warmup_epochs = warmup_epochs

    def ranking_loss(self, batch: PairBatch) -> tuple[Tensor, int]:
        """Return the mean loss over the pairs of the global batch, and their number."""
        images, texts, identity, _ = self.gather(
            self.encode_images(batch.images), self.encode_texts(batch.texts), batch
        )
        return self.hinge(self.similarity(images, texts), identity), len(identity)

    def hinge(self, scores: Tensor, identity: Tensor) -> Tensor:
        """Return the mean loss of the scores (b, b) of pairs whose identities are ``identity`` (b,)."""
        return hinge_ranking(scores, same(identity), self.margin, self._counted(), self.neighbours)

    def _counted(self) -> Negatives:
        warming = self.negatives in ("hardest", "nearest") and self.current_epoch < self.warmup_epochs
        return "mean" if warming else self.negatives

    def collapse_loss(self) -> float | None:
        """Return twice the margin if only the hardest negatives are used."""
        return 2 * self.margin if self._counted() == "hardest" else None
