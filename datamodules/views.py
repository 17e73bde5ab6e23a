"""Views: what an image or a text is seen as, and random access to it."""

from __future__ import annotations

import abc
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from cmr_bench.support.errors import DataError
from cmr_bench.support.places import cache_dir as cache_dir
from cmr_bench.support.places import without_folders
from cmr_bench.support.readahead import read_ahead

if TYPE_CHECKING:
    from torch import Tensor

_AT_ONCE = 1 << 22  # values that are read at once for a checksum

ViewKind = Literal["pixels", "vector", "regions", "tokens", "subwords"]
Rows = npt.NDArray[np.int64]


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
        n_train_images: Images in the training split.
        n_train_texts: Texts in the training split.
        n_train_identities: Identities in the training split; None where every image is its own.
    """

    image: ViewSpec
    text: ViewSpec
    n_classes: int
    multi_label: bool
    n_train_images: int
    n_train_texts: int
    n_train_identities: int | None = None

    @property
    def n_identities(self) -> int:
        """Number of identities in the training split."""
        return self.n_train_images if self.n_train_identities is None else self.n_train_identities

    def record(self) -> dict[str, Any]:
        """Return the views as a result keeps them: kind, source and shape of an item, by side."""
        return {
            side: {"kind": view.kind, "source": without_folders(view.source), "shape": list(view.shape)}
            for side, view in (("image", self.image), ("text", self.text))
        }


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

    def content(self) -> str:
        """Checksum of what is read beside the split's own ids, captions and labels; empty where there is nothing."""
        return ""

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
        array: The features, one item per row.
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

    def content(self) -> str:
        """SHA-256 over the rows, with boxes and mask where there are any: values, type and shape."""
        digest = hashlib.sha256()
        parts: list[npt.NDArray[Any]] = [part for part in (self.array, self.boxes, self.mask) if part is not None]
        for part in parts:
            # Boxes (R, 4) are the same for every item.
            per_item = part is not self.boxes or len(part.shape) == 3
            n_rows = len(self) if per_item else len(part)
            digest.update(f"{part.dtype.str} {(n_rows, *part.shape[1:])}".encode())
            step = max(1, _AT_ONCE // max(1, int(np.prod(part.shape[1:]))))
            for start in range(0, n_rows, step):
                rows: Any = slice(start, min(start + step, n_rows))
                block = part[rows if self.rows is None or not per_item else self.rows[rows]]
                digest.update(np.ascontiguousarray(block).data.cast("B"))
        return digest.hexdigest()

    def fetch(self, rows: Rows, epoch: int | None = None) -> dict[str, Tensor]:
        """Read rows of the array as float32; a non-finite value is an error that names its row."""
        import torch  # takes seconds, and whoever only looks for rows does without

        at = rows if self.rows is None else self.rows[rows]
        read_ahead(self.array, at)
        values = np.asarray(self.array[at])
        # Five times as fast as NumPy's own widening of half precision.
        half = values.dtype == np.float16
        # What float32 cannot hold becomes infinite, and is reported below.
        with np.errstate(over="ignore"):
            values = torch.from_numpy(values).float().numpy() if half else values.astype(np.float32, copy=False)
        if not np.isfinite(values).all():
            bad = int(rows[~np.isfinite(values.reshape(len(values), -1)).all(axis=1)][0])
            raise DataError(
                f"features '{self.spec.source}': row {bad} contains NaN or infinity; "
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
