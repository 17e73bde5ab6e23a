"""Only a part of the items asks: the others stand in the gallery, and nothing else about them counts."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from cmr_bench.evaluation.protocol import Protocol, evaluate
from cmr_bench.evaluation.queries import queries
from cmr_bench.evaluation.ranks import MatrixScores, retrieval_ranks
from cmr_bench.support.errors import DataError, UsageError

LIST = ("r1", "r5", "r10", "medr", "meanr")


def naive(
    similarity: NDArray[np.float64], owner: NDArray[np.int64], images: list[int], texts: list[int]
) -> list[float]:
    """Metrics from sorted lists, one query at a time; scores are all different."""
    i2t = []
    for image in images:
        order = np.argsort(-similarity[image])
        i2t.append(1 + min(place for place, text in enumerate(order) if owner[text] == image))
    # Of an image's own texts, those before the best one would be the best.
    t2i = [1 + list(np.argsort(-similarity[:, text])).index(owner[text]) for text in texts]
    return [
        measure(np.array(ranks))
        for ranks in (i2t, t2i)
        for measure in (
            *(lambda r, k=k: 100.0 * float(np.mean(r <= k)) for k in (1, 5, 10)),
            lambda r: float(np.median(r)),
            lambda r: float(np.mean(r)),
        )
    ]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 12), st.integers(0, 6))
def test_metrics_are_those_of_the_queries_against_the_whole_gallery(seed: int, n_images: int, extra: int) -> None:
    rng = np.random.default_rng(seed)
    rows = rng.permutation(n_images + extra)  # distractors stand anywhere
    owner = rng.permutation(np.repeat(rows[:n_images], rng.integers(1, 5, n_images)))
    similarity = rng.permuted(np.arange(float(len(rows) * len(owner)))).reshape(len(rows), len(owner))
    chosen = rng.random(len(rows)) < 0.7
    chosen[owner[0]] = True
    chosen_texts = rng.random(len(owner)) < 0.8
    chosen_texts[0] = True
    who = queries(owner, len(rows), chosen, chosen_texts)
    found = evaluate(MatrixScores(similarity), owner, protocol=Protocol(bootstrap=10), queries=who)
    images = [image for image in range(len(rows)) if chosen[image] and image in owner]
    texts = [text for text in range(len(owner)) if chosen_texts[text] and chosen[owner[text]]]
    assert found.n_queries == (len(images), len(texts))
    told = [found.metrics[f"{way}_{name}"] for way in ("i2t", "t2i") for name in LIST]
    assert told == pytest.approx(naive(similarity, owner, images, texts), abs=1e-9)
    assert found.n_images == len(rows)


@pytest.mark.parametrize("block", [1, 2, 3, 100])
def test_images_without_a_text_have_no_match_in_tiles_of_any_size(block: int) -> None:
    rng = np.random.default_rng(0)
    similarity, owner = rng.normal(size=(9, 8)), np.array([4, 4, 1, 7, 7, 7, 1, 4])
    ranks = retrieval_ranks(MatrixScores(similarity), owner, distractors=True, image_block=block, text_block=block)
    alone = np.setdiff1d(np.arange(9), owner)
    assert (ranks.images.matching[alone] == 0).all()
    assert (ranks.images.hits(9)[alone] == 0).all()
    expected = [1 + np.sum(similarity[:, text] > similarity[owner[text], text]) for text in range(8)]
    assert ranks.t2i.tolist() == expected


def test_everybody_asks_where_nothing_is_chosen() -> None:
    assert queries(np.array([0, 1, 1]), 2) is None
    assert queries(np.array([0, 1, 1]), 3) is not None


def test_labels_and_folds_with_queries() -> None:
    rng = np.random.default_rng(1)
    owner, labels = np.repeat([0, 2, 3, 5], 2), np.array([0, 1, 1, 0, 0, 1])
    similarity = rng.normal(size=(6, 8))
    who = queries(owner, 6)
    found = evaluate(MatrixScores(similarity), owner, labels, protocol=Protocol(folds=2, bootstrap=5), queries=who)
    precision = []
    for image in (0, 2, 3, 5):
        relevant = (labels[owner] == labels[image])[np.argsort(-similarity[image])]
        precision.append(np.mean(np.cumsum(relevant)[relevant] / (1 + np.flatnonzero(relevant))))
    assert found.metrics["i2t_map"] == pytest.approx(np.mean(precision))
    hits = [np.argmax(similarity[3 * (owner[t] // 3) : 3 * (owner[t] // 3) + 3, t]) == owner[t] % 3 for t in range(8)]
    assert found.metrics["fold2_t2i_r1"] == 100 * np.mean(hits)
    none = queries(owner, 6, images=np.array([True, True, True, False, False, False]))
    with pytest.raises(UsageError, match="a fold has no queries"):
        evaluate(MatrixScores(similarity), owner, protocol=Protocol(folds=2), queries=none)


def test_without_queries_every_image_needs_a_text() -> None:
    with pytest.raises(DataError, match="split without positives: image 1 has no text"):
        evaluate(MatrixScores(np.eye(3)), np.array([0, 2, 2]))
    with pytest.raises(DataError, match="no queries"):
        queries(np.array([0, 2]), 3, images=np.array([False, True, False]))
