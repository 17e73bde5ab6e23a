"""Drawn splits."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cmr_bench.datamodules.stratified import stratified_slice
from cmr_bench.support.errors import DataError


@given(st.lists(st.integers(0, 4), min_size=1, max_size=60), st.floats(0, 1), st.integers(0, 9))
def test_every_category_keeps_its_share(labels: list[int], fraction: float, seed: int) -> None:
    given_labels, n_items = np.array(labels), int(fraction * len(labels))
    rows = stratified_slice(given_labels, n_items, seed)
    assert len(rows) == n_items == len(set(rows.tolist()))
    assert (np.diff(rows) > 0).all()
    for label in set(labels):
        exact = labels.count(label) * n_items / len(labels)
        assert abs((given_labels[rows] == label).sum() - exact) < 1
    np.testing.assert_array_equal(rows, stratified_slice(given_labels, n_items, seed))


def test_the_draw_is_the_same_on_every_machine() -> None:
    assert stratified_slice(np.arange(40) % 4, 8, seed=0).tolist() == [5, 10, 11, 16, 24, 31, 34, 37]
    assert stratified_slice(np.arange(40) % 4, 8, seed=1).tolist() != [5, 10, 11, 16, 24, 31, 34, 37]


def test_more_than_there_is() -> None:
    with pytest.raises(DataError, match="cannot sample 3 items from 2"):
        stratified_slice(np.array([0, 1]), 3, 0)
