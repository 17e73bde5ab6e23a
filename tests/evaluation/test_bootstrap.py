from __future__ import annotations

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

from cmr_bench.evaluation import bootstrap
from cmr_bench.evaluation.bootstrap import Resamples, interval
from cmr_bench.evaluation.protocol import Protocol, evaluate
from cmr_bench.evaluation.ranks import MatrixScores


def test_statistics_are_those_of_the_drawn_items(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bootstrap, "_CHUNK", 100)
    rng = np.random.default_rng(0)
    owner = rng.permutation(np.repeat(np.arange(9), rng.integers(1, 5, 9)))
    of_image, of_text = rng.integers(0, 20, 9).astype(float), rng.integers(0, 20, len(owner)).astype(float)
    resamples = Resamples(9, owner, 30, seed=3)
    assert (resamples.weights.sum(axis=1) == 9).all()
    with_gaps = np.where(of_text < 3, np.nan, of_text)
    for number, weights in enumerate(resamples.weights.astype(int)):
        images, texts = np.repeat(of_image, weights), np.repeat(of_text, weights[owner])
        assert resamples.mean_of_images(of_image)[number] == pytest.approx(images.mean())
        assert resamples.mean_of_texts(of_text)[number] == pytest.approx(texts.mean())
        assert resamples.median_of_images(of_image)[number] == np.median(images)
        assert resamples.median_of_texts(of_text)[number] == np.median(texts)
        gaps = np.repeat(with_gaps, weights[owner])
        assert resamples.mean_of_texts(with_gaps)[number] == pytest.approx(np.nanmean(gaps))


@pytest.mark.parametrize("shape", ["spread", "halves", "two far apart", "one", "many of one"])
def test_medians_are_found_among_any_number_of_values(shape: str) -> None:
    rng = np.random.default_rng(0)
    owner = rng.permutation(np.repeat(np.arange(60), rng.integers(1, 7, 60)))
    n = len(owner)
    values = {
        "spread": rng.permutation(n) + 1.0,
        "halves": rng.integers(2, 2000, n) / 2,
        "two far apart": np.where(np.arange(60)[owner] % 2, rng.permutation(n), rng.permutation(n) + 10.0**6),
        "one": np.full(n, 7.0),
        "many of one": np.where(rng.random(n) < 0.6, 1.0, rng.integers(1, 500, n)),
    }[shape]
    resamples = Resamples(60, owner, 200, seed=1)
    drawn = np.random.default_rng(1).integers(0, 60, size=(200, 60))
    texts = [np.concatenate([np.flatnonzero(owner == image) for image in images]) for images in drawn]
    assert resamples.median_of_texts(values).tolist() == [np.median(values[each]) for each in texts]


def test_sums_do_not_depend_on_the_number_of_threads() -> None:
    rng = np.random.default_rng(0)
    owner = np.arange(4000) // 4
    values = rng.random((4000, 3))
    found = []
    for threads in (1, 2):
        with threadpool_limits(threads):
            found.append(Resamples(1000, owner, 300, seed=0).mean_of_texts(values))
    assert found[0].tobytes() == found[1].tobytes()


def test_intervals_of_tied_recalls_are_those_of_expected_hits() -> None:
    rng = np.random.default_rng(0)
    owner = rng.permutation(np.repeat(np.arange(40), rng.integers(1, 5, 40)))
    result = evaluate(
        MatrixScores(rng.integers(0, 4, (40, len(owner)))), owner, protocol=Protocol(bootstrap=80, seed=2)
    )
    assert result.ranks is not None
    assert result.tie_rate == 1.0
    drawn = np.random.default_rng(2).integers(0, 40, size=(80, 40))
    texts = [np.concatenate([np.flatnonzero(owner == image) for image in images]) for images in drawn]
    for k in (1, 5, 10):
        for way, hits, queries in (
            ("i2t", result.ranks.images.hits(k), drawn),
            ("t2i", result.ranks.texts.hits(k), texts),
        ):
            means = np.array([100 * np.mean(hits[each]) for each in queries])
            assert result.intervals[f"{way}_r{k}"] == pytest.approx(interval(means, 0.95), abs=1e-10)


def test_intervals_are_seeded_percentiles() -> None:
    assert interval(np.arange(101.0), 0.9) == (pytest.approx(5.0), pytest.approx(95.0))
    similarity = np.random.default_rng(0).random((50, 100)) + 0.5 * (np.arange(50)[:, None] == np.arange(100) // 2)
    results = [
        evaluate(MatrixScores(similarity), np.arange(100) // 2, protocol=Protocol(bootstrap=200, seed=seed)).intervals
        for seed in (1, 1, 2)
    ]
    assert results[0] == results[1] != results[2]


@pytest.mark.slow
def test_intervals_cover_the_truth_as_often_as_they_say() -> None:
    # Images differ in difficulty, so the five texts of one are anything but independent.
    rng = np.random.default_rng(0)
    covered = 0
    owner = np.arange(500) // 5
    for _ in range(300):
        chance = rng.beta(0.5, 0.5, 100)
        hits = rng.random(500) < chance[owner]
        low, high = interval(Resamples(100, owner, 400, int(rng.integers(2**31))).mean_of_texts(hits * 1.0), 0.95)
        covered += low <= 0.5 <= high
    assert 0.91 <= covered / 300 <= 0.98
