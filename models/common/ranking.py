"""What methods with a hinge ranking loss share: which negatives count, and the start that avoids a collapse."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from cmr_bench.datamodules.batches import PairBatch
from cmr_bench.models.base import RetrievalModule
from cmr_bench.models.losses import Negatives, hinge_ranking, same


class RankingModule(RetrievalModule):
    """A method trained by the hinge ranking loss of its scores (Faghri et al., VSE++, BMVC 2018, equations 5 and 6).

    Captions of the same image are never negatives of each other. The hardest negative alone can draw all embeddings to
    one point, where the loss of a pair stays at twice the margin; epochs with the mean over all negatives come first to
    avoid that.

    Args:
        margin: Least difference wanted between the score of a pair and that of a negative.
        negatives: Negatives that count: hardest of the batch, or the mean or sum over all of them.
        warmup_epochs: First epochs, in which the mean over all negatives replaces the hardest.
    """

    def __init__(
        self, margin: float = 0.2, negatives: Negatives = "hardest", warmup_epochs: int = 1, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.margin, self.negatives, self.warmup_epochs = margin, negatives, warmup_epochs

    def ranking_loss(self, batch: PairBatch) -> tuple[Tensor, int]:
        """Return the mean loss over the pairs of the global batch, and how many they are."""
        images, texts, identity, _ = self.gather(
            self.encode_images(batch.images), self.encode_texts(batch.texts), batch
        )
        loss = hinge_ranking(self.similarity(images, texts), same(identity), self.margin, self._counted())
        return loss, len(identity)

    def _counted(self) -> Negatives:
        warming = self.negatives == "hardest" and self.current_epoch < self.warmup_epochs
        return "mean" if warming else self.negatives

    def collapse_loss(self) -> float | None:
        """Return twice the margin, where the hardest negatives alone count."""
        return 2 * self.margin if self._counted() == "hardest" else None
