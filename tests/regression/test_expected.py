"""Expected scores: their statistics against slow definitions, and their file whatever is in it."""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cmr_bench.evaluation.metrics import mr, recall_at_k, rsum
from cmr_bench.evaluation.ties import BestMatches
from cmr_bench.experiment import recipe
from cmr_bench.regression import compare, expected
from cmr_bench.results.record import Result
from cmr_bench.suites import plan
from cmr_bench.support.errors import UsageError

RSUMS = (300.0, 303.0, 297.0, 304.0, 296.0)
METRICS = dict.fromkeys(expected.RECALLS, 50.0) | {"mr": 50.0, "i2t_map": 0.5, "t2i_map": 0.5, "map": 0.5}


def t_quantile(p: float, freedom: int) -> float:
    """The number below which a share p of Student's distribution lies: its density summed up, then bisection."""
    factor = math.gamma((freedom + 1) / 2) / (math.sqrt(freedom * math.pi) * math.gamma(freedom / 2))

    def below(x: float) -> float:
        grid = np.linspace(0.0, x, 20_001)
        return 0.5 + float(np.trapezoid(factor * (1 + grid**2 / freedom) ** (-(freedom + 1) / 2), grid))

    low, high = 0.0, 1000.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if below(middle) < p else (low, middle)
    return low


@pytest.mark.parametrize(("n", "rate", "k"), [(5, 0.01, 1), (5, 0.001, 1), (8, 0.001, 1), (3, 0.05, 2), (10, 0.01, 3)])
def test_half_width_is_the_prediction_interval(n: int, rate: float, k: int) -> None:
    slow = t_quantile(1 - rate, n - 1) * 2.5 * math.sqrt(1 / k + 1 / n)
    assert expected.half_width(2.5, n, rate, k) == pytest.approx(slow, rel=1e-3)


@pytest.mark.parametrize(("n", "k"), [(2, 1), (5, 1), (8, 3)])
def test_sound_code_falls_as_often_as_is_said(n: int, k: int) -> None:
    rng = np.random.default_rng(0)
    recorded, new = rng.normal(300, 4, (100_000, n)), rng.normal(300, 4, (100_000, k)).mean(1)
    width = np.array([expected.half_width(1.0, n, 0.05, k)]) * recorded.std(1, ddof=1)
    assert np.mean(new < recorded.mean(1) - width) == pytest.approx(0.05, abs=0.004)


@pytest.mark.parametrize(("n_images", "n_texts"), [(10, 40), (7, 21)])
def test_one_query_is_what_the_metrics_move_by(n_images: int, n_texts: int) -> None:
    better = {"i2t": np.zeros(n_images, dtype=np.int64), "t2i": np.zeros(n_texts, dtype=np.int64)}

    def metrics() -> dict[str, float]:
        alone = {way: np.ones_like(counts) for way, counts in better.items()}
        matches = {way: BestMatches(counts, alone[way], alone[way]) for way, counts in better.items()}
        found = {f"{way}_r{k}": recall_at_k(matches[way], k) for way in better for k in (1, 5, 10)}
        return found | {"rsum": rsum(found), "mr": mr(found)}

    before = metrics()
    for one in better.values():
        one[0] = 10
    after = metrics()
    for name in (*expected.RECALLS, "mr", "rsum"):
        assert before[name] - after[name] == pytest.approx(expected.one_query(name, n_images, n_texts)), name
    assert expected.one_query("map", n_images, n_texts) == pytest.approx((1 / n_images + 1 / n_texts) / 2)
    assert expected.one_query("t2i_map", n_images, n_texts) == pytest.approx(1 / n_texts)


def result(seed: int = 0, rsum: float = 300.0, **changes: Any) -> Result:
    return Result(
        **{
            "method": "cca",
            "data": "synthetic",
            "metrics": METRICS | {"rsum": rsum},
            "split_sizes": {"train": [9, 9], "test": [250, 1000]},
            "fingerprint": "f" * 64,
            "views": {"image": {"source": "pixels"}, "text": {"source": "words"}},
            "seed": seed,
            "versions": {"torch": "2.0"},
            "device": "1 x abacus",
            "commit": "c0ffee",
        }
        | changes
    )


@pytest.mark.parametrize(("n_images", "captions"), [(6, 1), (5, 2), (4, 3)])
def test_chance_is_what_random_rankings_score(n_images: int, captions: int) -> None:
    rng = np.random.default_rng(0)
    owner, n_texts = np.repeat(np.arange(n_images), captions), n_images * captions
    there = [result(split_sizes={"test": [n_images, n_texts]})]
    total = 0.0
    for k in (1, 5, 10):
        first = [[int(np.flatnonzero(owner[rng.permutation(n_texts)] == 0)[0]) for _ in range(20_000)]]
        i2t, t2i = 100 * float(np.mean(np.array(first) < k)), 100 * min(1.0, k / n_images)
        assert expected.chance(f"i2t_r{k}", there) == pytest.approx(i2t, abs=1.5)
        assert expected.chance(f"t2i_r{k}", there) == pytest.approx(t2i)
        total += i2t + t2i
    assert expected.chance("rsum", there) == pytest.approx(total, abs=4)
    assert expected.chance("mr", there) == pytest.approx(total / 6, abs=1)
    assert expected.chance("map", there) is None
    assert expected.chance("rsum", [result(split_sizes={})]) is None


def test_chance_of_map_is_the_precision_at_full_recall() -> None:
    curves = {"recall": [0.0, 1.0], "i2t_precision": [0.9, 0.1], "t2i_precision": [0.8, 0.3]}
    assert expected.chance("map", [result(curves=curves)]) == pytest.approx(0.2)


