"""Reading ahead in memory-mapped arrays, of which whoever asks for rows waits for one page after the other."""

from __future__ import annotations

import mmap
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Smaller arrays soon lie in the page cache whole.
_WORTH = 512 * 2**20
_ADVICE = getattr(mmap, "MADV_WILLNEED", None)


def read_ahead(array: NDArray[Any], rows: NDArray[np.int64], worth: int = _WORTH) -> None:
    """Ask the system to read rows of a memory-mapped array, all at once, and return without waiting for them.

    Nothing happens for arrays in memory, for those of fewer than ``worth`` bytes, and on systems that take no advice.
    """
    if _ADVICE is None or not isinstance(array, np.memmap) or array.nbytes < worth or not array.flags.c_contiguous:
        return
    mapped: Any = array.base
    if not isinstance(mapped, mmap.mmap):
        return
    # A mapping starts at a multiple of the granularity, and advice at one of the page.
    start, size = array.offset % mmap.ALLOCATIONGRANULARITY, array.strides[0]
    for row in rows.tolist():
        at = start + (row % len(array)) * size
        page = at - at % mmap.PAGESIZE
        mapped.madvise(_ADVICE, page, at + size - page)
