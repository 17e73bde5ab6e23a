"""Batches, the sampler that deals them out to processes, and the loading of their items."""

from __future__ import annotations

import dataclasses
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, get_worker_info

from cmr_bench.support.errors import CmrBenchError, UsageError, first_line
from cmr_bench.support.places import cache_dir as cache_dir

if TYPE_CHECKING:
    pass
from cmr_bench.datamodules.split import Split
from cmr_bench.datamodules.views import Rows


@dataclass
class ImageBatch:
    """Images of a batch in the one view that the method reads.

    Attributes:
        rows: Row of each image in its split, (b,).
        pixels: RGB in 0..1, not normalised, (b, 3, H, W).
        vector: One feature vector per image, (b, d).
        regions: Region or grid features, (b, R, d).
        boxes: Boxes of the regions as fractions x0, y0, x1, y1, (b, R, 4).
        mask: True for real regions, (b, R).
    """

    rows: Tensor
    pixels: Tensor | None = None
    vector: Tensor | None = None
    regions: Tensor | None = None
    boxes: Tensor | None = None
    mask: Tensor | None = None

    def __len__(self) -> int:
        return len(self.rows)

    def pin_memory(self) -> ImageBatch:
        """Return the batch in page-locked memory; DataLoader calls it."""
        return _pinned(self)


@dataclass
class TextBatch:
    """Texts of a batch in the one view that the method reads.

    Attributes:
        rows: Row of each text in its split, (b,).
        tokens: Word ids of the data set's vocabulary, 0 is padding, (b, W).
        lengths: Number of real words, (b,).
        input_ids: Subword ids of a transformers tokenizer, (b, W).
        attention_mask: 1 for real subwords, (b, W).
        vector: One feature vector per text, (b, d).
    """

    rows: Tensor
    tokens: Tensor | None = None
    lengths: Tensor | None = None
    input_ids: Tensor | None = None
    attention_mask: Tensor | None = None
    vector: Tensor | None = None

    def __len__(self) -> int:
        return len(self.rows)

    def pin_memory(self) -> TextBatch:
        """Return the batch in page-locked memory; DataLoader calls it."""
        return _pinned(self)


@dataclass
class PairBatch:
    """Matching pairs: text k belongs to image k.

    Attributes:
        images: The images, (b,); an image appears twice when two of its captions meet in a batch.
        texts: The texts, (b,).
        labels: Category of each pair, (b,) or multi-hot (b, n_classes); None where the data has none.
        whole: Pairs of the global batch, of which these are one process's share; None where nothing is shared.
        stand_in: True where this process has no share and a pair of another's stands in for it, which counts nowhere:
            recurrent networks and DDP cannot do with nothing.
        identities: Number of each pair's identity, (b,); None where every image is its own.
    """

    images: ImageBatch
    texts: TextBatch
    labels: Tensor | None = None
    whole: int | None = None
    stand_in: bool = False
    identities: Tensor | None = None

    @property
    def identity(self) -> Tensor:
        """Number of each pair's identity, (b,), by default the row of its image: equal for what is no negative."""
        return self.images.rows if self.identities is None else self.identities

    def __len__(self) -> int:
        return len(self.images)

    def pin_memory(self) -> PairBatch:
        """Return the batch in page-locked memory; DataLoader calls it."""
        return _pinned(self)


B = TypeVar("B", ImageBatch, TextBatch, PairBatch)


def _pinned(batch: B) -> B:
    values = {field.name: getattr(batch, field.name) for field in dataclasses.fields(batch)}
    return dataclasses.replace(
        batch, **{name: value.pin_memory() for name, value in values.items() if hasattr(value, "pin_memory")}
    )


class BatchRows(list[int]):
    """Rows of one batch together with the epoch they are drawn in and the global batch that they are a share of."""

    epoch: int | None = None
    whole: int | None = None
    stand_in: bool = False


