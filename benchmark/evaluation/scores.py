"""Sources of similarity scores: anything that can score a block of images against a block of texts."""

from __future__ import annotations

import contextlib
import itertools
import warnings
from collections.abc import Callable, Iterator
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cmr_bench.evaluation.sharing import Sharing
from cmr_bench.support.errors import CmrBenchError, DataError
from cmr_bench.support.transfer import Side, resident

ArrayLike = NDArray[Any] | Tensor
_EXACT = 2**53  # from here on float64 has no place for every whole number


@runtime_checkable
class ScoreSource(Protocol):
    """Anything that scores images against texts block by block; a higher score is a closer pair.

    A source must give the same bits for the same block each time it is asked. Scores are float32 or float64.
    """

    n_images: int
    n_texts: int

    def block(self, images: slice, texts: slice) -> Tensor:
        """Return the scores of the two slices, ``(len(images), len(texts))``."""
        ...


@runtime_checkable
class TextSelectable(Protocol):
    """A source that can put its texts into another order cheaply."""

    def take_texts(self, order: NDArray[np.int64]) -> ScoreSource:
        """Return the source whose text ``j`` is this source's text ``order[j]``."""
        ...


@runtime_checkable
class Selectable(Protocol):
    """A source of which a part is to be had cheaply."""

    def take(self, images: NDArray[np.int64], texts: NDArray[np.int64]) -> ScoreSource:
        """Return the source of this source's images ``images`` and texts ``texts``, in their order."""
        ...


class EmbeddingScores:
    """Inner products of image and text vectors, by default cosines.

    Half precision and short integers are widened to float32, integers of 32 bits and more to float64, float64 stays.
    Memory-mapped arrays are read into memory.

    Args:
        images: ``(n_images, dim)``.
        texts: ``(n_texts, dim)``.
        normalize: whether rows are brought to unit length first; a zero row then scores 0 against everything.
        device: where the products are computed, with a copy of the vectors if they fit; left out, where they are.

    Raises:
        DataError: for shapes that do not fit together and for values that are not finite.

    Attributes:
        cosine: Whether rows were brought to unit length.
    """

    def __init__(
        self, images: ArrayLike, texts: ArrayLike, normalize: bool = True, device: torch.device | None = None
    ) -> None:
        self.cosine, self.device = normalize, device
        self._near: tuple[Side, ...] | None = None
        self.images = _embedding(images, "image", normalize)
        self.texts = _embedding(texts, "text", normalize)
        if self.images.shape[1] != self.texts.shape[1]:
            raise DataError(
                f"image embeddings have {self.images.shape[1]} dimensions and text embeddings {self.texts.shape[1]}: "
                "both must come from one common space"
            )
        dtype = torch.promote_types(self.images.dtype, self.texts.dtype)
        self.images, self.texts = self.images.to(dtype), self.texts.to(dtype)
        self.n_images, self.n_texts = len(self.images), len(self.texts)

    def block(self, images: slice, texts: slice) -> Tensor:
        """Return the scores of the two slices, ``(len(images), len(texts))``."""
        if self.device is None:
            return self.images[images] @ self.texts[texts].T
        if self._near is None:
            near = resident((self.images, self.texts), self.device)
            self._near = tuple(Side([part], self.device) for part in near)
        (rows,), (columns,) = (side.take(items) for side, items in zip(self._near, (images, texts), strict=True))
        return (rows @ columns.T).cpu()

    def take_texts(self, order: NDArray[np.int64]) -> EmbeddingScores:
        """Return the source whose text ``j`` is this source's text ``order[j]``."""
        index = torch.as_tensor(order, device=self.texts.device)
        return EmbeddingScores(self.images, self.texts[index], normalize=False, device=self.device)

    def take(self, images: NDArray[np.int64], texts: NDArray[np.int64]) -> EmbeddingScores:
        """Return the source of this source's images ``images`` and texts ``texts``, in their order."""
        rows, columns = (torch.as_tensor(part, device=self.images.device) for part in (images, texts))
        return EmbeddingScores(self.images[rows], self.texts[columns], normalize=False, device=self.device)


