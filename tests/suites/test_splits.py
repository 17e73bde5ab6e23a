"""Suites over drawn splits: what is planned, how it is called, and what earlier versions stored."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cmr_bench.experiment import recipe
from cmr_bench.experiment.identity import same_run
from cmr_bench.suites import plan
from cmr_bench.support.errors import UsageError


def test_every_split_is_a_run_of_its_own() -> None:
    content = {"runs": [{"method": "cca", "data": "pascal", "split_seeds": [None, 0, 3]}], "seeds": [0, 1]}
    planned = list(plan.jobs(content, None, []))
    assert [(job.draw, job.config.seed) for job in planned] == [(s, k) for s in (None, 0, 3) for k in (0, 1)]
    assert planned[3].title == "cca on pascal, split 0, seed 1"
    assert planned[3].config.changes == {"data.split_seed": 0}
    assert planned[3].config.fidelity == "reconstruction"
    whole = {"runs": [{"method": "cca", "data": "pascal"}], "split_seeds": [1, 2]}
    assert [job.draw for job in plan.jobs(whole, None, [])] == [1, 2]


@pytest.mark.parametrize("splits", ["x", [1, "2"], [True], {"a": 1}, 0.5])
def test_split_seeds_are_integers(tmp_path: Path, splits: object) -> None:
    (tmp_path / "s.yaml").write_text(json.dumps({"runs": [{"method": "cca", "data": "pascal", "split_seeds": splits}]}))
    with pytest.raises(UsageError, match="'split_seeds' must be a list of integers"):
        plan.read_suite(str(tmp_path / "s.yaml"))


def test_a_run_from_before_split_seeds_drew_is_that_of_the_own_split(tmp_path: Path) -> None:
    (job, drawn) = plan.jobs({"runs": [{"method": "cca", "data": "pascal", "split_seeds": [None, 0]}]}, None, [])
    old = {
        name: value for name, value in job.config.__dict__.items() if name not in ("changes", "deviations", "shortened")
    }
    old["data"] = old["data"] | {"split_seed": 0}
    assert same_run(old, job.config)
    assert not same_run(old, drawn.config)
    assert same_run(drawn.config.__dict__, drawn.config)
    assert recipe.resolve("cca", "pascal", config=old).data["split_seed"] is None
    assert recipe.resolve("cca", "pascal", config=drawn.config.__dict__).data["split_seed"] == 0


def test_the_tables_of_the_common_subspace_are_measured_on_ten_splits_of_pascal() -> None:
    planned = [job for job in plan.jobs(plan.read_suite("adcsl_tables"), None, []) if job.config.dataset == "pascal"]
    rows: dict[tuple[str, str], list[int | None]] = {}
    for job in planned:
        rows.setdefault((job.config.method, job.config.variant), []).append(job.draw)
    assert len(rows) == 11
    assert all(draws == [None] * 3 + list(range(10)) for draws in rows.values())
    features = {(job.config.data["image_features"], job.config.data["text_features"]) for job in planned}
    assert len(features) == 1
