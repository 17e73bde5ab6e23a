"""Scores keep their order, whatever type they are given in."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from cmr_bench.evaluation.ranks import EmbeddingScores, MatrixScores, retrieval_ranks
from cmr_bench.evaluation.scores import materialise
from cmr_bench.support.errors import DataError

LARGEST = {"int8": 2**7, "uint8": 2**8, "int16": 2**15, "int32": 2**31, "uint32": 2**32, "int64": 2**53}


@settings(max_examples=60, deadline=None)
@given(st.data(), st.sampled_from([*LARGEST]), st.booleans())
def test_whole_numbers_keep_their_order(data: st.DataObject, name: str, as_tensor: bool) -> None:
    """Neighbouring integers of any width rank as their offsets from the largest do, which every type holds."""
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    offsets = rng.integers(1, 12, (6, 9))
    scores: NDArray[Any] = (LARGEST[name] - offsets).astype(name)
    image_of_text = np.concatenate([np.arange(6), rng.integers(0, 6, 3)])
    given_as = torch.from_numpy(scores) if as_tensor and not name.startswith("uint3") else scores
    found = retrieval_ranks(MatrixScores(given_as), image_of_text)
    expected = retrieval_ranks(MatrixScores(-offsets.astype(np.float64)), image_of_text)
    np.testing.assert_array_equal(found.i2t, expected.i2t)
    np.testing.assert_array_equal(found.t2i, expected.t2i)


@pytest.mark.parametrize("largest", [2**53, -(2**53), 2**60])
@pytest.mark.parametrize("make", [np.asarray, torch.as_tensor])
def test_integers_that_float64_cannot_tell_apart_are_refused(largest: int, make: Callable[..., Any]) -> None:
    scores = make(np.array([[largest, largest - 1], [0, 1]], dtype=np.int64))
    with pytest.raises(DataError, match=r"integers of \d+ lose their order in float64: subtract a constant"):
        retrieval_ranks(MatrixScores(scores), np.arange(2))


def test_products_of_integer_vectors_are_exact() -> None:
    """Counts of 5,000 give products above 2^24 that differ by one."""
    images = np.array([[5000, 5000], [5000, 4999]], dtype=np.int32)
    texts = np.array([[5000, 5000], [4999, 5001]], dtype=np.int64)
    source = materialise(EmbeddingScores(images, texts, normalize=False), max_bytes=1 << 20)
    np.testing.assert_array_equal(source.block(slice(0, 2), slice(0, 2)).numpy(), images.astype(object) @ texts.T)


@pytest.mark.parametrize("name", ["float16", "int8", "uint8", "int16", "bool"])
def test_what_float32_holds_takes_no_more_room(name: str) -> None:
    scores = np.ones((2, 2), dtype=name)
    for given_as in (scores, torch.from_numpy(scores)):
        assert MatrixScores(given_as).block(slice(0, 2), slice(0, 2)).dtype == torch.float32
