"""The closest vectors against sorting all of them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cmr_bench.search import index


@pytest.mark.parametrize("faiss", [True, False])
@settings(max_examples=30, deadline=None)
@given(n=st.integers(1, 60), k=st.integers(1, 70), seed=st.integers(0, 99), levels=st.sampled_from([3, 10**6]))
def test_nearest_against_sorting(faiss: bool, n: int, k: int, seed: int, levels: int) -> None:
    if faiss:
        pytest.importorskip("faiss")
    rng = np.random.default_rng(seed)
    vectors, queries = (rng.integers(0, levels, (rows, 4)).astype(np.float32) / levels for rows in (n, 2))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(index, "_CHUNK", 7)
        scores, rows = index.nearest(vectors, queries, k, faiss)
    every = queries @ vectors.T
    np.testing.assert_allclose(scores, -np.sort(-every, axis=1)[:, :k], rtol=1e-5)
    np.testing.assert_allclose(np.take_along_axis(every, rows, 1), scores, rtol=1e-5)
    assert all(len(set(row)) == min(n, k) for row in rows.tolist())
