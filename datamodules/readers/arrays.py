"""Feature arrays by name from whatever ``.npz``, ``.npy`` and ``.mat`` files lie in a folder."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from cmr_bench.support import foreign
from cmr_bench.support.errors import DataError, did_you_mean, first_line

Side = Literal["image", "text"]

_HALVES = (("tr", "te"), ("train", "test"))
_SIDES: dict[Side, re.Pattern[str]] = {
    "image": re.compile(r"(^|_)(i|imgs?|images?)(_|$)", re.IGNORECASE),
    "text": re.compile(r"(^|_)(t|txts?|texts?)(_|$)", re.IGNORECASE),
}


@dataclass(frozen=True)
class Stored:
    """An array on disk, whole or as a training half and a test half.

    Attributes:
        name: Its name: the key in the file, or the stem of an ``.npy`` file, without the mark of the half.
        parts: File and key of the whole, or of the two halves in order.
        shapes: Shape of each part.
    """

    name: str
    parts: tuple[tuple[Path, str], ...]
    shapes: tuple[tuple[int, ...], ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the array, halves put together."""
        return (sum(shape[0] for shape in self.shapes), *self.shapes[0][1:])

    @property
    def source(self) -> str:
        """The name for results: short names such as the ``I`` of a .mat file are told apart by their file."""
        file = self.parts[0][0]
        return f"{file.name}:{self.name}" if file.suffix == ".mat" else self.name

    def holds(self, side: Side) -> bool:
        """Whether the array can belong to a modality: its name says so, or says nothing."""
        told = {other for other, pattern in _SIDES.items() if pattern.search(self.name)}
        return not told or side in told

    def load(self) -> npt.NDArray[Any]:
        """Read the array; an ``.npy`` file is memory-mapped.

        Raises:
            DataError: If it cannot be read.
        """
        parts = [_load_part(file, key) for file, key in self.parts]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def require_finite(self, array: npt.NDArray[Any]) -> None:
        """Raise DataError where the array, as :meth:`load` returned it, holds NaN or infinity."""
        finite = np.isfinite(array).reshape(len(array), -1).all(axis=1)
        if not finite.all():
            bad = np.flatnonzero(~finite)
            raise DataError(
                f"{self.parts[0][0]}: array '{self.name}' holds NaN or infinity in {len(bad)} rows, first {bad[0]}"
            )


def find_arrays(folder: Path) -> dict[str, Stored]:
    """List the numeric arrays with two or three dimensions in a folder, by name.

    ``X_tr`` and ``X_te``, ``X_train`` and ``X_test`` or ``train_X`` and ``test_X`` of one kind of file are put together
    as ``X``. Where two files hold the same name, the second is listed as ``FILE:NAME``. Only headers are read.
    """
    keys: dict[tuple[str, str], tuple[Path, tuple[int, ...]]] = {}
    for suffix in (".npz", ".npy", ".mat"):
        for file in sorted(folder.glob(f"*{suffix}")):
            # Halves may be two .npy files, but never keys of two archives.
            scope = suffix if suffix == ".npy" else file.name
            for key, shape in _headers(file).items():
                if len(shape) in (2, 3) and shape[0] > 1:
                    keys[scope, key] = file, shape
    found: dict[str, Stored] = {}
    for (scope, key), (file, shape) in keys.items():
        other = _other_half(key)
        if other is None:
            stored = Stored(key, ((file, key),), (shape,))
        elif other.is_test and (scope, other.key) in keys:
            continue
        elif (scope, other.key) in keys and keys[scope, other.key][1][1:] == shape[1:]:
            test_file, test_shape = keys[scope, other.key]
            stored = Stored(other.name, ((file, key), (test_file, other.key)), (shape, test_shape))
        else:
            stored = Stored(key, ((file, key),), (shape,))
        name = stored.name if stored.name not in found else f"{file.name}:{stored.name}"
        found[name] = stored
    return found


def pick(arrays: Mapping[str, Stored], name: str, folder: Path, side: Side) -> Stored:
    """Return an array by name or by ``FILE:NAME``.

    Raises:
        DataError: If it is not there, with what is there, or if its name says that it is of the other modality.
    """
    by_source = {stored.source: stored for stored in arrays.values()}
    stored = arrays.get(name) or by_source.get(name)
    if stored is None:
        raise DataError(
            f"no {side} features '{name}' in {folder}; there are {listing(arrays, side)}.{did_you_mean(name, arrays)}"
        )
    if not stored.holds(side):
        raise DataError(f"'{name}' does not hold {side} features; in {folder} there are {listing(arrays, side)}")
    return stored


def listing(arrays: Mapping[str, Stored], side: Side) -> str:
    """Names and shapes of the arrays of a modality, for messages."""
    shown = [f"{name} {stored.shape}" for name, stored in arrays.items() if stored.holds(side)]
    return ", ".join(shown) or "no arrays"


@dataclass(frozen=True)
class _Half:
    name: str
    key: str
    is_test: bool


def _other_half(key: str) -> _Half | None:
    """The key of the other half of an array and the name of the whole; None where the key names no half."""
    for train, test in _HALVES:
        for this, that in ((train, test), (test, train)):
            if key.endswith(f"_{this}"):
                whole = key[: -len(this) - 1]
                return _Half(whole, f"{whole}_{that}", this == test)
            if key.startswith(f"{this}_"):
                whole = key[len(this) + 1 :]
                return _Half(whole, f"{that}_{whole}", this == test)
    return None


def _headers(file: Path) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the numeric arrays of a file; a file that cannot be read has none."""
    try:
        foreign.checked(file)
        if file.suffix == ".npz":
            return _npz_headers(file)
        if file.suffix == ".npy":
            array = np.load(file, mmap_mode="r", allow_pickle=False)
            return {file.stem: array.shape} if array.dtype.kind in "fiub" else {}
        from scipy.io import whosmat

        numeric = ("double", "single", "int", "uint", "logical")
        return {name: shape for name, shape, kind in whosmat(file) if kind.startswith(numeric)}
    except Exception:  # what is damaged can fail in any way in the libraries that read it
        return {}


def _npz_headers(file: Path) -> dict[str, tuple[int, ...]]:
    shapes = {}
    with zipfile.ZipFile(file) as archive:
        for member in archive.namelist():
            with archive.open(member) as stream:
                version = np.lib.format.read_magic(stream)
                read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
                shape, _, dtype = read(stream)
            if dtype.kind in "fiub":
                shapes[member.removesuffix(".npy")] = shape
    return shapes


def _load_part(file: Path, key: str) -> npt.NDArray[Any]:
    try:
        foreign.checked(file)
        if file.suffix == ".npy":
            mapped: npt.NDArray[Any] = np.load(file, mmap_mode="r", allow_pickle=False)
            return mapped
        if file.suffix == ".npz":
            foreign.check_zip(file)
            with np.load(file, allow_pickle=False) as archive:
                return np.asarray(archive[key])
        from scipy.io import loadmat

        foreign.check_mat(file)
        return np.asarray(loadmat(file, variable_names=[key])[key])
    except Exception as error:
        line = first_line(error)
        raise DataError(f"{file}: array '{key}' cannot be read ({line})") from error
