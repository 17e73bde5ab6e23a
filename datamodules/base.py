"""Splits, views, batches and loaders: what every data set delivers and every method reads."""

from __future__ import annotations

import abc
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import lightning as L
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from cmr_bench.errors import DataError, UsageError
from cmr_bench.places import cache_dir as cache_dir

if TYPE_CHECKING:
    from PIL import Image

    from cmr_bench.datamodules.features import FeatureStore

ViewKind = Literal["pixels", "vector", "regions", "tokens", "subwords"]
Rows = npt.NDArray[np.int64]
SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class ViewSpec:
    """What a view delivers.

    Attributes:
        kind: Name of the view.
        shape: Shape of one item: ``(d,)`` for a vector, ``(R, d)`` for regions, ``(3, H, W)`` for pixels, ``(W,)`` for
            words, where W is the longest text.
        source: Where it comes from, for the result: an encoder, an array name, a tokenizer.
        vocab_size: Number of word or subword ids, padding included; 0 for other views.
    """

    kind: ViewKind
    shape: tuple[int, ...]
    source: str = ""
    vocab_size: int = 0


@dataclass(frozen=True)
class DataSpec:
    """All a method may know of a data set before it builds its layers.

    Attributes:
        image: The image view that will arrive in batches.
        text: The text view that will arrive in batches.
        n_classes: Number of categories, 0 where the data has none.
        multi_label: True where an item can have several categories.
        n_train_images: Images in the training split, the number of identities.
        n_train_texts: Texts in the training split.
    """

    image: ViewSpec
    text: ViewSpec
    n_classes: int
    multi_label: bool
    n_train_images: int
    n_train_texts: int


@dataclass(frozen=True)
class Origin:
    """How a view is made of raw photographs or texts: enough to make it of others than those of the data set.

    Attributes:
        kind: Name of the way, see :mod:`cmr_bench.datamodules.raw`.
        settings: What JSON can hold.
        arrays: Arrays of numbers.
    """

    kind: str
    settings: Mapping[str, Any]
    arrays: Mapping[str, npt.NDArray[Any]] = field(default_factory=dict)

    def to_bytes(self) -> bytes:
        """Return the content of a safetensors file."""
        from safetensors.numpy import save

        arrays = {name: np.ascontiguousarray(value) for name, value in self.arrays.items()}
        return save(arrays, {"kind": self.kind, "settings": json.dumps(self.settings)})

    @classmethod
    def from_bytes(cls, content: bytes) -> Origin:
        """Read what :meth:`to_bytes` wrote; raises ValueError or KeyError where it is something else."""
        from safetensors import SafetensorError
        from safetensors.numpy import load

        try:
            arrays = load(content)
            length = int.from_bytes(content[:8], "little")
            notes = json.loads(content[8 : 8 + length])["__metadata__"]
        except SafetensorError as error:
            raise ValueError(str(error)) from error
        return cls(notes["kind"], json.loads(notes["settings"]), arrays)


class View(abc.ABC):
    """Random access to one view of the images or texts of a split, by row."""

    spec: ViewSpec

    def origin(self) -> Origin | None:
        """Return how the view is made of raw photographs or texts; None where they do not give it."""
        return None

    @abc.abstractmethod
    def __len__(self) -> int:
        """Number of items."""

    @abc.abstractmethod
    def fetch(self, rows: Rows, epoch: int | None = None) -> dict[str, Tensor]:
        """Load items.

        Args:
            rows: Rows in the split, (b,).
            epoch: Epoch of training, for views that augment; None asks for the item as it is.

        Returns:
            Fields of :class:`ImageBatch` or :class:`TextBatch`, each with first dimension b.
        """


