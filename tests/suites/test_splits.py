"""Suites over drawn splits: what is planned, how it is called, and what earlier versions stored."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cmr_bench.experiment import recipe
from cmr_bench.experiment.identity import same_run
from cmr_bench.leaderboard.tables import table_sections
from cmr_bench.results.published import load_published
from cmr_bench.results.record import Result
from cmr_bench.suites import plan
from cmr_bench.suites.tables import read_tables
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


def test_the_tables_of_the_common_subspace_are_measured_on_ten_splits_of_pascal(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def unchecked(method: str, dataset: str, words: list[str], variant: str = "") -> recipe.RunConfig:
        """Take the options as they stand, as reading every constructor for each draw takes seconds."""
        given = (word.removeprefix("--data.").split("=", 1) for word in words)
        data = {name: int(value) if name == "split_seed" else value for name, value in given}
        return recipe.RunConfig(method, dataset, data=data, variant=variant)

    monkeypatch.setattr(recipe, "resolve", unchecked)
    planned = [job for job in plan.jobs(plan.read_suite("adcsl_tables"), None, []) if job.config.dataset == "pascal"]
    rows: dict[tuple[str, str], list[int | None]] = {}
    for job in planned:
        rows.setdefault((job.config.method, job.config.variant), []).append(job.draw)
    assert len(rows) == 19
    assert all(draws == [None] * 3 + list(range(10)) for draws in rows.values())
    features = {(job.config.data["image_features"], job.config.data["text_features"]) for job in planned}
    assert len(features) == 1


def on_draw(method: str, i2t: float, split: int, seed: int = 0) -> Result:
    options = {"data.split_seed": split}
    return Result(
        method,
        "pascal",
        {"i2t_map": i2t, "t2i_map": i2t, "map": i2t},
        fingerprint=f"{split:02}" * 32 if split >= 0 else "ab" * 32,
        split_sizes={"train": [800, 800], "val": [100, 100], "test": [100, 100]},
        selection={"criterion": "map"},
        options=options if split >= 0 else {},
        cost={"train_seconds": i2t},
        seed=seed,
    )


def test_draws_have_a_table_of_their_own_beside_the_figures_of_the_paper() -> None:
    rows = [{"method": "dscmr"}, {"method": "cca"}]
    table = {"title": "T", "source": "adcsl2023", "data": "pascal", "columns": ["map"], "rows": rows}
    content = {
        "runs": [{"method": ["cca", "dscmr"], "data": "pascal", "split_seeds": [None, 0, 1]}],
        "tables": [table, table | {"protocol": "draws"}],
    }
    results = [on_draw("cca", 0.4, -1), *(on_draw("cca", 0.5 + split / 10, split) for split in (0, 1))]
    own, draws = table_sections(read_tables(content, "a suite"), results, load_published())
    assert [row.metrics.get("map") for row in own.rows] == [None, 0.4]
    row = draws.rows[-1]
    assert row.draws == (0, 1)
    assert (row.metrics["map"], row.spread["map"]) == pytest.approx((0.55, 0.05 * 2**0.5))
    assert row.published["i2t_map"] == 0.457
    assert "mean of 2 draws of the test split" in draws.title
    assert [bool(table.draws) for table in read_tables({"runs": content["runs"]}, "a suite")] == [False, True]
