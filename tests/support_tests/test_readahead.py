"""Rows of a memory-mapped array are read before anybody waits for them."""

from __future__ import annotations

import ctypes
import mmap
import os
import time
from pathlib import Path

import numpy as np
import pytest

from cmr_bench.support.readahead import read_ahead

N, WIDTH = 512, 4096


@pytest.fixture
def array(tmp_path: Path) -> np.memmap[tuple[int, ...], np.dtype[np.float32]]:
    file = tmp_path / "rows.npy"
    np.save(file, np.random.default_rng(0).normal(size=(N, WIDTH)).astype(np.float32))
    with file.open("rb") as stream:
        os.fsync(stream.fileno())
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    loaded = np.load(file, mmap_mode="r")
    assert isinstance(loaded, np.memmap)
    return loaded


def resident(array: np.memmap[tuple[int, ...], np.dtype[np.float32]], row: int) -> bool:
    """Whether all pages of a row lie in memory."""
    start = array.ctypes.data + row * array.strides[0]
    page = start - start % mmap.PAGESIZE
    pages = -(-(start + array.strides[0] - page) // mmap.PAGESIZE)
    found = (ctypes.c_ubyte * pages)()
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.mincore(ctypes.c_void_p(page), ctypes.c_size_t(pages * mmap.PAGESIZE), found) == 0
    return all(value & 1 for value in found)


@pytest.mark.skipif(not hasattr(os, "posix_fadvise"), reason="needs a system that can forget pages of a file")
def test_the_rows_and_no_others_are_read(array: np.memmap[tuple[int, ...], np.dtype[np.float32]]) -> None:
    if resident(array, 300):
        pytest.skip("the temporary folder lies in memory")
    read_ahead(array, np.array([300, N - 1]), worth=0)
    until = time.monotonic() + 30
    while not (resident(array, 300) and resident(array, N - 1)) and time.monotonic() < until:
        time.sleep(0.01)
    assert resident(array, 300)
    assert resident(array, N - 1)
    assert not resident(array, 100)


@pytest.mark.parametrize("rows", [[0], [N - 1], [-1], [5, 4, 5], []])
def test_what_is_read_afterwards_is_the_same(
    rows: list[int], array: np.memmap[tuple[int, ...], np.dtype[np.float32]]
) -> None:
    at = np.array(rows, dtype=np.int64)
    read_ahead(array, at, worth=0)
    expected = np.random.default_rng(0).normal(size=(N, WIDTH)).astype(np.float32)
    assert np.array_equal(array[at], expected[at])


def test_parts_and_arrays_in_memory_are_left_alone(array: np.memmap[tuple[int, ...], np.dtype[np.float32]]) -> None:
    for other in (np.zeros((3, 4)), array[:, ::2], array[5:]):
        read_ahead(other, np.array([1]), worth=0)