class MatrixScores:
    """A similarity matrix that exists already, in memory or memory-mapped; it is read block by block.

    Half precision and short integers are widened to float32, integers of 32 bits and more to float64, float64 stays.

    Args:
        similarity: ``(n_images, n_texts)``.

    Raises:
        DataError: if it is not a matrix; when read, if an integer is too large for float64.
    """

    def __init__(self, similarity: ArrayLike) -> None:
        if similarity.ndim != 2:
            raise DataError(f"a similarity matrix has 2 axes (images, texts), this one has shape {_shape(similarity)}")
        self.similarity = similarity
        self.n_images, self.n_texts = int(similarity.shape[0]), int(similarity.shape[1])
        self._order: NDArray[np.int64] | None = None
        self._rows: NDArray[np.int64] | None = None

    def block(self, images: slice, texts: slice) -> Tensor:
        """Return the scores of the two slices, ``(len(images), len(texts))``."""
        rows = images if self._rows is None else self._rows[images]
        columns = texts if self._order is None else self._order[texts]
        if isinstance(self.similarity, Tensor):
            tile = self.similarity[torch.as_tensor(rows) if isinstance(rows, np.ndarray) else rows]
            return _widen(tile[:, torch.as_tensor(columns)] if isinstance(columns, np.ndarray) else tile[:, columns])
        if isinstance(rows, np.ndarray) and isinstance(columns, np.ndarray):
            values = self.similarity[np.ix_(rows, columns)]
        else:
            values = self.similarity[rows, columns]
        # Only memory that can be written and runs forward can be shared, a memory-mapped file is copied tile by tile.
        shared = values.flags.writeable and min(values.strides) >= 0
        return _from_numpy(values, copy=None if shared else True)

    def take_texts(self, order: NDArray[np.int64]) -> MatrixScores:
        """Return the source whose text ``j`` is this source's text ``order[j]``."""
        taken = MatrixScores(self.similarity)
        taken._rows, taken.n_images = self._rows, self.n_images
        taken._order = order if self._order is None else self._order[order]
        taken.n_texts = len(order)
        return taken

    def take(self, images: NDArray[np.int64], texts: NDArray[np.int64]) -> MatrixScores:
        """Return the source of this source's images ``images`` and texts ``texts``, in their order."""
        taken = self.take_texts(texts)
        taken._rows = images if self._rows is None else self._rows[images]
        taken.n_images = len(images)
        return taken


class FunctionScores:
    """Scores from a function of a batch of images and a batch of texts, e.g. a relation net or Hamming codes.

    Args:
        images: ``(n_images, ...)``, whatever the function reads.
        texts: ``(n_texts, ...)``.
        similarity: from two batches to ``(len(images), len(texts))``.
    """

    def __init__(self, images: Tensor, texts: Tensor, similarity: Callable[[Tensor, Tensor], Tensor]) -> None:
        self.images, self.texts, self.similarity = images, texts, similarity
        self.n_images, self.n_texts = len(images), len(texts)

    def block(self, images: slice, texts: slice) -> Tensor:
        """Return the scores of the two slices, ``(len(images), len(texts))``."""
        return self.similarity(self.images[images], self.texts[texts])

    def take_texts(self, order: NDArray[np.int64]) -> FunctionScores:
        """Return the source whose text ``j`` is this source's text ``order[j]``."""
        return FunctionScores(
            self.images, self.texts[torch.as_tensor(order, device=self.texts.device)], self.similarity
        )

    def take(self, images: NDArray[np.int64], texts: NDArray[np.int64]) -> FunctionScores:
        """Return the source of this source's images ``images`` and texts ``texts``, in their order."""
        rows, columns = (torch.as_tensor(part, device=self.images.device) for part in (images, texts))
        return FunctionScores(self.images[rows], self.texts[columns], self.similarity)


class _ReorderedTexts:
    """Any source seen in another order of its texts; asks the source once for every run of neighbours."""

    def __init__(self, source: ScoreSource, order: NDArray[np.int64]) -> None:
        self.source, self.order = source, order
        self.n_images, self.n_texts = source.n_images, len(order)

    def block(self, images: slice, texts: slice) -> Tensor:
        """Return the scores of the two slices, ``(len(images), len(texts))``."""
        return torch.cat([self.source.block(images, run) for run in _runs(self.order[texts])], dim=1)


