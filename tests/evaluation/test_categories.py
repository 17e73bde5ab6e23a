from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score

from cmr_bench.evaluation import metrics
from cmr_bench.evaluation.categories import Labels, category_scores
from cmr_bench.evaluation.protocol import evaluate
from cmr_bench.evaluation.ranks import MatrixScores
from cmr_bench.support.errors import DataError


def slow_relevance(labels: NDArray[np.int64], owner: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Whether each image and each text share a label, pair by pair."""
    sets = [set(np.flatnonzero(row)) if labels.ndim == 2 else {row} for row in labels]
    return np.array(
        [[bool(sets[image] & sets[owner[text]]) for text in range(len(owner))] for image in range(len(sets))]
    )


@settings(max_examples=12, deadline=None)
@given(st.integers(0, 2**32 - 1), st.booleans(), st.integers(1, 300))
def test_average_precision_of_all_queries_agrees_with_scikit_learn(seed: int, multi: bool, block: int) -> None:
    rng = np.random.default_rng(seed)
    n_images = int(rng.integers(2, 15))
    owner = rng.permutation(np.repeat(np.arange(n_images), rng.integers(1, 4, n_images)))
    labels = rng.integers(0, 2, (n_images, 3)) if multi else rng.integers(0, 3, n_images)
    labels[0] = 1
    similarity = rng.permutation(n_images * len(owner)).reshape(n_images, len(owner)) - 20.0
    relevant = slow_relevance(labels, owner)
    found = category_scores(MatrixScores(similarity), owner, labels, block=block)
    for one, scores, hits in zip(found, (similarity, similarity.T), (relevant, relevant.T), strict=True):
        expected = [
            average_precision_score(hit, score) if hit.any() else np.nan
            for hit, score in zip(hits, scores, strict=True)
        ]
        np.testing.assert_allclose(one.values["map"], expected, rtol=1e-12)
        assert one.excluded == np.isnan(expected).sum()
        assert not one.tied.any()


def test_queries_without_relevant_items_are_left_out_and_counted() -> None:
    labels = np.array([[1, 0], [0, 0], [1, 1]])
    owner = np.array([0, 1, 1, 2])
    similarity = np.random.default_rng(0).random((3, 4))
    result = evaluate(MatrixScores(similarity), owner, labels)
    assert result.excluded == {"i2t": 1, "t2i": 2}
    kept = result.categories["i2t"].values["map"][[0, 2]]
    assert result.metrics["i2t_map"] == kept.mean()
    with pytest.raises(DataError, match="no query shares a label with any item"):
        evaluate(MatrixScores(similarity), owner, np.zeros((3, 2)))


def test_single_labels_equal_their_multi_hot_form() -> None:
    rng = np.random.default_rng(1)
    owner = np.arange(60) // 3
    labels = rng.integers(0, 5, 20)
    scores = MatrixScores(rng.integers(0, 6, (20, 60)))
    one = evaluate(scores, owner, labels)
    other = evaluate(scores, owner, torch.from_numpy(np.eye(5)[labels]))
    assert one.metrics == other.metrics
    assert one.curves == other.curves


def test_threads_and_blocks_change_nothing() -> None:
    rng = np.random.default_rng(2)
    owner = np.arange(90) // 3
    labels = rng.integers(0, 4, 30)
    scores = MatrixScores(rng.integers(0, 9, (30, 90)))
    expected = category_scores(scores, owner, labels)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        found = category_scores(scores, owner, labels, block=1000)
    finally:
        torch.set_num_threads(threads)
    for one, other in zip(expected, found, strict=True):
        for name, values in one.values.items():
            np.testing.assert_array_equal(values, other.values[name])
        np.testing.assert_array_equal(one.precision, other.precision)


def test_retrieved_at_50_can_exceed_the_map_and_says_so_in_its_name() -> None:
    rng = np.random.default_rng(3)
    labels = rng.integers(0, 10, 300)
    similarity = rng.random((300, 300)) + 0.3 * (labels[:, None] == labels)
    found = evaluate(MatrixScores(similarity), np.arange(300), labels).metrics
    assert found["map_at_r"] < found["map"] < found["map_at_50_retrieved"]
    ordered = np.argsort(-similarity, axis=1)[:, :50]
    values = []
    for query, items in enumerate(ordered):
        hits = labels[items] == labels[query]
        precisions = np.cumsum(hits) / np.arange(1, 51)
        values.append(precisions[hits].mean() if hits.any() else 0.0)
    assert found["i2t_map_at_50_retrieved"] == pytest.approx(np.mean(values))


def test_malformed_labels_are_named() -> None:
    for labels, message in [
        (np.zeros(3), r"labels are \(4,\) or multi-hot"),
        (np.zeros((4, 2, 2)), r"these have \(4, 2, 2\)"),
        (np.array([0.5, 1, 2, 3]), "labels are whole numbers"),
        (np.array(["a", "b", "c", "d"]), "labels are whole numbers"),
        (np.full((4, 2), 2), "only 0 and 1"),
        (np.zeros((4, 0)), "multi-hot"),
    ]:
        with pytest.raises(DataError, match=message):
            Labels(labels, 4)


def test_the_curve_is_the_mean_over_queries() -> None:
    rng = np.random.default_rng(4)
    labels = np.arange(10) % 2
    similarity = rng.random((10, 10))
    found, _ = category_scores(MatrixScores(similarity), np.arange(10), labels)
    items = metrics.relevant_items(similarity, labels[:, None] == labels)
    np.testing.assert_allclose(found.precision, metrics.precision_recall_curve(items).mean(axis=0))
