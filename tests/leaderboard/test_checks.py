"""Results that contradict themselves, or what lies beside them, are left out with one line that says why."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cmr_bench import cli
from cmr_bench.dashboard.collect import collect
from cmr_bench.evaluation.per_query import PerQuery
from cmr_bench.leaderboard.checks import contradictions, load_checked
from cmr_bench.results.published import RECALLS
from cmr_bench.results.record import Result, write_result

OWNER = np.repeat(np.arange(20), 2)


def outcomes(seed: int = 0) -> PerQuery:
    rng = np.random.default_rng(seed)
    return PerQuery(OWNER, rng.integers(1, 30, 20).astype(float), rng.integers(1, 15, 40).astype(float))


def figures(found: PerQuery) -> dict[str, float]:
    """Metrics of outcomes by their definition."""
    metrics: dict[str, float] = {}
    for way, ranks in (("i2t", found.i2t), ("t2i", found.t2i)):
        metrics |= {f"{way}_r{k}": 100 * sum(rank <= k for rank in ranks.tolist()) / len(ranks) for k in (1, 5, 10)}
        metrics |= {f"{way}_medr": float(np.median(ranks)), f"{way}_map": 0.25}
    metrics["rsum"] = sum(metrics[name] for name in RECALLS)
    return metrics | {"mr": metrics["rsum"] / 6, "map": 0.25}


def a_result(**changes: Any) -> Result:
    fields: dict[str, Any] = {
        "data": "flickr8k",
        "metrics": figures(outcomes()),
        "run_id": "r",
        "split_sizes": {"test": [20, 40]},
        "seed": 0,
        "created": "2025-01-01T00:00:00+00:00",
    }
    return Result("vsepp", **(fields | changes))


@pytest.fixture
def store(tmp_path: Path) -> Callable[..., Path]:
    def write(result: Result, beside: PerQuery | None = None, config: str = "") -> Path:
        folder = tmp_path / "runs" / result.data / result.method / result.run_id
        write_result(folder, result)
        if beside is not None:
            (folder / "ranks.npz").write_bytes(beside.to_bytes())
        if config:
            (folder / "config.yaml").write_text(config)
        return folder

    return write


def test_a_sound_result_is_kept(store: Callable[..., Path], tmp_path: Path) -> None:
    config = "method: vsepp\ndataset: flickr8k\nvariant: ''\nseed: 0\n"
    folder = store(a_result(), outcomes(), config)
    found, problems = load_checked(tmp_path / "runs")
    assert ([place for place, _ in found], problems) == ([folder], [])


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"i2t_r1": 150.0}, "i2t_r1 is 150, outside 0 to 100"),
        ({"t2i_r1": -5.0}, "t2i_r1 is -5, outside 0 to 100"),
        ({"i2t_map": 7.0}, "i2t_map is 7, outside 0 to 1"),
        ({"t2i_medr": 0.5}, "t2i_medr is 0.5, outside 1 to inf"),
        ({"rsum": 599.9}, "rsum is 599.9, and the sum of the six recalls"),
        ({"mr": 99.0}, "mr is 99, and the mean of the six recalls"),
        ({"map": 0.5}, "map is 0.5, and the mean of both directions 0.25"),
        ({"fold5_i2t_r1": 101.0}, "fold5_i2t_r1 is 101"),
        ({"fold5_i2t_map": 0.1, "fold5_t2i_map": 0.2, "fold5_map": 0.2}, "fold5_map is 0.2"),
        ({"i2t_r1": 90.0, "i2t_r5": 10.0}, "the recalls of i2t fall with K"),
        ({"i2t_r_precision": 1.5}, "outside 0 to 1"),
    ],
)
def test_a_result_that_contradicts_itself_is_left_out(
    store: Callable[..., Path], tmp_path: Path, changed: dict[str, float], why: str
) -> None:
    store(a_result(metrics=figures(outcomes()) | changed))
    for found, problems in (load_checked(tmp_path / "runs"), collect(tmp_path / "runs")):
        assert found == []
        (problem,) = problems
        assert why in problem
        assert len(problem.splitlines()) == 1


@pytest.mark.parametrize(
    ("changes", "config", "beside", "why"),
    [
        ({}, "", outcomes(1), "by ranks.npz"),
        ({"split_sizes": {"test": [20, 41]}}, "", outcomes(), "ranks.npz has 20 images and 40 texts"),
        ({}, "method: scan\ndataset: flickr8k", None, "it says method vsepp, and config.yaml beside it scan"),
        ({"seed": 3}, "method: vsepp\nseed: 0", None, "it says seed 3, and config.yaml beside it 0"),
        ({}, "variant: fine_tuned", None, "config.yaml beside it fine_tuned"),
    ],
)
def test_what_lies_beside_a_result_has_to_agree(
    store: Callable[..., Path],
    tmp_path: Path,
    changes: dict[str, Any],
    config: str,
    beside: PerQuery | None,
    why: str,
) -> None:
    store(a_result(**changes), beside, config)
    for found, problems in (load_checked(tmp_path / "runs"), collect(tmp_path / "runs")):
        assert found == []
        assert [why in problem for problem in problems] == [True]


def test_a_result_from_the_future_does_not_replace_an_older_one(store: Callable[..., Path], tmp_path: Path) -> None:
    now = datetime.now(UTC)
    for name, date in (("soon", now + timedelta(hours=2)), ("later", now + timedelta(days=400)), ("naive", None)):
        store(a_result(run_id=name, created=date.isoformat() if date else "2025-01-01T00:00:00"))
    found, problems = load_checked(tmp_path / "runs")
    assert {result.run_id for _, result in found} == {"soon", "naive"}
    assert "in the future" in problems[0]


def test_side_files_that_cannot_be_read_cost_no_result(store: Callable[..., Path], tmp_path: Path) -> None:
    folder = store(a_result(), None, "[: not YAML")
    (folder / "ranks.npz").write_bytes(b"nothing")
    found, problems = load_checked(tmp_path / "runs")
    assert (len(found), len(problems)) == (1, 1)


@given(
    i2t=st.lists(st.integers(1, 40), min_size=20, max_size=20),
    t2i=st.lists(st.integers(1, 20), min_size=40, max_size=40),
)
def test_figures_that_follow_from_outcomes_never_contradict_them(i2t: list[int], t2i: list[int]) -> None:
    found = PerQuery(OWNER, np.array(i2t, dtype=float), np.array(t2i, dtype=float))
    assert contradictions(a_result(metrics=figures(found)), Path("absent"), found) == []


def test_the_command_says_what_it_left_out(
    store: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store(a_result())
    store(a_result(run_id="bad", seed=1, metrics=figures(outcomes()) | {"rsum": 599.9}))
    assert cli.main(["leaderboard", "--runs", str(tmp_path / "runs"), "--no-published", "--format", "csv"]) == 0
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1
    assert "bad/result.json contradicts itself: rsum is 599.9" in captured.err
    assert "599.9" not in captured.out