class ArrayView(View):
    """A view held in one array, possibly memory-mapped: ``(n, d)`` gives vectors, ``(n, R, d)`` gives regions.

    Args:
        array: The features, one item a row.
        source: Where they come from.
        rows: Row of the array for each item; None where they are in order.
        boxes: Boxes of the regions, (n, R, 4) as fractions x0, y0, x1, y1, or (R, 4) where they are the same for all.
        mask: True for real regions, (n, R); None where every region is real.
    """

    def __init__(
        self,
        array: npt.NDArray[Any],
        source: str,
        rows: Rows | None = None,
        boxes: npt.NDArray[Any] | None = None,
        mask: npt.NDArray[np.bool_] | None = None,
    ) -> None:
        if array.ndim not in (2, 3):
            raise DataError(f"features '{source}' have shape {array.shape}; expected (n, d) or (n, regions, d)")
        self.array, self.rows, self.boxes, self.mask = array, rows, boxes, mask
        kind: ViewKind = "vector" if array.ndim == 2 else "regions"
        self.spec = ViewSpec(kind, tuple(int(n) for n in array.shape[1:]), source)

    def __len__(self) -> int:
        return len(self.array) if self.rows is None else len(self.rows)

    def fetch(self, rows: Rows, epoch: int | None = None) -> dict[str, Tensor]:
        """Read rows of the array as float32; a non-finite value is an error that names its row."""
        at = rows if self.rows is None else self.rows[rows]
        values = np.asarray(self.array[at])
        # Five times as fast as NumPy's own widening of half precision.
        half = values.dtype == np.float16
        # What float32 cannot hold becomes infinite, and is told below.
        with np.errstate(over="ignore"):
            values = torch.from_numpy(values).float().numpy() if half else values.astype(np.float32, copy=False)
        if not np.isfinite(values).all():
            bad = int(rows[~np.isfinite(values.reshape(len(values), -1)).all(axis=1)][0])
            raise DataError(
                f"features '{self.spec.source}': row {bad} holds NaN or infinity; "
                "`cmr-bench data check` lists every such row"
            )
        fields: dict[str, Tensor] = {self.spec.kind: torch.from_numpy(values)}
        if self.spec.kind == "regions":
            if self.boxes is not None:
                boxes = (
                    self.boxes[at]
                    if self.boxes.ndim == 3
                    else np.broadcast_to(self.boxes, (len(at), *self.boxes.shape))
                )
                fields["boxes"] = torch.from_numpy(np.array(boxes, dtype=np.float32))
            mask = np.ones(values.shape[:2], dtype=bool) if self.mask is None else np.asarray(self.mask[at], dtype=bool)
            fields["mask"] = torch.from_numpy(mask)
        return fields


@dataclass
class ImageBatch:
    """Images of a batch in the one view that the method reads.

    Attributes:
        rows: Row of each image in its split, (b,).
        pixels: RGB in 0..1, not normalised, (b, 3, H, W).
        vector: One feature vector an image, (b, d).
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


@dataclass
class TextBatch:
    """Texts of a batch in the one view that the method reads.

    Attributes:
        rows: Row of each text in its split, (b,).
        tokens: Word ids of the data set's vocabulary, 0 is padding, (b, W).
        lengths: Number of real words, (b,).
        input_ids: Subword ids of a transformers tokenizer, (b, W).
        attention_mask: 1 for real subwords, (b, W).
        vector: One feature vector a text, (b, d).
    """

    rows: Tensor
    tokens: Tensor | None = None
    lengths: Tensor | None = None
    input_ids: Tensor | None = None
    attention_mask: Tensor | None = None
    vector: Tensor | None = None

    def __len__(self) -> int:
        return len(self.rows)


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
    """

    images: ImageBatch
    texts: TextBatch
    labels: Tensor | None = None
    whole: int | None = None
    stand_in: bool = False

    @property
    def identity(self) -> Tensor:
        """Row of each pair's image in the training split, (b,): equal for captions of the same image."""
        return self.images.rows

    def __len__(self) -> int:
        return len(self.images)


