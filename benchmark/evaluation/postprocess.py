"""Corrections of a score matrix. They look at the whole set of queries: such results are transductive."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cmr_bench.evaluation.rerank import Directed, rerank
from cmr_bench.evaluation.scores import ScoreSource, checked_block, full_precision, reorder_texts, slices
from cmr_bench.support.errors import UsageError, did_you_mean

_IMAGE_BLOCK, _TEXT_BLOCK = 512, 4096


class _Shifted:
    """``scale`` times a source, less one number for every image and one for every text, in float64.

    The number of the query itself never changes its ranking, so one matrix serves both directions.
    """

    def __init__(self, source: ScoreSource, scale: float, images: Tensor, texts: Tensor) -> None:
        self.source, self.scale, self.images, self.texts = source, scale, images, texts
        self.n_images, self.n_texts = source.n_images, source.n_texts

    def block(self, images: slice, texts: slice) -> Tensor:
        """Return the scores of the two slices, ``(len(images), len(texts))``."""
        return self.source.block(images, texts).double() * self.scale - self.images[images, None] - self.texts[texts]

    def take_texts(self, order: NDArray[np.int64]) -> _Shifted:
        """Return the source whose text ``j`` is this source's text ``order[j]``."""
        index = torch.as_tensor(order, device=self.texts.device)
        return _Shifted(reorder_texts(self.source, order), self.scale, self.images, self.texts[index])


def csls(scores: ScoreSource, k: int = 10) -> ScoreSource:
    """Cross-domain similarity local scaling: twice the score, less the mean score of either item's ``k`` nearest.

    Conneau et al., Word Translation Without Parallel Data, ICLR 2018; k = 10 is theirs. Transductive.
    """
    if k < 1:
        raise UsageError(f"csls needs at least one neighbour, k is {k}")

    def merge(best: Tensor | None, tile: Tensor) -> Tensor:
        tile = tile if best is None else torch.cat([best, tile], dim=1)
        return tile.topk(min(k, tile.shape[1]), dim=1).values

    images, texts = _reduce(scores, merge)
    return _Shifted(scores, 2.0, images.mean(dim=1), texts.mean(dim=1))


def inverted_softmax(scores: ScoreSource, beta: float = 30.0) -> ScoreSource:
    """Probability of the *query* given the item, by a softmax over all queries, instead of the reverse; its logarithm.

    Smith et al., Offline bilingual word vectors, orthogonal transformations and the inverted softmax, ICLR 2017.
    Transductive.

    Args:
        scores: what is corrected.
        beta: inverse temperature; the paper fits it on training pairs, 30 is about what it finds for cosines.
    """
    if beta <= 0:
        raise UsageError(f"inverted_softmax needs a positive inverse temperature, beta is {beta}")

    def merge(total: Tensor | None, tile: Tensor) -> Tensor:
        part = torch.logsumexp(tile.double() * beta, dim=1, keepdim=True)
        return part if total is None else torch.logaddexp(total, part)

    images, texts = _reduce(scores, merge)
    return _Shifted(scores, beta, images[:, 0], texts[:, 0])


def _reduce(scores: ScoreSource, merge: Callable[[Tensor | None, Tensor], Tensor]) -> tuple[Tensor, Tensor]:
    """Fold ``merge(so far, tile)`` along the rows of the score matrix and along its columns, tile by tile."""
    images: list[Tensor] = []
    texts: list[Tensor | None] = [None] * len(slices(scores.n_texts, _TEXT_BLOCK))
    with full_precision():
        for rows in slices(scores.n_images, _IMAGE_BLOCK):
            row: Tensor | None = None
            for place, columns in enumerate(slices(scores.n_texts, _TEXT_BLOCK)):
                tile = checked_block(scores, rows, columns)
                row, texts[place] = merge(row, tile), merge(texts[place], tile.T)
            images.extend([] if row is None else [row])
    return torch.cat(images).double(), torch.cat([text for text in texts if text is not None]).double()


def _rerank_by_groups(scores: ScoreSource, image_of_text: NDArray[np.int64], **options: Any) -> Directed:
    return rerank(scores, image_of_text, **options)


POSTPROCESSES: dict[str, Callable[..., ScoreSource | Directed]] = {
    "csls": csls,
    "inverted_softmax": inverted_softmax,
    "mtfn_rr": rerank,
    "mtfn_rr_groups": _rerank_by_groups,
}
# Post-processings that are told which texts belong together.
_GROUPED = ("mtfn_rr_groups",)


def flags_of(name: str | None) -> tuple[str, ...]:
    """Return what a reader of scores under a post-processing must know."""
    if name is None:
        return ()
    return ("transductive", "uses_test_groups") if name in _GROUPED else ("transductive",)


def postprocess(name: str, scores: ScoreSource, image_of_text: NDArray[np.int64], **options: Any) -> Directed:
    """Apply the post-processing called ``name``.

    Args:
        name: One of :data:`POSTPROCESSES`.
        scores: What is corrected.
        image_of_text: Row of each text's image, (n_texts,), for those that use which texts belong together.
        **options: Of the post-processing.

    Returns:
        The scores for each direction, which are one matrix where that suffices.

    Raises:
        UsageError: for an unknown name.
    """
    if name not in POSTPROCESSES:
        known = ", ".join(POSTPROCESSES)
        raise UsageError(
            f"no post-processing is called '{name}', there are: {known}.{did_you_mean(name, POSTPROCESSES)}"
        )
    links = {"image_of_text": image_of_text} if name in _GROUPED else {}
    found = POSTPROCESSES[name](scores, **links, **options)
    return found if isinstance(found, Directed) else Directed(found, found)
