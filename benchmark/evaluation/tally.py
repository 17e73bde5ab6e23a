"""Counting how many scores of a tile reach and how many beat a threshold, along both of its sides in one go."""

from __future__ import annotations

from concurrent.futures import Executor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cmr_bench.evaluation.scores import slices

Counts = NDArray[np.int64]

# Scores that a worker looks at together: small enough to stay in a core's cache for four comparisons.
_PIECE = 2**17
# A byte can count this far.
_MOST = 255


def tally(
    pool: Executor, workers: int, scores: NDArray[Any], of_row: NDArray[Any], of_column: NDArray[Any]
) -> tuple[Counts, Counts]:
    """Count the scores that are (at least, more than) the threshold of their row, and of their column.

    A NaN is never counted.

    Args:
        pool: runs the workers; NumPy compares without holding the interpreter.
        workers: how many shares to cut the tile into.
        scores: ``(rows, columns)``.
        of_row: ``(rows,)`` thresholds.
        of_column: ``(columns,)`` thresholds.

    Returns:
        ``(2, rows)`` and ``(2, columns)``.
    """
    shares = slices(len(scores), -(-len(scores) // workers))
    done = list(pool.map(lambda share: _share(scores[share], of_row[share], of_column), shares))
    rows, columns = zip(*done, strict=True)
    return np.concatenate(rows, axis=1), np.sum(columns, axis=0)


def _share(scores: NDArray[Any], of_row: NDArray[Any], of_column: NDArray[Any]) -> tuple[Counts, Counts]:
    n_rows, n_columns = scores.shape
    rows = np.empty((2, n_rows), dtype=np.int64)
    columns = np.zeros((2, n_columns), dtype=np.int64)
    height = min(_MOST, max(1, _PIECE // n_columns))
    # Rows of flags are padded with zeros to whole machine words.
    flags = np.zeros((height, -(-n_columns // 8) * 8), dtype=np.bool_)
    with np.errstate(invalid="ignore"):
        for start in range(0, n_rows, height):
            piece, thresholds = scores[start : start + height], of_row[start : start + height, None]
            words = flags[: len(piece)].view(np.uint64)
            for kind, compare in enumerate((np.greater_equal, np.greater)):
                compare(piece, thresholds, out=flags[: len(piece), :n_columns])
                rows[kind, start : start + height] = _row_counts(words)
                compare(piece, of_column, out=flags[: len(piece), :n_columns])
                columns[kind] += _column_counts(words)[:n_columns]
    return rows, columns


def _row_counts(words: NDArray[np.uint64]) -> Counts:
    """Count the flags in each row of words.

    Eight flags at a time are added as the bytes of a word, many times faster than flags one by one. No byte gets more
    than it can hold, and no carry reaches its neighbour.
    """
    lanes = [words[:, start : start + _MOST].sum(axis=1) for start in range(0, words.shape[1], _MOST)]
    counts: Counts = np.stack(lanes, axis=1).view(np.uint8).sum(axis=1, dtype=np.int64)
    return counts


def _column_counts(words: NDArray[np.uint64]) -> NDArray[np.uint8]:
    """Count the flags in each column, of at most 255 rows, eight columns at a time."""
    counts: NDArray[np.uint8] = words.sum(axis=0).view(np.uint8)
    return counts
