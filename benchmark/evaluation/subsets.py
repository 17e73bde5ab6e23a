"""Subsets: pairs drawn at random from a split and ranked by themselves, several times over."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cmr_bench.support.errors import UsageError

Index = NDArray[np.int64]

# Of the protocol, not of the run: everybody is scored on the same pairs.
SEED = 0
_FORM = re.compile(r"([1-9]\d*)x([1-9]\d*)")


@dataclass(frozen=True)
class Part:
    """A part of a split that is ranked by itself.

    Attributes:
        images: Rows of its images, (n_images,).
        texts: Rows of its texts, (n_texts,).
        image_of_text: Place in ``images`` of the image of each of its texts, (n_texts,).
    """

    images: Index
    texts: Index
    image_of_text: Index


@dataclass(frozen=True)
class Subsets:
    """Draws of pairs, as Recipe1M is scored (Salvador et al., CVPR 2017): the mean over 10 draws of 1,000 pairs.

    Attributes:
        count: Number of draws.
        size: Pairs in each.
    """

    count: int
    size: int

    def __str__(self) -> str:
        return f"{self.count}x{self.size}"

    @property
    def prefix(self) -> str:
        """What the names of its metrics begin with."""
        return f"subsets{self}_"

    def check(self, n_pairs: int) -> None:
        """Raise UsageError where a split has fewer than ``n_pairs`` images with a text."""
        if self.size > n_pairs:
            raise UsageError(
                f"subsets {self} draws {self.size:,} pairs, and only {n_pairs:,} images of the test split have a text: "
                f"draw fewer, such as {self.count}x{max(1, n_pairs // 2)}, or none"
            )

    def draw(self, image_of_text: Index, asking: NDArray[np.bool_] | None = None) -> list[Part]:
        """Draw images without replacement, and one text of each; the same on every machine and for every method.

        Args:
            image_of_text: Row of each text's image, (n_texts,).
            asking: Texts that may be drawn, (n_texts,); all where not given.

        Raises:
            UsageError: If too few images have a text.
        """
        texts = np.argsort(image_of_text, kind="stable")
        texts = texts if asking is None else texts[asking[texts]]
        images, first, count = np.unique(image_of_text[texts], return_index=True, return_counts=True)
        self.check(len(images))
        parts = []
        for number in range(self.count):
            rng = np.random.default_rng([SEED, self.size, number])
            chosen = np.sort(rng.permutation(len(images))[: self.size])
            own = first[chosen] + rng.integers(count[chosen])
            parts.append(Part(images[chosen], texts[own], np.arange(self.size)))
        return parts


def read_subsets(given: str | Iterable[str] | None) -> tuple[Subsets, ...]:
    """Read subsets such as ``10x1000``, several in a list or after commas; ``none`` or nothing is none.

    Raises:
        UsageError: If one is written otherwise, or comes twice.
    """
    words = given.split(",") if isinstance(given, str) else [*(given or ())]
    words = [word.strip() for word in words if word.strip() not in ("", "none")]
    found = []
    for word in words:
        match = _FORM.fullmatch(word)
        if match is None:
            raise UsageError(f"subsets are draws x pairs, such as 10x1000 or 10x1000,10x10000, not '{word}'")
        found.append(Subsets(int(match[1]), int(match[2])))
    if len(set(found)) < len(found):
        raise UsageError(f"subsets: {', '.join(words)} has one of them twice")
    return tuple(found)
