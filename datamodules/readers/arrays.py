"""Feature arrays by name from whatever ``.npz``, ``.npy``, ``.mat``, ``.h5`` and ``.pt`` files lie in a folder."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from cmr_bench.datamodules.readers import containers
from cmr_bench.support.errors import DataError, did_you_mean, first_line
from cmr_bench.support.files import is_leftover

Side = Literal["image", "text"]

_LABELS = re.compile(r"(^|_)(labs?|labels?)(_|$)", re.IGNORECASE)
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
        is_short = file.suffix == ".mat" and len({part for part, _ in self.parts}) == 1 and self.name != file.stem
        return f"{file.name}:{self.name}" if is_short else self.name

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


def find_arrays(folder: Path, labels: bool = False) -> dict[str, Stored]:
    """List the numeric arrays with two or three dimensions in a folder, by name; without ``labels`` those are left out.

    ``X_tr`` and ``X_te``, ``X_train`` and ``X_test`` or ``train_X`` and ``test_X`` are put together as ``X`` where they
    lie in one file, or where each is a file of its own with one array. Where two files hold the same name, the second
    is listed as ``FILE:NAME``. Only headers are read, where the format allows it.
    """
    keys: dict[tuple[str, str], _Array] = {}
    for suffix in containers.SUFFIXES:
        for file in sorted(file for file in folder.glob(f"*{suffix}") if not is_leftover(file)):
            here = {key: shape for key, shape in _shapes(file).items() if len(shape) in (2, 3) and shape[0] > 1}
            half = _other_half(file.stem)
            for key, shape in here.items():
                # A half may be a file of its own, called as its array or in place of it; never a key of an archive.
                is_half = len(here) == 1 and half is not None and _other_half(key) in (None, half)
                keys[(suffix, file.stem) if is_half else (file.name, key)] = _Array(file, key, shape)
    found: dict[str, Stored] = {}
    for (scope, key), array in keys.items():
        half = _other_half(key)
        other = None if half is None else keys.get((scope, half.key))
        if half is not None and half.is_test and other is not None:
            continue
        if half is not None and other is not None and other.shape[1:] == array.shape[1:]:
            parts, shapes = ((array.file, array.key), (other.file, other.key)), (array.shape, other.shape)
            stored = Stored(half.name, parts, shapes)
        else:
            stored = Stored(key, ((array.file, array.key),), (array.shape,))
        if not labels and _LABELS.search(stored.name):
            continue
        name = stored.name if stored.name not in found else f"{array.file.name}:{stored.name}"
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
            f"no {side} features '{name}' in {folder}; there are {listing(arrays, side)}"
            f"{containers.missing_library(folder)}.{did_you_mean(name, arrays)}"
        )
    if not stored.holds(side):
        raise DataError(f"'{name}' does not hold {side} features; in {folder} there are {listing(arrays, side)}")
    return stored


def listing(arrays: Mapping[str, Stored], side: Side) -> str:
    """Names and shapes of the arrays of a modality, for messages."""
    shown = [f"{name} {stored.shape}" for name, stored in arrays.items() if stored.holds(side)]
    return ", ".join(shown) or "no arrays"


@dataclass(frozen=True)
class _Array:
    file: Path
    key: str
    shape: tuple[int, ...]


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


def _shapes(file: Path) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the numeric arrays of a file; a file that cannot be read has none."""
    try:
        return containers.shapes(file)
    except Exception:  # what is damaged can fail in any way in the libraries that read it
        return {}


def _load_part(file: Path, key: str) -> npt.NDArray[Any]:
    try:
        return containers.load(file, key)
    except Exception as error:
        line = first_line(error)
        raise DataError(f"{file}: array '{key}' cannot be read ({line})") from error
