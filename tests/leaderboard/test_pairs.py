"""Two runs or rows against each other: the verdicts by their definition, and what cannot be compared."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from cmr_bench import cli
from cmr_bench.evaluation.per_query import PerQuery, compare
from cmr_bench.leaderboard.pairs import Side, find_side, versus
from cmr_bench.results.record import Result, write_result
from cmr_bench.support.errors import CmrBenchError, UsageError

OWNER = np.repeat(np.arange(40), 2)


def outcomes(strength: float, seed: int, owner: Any = OWNER) -> PerQuery:
    rng = np.random.default_rng(seed)
    n_images, n_texts = int(owner.max()) + 1, len(owner)
    return PerQuery(
        owner,
        np.ceil(rng.pareto(strength, n_images) + 0.01).clip(1, n_texts),
        np.ceil(rng.pareto(strength, n_texts) + 0.01).clip(1, n_images),
    )


@pytest.fixture
def store(tmp_path: Path) -> Callable[..., Path]:
    """Write a run: ``store("vsepp", strength, seed, **fields of the result)``."""

    def write(method: str, strength: float, seed: int = 0, keep: bool = True, **changes: Any) -> Path:
        found = outcomes(strength, 10 * seed + int(100 * strength))
        metrics = {name: float(np.mean(values)) for name, values in found.columns().items()}
        metrics |= {"rsum": sum(metrics.values()), "mr": sum(metrics.values()) / 6}
        fields: dict[str, Any] = {
            "data": "flickr8k",
            "metrics": metrics,
            "split_sizes": {"train": [160, 320], "test": [40, 80]},
            "fingerprint": "ab" * 32,
            "seed": seed,
            "cost": {"train_seconds": strength + seed},
            "versions": {"torch": "2.5"},
            "changes": {},
            "created": "2025-01-01T00:00:00+00:00",
        }
        fields |= changes
        folder: Path = tmp_path / "runs" / fields["data"] / method / f"{strength}-{seed}-{fields['fingerprint'][:6]}"
        write_result(folder, Result(method, run_id=folder.name, **fields))
        if keep:
            (folder / "ranks.npz").write_bytes(found.to_bytes())
        return folder

    return write


def test_two_runs_are_compared_by_the_paired_bootstrap(store: Callable[..., Path], tmp_path: Path) -> None:
    one, other = store("vsepp", 1.5), store("scan", 0.5)
    found = versus(find_side(str(one), tmp_path, None), find_side(str(other / "result.json"), tmp_path, None), 200)
    expected = compare(outcomes(1.5, 150), outcomes(0.5, 50), 200)
    by_name = {verdict.name: verdict for verdict in found.verdicts}
    for name, verdict in expected.items():
        mine = by_name[name]
        assert (mine.difference, mine.low, mine.high, mine.p) == pytest.approx(
            (verdict.difference, verdict.low, verdict.high, verdict.p)
        )
        assert mine.one - mine.other == pytest.approx(mine.difference)
    assert by_name["rsum"].better == 1
    back = versus(find_side(str(other), tmp_path, None), find_side(str(one), tmp_path, None), 200)
    assert {verdict.name: verdict.better for verdict in back.verdicts}["rsum"] == -1
    same = versus(find_side(str(one), tmp_path, None), find_side(str(one), tmp_path, None), 50)
    assert all(verdict.better == 0 and verdict.difference == 0 for verdict in same.verdicts)


def test_rows_of_several_seeds_are_averaged(store: Callable[..., Path], tmp_path: Path) -> None:
    for seed in range(3):
        store("vsepp", 1.5, seed)
        store("vsepp", 0.5, seed, changes={"model.margin": 0.3}, options={"model.margin": 0.3})
    one, other = (find_side(name, tmp_path / "runs", None) for name in ("vsepp", "vsepp (margin=0.3)"))
    assert (len(one.results), len(other.results)) == (3, 3)
    found = versus(one, other, 100)
    rsum = next(verdict for verdict in found.verdicts if verdict.name == "rsum")
    assert rsum.one == pytest.approx(np.mean([result.metrics["rsum"] for _, result in one.results]))
    assert rsum.low < rsum.difference < rsum.high
    assert any("averaged over the seeds" in note for note in found.notes)


def drawn(store: Callable[..., Path], method: str, strength: float, draw: int, seed: int = 0) -> Path:
    changes = {"data.split_seed": draw}
    return store(method, strength, seed, fingerprint=f"{draw:02}" * 32, options=changes, changes=changes, keep=False)


def test_draws_are_paired_by_the_corrected_t_test(store: Callable[..., Path], tmp_path: Path) -> None:
    for draw in range(4):
        for seed in range(2):
            drawn(store, "vsepp", 1.5 + draw / 10, draw, seed)
        drawn(store, "scan", 0.6 + draw / 10, draw)
    one, other = (find_side(name, tmp_path / "runs", None) for name in ("vsepp", "scan"))
    found = versus(one, other)
    assert found.n_splits == 4
    assert "4 draws are too few to trust these intervals; ten are usual" in found.notes
    verdict = next(verdict for verdict in found.verdicts if verdict.name == "t2i_r5")
    each = []
    for split in one.splits:
        mine, theirs = ([r.metrics["t2i_r5"] for _, r in side.on(split)] for side in (one, other))
        each.append(sum(mine) / len(mine) - sum(theirs) / len(theirs))
    error = math.sqrt((1 / 4 + 40 / 160) * np.var(each, ddof=1))
    assert verdict.difference == pytest.approx(np.mean(each))
    assert verdict.p == pytest.approx(2 * stats.t.sf(abs(np.mean(each)) / error, 3))
    low, high = stats.t.interval(0.95, 3, np.mean(each), error)
    assert (verdict.low, verdict.high) == pytest.approx((low, high))


def test_a_row_over_draws_is_told_from_that_on_the_own_split(store: Callable[..., Path], tmp_path: Path) -> None:
    own = store("vsepp", 1.2)
    for draw in range(2):
        drawn(store, "vsepp", 1.5 + draw / 10, draw)
        drawn(store, "scan", 1.5 + draw / 10, draw)
    assert [folder for folder, _ in find_side("vsepp", tmp_path / "runs", None).results] == [own]
    assert len(find_side("vsepp", tmp_path / "runs", None, draws=True).results) == 2
    assert len(find_side("scan", tmp_path / "runs", None).results) == 2


def test_draws_that_only_one_side_has_do_not_count(store: Callable[..., Path], tmp_path: Path) -> None:
    for draw in range(4):
        drawn(store, "vsepp", 1.5 + draw / 10, draw)
        if draw != 1:
            drawn(store, "scan", 0.6 + draw / 10, draw)
    one, other = (find_side(name, tmp_path / "runs", None) for name in ("vsepp", "scan"))
    found = versus(one, other)
    assert found.n_splits == 3
    assert "compared on the 3 test splits that both have, of 4" in found.notes


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"fingerprint": "cd" * 32}, "no common test split: "),
        ({"protocol": {"definitions": {"i2t_r1": "other"}}}, "define i2t_r1 otherwise"),
        ({"keep": False}, "keeps no outcomes of its queries"),
    ],
)
def test_what_cannot_be_compared_is_refused_with_one_line(
    store: Callable[..., Path], tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    one, other = store("vsepp", 1.5, protocol={"definitions": {"i2t_r1": "hits"}}), store("scan", 0.5, **change)
    with pytest.raises(CmrBenchError) as caught:
        versus(find_side(str(one), tmp_path, None), find_side(str(other), tmp_path, None))
    assert message in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_links_that_differ_are_refused(store: Callable[..., Path], tmp_path: Path) -> None:
    one, other = store("vsepp", 1.5), store("scan", 0.5)
    owner = np.array([0, *OWNER[:-1]])
    (other / "ranks.npz").write_bytes(outcomes(0.5, 50, owner).to_bytes())
    with pytest.raises(CmrBenchError):
        versus(find_side(str(one), tmp_path, None), find_side(str(other), tmp_path, None))
    sides = [
        Side(folder.name, ((folder, Result("m", "d", {"i2t_r1": 1.0}, fingerprint="x")),)) for folder in (one, other)
    ]
    with pytest.raises(CmrBenchError, match="links"):
        versus(sides[0], sides[1])


def test_names_that_lead_to_no_row_or_to_several_are_wrong_usage(store: Callable[..., Path], tmp_path: Path) -> None:
    store("vsepp", 1.5)
    store("vsepp", 0.7, data="mscoco", split_sizes={"test": [40, 80]})
    runs = tmp_path / "runs"
    with pytest.raises(UsageError, match="names 2 rows"):
        find_side("vsepp", runs, None)
    assert find_side("vsepp", runs, "mscoco").results[0][1].data == "mscoco"
    with pytest.raises(UsageError, match="Did you mean 'vsepp'"):
        find_side("vsep", runs, None)
    with pytest.raises(UsageError, match=r"holds no result\.json"):
        find_side(str(runs / "flickr8k"), runs, None)


def test_the_command_shows_verdicts_options_and_versions(
    store: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    margin = {"model.margin": 0.3}
    one = store("vsepp", 1.5)
    changed: dict[str, Any] = {"changes": margin, "options": margin, "fidelity": "external", "flags": ["shortened"]}
    other = store("vsepp", 0.5, seed=1, versions={"torch": "1.0"}, commit="f" * 40 + "+", **changed)
    assert cli.main(["compare", str(one), str(other)]) == 0
    out = capsys.readouterr().out
    for part in ("A: vsepp, seed 0", "B: vsepp (margin=0.3), seed 1", "rsum", "model.margin", "2.5", "ffffffffffff+"):
        assert part in out
    assert "seed 1 [shortened,x], " in out
    assert "[x] evaluated from external files" in out
    assert cli.main(["compare", str(one), str(other), "--format", "json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert content["settings"] == {"seeds": ["0", "1"], "model.margin": ["-", "0.3"], "fidelity": ["-", "external"]}
    assert content["provenance"]["torch"] == ["2.5", "1.0"]
    assert content["flags"] == {"a": [], "b": ["shortened", "external"]}
    assert cli.main(["compare", str(one), str(other), "--resamples", "0"]) == 2
    assert cli.main(["compare", str(one), "nothing", "--runs", str(tmp_path / "runs")]) == 2
    assert capsys.readouterr().err.count("\n") == 2
