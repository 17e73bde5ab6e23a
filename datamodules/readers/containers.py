"""Files that hold arrays of numbers by name: ``.npz``, ``.npy``, ``.mat``, ``.h5``, ``.pt``; nothing in them is run."""

from __future__ import annotations

import importlib.util
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cmr_bench.support import foreign
from cmr_bench.support.errors import DataError

HDF5_SUFFIXES = (".h5", ".hdf5", ".hdf")
TORCH_SUFFIXES = (".pt", ".pth")
SUFFIXES = (".npz", ".npy", ".mat", *HDF5_SUFFIXES, *TORCH_SUFFIXES)
_HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"
_NUMERIC = ("double", "single", "int", "uint", "logical")

Shape = tuple[int, ...]


def shapes(file: Path) -> dict[str, Shape]:
    """Return names and shapes of the numeric arrays in a file, reading headers only where the format allows it.

    Raises:
        Exception: Whatever the library that reads the format raises for a damaged file.
        DataError: If a library is missing.
    """
    suffix = foreign.checked(file).suffix.lower()
    if suffix == ".npz":
        return _npz_shapes(file)
    if suffix == ".npy":
        array = np.load(file, mmap_mode="r", allow_pickle=False)
        return {file.stem: array.shape} if array.dtype.kind in "fiub" else {}
    if suffix in TORCH_SUFFIXES:
        return {name: tuple(value.shape) for name, value in torch_tensors(file).items()}
    if is_hdf5(file):
        return _hdf5_shapes(file)
    if suffix in HDF5_SUFFIXES:
        raise DataError(f"{file} is not an HDF5 file")
    from scipy.io import whosmat

    return {name: shape for name, shape, kind in whosmat(file) if kind.startswith(_NUMERIC)}


def load(file: Path, key: str) -> npt.NDArray[Any]:
    """Read one array of a file; an ``.npy`` file is memory-mapped."""
    suffix = _checked(file)
    if suffix == ".npy":
        mapped: npt.NDArray[Any] = np.load(file, mmap_mode="r", allow_pickle=False)
        return mapped
    if suffix == ".npz":
        with np.load(file, allow_pickle=False) as archive:
            return np.asarray(archive[key])
    if suffix in TORCH_SUFFIXES:
        tensor = torch_tensors(file)[key]
        return np.asarray((tensor.float() if tensor.dtype.is_floating_point else tensor).numpy())
    if is_hdf5(file):
        with open_hdf5(file) as content:
            foreign.check_dataset(content[key], file)
            values = np.asarray(content[key])
        return values.T if suffix == ".mat" else values  # MATLAB writes the last dimension first
    from scipy.io import loadmat

    return np.asarray(loadmat(file, variable_names=[key])[key])


def _checked(file: Path) -> str:
    """Return the suffix of a file that may be read: a plain one, of which nothing grows a hundredfold."""
    suffix = foreign.checked(file).suffix.lower()
    if suffix == ".npz" or (suffix in TORCH_SUFFIXES and zipfile.is_zipfile(file)):
        foreign.check_zip(file)
    elif suffix == ".mat" and not is_hdf5(file):
        foreign.check_mat(file)
    return suffix


def check(file: Path) -> None:
    """Refuse a file before it is read array by array: see :func:`cmr_bench.support.foreign.check_growth`.

    Raises:
        DataError: If something in it would grow a hundredfold, or lies in another file.
    """
    _checked(file)
    if is_hdf5(file):

        def look(name: str, node: Any) -> None:
            if hasattr(node, "dtype"):
                foreign.check_dataset(node, file)

        with open_hdf5(file) as content:
            content.visititems(look)


def own_keys(content: Any) -> list[str]:
    """Return the names at the top of an open HDF5 file; links to other files and names are no part of it."""
    import h5py

    return [str(key) for key in content if isinstance(content.get(key, getlink=True), h5py.HardLink)]


def is_hdf5(file: Path) -> bool:
    """Whether a file is HDF5, as MATLAB's from version 7.3 on are."""
    with file.open("rb") as stream:
        if stream.read(8) == _HDF5_MAGIC:
            return True
        stream.seek(512)  # MATLAB puts its own header in front
        return stream.read(8) == _HDF5_MAGIC


def open_hdf5(file: Path) -> Any:
    """Open an HDF5 file for reading; DataError where h5py is missing."""
    try:
        import h5py
    except ImportError:
        raise DataError(f"reading {file}, which is HDF5, needs h5py: pip install 'cmr-bench[hdf5]'") from None
    return h5py.File(file, "r")


def missing_library(folder: Path) -> str:
    """Say which files of a folder cannot be read for want of a library; empty where all can."""
    if importlib.util.find_spec("h5py") is not None:
        return ""
    candidates = [file for file in sorted(folder.glob("*")) if file.suffix.lower() in (".mat", *HDF5_SUFFIXES)]
    for file in candidates:
        if file.is_file() and is_hdf5(file):
            return f"; {file.name} is HDF5, which needs h5py: pip install 'cmr-bench[hdf5]'"
    return ""


def torch_tensors(file: Path) -> dict[str, Any]:
    """Read the tensors of a file that torch wrote, by name, without running what a pickle may hold.

    A single tensor is named as the file. Lists of texts or numbers under a name are left out.
    """
    content = torch_content(file)
    import torch

    if isinstance(content, torch.Tensor):
        return {file.stem: content.detach()}
    if not isinstance(content, dict):
        raise DataError(f"{file} holds {type(content).__name__}; expected a tensor, or tensors by name")
    return {str(name): value.detach() for name, value in content.items() if isinstance(value, torch.Tensor)}


def torch_content(file: Path) -> Any:
    """Read what torch wrote, tensors memory-mapped where the format allows it; only tensors and plain values."""
    import torch

    read: Callable[..., Any] = torch.load
    try:
        return read(file, map_location="cpu", weights_only=True, mmap=True)
    except RuntimeError:  # the format of before torch 1.6 cannot be mapped
        return read(file, map_location="cpu", weights_only=True)


def _npz_shapes(file: Path) -> dict[str, Shape]:
    found = {}
    with zipfile.ZipFile(file) as archive:
        for member in archive.namelist():
            with archive.open(member) as stream:
                version = np.lib.format.read_magic(stream)
                read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
                shape, _, dtype = read(stream)
            if dtype.kind in "fiub":
                found[member.removesuffix(".npy")] = shape
    return found


def _hdf5_shapes(file: Path) -> dict[str, Shape]:
    found: dict[str, Shape] = {}
    is_matlab = file.suffix.lower() == ".mat"

    def note(name: str, node: Any) -> None:
        if hasattr(node, "dtype") and node.dtype.kind in "fiub" and not name.startswith("#"):
            found[name] = tuple(node.shape[::-1]) if is_matlab else tuple(node.shape)

    with open_hdf5(file) as content:
        content.visititems(note)
    return found
