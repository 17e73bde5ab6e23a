from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cmr_bench.evaluation.bootstrap import paired
from cmr_bench.evaluation.per_query import PerQuery, compare, per_query, read_per_query
from cmr_bench.evaluation.protocol import Protocol, evaluate
from cmr_bench.evaluation.ranks import MatrixScores
from cmr_bench.support.errors import CmrBenchError


def measured(seed: int, strength: float, labels: bool = True) -> PerQuery:
    owner = np.arange(90) // 3
    rng = np.random.default_rng(seed)
    scores = rng.random((30, 90)) + strength * (np.arange(30)[:, None] == owner)
    classes = np.arange(30) % 4 if labels else None
    return per_query(evaluate(MatrixScores(scores), owner, classes, protocol=Protocol()), owner)


def slowly(one: PerQuery, other: PerQuery, resamples: int, seed: int) -> dict[str, list[float]]:
    """The differences in every resample, from the definition: draw images, take their texts along, score again."""
    rng = np.random.default_rng(seed)
    found: dict[str, list[float]] = {}
    for images in rng.integers(0, 30, size=(resamples, 30)):
        texts = np.concatenate([np.flatnonzero(one.image_of_text == image) for image in images])
        values = []
        for run in (one, other):
            recalls = {
                f"{way}_r{k}": 100 * np.mean(ranks <= k)
                for way, ranks in (("i2t", run.i2t[images]), ("t2i", run.t2i[texts]))
                for k in (1, 5, 10)
            }
            precisions = {"i2t_map": np.mean(run.i2t_map[images]), "t2i_map": np.mean(run.t2i_map[texts])}
            values.append(recalls | precisions | {"rsum": sum(recalls.values()), "map": sum(precisions.values()) / 2})
        for name in values[0]:
            found.setdefault(name, []).append(float(values[0][name] - values[1][name]))
    return found


def test_the_verdict_is_that_of_the_definition() -> None:
    one, other = measured(0, 0.4), measured(1, 0.3)
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


def test_outcomes_come_back_from_disk_to_the_bit(tmp_path: Path) -> None:
    run = measured(0, 0.3)
    (tmp_path / "ranks.npz").write_bytes(run.to_bytes())
    found = read_per_query(tmp_path / "ranks.npz")
    for name in ("image_of_text", "i2t", "t2i", "i2t_map", "t2i_map"):
        assert np.array_equal(getattr(found, name), getattr(run, name))


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