class _TakenImages:
    """Some images of any source; asks the source once for every run of neighbours."""

    def __init__(self, source: ScoreSource, rows: NDArray[np.int64]) -> None:
        self.source, self.rows = source, rows
        self.n_images, self.n_texts = len(rows), source.n_texts

    def block(self, images: slice, texts: slice) -> Tensor:
        """Return the scores of the two slices, ``(len(images), len(texts))``."""
        return torch.cat([self.source.block(run, texts) for run in _runs(self.rows[images])])


def _runs(rows: NDArray[np.int64]) -> list[slice]:
    runs = np.split(rows, np.flatnonzero(np.diff(rows) != 1) + 1)
    return [slice(int(run[0]), int(run[-1]) + 1) for run in runs]


def reorder_texts(scores: ScoreSource, order: NDArray[np.int64]) -> ScoreSource:
    """Return ``scores`` with text ``order[j]`` in place ``j``; ``scores`` itself where that changes nothing."""
    if np.array_equal(order, np.arange(scores.n_texts)):
        return scores
    return scores.take_texts(order) if isinstance(scores, TextSelectable) else _ReorderedTexts(scores, order)


def take(scores: ScoreSource, images: NDArray[np.int64], texts: NDArray[np.int64]) -> ScoreSource:
    """Return the part of ``scores`` with image ``images[i]`` in place ``i`` and text ``texts[j]`` in place ``j``."""
    if isinstance(scores, Selectable):
        return scores.take(images, texts)
    return _TakenImages(reorder_texts(scores, texts), images)


def materialise(scores: ScoreSource, max_bytes: int, block: int = 1024, sharing: Sharing | None = None) -> ScoreSource:
    """Compute every score once and keep the matrix, if it fits into ``max_bytes``; otherwise return ``scores``.

    Tiles are spread over processes as ``sharing`` says, and every process gets the whole matrix.
    """
    if isinstance(scores, MatrixScores) or scores.n_images * scores.n_texts * 4 > max_bytes:
        return scores
    shared = sharing or Sharing()
    tiles = [(r, c) for r in slices(scores.n_images, block) for c in slices(scores.n_texts, 4 * block)]

    def compute() -> tuple[NDArray[Any], ...]:
        with full_precision():
            # A process without a tile must know the precision too.
            precision = as_numpy(checked_block(scores, slice(0, 1), slice(0, 1))).dtype
            matrix = np.zeros((scores.n_images, scores.n_texts), precision)
            for number, (rows, columns) in enumerate(tiles):
                if shared.mine(number):
                    matrix[rows, columns] = as_numpy(checked_block(scores, rows, columns))
        return (matrix,)

    (matrix,) = shared.total(compute)
    return MatrixScores(matrix)