@dataclass
class Split:
    """One part of a data set: items, links between them, labels, raw content and the loaded views.

    Attributes:
        name: train, val or test.
        image_ids: A name for every image, unique in the split, (n_images,).
        image_of_text: Row of the image that each text belongs to, (n_texts,).
        text_ids: A name for every text, (n_texts,).
        captions: The raw texts; None where the data set ships features only.
        image_files: The photographs; None where the data set ships features only.
        labels: Category (n_images,) or multi-hot (n_images, n_classes) of the images; None where there is none.
        class_names: Names of the categories.
        images: The image view, set by :meth:`RetrievalDataModule.load`.
        texts: The text view, set by :meth:`RetrievalDataModule.load`.
    """

    name: str
    image_ids: Sequence[str]
    image_of_text: Rows
    text_ids: Sequence[str]
    captions: Sequence[str] | None = None
    image_files: Sequence[Path] | None = None
    labels: npt.NDArray[np.int64] | None = None
    class_names: Sequence[str] = ()
    images: View | None = None
    texts: View | None = None

    def __post_init__(self) -> None:
        self.image_of_text = np.asarray(self.image_of_text, dtype=np.int64)
        counts = {
            "text_ids": (len(self.text_ids), self.n_texts),
            "captions": (self.n_texts if self.captions is None else len(self.captions), self.n_texts),
            "image_files": (self.n_images if self.image_files is None else len(self.image_files), self.n_images),
            "labels": (self.n_images if self.labels is None else len(self.labels), self.n_images),
        }
        for what, (found, expected) in counts.items():
            if found != expected:
                raise DataError(f"{self.name} split: {found} {what} for {expected} items")
        if self.n_texts and not (self.image_of_text.min() >= 0 and self.image_of_text.max() < self.n_images):
            raise DataError(f"{self.name} split: a text points to an image outside 0..{self.n_images - 1}")

    @property
    def n_images(self) -> int:
        """Number of images."""
        return len(self.image_ids)

    @property
    def n_texts(self) -> int:
        """Number of texts."""
        return len(self.image_of_text)

    @property
    def text_labels(self) -> npt.NDArray[np.int64] | None:
        """Labels of the texts, which inherit their image's."""
        return None if self.labels is None else self.labels[self.image_of_text]

    def keep_images(self, keep: npt.NDArray[np.bool_]) -> Split:
        """Return the split without the images where ``keep`` (n_images,) is False, and without their texts."""
        texts = np.flatnonzero(keep[self.image_of_text]).tolist()
        images = np.flatnonzero(keep).tolist()
        return replace(
            self,
            image_ids=[self.image_ids[i] for i in images],
            image_of_text=(np.cumsum(keep) - 1)[self.image_of_text[texts]],
            text_ids=[self.text_ids[t] for t in texts],
            captions=None if self.captions is None else [self.captions[t] for t in texts],
            image_files=None if self.image_files is None else [self.image_files[i] for i in images],
            labels=None if self.labels is None else self.labels[images],
        )

    def fingerprint(self) -> str:
        """SHA-256 over ids, links, labels and captions: equal splits have equal fingerprints on every machine."""
        digest = hashlib.sha256()
        for values in (self.image_ids, self.text_ids, self.captions or ()):
            for value in values:
                digest.update(value.encode() + b"\0")
            digest.update(b"\1")
        digest.update(self.image_of_text.astype("<i8").tobytes())
        if self.labels is not None:
            digest.update(self.labels.astype("<i8").tobytes())
        return digest.hexdigest()


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


class _Items(Dataset[Any]):
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
class _Fetch:
    """Builds batches of one split; a class so that data workers can receive it under every start method."""

    split: Split
    what: Literal["pairs", "images", "texts"]

    def __call__(self, batch: BatchRows) -> PairBatch | ImageBatch | TextBatch:
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


def _as_is(batch: Any) -> Any:
    return batch


