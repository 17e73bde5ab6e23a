from __future__ import annotations

import functools
import io
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cmr_bench.evaluation.bootstrap import paired
from cmr_bench.evaluation.per_query import PerQuery, compare, per_query, read_per_query
from cmr_bench.evaluation.protocol import Protocol, evaluate
from cmr_bench.evaluation.ranks import MatrixScores
from cmr_bench.evaluation.ties import BestMatches
from cmr_bench.support.errors import CmrBenchError


def measured(seed: int, strength: float, labels: bool = True, decimals: int = 9) -> PerQuery:
    owner = np.arange(90) // 3
    rng = np.random.default_rng(seed)
    scores = np.round(rng.random((30, 90)) + strength * (np.arange(30)[:, None] == owner), decimals)
    classes = np.arange(30) % 4 if labels else None
    return per_query(evaluate(MatrixScores(scores), owner, classes, protocol=Protocol()), owner)


@functools.cache
def _chance(better: int, tied: int, matching: int, k: int) -> float:
    inside = min(max(k - better, 0), tied)
    return 1 - math.comb(tied - matching, inside) / math.comb(tied, inside)


def chance(matches: BestMatches, query: int, k: int) -> float:
    """Share of the orders of the tied items in which a match is among the first k."""
    return _chance(*(int(getattr(matches, name)[query]) for name in ("better", "tied", "matching")), k)


def slowly(one: PerQuery, other: PerQuery, resamples: int, seed: int) -> dict[str, list[float]]:
    """The differences in every resample, from the definition: draw images, take their texts along, score again."""
    rng = np.random.default_rng(seed)
    found: dict[str, list[float]] = {}
    for images in rng.integers(0, 30, size=(resamples, 30)):
        texts = np.concatenate([np.flatnonzero(one.image_of_text == image) for image in images])
        values = []
        for run in (one, other):
            recalls = {
                f"{way}_r{k}": 100 * np.mean([chance(run.matches[way], query, k) for query in queries])
                for way, queries in (("i2t", images), ("t2i", texts))
                for k in (1, 5, 10)
            }
            precisions = {"i2t_map": np.mean(run.i2t_map[images]), "t2i_map": np.mean(run.t2i_map[texts])}
            values.append(recalls | precisions | {"rsum": sum(recalls.values()), "map": sum(precisions.values()) / 2})
        for name in values[0]:
            found.setdefault(name, []).append(float(values[0][name] - values[1][name]))
    return found


@pytest.mark.parametrize("decimals", [9, 1], ids=["untied", "tied"])
def test_the_verdict_is_that_of_the_definition(decimals: int) -> None:
    one, other = measured(0, 0.4, decimals=decimals), measured(1, 0.3, decimals=decimals)
    assert np.any(one.matches["t2i"].others) == (decimals == 1)
    verdicts = compare(one, other, resamples=80, seed=5)
    expected = slowly(one, other, 80, 5)
    assert set(verdicts) == set(expected)
    for name, draws in expected.items():
        found = verdicts[name]
        assert [found.low, found.high] == pytest.approx(np.quantile(draws, [0.025, 0.975]).tolist(), abs=1e-9)
        assert found.p == min(1, 2 * (min(np.sum(np.array(draws) <= 1e-9), np.sum(np.array(draws) >= -1e-9)) + 1) / 81)


def test_a_run_is_no_better_than_itself_and_worse_than_a_perfect_one() -> None:
    run, perfect = measured(0, 0.3), measured(0, 9.0)
    same = compare(run, run)["rsum"]
    assert (same.difference, same.low, same.high, same.p, same.distinct) == (0, 0, 0, 1, False)
    worse = compare(run, perfect)["rsum"]
    assert worse.difference < 0
    assert worse.high < 0
    assert worse.distinct
    assert worse.p == pytest.approx(2 / 1001)


def test_differences_come_from_the_metrics_themselves() -> None:
    owner = np.arange(90) // 3
    scores = [np.random.default_rng(seed).random((30, 90)) for seed in (0, 1)]
    results = [evaluate(MatrixScores(each), owner) for each in scores]
    verdicts = compare(*(per_query(each, owner) for each in results))
    for name in ("i2t_r1", "t2i_r10", "rsum"):
        assert verdicts[name].difference == pytest.approx(results[0].metrics[name] - results[1].metrics[name])
    assert "map" not in verdicts


@pytest.mark.parametrize("decimals", [9, 1], ids=["untied", "tied"])
def test_outcomes_come_back_from_disk_to_the_bit(tmp_path: Path, decimals: int) -> None:
    run = measured(0, 0.3, decimals=decimals)
    (tmp_path / "ranks.npz").write_bytes(run.to_bytes())
    found = read_per_query(tmp_path / "ranks.npz")
    for name in ("image_of_text", "i2t", "t2i", "i2t_map", "t2i_map"):
        assert np.array_equal(getattr(found, name), getattr(run, name))
    for name, values in run.columns().items():
        assert np.array_equal(found.columns()[name], values)
    assert found.matches.keys() == {"i2t", "t2i"}