def slices(length: int, size: int, start: int = 0) -> list[slice]:
    """Return consecutive slices of at most ``size`` that cover ``length`` places, as equal as they can be."""
    pieces = -(-length // size)
    cuts = [start + length * piece // pieces for piece in range(pieces + 1)] if pieces else []
    return [slice(low, high) for low, high in itertools.pairwise(cuts)]


def checked_block(scores: ScoreSource, images: slice, texts: slice, order: NDArray[np.int64] | None = None) -> Tensor:
    """Return one block of scores after holding the source to its contract; ``order`` gives the texts their numbers.

    Raises:
        DataError: if the block has the wrong shape, less than float32, or a NaN.
    """
    tile = _in_memory(scores, images, texts)
    expected = (images.stop - images.start, texts.stop - texts.start)
    if tuple(tile.shape) != expected:
        raise DataError(f"scores of {expected[0]} images and {expected[1]} texts came as shape {tuple(tile.shape)}")
    if tile.dtype not in (torch.float32, torch.float64):
        raise DataError(f"scores came as {str(tile.dtype).removeprefix('torch.')}: score in float32 at least")
    # One sum is far cheaper than a test of every element, and a NaN cannot hide from it.
    if torch.isnan(tile.sum()) and bool(torch.isnan(tile).any()):
        row, column = torch.isnan(tile).nonzero()[0].tolist()
        text = texts.start + column if order is None else int(order[texts.start + column])
        raise DataError(f"the score of image {images.start + row} and text {text} is NaN")
    return tile


def _in_memory(scores: ScoreSource, images: slice, texts: slice) -> Tensor:
    """Score a block, in halves of halves where memory does not suffice for the whole, and say so."""
    try:
        return scores.block(images, texts)
    except (torch.cuda.OutOfMemoryError, MemoryError, RuntimeError) as error:
        # The CPU's allocator has no error class of its own.
        if not isinstance(error, torch.cuda.OutOfMemoryError | MemoryError) and "DefaultCPUAllocator" not in str(error):
            raise
    # Out of the handler, as the error keeps alive what was computed so far.
    n_images, n_texts = images.stop - images.start, texts.stop - texts.start
    if n_images * n_texts == 1:
        raise CmrBenchError(
            "not enough memory to score one image with one text: free some, lower --data.max_words or the width of the "
            "method, or run where there is more"
        )
    warnings.warn(
        f"memory does not suffice to score {n_images} images with {n_texts} texts at once; trying smaller blocks",
        stacklevel=2,
    )
    if n_images >= n_texts:
        middle = images.start + n_images // 2
        halves = [_in_memory(scores, part, texts) for part in (slice(images.start, middle), slice(middle, images.stop))]
        return torch.cat(halves)
    middle = texts.start + n_texts // 2
    halves = [_in_memory(scores, images, part) for part in (slice(texts.start, middle), slice(middle, texts.stop))]
    return torch.cat(halves, dim=1)


@contextlib.contextmanager
def full_precision() -> Iterator[None]:
    """Score without gradients, autocast or TF32, whatever the training loop has switched on."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.no_grad(), contextlib.ExitStack() as stack:
            for device in ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",):
                stack.enter_context(torch.autocast(device, enabled=False))
            yield
    finally:
        torch.set_float32_matmul_precision(before)


def as_numpy(values: ArrayLike) -> NDArray[Any]:
    """Return an array or tensor as an array in this machine's memory."""
    return values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)


def _embedding(values: ArrayLike, kind: str, normalize: bool) -> Tensor:
    if values.ndim != 2 or 0 in values.shape:
        raise DataError(f"{kind} embeddings are a matrix (n_{kind}s, dim), these have shape {_shape(values)}")
    rows = _widen(values.detach()) if isinstance(values, Tensor) else _from_numpy(values)
    # Part by part, because float64 takes twice the room.
    parts = [rows[part] for part in slices(len(rows), 8192)]
    norms = torch.cat([torch.linalg.vector_norm(part, dim=1, dtype=torch.float64) for part in parts])
    if not bool(torch.isfinite(norms).all()):
        row = int((~torch.isfinite(norms)).nonzero()[0])
        raise DataError(f"the embedding of {kind} {row} is not finite")
    return rows / norms.clamp_min(torch.finfo(torch.float32).tiny).to(rows.dtype)[:, None] if normalize else rows


def _widen(values: Tensor) -> Tensor:
    if values.dtype in (torch.float32, torch.float64):
        return values
    if values.dtype.is_floating_point or values.dtype.itemsize < 4:
        return values.float()
    return _exact(values.double())


def _exact(values: Tensor) -> Tensor:
    largest = values.abs().max().item() if values.numel() else 0
    if largest >= _EXACT:
        raise DataError(f"integers of {largest:.0f} lose their order in float64: subtract a constant, or divide them")
    return values


def _from_numpy(values: NDArray[Any], copy: bool | None = True) -> Tensor:
    # Whole numbers from 2^24 on, counts or products of quantised vectors, would fall together in float32.
    whole = values.dtype.kind in "iu" and values.dtype.itemsize >= 4
    wide = whole or (values.dtype.kind == "f" and values.dtype.itemsize >= 8)
    widened = torch.from_numpy(np.array(values, dtype=np.float64 if wide else np.float32, copy=copy))
    return _exact(widened) if whole else widened


def _shape(values: ArrayLike) -> tuple[int, ...]:
    return tuple(values.shape)