def locate(root: str | Path | None, name: str, markers: Sequence[str], layout: str) -> Path:
    """Find the folder of a data set.

    Args:
        root: Value of ``--data.root``; None falls back on ``CMR_BENCH_DATA``.
        name: Name of the data set; the folder may be ``root/name`` or ``root`` itself.
        markers: Relative paths (glob patterns) of which one must exist in the folder.
        layout: One line that describes the expected folder, for the error.

    Returns:
        The folder.

    Raises:
        DataError: If no root is given or no marker is found.
    """
    given = root or os.environ.get("CMR_BENCH_DATA")
    if not given:
        raise DataError(
            f"{name} needs its files: pass --data.root DIR or set CMR_BENCH_DATA; DIR/{name} holds {layout}"
        )
    base = Path(given).expanduser()
    places = [base / name, base]
    for place in places:
        if any(next(place.glob(marker), None) is not None for marker in markers):
            return place
    looked = " and ".join(str(place) for place in places)
    raise DataError(f"{name} not found: looked for {' or '.join(markers)} in {looked}; expected layout: {layout}")


class RetrievalDataModule(L.LightningDataModule):
    """A data set with its splits, delivered in the views that a method reads.

    A data set overrides :meth:`read`, and :meth:`image_view` or :meth:`text_view` where it has views of its own.

    Args:
        root: Folder that holds one folder per data set; CMR_BENCH_DATA where not given.
        batch_size: Pairs a training batch, over all devices together.
        num_workers: Processes that load data; 0 loads in the main process.
        image_features: Name of stored image features (made by `cmr-bench data features`), or a folder with them.
        text_features: Text vectors: doc2vec, tfidf, lsa, hf:NAME_OR_FOLDER, or the name of an array that the
            data set ships.
        text_dim: Width of fitted text vectors (doc2vec, tfidf, lsa); 0 takes the default of each.
        image_size: Side of the square photographs in pixels, for methods that read pixels.
        augment: Crop and flip the training photographs at random, for methods that read pixels.
        max_words: Longer texts are cut here, for methods that read words.
        min_count: Words rarer than this in the training captions become the unknown word.
        skip_missing: Go on without images whose file or feature is missing; the result records how many.
        eval_batch_size: Items encoded at once in validation and test.
        seed: Seed of the data order and of fitted text vectors; the run's seed where not given.
    """

    data_name: ClassVar[str] = ""
    selection: ClassVar[Literal["rsum", "map"]] = "rsum"
    folds: ClassVar[int | None] = None
    expected: ClassVar[Mapping[str, tuple[int, ...]]] = {}
    select_on: Literal["val", "test"] = "val"

    def __init__(
        self,
        root: str | None = None,
        batch_size: int = 128,
        num_workers: int = 0,
        image_features: str | None = None,
        text_features: str | None = None,
        text_dim: int = 0,
        image_size: int = 224,
        augment: bool = True,
        max_words: int = 64,
        min_count: int = 4,
        skip_missing: bool = False,
        eval_batch_size: int = 256,
        seed: int | None = None,
    ) -> None:
        super().__init__()
        self.root, self.batch_size, self.num_workers = root, batch_size, num_workers
        self.image_features, self.text_features, self.text_dim = image_features, text_features, text_dim
        self.image_size, self.augment = image_size, augment
        self.max_words, self.min_count = max_words, min_count
        self.skip_missing, self.eval_batch_size = skip_missing, eval_batch_size
        self.seed = seed or 0
        self.splits: dict[str, Split] = {}
        self.skipped: dict[str, list[str]] = {}
        self.spec: DataSpec | None = None

    def read(self) -> Mapping[str, Split]:
        """Read ids, links, labels and raw content of every split that is there; views come later.

        Raises:
            DataError: If files are missing or malformed.
        """
        raise NotImplementedError

    def expected_counts(self) -> Mapping[str, tuple[int, ...]]:
        """Images, and texts where they are fixed, that every split should have under the options chosen."""
        return self.expected

    def image_arrays(self) -> Mapping[str, Mapping[str, ArrayView]]:
        """Arrays of image features that the data set ships, by name and split, aligned with what was read last."""
        return {}

    def text_arrays(self) -> Mapping[str, Mapping[str, ArrayView]]:
        """Arrays of text features that the data set ships, by name and split, aligned with what was read last."""
        return {}

    def folder(self) -> Path:
        """Folder of the data set on disk; raises DataError where the data set has none."""
        raise DataError(f"{self.data_name} has no folder on disk")

    def missing_images(self, kind: ViewKind, split: Split) -> npt.NDArray[np.bool_]:
        """Tell which images of ``split`` (n_images,) cannot be delivered as ``kind``: no file, or no stored feature."""
        from cmr_bench.datamodules import features

        if kind == "pixels":
            files = split.image_files or ()
            return np.fromiter((not f.is_file() for f in files), dtype=bool, count=len(files))
        return features.missing(self.feature_store(), split)

    def feature_store(self) -> FeatureStore:
        """Open the stored image features that ``image_features`` names."""
        from cmr_bench.datamodules import features

        if self.image_features is None:
            raise UsageError(
                f"{self.data_name} has no image features chosen: make some with "
                f"`cmr-bench data features {self.data_name} --encoder torchvision:resnet152`, "
                "then pass --data.image_features NAME"
            )
        return features.open_store(self.image_features, self.data_name, self.root)

    def image_view(self, kind: ViewKind, split: Split) -> View:
        """Return the images of ``split`` as ``kind``; by default from the photographs or from stored features."""
        from cmr_bench.datamodules import features, transforms

        if kind == "pixels":
            if split.image_files is None:
                raise DataError(
                    f"{self.data_name} has no photographs here to read as pixels; choose --model.image_view vector"
                )
            return transforms.PixelView(
                split.image_files, self.image_size, self.augment and split.name == "train", self.seed
            )
        view = features.stored_view(self.feature_store(), split)
        if view.spec.kind != kind:
            raise UsageError(
                f"the method reads images as '{kind}' but features '{self.image_features}' hold '{view.spec.kind}' "
                f"{view.spec.shape}; make others with `cmr-bench data features {self.data_name} --encoder ... --layer "
                f"{'grid' if kind == 'regions' else 'pool'}`"
            )
        return view

    def photo(self, split: Split, row: int, at_least: int = 0) -> Image.Image | None:
        """Return an image of ``split`` to look at; None where the data set ships features only.

        Args:
            split: A split of this data set.
            row: Row of the image.
            at_least: Both sides that are needed, in pixels; 0 for full size.

        Raises:
            DataError: If the file is missing or cannot be decoded.
        """
        from cmr_bench.datamodules import transforms

        return None if split.image_files is None else transforms.read_photo(split.image_files[row], at_least)

    def text_view(self, kind: ViewKind, split: Split, tokenizer: str | None = None) -> View:
        """Return the texts of ``split`` as ``kind``; everything fitted is fitted on the training split."""
        from cmr_bench.datamodules import text

        if split.captions is None:
            raise DataError(f"{self.data_name} has no raw text here, so no '{kind}' view of the texts")
        train = self.splits["train"]
        assert train.captions is not None
        if kind == "tokens":
            self.vocabulary = getattr(self, "vocabulary", None) or text.Vocabulary.fit(train.captions, self.min_count)
            return text.TokenView(split.captions, self.vocabulary, self.max_words)
        if kind == "subwords":
            if tokenizer is None:
                raise UsageError("the method reads subwords but names no tokenizer; pass a transformers name or folder")
            return text.SubwordView(split.captions, tokenizer, self.max_words)
        if self.text_features is None:
            raise UsageError(
                "the method reads texts as vectors: pass --data.text_features doc2vec, tfidf or hf:NAME_OR_FOLDER"
            )
        return text.vector_view(
            self.text_features,
            train.captions,
            split.captions,
            dim=self.text_dim,
            seed=self.seed,
            cache=cache_dir(self.data_name),
        )

    def load(self, image_view: ViewKind, text_view: ViewKind, tokenizer: str | None = None) -> DataSpec:
        """Read the splits and build the views; fails before training if something is missing.

        Args:
            image_view: View of the images that the method reads.
            text_view: View of the texts that the method reads.
            tokenizer: Name or folder of a transformers tokenizer, for subwords.

        Returns:
            What the method needs to build its layers.
        """
        self.splits = {}
        for name, split in self.read().items():
            absent = self.missing_images(image_view, split)
            if absent.any():
                names = [name for name, gone in zip(split.image_ids, absent, strict=True) if gone]
                what = "photo" if image_view == "pixels" else f"row in features '{self.image_features}'"
                if not self.skip_missing:
                    raise DataError(
                        f"{self.data_name} {name}: {len(names)} of {split.n_images} images have no {what}, e.g. "
                        f"{names[0]}; pass --data.skip_missing true to go on without them"
                    )
                self.skipped[name] = names
                split = split.keep_images(~absent)
            if split.n_images == 0 or split.n_texts == 0:
                raise DataError(
                    f"{self.data_name} {name}: empty, with {split.n_images} images and {split.n_texts} texts"
                )
            self.splits[name] = split
        missing = [name for name in SPLITS if name not in self.splits]
        if missing:
            raise DataError(
                f"{self.data_name}: no {' and no '.join(missing)} split here; a run needs train, val and test"
            )
        for split in self.splits.values():
            split.images = self.image_view(image_view, split)
            split.texts = self.text_view(text_view, split, tokenizer)
            for view, n, what in ((split.images, split.n_images, "images"), (split.texts, split.n_texts, "texts")):
                if len(view) != n:
                    raise DataError(
                        f"{self.data_name} {split.name}: '{view.spec.source or view.spec.kind}' has {len(view)} rows "
                        f"for {n} {what}"
                    )
        train = self.splits["train"]
        assert train.images is not None
        assert train.texts is not None
        self.spec = DataSpec(
            train.images.spec,
            train.texts.spec,
            n_classes=len(train.class_names),
            multi_label=train.labels is not None and train.labels.ndim == 2,
            n_train_images=train.n_images,
            n_train_texts=train.n_texts,
        )
        return self.spec

    def _loader(self, split: str, what: Literal["pairs", "images", "texts"], shuffle: bool) -> DataLoader[Any]:
        part = self.splits[split]
        n_items = part.n_images if what == "images" else part.n_texts
        trainer = self.trainer
        rank, world = (trainer.global_rank, trainer.world_size) if trainer is not None else (0, 1)
        size = self.batch_size if what == "pairs" else self.eval_batch_size
        sampler = BatchSampler(n_items, size, self.seed if shuffle else None, rank, world)
        return DataLoader(
            _Items(n_items, _Fetch(part, what)),
            batch_sampler=sampler,
            collate_fn=_as_is,
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
            # A resumed run makes its first iterator at another moment than a whole one; drawing the workers' seed from
            # the common generator would shift every random number after it.
            generator=torch.Generator(),
        )

    def train_dataloader(self) -> DataLoader[PairBatch]:
        """Pairs of the training split in seeded order."""
        return self._loader("train", "pairs", shuffle=True)

    def item_loaders(self, split: str) -> list[DataLoader[Any]]:
        """Images, then texts, of a split, not augmented; each item once."""
        return [self._loader(split, "images", shuffle=False), self._loader(split, "texts", shuffle=False)]

    def val_dataloader(self) -> list[DataLoader[Any]]:
        """Images, then texts, of the split that chooses the weights; each item once."""
        return self.item_loaders(self.select_on)

    def test_dataloader(self) -> list[DataLoader[Any]]:
        """Images, then texts, of the test split; each item once."""
        return self.item_loaders("test")
