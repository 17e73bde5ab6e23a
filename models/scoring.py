"""Scores of every image with every text, assembled from batches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from cmr_bench.datamodules.views import Rows, View
from cmr_bench.support.errors import CmrBenchError
from cmr_bench.support.transfer import Side, resident

Encoded = Tensor | tuple[Tensor, ...]

# Images that one thread of a CPU scores at a time.
_BAND = 64


class Scorer(Protocol):
    """Anything with a similarity: every :class:`~cmr_bench.models.base.RetrievalModule`."""

    @property
    def device(self) -> torch.device:
        """Device of the computation."""

    def similarity(self, images: Encoded, texts: Encoded) -> Tensor:
        """Return scores (n_images, n_texts), higher is closer."""


class PairScores:
    """Scores blocks of encoded items with a method's own similarity, on the method's device.

    If its memory holds all encodings, they are copied there once, else a block ahead. On a CPU every thread scores
    bands of images by itself: most of the work is in operations too small to share.

    Args:
        module: The method.
        images: All encoded images.
        texts: All encoded texts.
    """

    def __init__(self, module: Scorer, images: Encoded, texts: Encoded) -> None:
        self.module, self.images, self.texts = module, images, texts
        self.n_images, self.n_texts = _length(images), _length(texts)
        self._near: tuple[Side, Side] | None = None

    def block(self, images: slice, texts: slice) -> Tensor:
        """Return the scores of a block, (n_images, n_texts), as float32."""
        return self.of_rows(images, texts)

    def take(self, images: Rows, texts: Rows) -> _Taken:
        """Return the source of this source's images ``images`` and texts ``texts``, in their order."""
        return _Taken(self, images, texts)

    def of_rows(self, images: slice | Tensor, texts: slice | Tensor) -> Tensor:
        """Return the scores of some images with some texts, (n_images, n_texts), as float32."""
        device = self.module.device
        if self._near is None:
            self._near = _near(self.images, self.texts, device)
        with torch.inference_mode():
            some, others = (
                _like(encoded, side.take(items))
                for encoded, side, items in zip((self.images, self.texts), self._near, (images, texts), strict=True)
            )
            if device.type == "cpu" and _length(some) > _BAND:
                starts = range(0, _length(some), _BAND)
                bands = [_like(some, [part[start : start + _BAND] for part in _parts(some)]) for start in starts]
                return torch.cat(_by_threads(lambda band: self.module.similarity(band, others).float(), bands))
            return self.module.similarity(some, others).float().cpu()


def _by_threads(score: Callable[[Encoded], Tensor], bands: Sequence[Encoded]) -> list[Tensor]:
    """Return the scores of every band, each computed by one thread, with the same bits for any number of them."""
    threads = torch.get_num_threads()
    enabled, dtype = torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cpu")

    def one(band: Encoded) -> Tensor:
        torch.set_num_threads(1)
        # These are of a thread, not of the process.
        with torch.inference_mode(), torch.autocast("cpu", enabled=enabled, dtype=dtype):
            return score(band)

    try:
        with ThreadPoolExecutor(min(threads, len(bands))) as pool:
            return list(pool.map(one, bands))
    finally:
        # OpenMP's number is the calling thread's, but MKL has one for all.
        torch.set_num_threads(threads)


def _length(encoded: Encoded) -> int:
    return len(_parts(encoded)[0])


def _near(images: Encoded, texts: Encoded, device: torch.device) -> tuple[Side, Side]:
    n_parts = len(_parts(images))
    near = resident([*_parts(images), *_parts(texts)], device)
    return Side(near[:n_parts], device), Side(near[n_parts:], device)


def _parts(encoded: Encoded) -> Sequence[Tensor]:
    return [encoded] if isinstance(encoded, Tensor) else encoded


def _like(encoded: Encoded, parts: Sequence[Tensor]) -> Encoded:
    """Return parts in the form of ``encoded``: one tensor, or a tuple."""
    return parts[0] if isinstance(encoded, Tensor) else tuple(parts)


class _Taken:
    """Some items of a source, each encoding kept once.

    Args:
        source: The source.
        images: Rows of its images, (n_images,).
        texts: Rows of its texts, (n_texts,).
    """

    def __init__(self, source: PairScores, images: Rows, texts: Rows) -> None:
        self.source, self.images, self.texts = source, torch.from_numpy(images), torch.from_numpy(texts)
        self.n_images, self.n_texts = len(images), len(texts)

    def block(self, images: slice, texts: slice) -> Tensor:
        """Return the scores of a block, (n_images, n_texts), as float32."""
        return self.source.of_rows(self.images[images], self.texts[texts])


def assemble(pieces: Sequence[tuple[Tensor, tuple[Tensor, ...]]], n_items: int, what: str) -> tuple[Tensor, ...]:
    """Concatenate encoded batches in row order, each row once.

    Args:
        pieces: Rows (b,) and encodings (b, ...) of every batch, in any order; repeated rows are dropped.
        n_items: Number of rows expected.
        what: images or texts, for the error.

    Returns:
        The encodings, (n_items, ...), zero-padded where the second dimension differs between batches.

    Raises:
        CmrBenchError: If a row was never seen.
    """
    rows = torch.cat([piece[0] for piece in pieces]) if pieces else torch.empty(0, dtype=torch.long)
    seen = torch.zeros(n_items, dtype=torch.bool)
    seen[rows] = True
    if not bool(seen.all()):
        raise CmrBenchError(
            f"{int((~seen).sum())} of {n_items} {what} were not encoded; first missing row {int(seen.int().argmin())}"
        )
    result = []
    for position in range(len(pieces[0][1])):
        tensors = [piece[1][position] for piece in pieces]
        shape = list(tensors[0].shape[1:])
        if shape:
            shape[0] = max(t.shape[1] for t in tensors)
        whole = tensors[0].new_zeros((n_items, *shape))
        for (at, _), tensor in zip(pieces, tensors, strict=True):
            if shape:
                whole[at, : tensor.shape[1]] = tensor
            else:
                whole[at] = tensor
        result.append(whole)
    return tuple(result)


def spread(embeddings: Tensor) -> float:
    """Variance of L2-normalised embeddings (n, d): 0 if all point in one direction, near 1 if spread evenly."""
    mean = F.normalize(embeddings.float(), dim=1).double().mean(0)
    return 1.0 - float(mean.square().sum())


def fetch_all(view: View, field: str = "vector", chunk: int = 4096) -> Tensor:
    """Load one field of every item of a view, (n, ...), for methods fitted in closed form."""
    import numpy as np

    starts = range(0, len(view), chunk)
    return torch.cat([view.fetch(np.arange(s, min(s + chunk, len(view))))[field] for s in starts])
