"""Image features by image id in one file: ``.h5``, ``.npz``, ``.pt``, ``.lmdb``."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cmr_bench.datamodules.readers import containers
from cmr_bench.datamodules.readers.boxes import as_fractions
from cmr_bench.datamodules.readers.finder import without_suffix
from cmr_bench.datamodules.readers.lmdbfiles import is_lmdb, keys_of, value_of
from cmr_bench.datamodules.split import Split
from cmr_bench.datamodules.views import ArrayView, Rows
from cmr_bench.support.errors import DataError, first_line

_IDS = ("ids", "image_ids", "image_id", "img_ids", "names", "image_names", "filenames", "file_names", "files", "keys")
_VALUES = ("features", "feature", "feat", "x")
_BOXES = ("boxes", "bboxes", "bbox", "bb")
_SIZES = (("image_w", "image_h"), ("img_w", "img_h"), ("widths", "heights"), ("width", "height"))


def is_feature_file(name: str, folder: Path | None = None) -> Path | None:
    """Return the file that ``--data.image_features`` names, or None where it names something else.

    Args:
        name: The value, maybe with ``:KEY`` for one array of the file.
        folder: Folder of the data set, in which the file is looked for too.
    """
    given = Path(_parted(name)[0]).expanduser()
    for place in (given, *([] if folder is None else [folder / given])):
        if (place.is_file() and place.suffix.lower() in containers.SUFFIXES) or is_lmdb(place):
            return place
    return None


def _parted(name: str) -> tuple[str, str | None]:
    match = re.fullmatch(r"(.+\.(?:h5|hdf5|hdf|npz|pt|pth)):([^:]+)", name)
    return (match[1], match[2]) if match else (name, None)


class KeyedRows:
    """Rows of a file that are read when they are asked for: what :class:`ArrayView` needs of an array.

    Args:
        open_file: Opens the file; called once in every process.
        keys: Key of every row; None where the rows are those of one array.
        shape: Shape of all rows together.
        dtype: Type of the values.
    """

    def __init__(
        self,
        open_file: Callable[[], Callable[[Any], npt.NDArray[Any]]],
        keys: Sequence[str] | None,
        shape: Any,
        dtype: Any,
    ) -> None:
        self.open_file, self.keys, self.shape, self.dtype = open_file, keys, tuple(shape), np.dtype(dtype)
        self.ndim = len(self.shape)
        self._read: Callable[[Any], npt.NDArray[Any]] | None = None

    def __len__(self) -> int:
        return int(self.shape[0])

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_read": None}

    def __getitem__(self, rows: Any) -> npt.NDArray[Any]:
        if self._read is None:
            self._read = self.open_file()
        numbers = np.arange(len(self))[rows].reshape(-1)
        if self.keys is None:
            unique, back = np.unique(numbers, return_inverse=True)  # h5py wants rising rows
            return np.asarray(self._read(unique))[back]
        return np.stack([self._read(self.keys[row]) for row in numbers.tolist()])


class FeatureFile:
    """Features of images by id, in a file that another program wrote.

    Args:
        name: The value of ``--data.image_features``: the file, maybe with ``:KEY`` for one of its arrays.
        file: The file.

    Raises:
        DataError: If it cannot be read, or does not say which row is which image.
    """

    def __init__(self, name: str, file: Path) -> None:
        self.file, self.key = file, _parted(name)[1]
        try:
            if not is_lmdb(file):
                containers.check(file)
            self.boxes: npt.NDArray[np.float32] | None = None
            ids, self.array = self._lmdb() if is_lmdb(file) else self._arrays()
        except DataError:
            raise
        except Exception as error:  # a damaged file fails in any way in the library that reads it
            raise DataError(f"cannot read features {file}: {first_line(error)}") from error
        self.row_of = {image: row for row, image in enumerate(ids)}
        if len(self.row_of) < len(ids):
            raise DataError(f"{file}: {len(ids) - len(self.row_of)} id(s) stand for two rows")
        self._numeric = all(image.isdecimal() for image in self.row_of)

    def rows(self, image_ids: Sequence[str]) -> Rows:
        """Return the row of every image, -1 where there is none.

        An image is known by its id, its file name without folder or without suffix too, or by the number at its end
        where all ids are numbers, as those of MSCOCO.
        """
        return np.array([self._row(image) for image in image_ids], dtype=np.int64)

    def _row(self, image: str) -> int:
        name = image.rpartition("/")[2]
        for known in (image, name, without_suffix(image), without_suffix(name)):
            if known in self.row_of:
                return self.row_of[known]
        number = re.search(r"(\d+)$", without_suffix(name)) if self._numeric else None
        if number is None:
            return -1
        return self.row_of.get(str(int(number[1])), -1)

    def view(self, split: Split) -> ArrayView:
        """Return the features of the images of a split; DataError where some have none."""
        rows = self.rows(split.image_ids)
        if (rows < 0).any():
            gone = split.image_ids[int(np.flatnonzero(rows < 0)[0])]
            raise DataError(f"{split.name}: {int((rows < 0).sum())} images have no row in {self.file}, e.g. {gone}")
        source = self.file.name if self.key is None else f"{self.file.name}:{self.key}"
        return ArrayView(self.array, source, rows, self.boxes)

    def _arrays(self) -> tuple[list[str], Any]:
        shapes = containers.shapes(self.file)
        ids_key = next((key for key in self._text_keys(shapes) if key.rpartition("/")[2].lower() in _IDS), None)
        if ids_key is None:
            return self._keyed(shapes)
        ids = [_text(value) for value in self._raw(ids_key)]
        fitting = [k for k, shape in shapes.items() if len(shape) in (2, 3) and shape[0] == len(ids) and k != ids_key]
        boxes = [key for key in fitting if key.rpartition("/")[2].lower() in _BOXES and shapes[key][2:] == (4,)]
        if len(fitting) > len(boxes):
            fitting = [key for key in fitting if key not in boxes]
        else:
            boxes = []
        if self.key is not None:
            fitting = [key for key in fitting if key == self.key]
        if len(fitting) != 1:
            there = ", ".join(fitting) or "none"
            raise DataError(
                f"{self.file}: {len(fitting)} arrays with a row for each of its {len(ids)} {ids_key} ({there}); "
                f"expected one, or name it: --data.image_features {self.file.name}:KEY"
            )
        if boxes and shapes[boxes[0]][:2] == shapes[fitting[0]][:2]:
            self.boxes = self._fractions(boxes[0], shapes, len(ids))
        if containers.is_hdf5(self.file):
            with containers.open_hdf5(self.file) as content:
                dtype = content[fitting[0]].dtype
            return ids, KeyedRows(_Hdf5(self.file, fitting[0]), None, shapes[fitting[0]], dtype)
        return ids, containers.load(self.file, fitting[0])

    def _fractions(self, key: str, shapes: Mapping[str, containers.Shape], n: int) -> npt.NDArray[np.float32]:
        """Read the boxes of all regions, as fractions of the image."""
        named = {name.rpartition("/")[2].lower(): name for name in shapes}
        pair = next((pair for pair in _SIZES if all(side in named for side in pair)), None)
        sizes = None
        if pair is not None:
            sizes = np.stack([np.asarray(self._raw(named[side]), dtype=np.float64) for side in pair], axis=1)
            if sizes.shape != (n, 2):
                raise DataError(f"{self.file}: {pair[0]} and {pair[1]} are not one number for each of {n} images")
        return as_fractions(containers.load(self.file, key), sizes, self.file, f"arrays {' and '.join(_SIZES[0])}")

    def _keyed(self, shapes: Mapping[str, containers.Shape]) -> tuple[list[str], Any]:
        """An array for each image, under its id or under its id and a name such as ``features``."""
        nested = {key: key.rpartition("/")[2].lower() for key in shapes}
        values = [key for key, last in nested.items() if last in _VALUES and "/" in key]
        keys = values or list(shapes)
        own = {shapes[key] for key in keys}
        if len(keys) < 2 or any(len(shape) not in (1, 2) for shape in own):
            raise DataError(
                f"{self.file} does not say which row is which image: expected an array of each image under its id, or "
                f"an array of them all beside one of their ids ({', '.join(_IDS[:3])})"
            )
        if len(own) > 1:
            first, second = sorted(own)[:2]
            raise DataError(f"{self.file}: images have features of shape {first} and {second}; make them alike")
        ids = [key.rpartition("/")[0] for key in keys] if values else keys
        if containers.is_hdf5(self.file):
            with containers.open_hdf5(self.file) as content:
                dtype = content[keys[0]].dtype
            return ids, KeyedRows(_Hdf5(self.file), keys, (len(keys), *shapes[keys[0]]), dtype)
        if self.file.suffix.lower() == ".npz":
            with np.load(self.file, allow_pickle=False) as archive:
                return ids, np.stack([archive[key] for key in keys])
        tensors = containers.torch_tensors(self.file)
        return ids, np.stack([np.asarray(tensors[key].float().numpy()) for key in keys])

    def _lmdb(self) -> tuple[list[str], Any]:
        keys = keys_of(self.file)
        if not keys:
            raise DataError(f"{self.file} holds nothing under a name")
        first = _Lmdb(self.file)()(keys[0])
        if first.ndim not in (1, 2) or first.dtype.kind not in "fiu":
            raise DataError(f"{self.file}: the array of {keys[0]} is {first.dtype} {first.shape}, no features")
        return keys, KeyedRows(_Lmdb(self.file, first.shape), keys, (len(keys), *first.shape), first.dtype)

    def _text_keys(self, shapes: Mapping[str, containers.Shape]) -> list[str]:
        """Names of all that may be ids: one-dimensional arrays of text or numbers, and lists."""
        if self.file.suffix.lower() in containers.TORCH_SUFFIXES:
            content = containers.torch_content(self.file)
            return [str(key) for key in content] if isinstance(content, dict) else []
        if self.file.suffix.lower() == ".npz":
            with np.load(self.file, allow_pickle=False) as archive:
                return list(archive.files)
        if containers.is_hdf5(self.file):
            with containers.open_hdf5(self.file) as content:
                return containers.own_keys(content)
        return list(shapes)

    def _raw(self, key: str) -> Any:
        if self.file.suffix.lower() in containers.TORCH_SUFFIXES:
            values = containers.torch_content(self.file)[key]
            return values.tolist() if hasattr(values, "tolist") else list(values)
        if containers.is_hdf5(self.file):
            with containers.open_hdf5(self.file) as content:
                return np.asarray(content[key]).reshape(-1).tolist()
        return np.asarray(containers.load(self.file, key)).reshape(-1).tolist()


class _Hdf5:
    """Opens an HDF5 file; rows of one array, or the array under a key."""

    def __init__(self, file: Path, key: str | None = None) -> None:
        self.file, self.key = file, key

    def __call__(self) -> Callable[[Any], npt.NDArray[Any]]:
        content = containers.open_hdf5(self.file)
        if self.key is None:
            return lambda key: np.asarray(content[key])
        array = content[self.key]
        return lambda rows: np.asarray(array[rows])


class _Lmdb:
    """Opens an LMDB file whose values are ``.npy`` files."""

    def __init__(self, file: Path, shape: tuple[int, ...] | None = None) -> None:
        self.file, self.shape = file, shape

    def __call__(self) -> Callable[[Any], npt.NDArray[Any]]:
        def read(key: Any) -> npt.NDArray[Any]:
            try:
                array: npt.NDArray[Any] = np.load(io.BytesIO(value_of(self.file, key)), allow_pickle=False)
            except (ValueError, EOFError, OSError) as error:
                raise DataError(
                    f"{self.file}: the value of {key} is no .npy array ({first_line(error)}); pickled and bare "
                    "values are not read"
                ) from None
            if self.shape not in (None, array.shape):
                raise DataError(f"{self.file}: the features of {key} have shape {array.shape}, others {self.shape}")
            return array

        return read


def _text(value: object) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