def test_a_fall_to_chance_that_would_be_allowed_is_told() -> None:
    def told(rsums: list[float]) -> list[str]:
        group = [result(seed, rsum) for seed, rsum in enumerate(rsums)]
        return expected.toothless(expected.expect("mine", [group], 0.01, {}), [group])

    assert told([300.0, 301.0, 299.0, 300.5, 300.2]) == []
    (line,) = told([72.0, 73.6])
    assert line.startswith("cca on synthetic: rsum of 72.8 may fall by ")
    assert "chance gives" in line
    assert "a broken method would pass" in line


def test_every_drawn_split_is_compared_with_itself(tmp_path: Path) -> None:
    def on(split: int, seed: int, rsum: float) -> Result:
        return result(seed, rsum, options={"data.split_seed": split}, fingerprint=f"{split}" * 64)

    groups = [[on(split, seed, 200.0 + 50 * split + seed) for seed in range(5)] for split in range(2)]
    expected.write_expected(tmp_path / "e.yaml", expected.expect("mine", groups, 0.01, {}), "record")
    recorded = expected.read_expected(tmp_path / "e.yaml")
    assert [(row.draw, row.title) for row in recorded.rows] == [
        (0, "cca on synthetic, split 0"),
        (1, "cca on synthetic, split 1"),
    ]
    jobs = [plan.Job(recipe.RunConfig("cca", "synthetic", data={"split_seed": split})) for split in range(2)]
    found = [compare.Found(job, [on(split, 7, 202.0 + 50 * split)]) for split, job in enumerate(jobs)]
    rows = compare.compare(recorded, found[::-1])
    assert [(row.draw, row.problem, len(row.have("fell"))) for row in rows] == [(1, "", 0), (0, "", 0)]
    assert compare.compare(recorded, [compare.Found(jobs[1], [on(1, 7, 200.0)])])[0].have("fell")


def some_expected(**changes: Any) -> expected.Expected:
    group = [result(seed, rsum, **changes) for seed, rsum in enumerate(RSUMS)]
    return expected.expect("mine", [group], 0.01, expected.provenance(group, "2024-01-01T00:00:00+00:00"))


def test_record_holds_mean_deviation_and_tolerance() -> None:
    (row,) = some_expected().rows
    score = row.metrics["rsum"]
    assert score.mean == pytest.approx(statistics.fmean(RSUMS))
    assert score.sd == pytest.approx(statistics.stdev(RSUMS))
    # Two scores decide, so each has half of the false alarms.
    assert score.tolerance == pytest.approx(expected.half_width(score.sd, 5, 0.005))
    assert row.metrics["i2t_r1"].tolerance == 0.4  # a deviation of 0: one of 250 queries
    assert row.seeds == (0, 1, 2, 3, 4)


def test_written_record_reads_as_it_was(tmp_path: Path) -> None:
    made = some_expected(options={"model.lr": 1e-05, "model.layers": [1, 2], "model.name": "yes"})
    expected.write_expected(tmp_path / "e.yaml", made, "cmr-bench check --record")
    assert (tmp_path / "e.yaml").read_text().startswith("# written by `cmr-bench check --record`")
    assert expected.read_expected(tmp_path / "e.yaml") == made


def test_a_figure_changed_by_hand_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "e.yaml"
    expected.write_expected(file, some_expected(), "cmr-bench check --record")
    text = re.sub(r"mean: 300\.0", "mean: 200.0", file.read_text(), count=1)
    assert text != file.read_text()
    file.write_text(text)
    with pytest.raises(UsageError, match="was edited or truncated"):
        expected.read_expected(file)


def places(content: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inner = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    return [path, *(place for key, value in inner for place in places(value, (*path, key)))]


def with_change(content: Any, place: tuple[Any, ...], value: Any) -> Any:
    if not place:
        return value
    copy = content.copy()
    copy[place[0]] = with_change(content[place[0]], place[1:], value)
    return copy


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.dates(),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3) | st.integers(), inner, max_size=2),
    max_leaves=4,
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), sign=st.booleans())
def test_malformed_record_is_one_line(
    tmp_path_factory: pytest.TempPathFactory,
    one_line: Callable[[Callable[[], Any]], Any],
    data: st.DataObject,
    sign: bool,
) -> None:
    file = tmp_path_factory.mktemp("e") / "e.yaml"
    expected.write_expected(file, some_expected(options={"model.dim": 8}), "x")
    content = yaml.safe_load(file.read_text())
    changed = with_change(content, data.draw(st.sampled_from(places(content))), data.draw(JUNK))
    if sign and isinstance(changed, dict):
        try:
            changed["digest"] = expected._digest(changed)
        except (TypeError, ValueError):
            sign = False
    file.write_text(yaml.safe_dump(changed, allow_unicode=True), encoding="utf-8", errors="replace")
    read = one_line(lambda: expected.read_expected(file))
    if read is not None:
        assert all(
            math.isfinite(s.mean) and s.tolerance >= 0 and s.n > 1 for r in read.rows for s in r.metrics.values()
        )


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    text=st.text(max_size=60) | st.sampled_from(["schema: 1", "schema: 99", "[1, 2]", "!!python/none x", "a: &a [*a]"])
)
def test_any_text_is_read_or_refused_in_one_line(
    tmp_path_factory: pytest.TempPathFactory, one_line: Callable[[Callable[[], Any]], Any], text: str
) -> None:
    file = tmp_path_factory.mktemp("e") / "e.yaml"
    file.write_text(text, encoding="utf-8", errors="replace")
    assert one_line(lambda: expected.read_expected(file)) is None