def test_numbers_of_words_come_back_and_files_without_them_are_read(tmp_path: Path) -> None:
    run = measured(0, 0.3)
    words = np.arange(len(run.t2i)) % 20
    file = tmp_path / "ranks.npz"
    file.write_bytes(replace(run, words=words).to_bytes())
    assert read_per_query(file).words.tolist() == words.tolist()
    file.write_bytes(run.to_bytes())
    assert read_per_query(file).words.tolist() == []
    for wrong in (words[1:], words - 5):
        file.write_bytes(replace(run, words=wrong).to_bytes())
        with pytest.raises(CmrBenchError, match="numbers of words"):
            read_per_query(file)


def written_before(path: Path, run: PerQuery) -> Path:
    """The file as it was when it held the ranks alone."""
    np.savez_compressed(path, image_of_text=run.image_of_text.astype(np.int32), i2t=run.i2t.astype(np.float32),
                        t2i=run.t2i.astype(np.float32), i2t_map=run.i2t_map, t2i_map=run.t2i_map)  # fmt: skip
    return path


def test_files_with_ranks_alone_are_read_and_hits_follow_the_rank(tmp_path: Path) -> None:
    run = measured(0, 0.3, decimals=1)
    found = read_per_query(written_before(tmp_path / "ranks.npz", run))
    assert found.matches == {}
    assert np.array_equal(found.t2i, run.t2i)
    for k in (1, 5, 10):
        assert found.columns()[f"t2i_r{k}"].tolist() == [100.0 * (rank <= k) for rank in run.t2i]
    verdicts = compare(run, found)
    assert set(verdicts) == {"i2t_map", "t2i_map", "map"}
    assert set(compare(found, found)) == set(compare(run, run))


def test_ranks_alone_say_all_where_nothing_ties(tmp_path: Path) -> None:
    run = measured(0, 0.3)
    found = read_per_query(written_before(tmp_path / "ranks.npz", run), tie_rate=0.0)
    for name, values in run.columns().items():
        assert np.array_equal(found.columns()[name], values)
    assert set(compare(run, found)) == set(compare(run, run))
    tied = measured(0, 0.3, decimals=1)
    assert read_per_query(written_before(tmp_path / "ranks.npz", tied), tie_rate=0.2).matches == {}
    # A half rank is a tie, whatever the result says.
    assert "t2i" not in read_per_query(written_before(tmp_path / "ranks.npz", tied), tie_rate=0.0).matches


@pytest.mark.parametrize("name", ["i2t", "t2i_better", "t2i_tied", "i2t_matching"])
def test_counts_that_do_not_make_the_ranks_are_refused(tmp_path: Path, name: str) -> None:
    file = tmp_path / "ranks.npz"
    with np.load(io.BytesIO(measured(0, 0.3).to_bytes())) as whole:
        arrays = {key: whole[key] for key in whole.files}
    for damaged in (arrays[name] + 1, arrays[name][1:], arrays[name] - 2):
        np.savez(file, **(arrays | {name: damaged}))
        with pytest.raises(CmrBenchError, match="no readable ranks"):
            read_per_query(file)
    del arrays[name]
    if name != "i2t":
        np.savez(file, **(arrays | {"t2i_better": arrays.get("t2i_better", arrays["t2i"])}))
        with pytest.raises(CmrBenchError, match="no readable ranks"):
            read_per_query(file)


@pytest.mark.parametrize("damage", ["cut", "text", "pickle", "shape", "empty"])
def test_a_damaged_file_is_refused_in_one_line(tmp_path: Path, damage: str) -> None:
    file = tmp_path / "ranks.npz"
    whole = measured(0, 0.3).to_bytes()
    if damage in ("cut", "text", "empty"):
        file.write_bytes({"cut": whole[: len(whole) // 2], "text": b"no archive", "empty": b""}[damage])
    elif damage == "pickle":
        np.savez(file, image_of_text=np.array([{}], dtype=object))
    else:
        np.savez(file, image_of_text=np.arange(4), i2t=np.zeros(3))
    with pytest.raises(CmrBenchError, match="no readable ranks") as caught:
        read_per_query(file)
    assert "\n" not in str(caught.value)


def test_other_links_are_not_compared() -> None:
    one = measured(0, 0.3)
    with pytest.raises(CmrBenchError, match="different test splits"):
        compare(one, PerQuery(one.image_of_text[::-1].copy(), one.i2t, one.t2i))


def test_p_counts_how_often_the_difference_turns_round() -> None:
    found = paired(1.0, np.array([-1.0, 1.0, 2.0, 3.0, 0.0, 4.0, 5.0, 6.0, 7.0]))
    assert found.p == pytest.approx(2 * (2 + 1) / 10)
