"""Who asks: a part of the items may be found by all without asking anything themselves."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cmr_bench.evaluation.ranks import Ranks
from cmr_bench.evaluation.subsets import Part
from cmr_bench.support.errors import DataError, UsageError

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Queries:
    """The items that ask; the gallery is always whole.

    Attributes:
        images: Images that ask, (n_images,): such as have a text.
        texts: Texts that ask, (n_texts,): such as belong to an image that asks.
    """

    images: Mask
    texts: Mask

    def links(self, image_of_text: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the row of each asking text's image among the asking images."""
        return (np.cumsum(self.images) - 1)[image_of_text[self.texts]]

    def part(self, part: Part) -> Part:
        """Return a part whose images and texts all ask, by their rows among those that do."""
        rows = (np.cumsum(asking) - 1 for asking in (self.images, self.texts))
        images, texts = (places[own] for places, own in zip(rows, (part.images, part.texts), strict=True))
        return Part(images, texts, part.image_of_text)

    def ranks(self, ranks: Ranks) -> Ranks:
        """Return the ranks of those that ask.

        Raises:
            UsageError: If nobody asks in one of the folds.
        """
        fold = None if ranks.fold_of_image is None else ranks.fold_of_image[self.images]
        if fold is not None and ranks.fold_of_image is not None and set(fold) != set(ranks.fold_of_image):
            raise UsageError("a fold has no queries: pass fewer --folds")
        return Ranks(
            images=ranks.images.take(self.images),
            texts=ranks.texts.take(self.texts),
            images_in_fold=None if ranks.images_in_fold is None else ranks.images_in_fold.take(self.images),
            texts_in_fold=None if ranks.texts_in_fold is None else ranks.texts_in_fold.take(self.texts),
            fold_of_image=fold,
        )


def queries(
    image_of_text: NDArray[np.int64], n_images: int, images: Mask | None = None, texts: Mask | None = None
) -> Queries | None:
    """Return who asks: images with a text and their texts, as far as they are chosen; None where everybody does.

    Args:
        image_of_text: Row of each text's image, (n_texts,).
        n_images: Number of images.
        images: Images that are chosen, (n_images,); all where not given.
        texts: Texts that are chosen, (n_texts,); all where not given.

    Raises:
        DataError: If no text asks.
    """
    asking = np.bincount(image_of_text, minlength=n_images) > 0
    asking &= True if images is None else images
    asking_texts = asking[image_of_text] & (True if texts is None else texts)
    if not asking_texts.any():
        raise DataError("no queries: none of the chosen images has a chosen text")
    return None if asking.all() and asking_texts.all() else Queries(asking, asking_texts)
