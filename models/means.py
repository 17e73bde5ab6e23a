"""Means over the pairs of an epoch."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


class EpochMeans:
    """Means of the terms of a loss over the pairs of an epoch, on the device of the loss.

    Lightning's log takes half a millisecond a term in every step, as long as a step of a small method; of the terms
    only the means are read, after the last batch.

    Attributes:
        last: The terms of the last batch.
    """

    def __init__(self) -> None:
        self.last: dict[str, Tensor] = {}
        self._sums: dict[str, Tensor] = {}
        self._pairs: dict[str, int] = {}

    def add(self, terms: Mapping[str, Tensor], n_pairs: int) -> None:
        """Add the means of a batch of ``n_pairs`` pairs."""
        self.last = {name: value.detach() for name, value in terms.items()}
        for name, value in self.last.items():
            weighted = value.to(torch.float32) * n_pairs
            self._sums[name] = self._sums[name] + weighted if name in self._sums else weighted
            self._pairs[name] = self._pairs.get(name, 0) + n_pairs

    def take(self) -> dict[str, Tensor]:
        """Return the means of what was added, and forget it."""
        means = {name: total / self._pairs[name] for name, total in self._sums.items()}
        self._sums, self._pairs = {}, {}
        return means
