"""R@K as the expectation over all orders of tied items, against permutations, exact fractions and chance."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from cmr_bench.evaluation.bootstrap import interval
from cmr_bench.evaluation.protocol import Protocol, evaluate
from cmr_bench.evaluation.ranks import EmbeddingScores, MatrixScores, retrieval_ranks
from cmr_bench.evaluation.ties import BestMatches, expected_hits


def chance(better: int, tied: int, matching: int, k: int) -> Fraction:
    """The formula of McSherry and Najork in whole numbers."""
    inside = min(max(k - better, 0), tied)
    return 1 - Fraction(math.comb(tied - matching, inside), math.comb(tied, inside))


def chance_in(scores: NDArray[np.floating], matches: NDArray[np.bool_], k: int) -> Fraction:
    """The same from the scores of one query."""
    best = scores[matches].max()
    same = scores == best
    return chance(int(np.sum(scores > best)), int(np.sum(same)), int(np.sum(same & matches)), k)


def over_permutations(scores: NDArray[np.floating], matches: NDArray[np.bool_]) -> list[float]:
    """Share of all orders of the items in which a stable sort has a match among the first 1, 2, ... items."""
    orders = np.array(list(itertools.permutations(range(len(scores)))))
    ranking = np.take_along_axis(orders, np.argsort(-scores[orders], axis=1, kind="stable"), axis=1)
    first = matches[ranking].argmax(axis=1)
    return [float(np.mean(first < k)) for k in range(1, len(scores) + 1)]


@pytest.mark.parametrize("n", range(1, 7))
def test_hits_are_the_share_of_all_permutations(n: int) -> None:
    for n_matches in range(1, min(n, 3) + 1):
        matches = np.arange(n) < n_matches
        for given_scores in itertools.product((0.0, 1.0, 2.0) if n < 6 else (0.0, 1.0), repeat=n):
            scores = np.array(given_scores)
            expected = over_permutations(scores, matches)
            # Texts that are no match belong to a second image.
            i2t = retrieval_ranks(MatrixScores(np.tile(scores, (1 + (n > n_matches), 1))), 1 - matches)
            assert [i2t.images.hits(k)[0] for k in range(1, n + 1)] == pytest.approx(expected, abs=1e-12)
            if n_matches == 1:
                t2i = retrieval_ranks(MatrixScores(np.tile(scores[:, None], (1, n))), np.arange(n))
                assert [t2i.texts.hits(k)[0] for k in range(1, n + 1)] == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("n_images", [1, 2, 3, 4, 5, 9, 10, 11, 12, 37, 100, 1000])
@pytest.mark.parametrize("captions", [1, 2, 3, 4, 5, 6])
def test_a_constant_scorer_is_exactly_at_chance(n_images: int, captions: int) -> None:
    n_texts = n_images * captions
    found = retrieval_ranks(MatrixScores(np.full((n_images, n_texts), 0.25)), np.repeat(np.arange(n_images), captions))
    for k in {*range(1, 12), n_images - 1, n_images, n_texts, n_texts + 1} - {0}:
        # Drawing without replacement, one draw after the other: nothing of the formula is in here.
        missed = math.prod(max(n_texts - captions - place, 0) / (n_texts - place) for place in range(min(k, n_texts)))
        np.testing.assert_allclose(found.images.hits(k), 1 - missed, rtol=0, atol=1e-12)
        np.testing.assert_allclose(found.texts.hits(k), min(k, n_images) / n_images, rtol=0, atol=1e-12)
    result = evaluate(MatrixScores(np.zeros((n_images, n_texts))), np.repeat(np.arange(n_images), captions))
    for k in (1, 5, 10):
        assert result.metrics[f"t2i_r{k}"] == pytest.approx(100 * min(k / n_images, 1), abs=1e-12)
        exact = float(100 * chance(0, n_texts, captions, k))
        assert result.metrics[f"i2t_r{k}"] == pytest.approx(exact, abs=1e-12)


def test_a_constant_scorer_is_at_chance_with_one_to_six_captions_an_image_and_in_folds() -> None:
    owner = np.repeat(np.arange(60), 1 + np.arange(60) % 6)
    found = evaluate(MatrixScores(np.ones((60, len(owner)))), owner, protocol=Protocol(folds=2, bootstrap=50)).metrics
    captions = [1 + image % 6 for image in range(60)]
    for k in (1, 5, 10):
        i2t = np.mean([float(100 * chance(0, len(owner), own, k)) for own in captions])
        assert found[f"i2t_r{k}"] == pytest.approx(i2t, abs=1e-12)
        assert found[f"t2i_r{k}"] == pytest.approx(100 * k / 60, abs=1e-12)
        i2t = np.mean([float(100 * chance(0, len(owner) // 2, own, k)) for own in captions])
        assert found[f"fold2_i2t_r{k}"] == pytest.approx(i2t, abs=1e-12)
        assert found[f"fold2_t2i_r{k}"] == pytest.approx(100 * k / 30, abs=1e-12)


@st.composite
def groups(draw: st.DrawFn) -> tuple[int, int, int, int]:
    tied = draw(st.integers(1, 300))
    return draw(st.integers(0, 40)), tied, draw(st.integers(1, tied)), draw(st.integers(1, 350))


@settings(max_examples=300, deadline=None)
@given(st.lists(groups(), min_size=1, max_size=5))
def test_hits_equal_the_formula_in_fractions(queries: list[tuple[int, int, int, int]]) -> None:
    better, tied, matching, _ = np.array(queries).T
    for _, _, _, k in queries:
        expected = [float(chance(*query[:3], k)) for query in queries]
        found = expected_hits(better, tied, matching, k)
        np.testing.assert_allclose(found, expected, rtol=1e-14, atol=0)
        assert ((found >= 0) & (found <= 1)).all()
        assert (expected_hits(better, tied, matching, k + 1) >= found - 1e-15).all()
        # Beside other queries a query scores the same bits as alone.
        alone = [expected_hits(*np.array([query[:3]]).T, k)[0] for query in queries]
        assert found.tolist() == alone


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 25), st.integers(0, 3), st.integers(1, 20), st.integers(1, 40))
def test_hits_follow_the_scores_for_any_tile(
    seed: int, n_images: int, spread: int, image_block: int, text_block: int
) -> None:
    rng = np.random.default_rng(seed)
    owner = rng.permutation(np.repeat(np.arange(n_images), rng.integers(1, 7, n_images)))
    scores = rng.integers(0, spread + 1, (n_images, len(owner))).astype(float)
    found = retrieval_ranks(MatrixScores(scores), owner, image_block=image_block, text_block=text_block)
    for k in (1, 2, 5, 10, 30):
        images = [float(chance_in(scores[image], owner == image, k)) for image in range(n_images)]
        texts = [float(chance_in(scores[:, text], np.arange(n_images) == owner[text], k)) for text in range(len(owner))]
        np.testing.assert_allclose(found.images.hits(k), images, rtol=1e-14, atol=0)
        np.testing.assert_allclose(found.texts.hits(k), texts, rtol=1e-14, atol=0)


def hits_by_mid_rank(scores: NDArray[np.floating], owner: NDArray[np.int64], k: int) -> tuple[float, float]:
    """R@K as it was before: percent of the queries whose best match has a mid-rank of at most K."""
    n_images, n_texts = scores.shape
    hits = [0, 0]
    for image in range(n_images):
        best, others = scores[image, owner == image].max(), scores[image, owner != image]
        hits[0] += 1.0 + (np.sum(others >= best) + np.sum(others > best)) / 2.0 <= k
    for text in range(n_texts):
        match, others = scores[owner[text], text], np.delete(scores[:, text], owner[text])
        hits[1] += 1.0 + (np.sum(others >= match) + np.sum(others > match)) / 2.0 <= k
    return 100.0 * hits[0] / n_images, 100.0 * hits[1] / n_texts


@pytest.mark.parametrize("seed", range(4))
def test_nothing_moves_by_a_bit_where_nothing_ties(seed: int) -> None:
    rng = np.random.default_rng(seed)
    owner = rng.permutation(np.repeat(np.arange(41), rng.integers(1, 7, 41)))
    scores = rng.permutation(41 * len(owner)).reshape(41, -1) + 2500.0 * (np.arange(41)[:, None] == owner)
    # Captions of one image may share a score: whichever comes first, it is a match.
    twins = np.flatnonzero(owner == np.bincount(owner).argmax())
    scores[owner[twins[0]], twins] = scores[owner[twins[0]], twins].max()
    scores += np.where(np.arange(41)[:, None] == owner, 0.5, 0.0)
    result = evaluate(MatrixScores(scores), owner, protocol=Protocol(bootstrap=60, seed=seed))
    assert result.tie_rate == 0.0
    assert result.ranks is not None
    assert result.ranks.images.tied.max() == len(twins)
    drawn = np.random.default_rng(seed).integers(0, 41, size=(60, 41))
    for k in (1, 5, 10):
        assert (result.metrics[f"i2t_r{k}"], result.metrics[f"t2i_r{k}"]) == hits_by_mid_rank(scores, owner, k)
        hits, means = result.ranks.t2i <= k, []
        for images in drawn:
            texts = np.concatenate([np.flatnonzero(owner == image) for image in images])
            means.append(100.0 * (np.count_nonzero(hits[texts]) / len(texts)))
        assert result.intervals[f"t2i_r{k}"] == interval(np.array(means), 0.95)


@pytest.mark.parametrize("matching", [1, 2, 3, 6, 1000, 10**6 - 2, 10**6])
@pytest.mark.parametrize("k", [1, 5, 10, 1000])
def test_a_million_tied_items_are_stable(matching: int, k: int) -> None:
    million = 10**6
    few, many = min(k, matching), max(k, matching)
    missed = math.prod(million - many - place for place in range(few))
    every = math.prod(million - place for place in range(few))
    found = expected_hits(np.array([0]), np.array([million]), np.array([matching]), k)[0]
    assert found == pytest.approx(float(1 - Fraction(missed, every)), rel=1e-13, abs=0)


def test_one_match_among_a_million_scores_its_share_of_the_places() -> None:
    found = expected_hits(np.array([3, 10, 9, 0]), np.full(4, 10**6), np.ones(4, dtype=np.int64), 10)
    assert found.tolist() == [7e-6, 0.0, 1e-6, 1e-5]


def test_short_hash_codes_score_what_random_orders_score_on_average() -> None:
    rng = np.random.default_rng(0)
    codes = rng.choice([-1.0, 1.0], (150, 16))
    owner = np.arange(450) // 3
    texts = codes[owner] * rng.choice([-1.0, 1.0], (450, 16), p=[0.15, 0.85])
    scores = codes @ texts.T
    found = evaluate(EmbeddingScores(codes, texts, normalize=False), owner)
    assert found.tie_rate > 0.3
    shuffled = []
    for _ in range(200):
        # Inner products of such codes are even numbers, so that this breaks ties and nothing else.
        one = evaluate(MatrixScores(scores + rng.random(scores.shape)), owner)
        assert one.tie_rate == 0.0
        shuffled.append([one.metrics[name] for name in ("i2t_r1", "i2t_r5", "t2i_r1", "t2i_r5")])
    mean, error = np.mean(shuffled, axis=0), np.std(shuffled, axis=0) / np.sqrt(len(shuffled))
    exact = [found.metrics[name] for name in ("i2t_r1", "i2t_r5", "t2i_r1", "t2i_r5")]
    assert (np.abs(mean - exact) < 4 * error).all()
    by_mid_rank = hits_by_mid_rank(scores, owner, 1)
    assert found.metrics["i2t_r1"] - by_mid_rank[0] > 5
    assert found.metrics["t2i_r1"] - by_mid_rank[1] > 5


def test_only_the_group_of_the_best_match_decides() -> None:
    # The second caption ties with three others far below the first, which ties with one.
    scores = np.array([[9.0, 1.0, 9.0, 1.0, 1.0, 1.0], [0.0] * 6])
    found = retrieval_ranks(MatrixScores(scores), np.array([0, 0, 1, 1, 1, 1])).images
    assert (found.better[0], found.tied[0], found.matching[0]) == (0, 2, 1)
    assert [found.hits(k)[0] for k in (1, 2, 3)] == [0.5, 1.0, 1.0]
    assert found.rank[0] == 1.5


def test_several_matches_may_tie_in_either_direction() -> None:
    matches = BestMatches(np.array([2, 0]), np.array([4, 3]), np.array([2, 3]))
    assert matches.hits(3).tolist() == [0.5, 1.0]
    assert matches.hits(4)[0] == pytest.approx(5 / 6)
    assert matches.hits(5)[0] == 1.0
    assert matches.rank.tolist() == [4.0, 1.0]
    assert matches.take(np.array([True, False])).rank.tolist() == [4.0]