class BatchSampler:
    """Cuts a seeded permutation into global batches and hands every process its share of each.

    The order depends on seed and epoch only, not on workers or processes, so the pairs that meet in a batch are
    the same on one device and on eight. A global batch is cut into shares as even as can be, in the order of the
    processes; where the last one has fewer items than there are processes, its first item stands in for a share.

    Without a seed the batches are whole: they are dealt out to the processes in turn, so that an item is encoded in the
    same company, to the same bits, whatever the number of processes. Who has fewer batches gets an empty one.

    Args:
        n_items: Number of items.
        batch_size: Items a global batch.
        seed: Seed of the permutation; None keeps the order and the batches.
        rank: This process.
        world_size: Number of processes.
    """

    def __init__(self, n_items: int, batch_size: int, seed: int | None, rank: int = 0, world_size: int = 1) -> None:
        if seed is not None and batch_size < world_size:
            raise UsageError(f"--data.batch_size {batch_size} is global and smaller than the {world_size} processes")
        self.n_items, self.batch_size, self.seed = n_items, batch_size, seed
        self.rank, self.world_size = rank, world_size
        self.epoch = 0

    @property
    def sampler(self) -> BatchSampler:
        """The object on which the Trainer calls :meth:`set_epoch`."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Choose the permutation."""
        self.epoch = epoch

    def __len__(self) -> int:
        n_batches = -(-self.n_items // self.batch_size)
        return n_batches if self.seed is not None else -(-n_batches // self.world_size)

    def __iter__(self) -> Iterator[BatchRows]:
        return self._whole() if self.seed is None else self._shares(self.seed)

    def _whole(self) -> Iterator[BatchRows]:
        for turn in range(len(self)):
            start = (turn * self.world_size + self.rank) * self.batch_size
            yield BatchRows(range(start, min(start + self.batch_size, self.n_items)))

    def _shares(self, seed: int) -> Iterator[BatchRows]:
        order = np.random.default_rng([seed, self.epoch]).permutation(self.n_items)
        for start in range(0, self.n_items, self.batch_size):
            everything = order[start : start + self.batch_size]
            share = np.array_split(everything, self.world_size)[self.rank]
            batch = BatchRows((share if len(share) else everything[:1]).tolist())
            batch.epoch, batch.whole, batch.stand_in = self.epoch, len(everything), len(share) == 0
            yield batch


class Items(Dataset[Any]):
    """Whole batches by rows, through the function given."""

    def __init__(self, n_items: int, fetch: Callable[[BatchRows], Any]) -> None:
        self.n_items, self.fetch = n_items, fetch

    def __len__(self) -> int:
        return self.n_items

    def __getitem__(self, row: int) -> Any:
        return self.fetch(BatchRows([row]))

    def __getitems__(self, rows: BatchRows) -> Any:
        return self.fetch(rows)


@dataclass
class Fetch:
    """Builds batches of one split; a class so that data workers can receive it under every start method."""

    split: Split
    what: Literal["pairs", "images", "texts"]

    def __post_init__(self) -> None:
        self._identities = None if self.split.identity is None else self.split.identities

    def __call__(self, batch: BatchRows) -> PairBatch | ImageBatch | TextBatch:
        """Load the items of a batch."""
        rows, epoch = np.asarray(batch, dtype=np.int64), batch.epoch
        if self.what == "images":
            return image_batch(self.split, rows, epoch)
        if self.what == "texts":
            return text_batch(self.split, rows, epoch)
        images = self.split.image_of_text[rows]
        labels = None if self.split.labels is None else torch.from_numpy(self.split.labels[images])
        return PairBatch(
            image_batch(self.split, images, epoch),
            text_batch(self.split, rows, epoch),
            labels,
            batch.whole,
            batch.stand_in,
            None if self._identities is None else torch.from_numpy(self._identities[images]),
        )


def image_batch(split: Split, rows: Rows, epoch: int | None = None) -> ImageBatch:
    """Load images of a split by row; of no rows, an empty batch without fields."""
    assert split.images is not None
    if len(rows) == 0:
        return ImageBatch(torch.empty(0, dtype=torch.long))
    return ImageBatch(torch.from_numpy(rows.copy()), **split.images.fetch(rows, epoch))


def text_batch(split: Split, rows: Rows, epoch: int | None = None) -> TextBatch:
    """Load texts of a split by row; of no rows, an empty batch without fields."""
    assert split.texts is not None
    if len(rows) == 0:
        return TextBatch(torch.empty(0, dtype=torch.long))
    return TextBatch(torch.from_numpy(rows.copy()), **split.texts.fetch(rows, epoch))


def shared(batch: Any) -> Any:
    """Return the batch, which the sampler has put together already; of a data worker in memory that the run can see.

    Left to the worker's queue, a batch for which there is no such memory is lost, and the run waits for it for ever.

    Raises:
        CmrBenchError: If there is no room for it.
    """
    if get_worker_info() is None:
        return batch
    tensors = list(_tensors(batch))
    try:
        for tensor in tensors:
            tensor.share_memory_()
    except RuntimeError as error:
        size = sum(tensor.nbytes for tensor in tensors) / 2**20
        reason = re.sub(r" for file <[^>]*>", "", first_line(error))
        raise CmrBenchError(
            f"a data worker has no shared memory for a batch of {size:.1f} MiB, each worker holding two ({_room()}"
            f"{reason}): pass --data.num_workers 0 or a smaller --data.batch_size, or make room (docker run --shm-size "
            "2g)"
        ) from error
    return batch


def check_workers(n_workers: int) -> None:
    """Make sure before training that data workers can be started; raises CmrBenchError where they cannot."""
    if n_workers == 0:
        return
    try:
        torch.multiprocessing.get_context().SimpleQueue().close()
    except OSError as error:
        raise CmrBenchError(
            f"data workers have no shared memory to start with ({_room()}{error.strerror or error}): pass "
            "--data.num_workers 0, or make room (docker run --shm-size 2g)"
        ) from error


def _room() -> str:
    place = Path("/dev/shm")
    return f"{place} has {shutil.disk_usage(place).total / 2**20:.1f} MiB; " if place.is_dir() else ""


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            yield from _tensors(getattr(value, field.name))
