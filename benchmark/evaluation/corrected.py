"""Ranks under a post-processing, which sees the gallery that is ranked: the whole split, and each fold by itself."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from cmr_bench.evaluation.postprocess import postprocess
from cmr_bench.evaluation.ranks import Ranks, folds_of_images, retrieval_ranks
from cmr_bench.evaluation.rerank import Directed
from cmr_bench.evaluation.scores import ScoreSource, reorder_texts
from cmr_bench.evaluation.sharing import Sharing
from cmr_bench.evaluation.ties import BestMatches

Index = NDArray[np.int64]


class _Fold:
    """The images of one fold and their texts."""

    def __init__(self, source: ScoreSource, first_image: int, n_images: int, texts: Index) -> None:
        self.source, self.first_image, self.n_images = reorder_texts(source, texts), first_image, n_images
        self.n_texts = len(texts)

    def block(self, images: slice, texts: slice) -> Tensor:
        """Return the scores of the two slices, ``(len(images), len(texts))``."""
        return self.source.block(slice(images.start + self.first_image, images.stop + self.first_image), texts)


def corrected_ranks(
    name: str, scores: ScoreSource, owner: Index, folds: int | None, distractors: bool, sharing: Sharing | None
) -> tuple[Directed, Ranks]:
    """Rank under a post-processing.

    Args:
        name: The post-processing.
        scores: What is corrected.
        owner: Row of each text's image, (n_texts,).
        folds: If given, correct and rank also within that many equal folds of consecutive images.
        distractors: Whether there may be images without a text.
        sharing: How tiles are spread over processes.

    Returns:
        The corrected scores of the whole split, and the ranks.
    """
    whole = postprocess(name, scores, owner)
    ranks = _ranks(whole, owner, distractors, sharing)
    if folds is None:
        return whole, ranks
    fold_of_image = folds_of_images(scores.n_images, folds)
    size = scores.n_images // folds
    texts = [np.flatnonzero(fold_of_image[owner] == fold) for fold in range(folds)]
    found = []
    for fold, own in enumerate(texts):
        links = owner[own] - fold * size
        part = postprocess(name, _Fold(scores, fold * size, size, own), links)
        found.append(_ranks(part, links, distractors, sharing))
    back = np.argsort(np.concatenate(texts), kind="stable")
    return whole, Ranks(
        images=ranks.images,
        texts=ranks.texts,
        images_in_fold=_joined([one.images for one in found]),
        texts_in_fold=_joined([one.texts for one in found]).take(back),
        fold_of_image=fold_of_image,
    )


def _ranks(scores: Directed, owner: Index, distractors: bool, sharing: Sharing | None) -> Ranks:
    of_images = retrieval_ranks(scores.images, owner, distractors=distractors, sharing=sharing)
    if scores.texts is scores.images:
        return of_images
    of_texts = retrieval_ranks(scores.texts, owner, distractors=distractors, sharing=sharing)
    return Ranks(images=of_images.images, texts=of_texts.texts)


def _joined(parts: list[BestMatches]) -> BestMatches:
    return BestMatches(*(np.concatenate([getattr(part, n) for part in parts]) for n in ("better", "tied", "matching")))
