"""The evaluation as a torchmetrics metric, for scoring inside a training loop and over several processes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from cmr_bench.evaluation.protocol import Evaluation, Protocol, evaluate
from cmr_bench.evaluation.scores import ArrayLike, EmbeddingScores, FunctionScores, ScoreSource
from cmr_bench.support.errors import DataError


class RetrievalMetric(Metric):
    """Collects embeddings by their row in the split and scores the whole split.

    Every process hands in the rows it has encoded. Rows that a distributed sampler repeated count once, and a row that
    nobody handed in is an error, so that any number of processes scores the same items.

    Args:
        n_images: images in the split.
        image_of_text: ``(n_texts,)`` row of the image that a text belongs to.
        labels: category labels of the images, if there are any.
        identity: identity of each image, ``(n_images,)``, where several share one.
        protocol: what is scored.
        similarity: from two batches of embeddings to their scores; cosine if not given.
        options: options of ``torchmetrics.Metric``.
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False

    image_rows: list[Tensor]
    text_rows: list[Tensor]
    images: list[Tensor]
    texts: list[Tensor]

    def __init__(
        self,
        n_images: int,
        image_of_text: ArrayLike,
        labels: ArrayLike | None = None,
        *,
        identity: ArrayLike | None = None,
        protocol: Protocol | None = None,
        similarity: Callable[[Tensor, Tensor], Tensor] | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.n_images = n_images
        self.image_of_text = image_of_text
        self.labels = labels
        self.identity = identity
        self.protocol = protocol
        self.similarity = similarity
        for state in ("image_rows", "images", "text_rows", "texts"):
            self.add_state(state, default=[], dist_reduce_fx="cat")

    def update(
        self,
        image_rows: Tensor | None = None,
        images: Tensor | None = None,
        text_rows: Tensor | None = None,
        texts: Tensor | None = None,
    ) -> None:
        """Add embeddings of images, of texts, or of both.

        Args:
            image_rows: ``(n,)`` rows of the images in the split.
            images: ``(n, ...)`` their embeddings.
            text_rows: ``(m,)`` rows of the texts in the split.
            texts: ``(m, ...)`` their embeddings.
        """
        for kind, rows, values in (("image", image_rows, images), ("text", text_rows, texts)):
            if rows is None and values is None:
                continue
            if rows is None or values is None or rows.shape != values.shape[:1]:
                raise DataError(f"{kind} embeddings and their rows go together, one row number for each embedding")
            getattr(self, f"{kind}_rows").append(rows.detach().long().to(values.device))
            getattr(self, f"{kind}s").append(values.detach())

    def compute(self) -> dict[str, float]:
        """Score the split and return every metric by name; see :meth:`evaluate` for all the rest."""
        return self.evaluate().metrics

    def evaluate(self) -> Evaluation:
        """Score the rows this process holds, which must be all. Inside ``compute`` that is what everyone handed in."""
        images = _complete("image", self.image_rows, self.images, self.n_images)
        texts = _complete("text", self.text_rows, self.texts, len(self.image_of_text))
        scores: ScoreSource
        if self.similarity is None:
            scores = EmbeddingScores(images, texts)
        else:
            scores = FunctionScores(images, texts, self.similarity)
        return evaluate(scores, self.image_of_text, self.labels, identity=self.identity, protocol=self.protocol)


def _complete(kind: str, rows: Tensor | list[Tensor], values: Tensor | list[Tensor], expected: int) -> Tensor:
    """Put embeddings into the order of their rows, each row once."""
    # After a gather the states are tensors, before it they are lists of batches.
    index = torch.cat(rows) if isinstance(rows, list) and rows else rows
    found = torch.cat(values) if isinstance(values, list) and values else values
    if isinstance(index, list) or isinstance(found, list):
        raise DataError(f"no {kind} was handed in, the split has {expected}")
    if int(index.min()) < 0 or int(index.max()) >= expected:
        raise DataError(f"{kind} row {int(index.max())} was handed in, but the split has {expected}")
    place = torch.full((expected,), -1, dtype=torch.int64, device=index.device)
    # A stable order puts the first of the rows that came twice in front of its repeats.
    order = torch.argsort(index, stable=True)
    first = torch.ones_like(order, dtype=torch.bool)
    first[1:] = index[order][1:] != index[order][:-1]
    place[index[order][first]] = order[first]
    missing = (place < 0).nonzero().flatten()
    if len(missing):
        raise DataError(
            f"{len(missing)} of {expected} {kind}s were never handed in, the first is row {int(missing[0])}"
        )
    return found[place]
