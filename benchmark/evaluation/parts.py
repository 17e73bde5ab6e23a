"""Ranks of a whole split and of its parts, under any post-processing and by any identity.

A post-processing sees the gallery that is ranked: the whole split, and each part by itself.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cmr_bench.evaluation.categories import CategoryScores
from cmr_bench.evaluation.identities import identity_scores
from cmr_bench.evaluation.postprocess import postprocess
from cmr_bench.evaluation.ranks import Ranks, folds_of_images, retrieval_ranks
from cmr_bench.evaluation.rerank import Directed
from cmr_bench.evaluation.scores import ScoreSource, take
from cmr_bench.evaluation.sharing import Sharing
from cmr_bench.evaluation.subsets import Part
from cmr_bench.evaluation.ties import BestMatches

Index = NDArray[np.int64]


@dataclass(frozen=True)
class Ranker:
    """How a gallery is ranked.

    Attributes:
        name: Post-processing of its scores; None takes them as they are.
        identity: Identity of each image of the split, (n_images,); None where every image is its own.
        distractors: Whether there may be images without a text.
        sharing: How the work is spread over processes.
    """

    name: str | None = None
    identity: Index | None = None
    distractors: bool = False
    sharing: Sharing | None = None

    def whole(
        self, scores: ScoreSource, owner: Index, folds: int | None
    ) -> tuple[Directed, Ranks, dict[str, CategoryScores]]:
        """Rank a split, and equal folds of consecutive images each by itself.

        Args:
            scores: What is scored.
            owner: Row of each text's image, (n_texts,).
            folds: Number of folds; None for none.

        Returns:
            What the whole split is ranked by, the ranks, and its scores by identity, empty without identities.
        """
        if self.name is None and self.identity is None:
            ranks = retrieval_ranks(scores, owner, folds=folds, distractors=self.distractors, sharing=self.sharing)
            return Directed(scores, scores), ranks, {}
        whole = Directed(scores, scores) if self.name is None else postprocess(self.name, scores, owner)
        ranks, found = self._ranks(whole, owner, self.identity)
        if folds is None:
            return whole, ranks, found
        fold_of_image = folds_of_images(scores.n_images, folds)
        parts = _folds(fold_of_image, owner)
        each = [self.part(scores, part) for part in parts]
        back = np.argsort(np.concatenate([part.texts for part in parts]), kind="stable")
        ranks = Ranks(
            images=ranks.images,
            texts=ranks.texts,
            images_in_fold=_joined([one.images for one in each]),
            texts_in_fold=_joined([one.texts for one in each]).take(back),
            fold_of_image=fold_of_image,
        )
        return whole, ranks, found

    def part(self, scores: ScoreSource, part: Part) -> Ranks:
        """Rank a part of a split by itself."""
        source, links = take(scores, part.images, part.texts), part.image_of_text
        directed = Directed(source, source) if self.name is None else postprocess(self.name, source, links)
        return self._ranks(directed, links, None if self.identity is None else self.identity[part.images])[0]

    def _ranks(self, scores: Directed, owner: Index, identity: Index | None) -> tuple[Ranks, dict[str, CategoryScores]]:
        if identity is not None:
            return identity_scores(scores, owner, identity, self.sharing)
        of_images = retrieval_ranks(scores.images, owner, distractors=self.distractors, sharing=self.sharing)
        if scores.texts is scores.images:
            return of_images, {}
        of_texts = retrieval_ranks(scores.texts, owner, distractors=self.distractors, sharing=self.sharing)
        return Ranks(images=of_images.images, texts=of_texts.texts), {}


def _folds(fold_of_image: Index, owner: Index) -> list[Part]:
    parts = []
    for fold in range(int(fold_of_image.max()) + 1):
        images, texts = np.flatnonzero(fold_of_image == fold), np.flatnonzero(fold_of_image[owner] == fold)
        parts.append(Part(images, texts, owner[texts] - images[0]))
    return parts


def _joined(parts: list[BestMatches]) -> BestMatches:
    return BestMatches(*(np.concatenate([getattr(part, n) for part in parts]) for n in ("better", "tied", "matching")))
