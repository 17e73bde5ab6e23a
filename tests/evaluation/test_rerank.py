"""Re-ranking against a slow version written from the description, sorting lists of Python stably."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cmr_bench.evaluation import rerank as module
from cmr_bench.evaluation.postprocess import POSTPROCESSES
from cmr_bench.evaluation.protocol import Protocol, evaluate
from cmr_bench.evaluation.ranks import MatrixScores, ScoreSource
from cmr_bench.evaluation.rerank import rerank
from cmr_bench.evaluation.scores import reorder_texts
from cmr_bench.support.errors import UsageError

Array = npt.NDArray[np.float64]


def whole(scores: ScoreSource) -> Array:
    return scores.block(slice(0, scores.n_images), slice(0, scores.n_texts)).numpy()


def slow_order(scores: Array, query: int, first: int, group: Sequence[int]) -> list[int]:
    """Order the items, columns, for a query: its first ones by the first place of any of the group among the queries.

    ``scores`` are (queries, items); all numbers differ.
    """
    ranking = sorted(range(scores.shape[1]), key=lambda item: -scores[query, item])
    head = ranking[:first]

    def place(item: int) -> int:
        finds = sorted(range(len(scores)), key=lambda other: -scores[other, item])
        return min(finds.index(member) for member in group)

    return sorted(head, key=place) + ranking[first:]


@given(
    n_images=st.integers(1, 9),
    n_texts=st.integers(1, 12),
    texts=st.integers(1, 14),
    images=st.integers(1, 11),
    grouped=st.booleans(),
    tile=st.sampled_from([1, 20, 10**6]),
    seed=st.integers(0, 10**6),
)
@settings(deadline=None, max_examples=60)
def test_stable_order_by_the_reverse_place(
    n_images: int, n_texts: int, texts: int, images: int, grouped: bool, tile: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    scores = rng.permutation(n_images * n_texts).reshape(n_images, n_texts) / 7.0 - 3.0
    groups = rng.integers(0, n_images, n_texts)
    held, module._TILE = module._TILE, tile
    try:
        found = rerank(MatrixScores(scores), groups if grouped else None, texts, images)
        for image, line in enumerate(whole(found.images)):
            assert np.argsort(-line, kind="stable").tolist() == slow_order(scores, image, texts, [image])
        for text, line in enumerate(whole(found.texts).T):
            group = np.flatnonzero(groups == groups[text]).tolist() if grouped else [text]
            assert np.argsort(-line, kind="stable").tolist() == slow_order(scores.T, text, images, group)
    finally:
        module._TILE = held


@given(n_images=st.integers(1, 7), n_texts=st.integers(1, 8), levels=st.integers(1, 4), seed=st.integers(0, 10**6))
@settings(deadline=None, max_examples=40)
def test_under_ties_nothing_depends_on_the_order_of_the_items(
    n_images: int, n_texts: int, levels: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, levels, (n_images, n_texts)).astype(np.float64)
    rows, columns = rng.permutation(n_images), rng.permutation(n_texts)
    plain = rerank(MatrixScores(scores), texts=3, images=3)
    shuffled = rerank(MatrixScores(scores[rows][:, columns]), texts=3, images=3)
    for one, other in ((plain.images, shuffled.images), (plain.texts, shuffled.texts)):
        np.testing.assert_array_equal(whole(one)[rows][:, columns], whole(other))
        np.testing.assert_array_equal(whole(reorder_texts(one, columns)), whole(one)[:, columns])
    # What scored better in the list and stands in the same place or a better one still scores better.
    found = whole(plain.images)
    places = (scores[None] > scores[:, None]).sum(1)
    for image in range(n_images):
        least = np.sort(scores[image])[::-1][min(3, n_texts) - 1]
        head = np.flatnonzero(scores[image] >= least)
        keys = [(places[image, t], -scores[image, t]) for t in head]
        for one, key in zip(head, keys, strict=True):
            for other, other_key in zip(head, keys, strict=True):
                assert (found[image, one] > found[image, other]) == (key < other_key)
        rest = np.setdiff1d(np.arange(n_texts), head)
        np.testing.assert_array_equal(found[image, rest], scores[image, rest])
        assert not len(rest) or found[image, head].min() > found[image, rest].max()


def test_a_constant_scorer_stays_at_chance_and_recall_at_the_length_of_the_list_stays() -> None:
    owner = np.repeat(np.arange(40), 2)
    for name in ("mtfn_rr", "mtfn_rr_groups"):
        constant = evaluate(MatrixScores(np.zeros((40, 80))), owner, protocol=Protocol(postprocess=name))
        assert constant.metrics["t2i_r1"] == pytest.approx(100 / 40)
    scores = np.random.default_rng(0).random((40, 80))
    scores[owner, np.arange(80)] += 0.3
    plain = evaluate(MatrixScores(scores), owner)
    again = evaluate(MatrixScores(scores), owner, protocol=Protocol(postprocess="mtfn_rr"))
    assert plain.ranks is not None
    assert again.ranks is not None
    for one, other, k in (
        (plain.ranks.images, again.ranks.images, 15),
        (plain.ranks.texts, again.ranks.texts, 20),
    ):
        np.testing.assert_array_equal(one.hits(k), other.hits(k))
        assert not np.array_equal(one.rank, other.rank)


def test_groups_of_the_test_split_leak_and_are_flagged() -> None:
    rng = np.random.default_rng(1)
    owner = np.repeat(np.arange(60), 5)
    scores = rng.random((60, 300))
    scores[owner, np.arange(300)] += 0.3
    found = {
        name: evaluate(MatrixScores(scores), owner, protocol=Protocol(postprocess=name))
        for name in (None, "mtfn_rr", "mtfn_rr_groups")
    }
    assert found[None].flags == ()
    assert found["mtfn_rr"].flags == ("transductive",)
    assert found["mtfn_rr_groups"].flags == ("transductive", "uses_test_groups")
    assert found["mtfn_rr_groups"].metrics["t2i_r1"] > found["mtfn_rr"].metrics["t2i_r1"] + 5
    assert found["mtfn_rr_groups"].metrics["i2t_r1"] == found["mtfn_rr"].metrics["i2t_r1"]


@pytest.mark.parametrize("name", list(POSTPROCESSES))
def test_a_fold_is_corrected_by_what_is_in_it(name: str) -> None:
    rng = np.random.default_rng(2)
    scores, owner = rng.random((24, 60)), rng.permutation(np.r_[np.arange(24), rng.integers(0, 24, 36)])
    labels = rng.integers(0, 3, 24)
    result = evaluate(MatrixScores(scores), owner, labels, protocol=Protocol(folds=3, postprocess=name))
    alone = evaluate(MatrixScores(scores), owner, labels, protocol=Protocol(postprocess=name))
    each = []
    for fold in range(3):
        texts = np.flatnonzero(owner // 8 == fold)
        part = MatrixScores(scores[8 * fold : 8 * fold + 8][:, texts])
        each.append(evaluate(part, owner[texts] - 8 * fold, protocol=Protocol(postprocess=name)).metrics)
    for metric, value in alone.metrics.items():
        assert result.metrics[metric] == value
    for metric in each[0]:
        assert result.metrics[f"fold3_{metric}"] == pytest.approx(np.mean([one[metric] for one in each]))


def test_lists_need_an_item() -> None:
    with pytest.raises(UsageError, match="at least one item"):
        rerank(MatrixScores(np.zeros((2, 3))), texts=0)
