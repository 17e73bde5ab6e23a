"""The closest of many items: exact search in vectors by faiss or torch, and pair by pair for cross attention."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cmr_bench.evaluation.ranks import EmbeddingScores, ScoreSource
from cmr_bench.models.scoring import Encoded
from cmr_bench.search.embed import Cache, Key
from cmr_bench.search.trained import TrainedRun

Floats = NDArray[np.float32]
Rows = NDArray[np.int64]
_CHUNK = 65536
_PAIRS = 256


def has_faiss() -> bool:
    """Return whether faiss is installed."""
    return importlib.util.find_spec("faiss") is not None


def nearest(vectors: Floats, queries: Floats, k: int, faiss: bool) -> tuple[Floats, Rows]:
    """Return the largest inner products of queries with vectors, exactly.

    A graph index (HNSW) would answer in a millisecond what this does in a second or two on a million vectors,
    but takes minutes to build and misses some of the closest; a command that answers one query has no use for it.

    Args:
        vectors: (n, d).
        queries: (q, d).
        k: Number wanted; fewer where there are fewer vectors.
        faiss: Use faiss, which reads the vectors where they lie (what its IndexFlatIP does, without a copy); else
            torch, chunk by chunk.

    Returns:
        Products and rows, (q, k), the largest first; of equal ones the smaller row first.
    """
    k = min(k, len(vectors))
    if faiss:
        import faiss as library

        scores, rows = library.knn(queries, vectors, k, metric=library.METRIC_INNER_PRODUCT)
    else:
        scores, rows = _nearest_by_torch(torch.from_numpy(vectors), torch.from_numpy(queries), k)
    order = np.lexsort((rows, -scores))
    return np.take_along_axis(scores, order, 1), np.take_along_axis(rows, order, 1).astype(np.int64)


def _nearest_by_torch(vectors: Tensor, queries: Tensor, k: int) -> tuple[Floats, Rows]:
    scores = torch.empty(len(queries), 0)
    rows = torch.empty(len(queries), 0, dtype=torch.long)
    for start in range(0, len(vectors), _CHUNK):
        found = (queries @ vectors[start : start + _CHUNK].T).topk(min(k, len(vectors) - start, _CHUNK), dim=1)
        best = torch.cat([scores, found.values], dim=1).topk(min(k, scores.shape[1] + found.values.shape[1]), dim=1)
        rows = torch.cat([rows, found.indices + start], dim=1).gather(1, best.indices)
        scores = best.values
    return scores.numpy(), rows.numpy()


class Collection:
    """Photographs or sentences that a run has embedded, ranked for one query after another.

    Args:
        run: The run.
        cache: Its embeddings.
        keys: Keys of the items.
        side: What the items are.
        faiss: Use faiss where the score is an inner product.
    """

    def __init__(
        self, run: TrainedRun, cache: Cache, keys: Sequence[Key], side: Literal["images", "texts"], faiss: bool
    ) -> None:
        self.run, self.cache, self.keys, self.side, self.faiss = run, cache, keys, side, faiss
        self._vectors: Floats | None = None

    @property
    def is_dual(self) -> bool:
        """Whether the score is an inner product of vectors made of each item alone."""
        one = self.cache.read(self.keys[:1])
        return isinstance(self.run.module.scores(one, one), EmbeddingScores) if isinstance(one, Tensor) else False

    def best(self, query: Encoded, k: int) -> tuple[Floats, Rows]:
        """Return the scores and rows of the ``k`` items closest to one encoded query."""
        if not self.is_dual:
            scores = self._pair_scores(query)
            order = np.lexsort((np.arange(len(scores)), -scores))[:k]
            return scores[order], order
        if self._vectors is None:
            items = self.cache.read(self.keys)
            self._vectors = _inner(self._source(query, items), self.side).numpy()
        other: Literal["images", "texts"] = "texts" if self.side == "images" else "images"
        one = self._source(query, self.cache.read(self.keys[:1]))
        scores, rows = nearest(self._vectors, _inner(one, other).numpy(), k, self.faiss)
        return scores[0], rows[0]

    def _source(self, query: Encoded, items: Encoded) -> ScoreSource:
        return self.run.module.scores(*((items, query) if self.side == "images" else (query, items)))

    def _pair_scores(self, query: Encoded) -> Floats:
        parts = []
        for start in range(0, len(self.keys), _PAIRS):
            source = self._source(query, self.cache.read(self.keys[start : start + _PAIRS]))
            parts.append(source.block(slice(0, source.n_images), slice(0, source.n_texts)).flatten().float())
        return torch.cat(parts).numpy()


def _inner(source: ScoreSource, side: Literal["images", "texts"]) -> Tensor:
    assert isinstance(source, EmbeddingScores)
    return (source.images if side == "images" else source.texts).float().contiguous()
