"""Identities, draws of pairs and unseen classes on the leaderboard, in the checks and on the dashboard."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cmr_bench.cli import main
from cmr_bench.dashboard.site import build
from cmr_bench.evaluation.per_query import per_query
from cmr_bench.evaluation.protocol import Protocol, evaluate
from cmr_bench.evaluation.scores import MatrixScores
from cmr_bench.evaluation.subsets import Subsets
from cmr_bench.leaderboard.board import head, number
from cmr_bench.leaderboard.checks import contradictions
from cmr_bench.leaderboard.columns import columns
from cmr_bench.leaderboard.rows import sections
from cmr_bench.results.groups import GROUPS, lower_is_better
from cmr_bench.results.published import parse_published
from cmr_bench.results.record import Result
from cmr_bench.results.store import load_results
from cmr_bench.suites.tables import read_tables

OWNER = np.arange(24) // 2


def evaluated(seed: int, shown: Any = None, **protocol: Any) -> Any:
    scores = np.random.default_rng(seed).normal(size=(12, 24)) + 2 * (np.arange(12)[:, None] == OWNER)
    return evaluate(MatrixScores(scores), OWNER, identity=shown, protocol=Protocol(**protocol))


def a_result(found: Any, method: str = "cmpm", **changes: Any) -> Result:
    fields: dict[str, Any] = {
        "data": "people",
        "metrics": dict(found.metrics),
        "run_id": f"r{changes.get('seed', 0)}",
        "protocol": found.record(),
        "split_sizes": {"test": [12, 24]},
        "fingerprint": "ab" * 32,
        "selection": {"criterion": "rsum"},
        "seed": 0,
        "created": "2025-01-01T00:00:00+00:00",
    }
    return Result(method, **(fields | changes))


def test_identities_add_columns_and_part_from_pairs() -> None:
    shown = np.arange(12) // 3
    by_identity, by_pairs = a_result(evaluated(0, shown)), a_result(evaluated(0), method="vsepp")
    one, other = sections([by_identity, by_pairs])
    assert {tuple(row.method for row in one.rows), tuple(row.method for row in other.rows)} == {("cmpm",), ("vsepp",)}
    shown_columns = {section.rows[0].method: columns(section, None) for section in (one, other)}
    assert shown_columns["cmpm"] == [*GROUPS["recall"], *GROUPS["identity"]]
    assert shown_columns["vsepp"] == [*GROUPS["recall"]]
    assert "otherwise than above" in other.note
    assert head("identity_t2i_minp") == ("t2i", "identity mINP")
    assert number("identity_t2i_minp", 0.12345) == "0.123"


def test_draws_of_pairs_are_sections_in_order_with_medians_first() -> None:
    results = [a_result(evaluated(s, subsets=(Subsets(3, 10), Subsets(3, 4)), folds=2), seed=s) for s in (0, 1)]
    found = sections(results)
    assert [section.title for section in found] == [
        "people: whole test split, 12 images and 24 texts",
        "people: mean of 3 draws of 4 pairs",
        "people: mean of 3 draws of 10 pairs",
        "people: mean of 2 folds of 6 images",
    ]
    assert columns(found[1], None) == ["i2t_medr", "t2i_medr", *GROUPS["recall"]]
    assert not any(section.note for section in found)
    row = found[2].rows[0]
    assert row.metrics["t2i_medr"] == np.mean([one.metrics["subsets3x10_t2i_medr"] for one in results])
    assert lower_is_better("subsets3x10_t2i_medr")
    assert not lower_is_better("subsets3x10_t2i_r1")
    assert head("subsets10x1000_t2i_medr") == ("t2i", "10 x 1,000 MedR")
    assert number("subsets10x1000_t2i_medr", 4.649) == "4.6"


def test_unseen_classes_never_share_a_section_with_seen_ones() -> None:
    found = evaluated(0)
    seen, unseen = a_result(found), a_result(evaluated(1), method="vsepp", flags=["unseen_classes"])
    unseen.protocol["unseen_classes"] = ["a", "b"]
    external = replace(a_result(evaluated(2), method="own", flags=["unseen_classes"]), fidelity="external")
    one, other = sections([seen, unseen, external])
    assert [row.method for row in one.rows] == ["cmpm"]
    assert {row.method for row in other.rows} == {"vsepp", "own"}
    assert other.title.endswith(", 2 unseen classes")
    drawn = [replace(one, options={"data.split_seed": 3}) for one in (seen, unseen)]
    assert len(sections(drawn)) == 2


def test_published_figures_of_draws_stand_beside_them() -> None:
    entry = {"method": "acme", "data": "people", "source": "s", "family": "adversarial", "protocol": "subsets3x10"}
    recalls = {"i2t": [50, 80, 90], "t2i": [51, None, None], "more": {"i2t_medr": 1.0, "t2i_medr": None}}
    published = parse_published({"recall": [entry | recalls], "sources": {"s": "A paper"}})
    assert published.rows[0].subsets == "3x10"
    assert published.rows[0].folds is None
    assert published.rows[0].metrics["i2t_medr"] == 1.0
    assert "t2i_medr" not in published.rows[0].metrics
    whole, drawn = sections([a_result(evaluated(0, subsets=(Subsets(3, 10),)))], published)
    assert [row.measured for row in drawn.rows] == [True, False]
    assert [row.measured for row in whole.rows] == [True]
    table = {"data": "people", "protocol": "3x10", "rows": [{"method": "acme"}]}
    (read,) = read_tables({"tables": [table], "runs": []}, "suite")
    assert (read.subsets, read.folds) == ("3x10", None)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"identity_t2i_minp": 1.2}, "identity_t2i_minp is 1.2, outside 0 to 1"),
        ({"identity_map": 0.9}, "identity_map is 0.9, and the mean of both directions"),
        ({"identity_minp": 0.9}, "identity_minp is 0.9, and the mean of both directions"),
        ({"subsets3x10_t2i_medr": 0.2}, "subsets3x10_t2i_medr is 0.2, outside 1 to inf"),
        ({"subsets3x10_rsum": 12.0}, "subsets3x10_rsum is 12, and the sum of the six recalls"),
        ({"subsets3x10_i2t_r5": 0.0}, "the subsets3x10_recalls of i2t fall with K"),
    ],
)
def test_what_cannot_be_is_told(changes: dict[str, float], said: str) -> None:
    found = evaluated(0, np.arange(12) // 3, subsets=(Subsets(3, 10),))
    sound = a_result(found)
    assert contradictions(sound, Path("runs/x"), per_query(found, OWNER)) == []
    wrong = replace(sound, metrics=sound.metrics | changes)
    assert any(said in line for line in contradictions(wrong, Path("runs/x"), None))


def test_the_dashboard_shows_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(0)
    np.save(tmp_path / "s.npy", rng.random((12, 24)))
    np.save(tmp_path / "m.npy", OWNER)
    np.save(tmp_path / "p.npy", np.arange(12) // 3)
    words = ["eval", "--similarity", tmp_path / "s.npy", "--image-of-text", tmp_path / "m.npy", "--bootstrap", "20"]
    words += ["--identities", tmp_path / "p.npy", "--subsets", "3x10", "--flag", "unseen_classes"]
    assert main([*map(str, words), "--name", "mine", "--data", "people", "--runs", str(tmp_path / "runs")]) == 0
    assert "3 x 10: MedR" in capsys.readouterr().out
    (result,) = load_results(tmp_path / "runs")[0]
    assert result.protocol["subsets"] == ["3x10"]
    assert result.protocol["identities"] == 4
    build(tmp_path / "runs", tmp_path / "site", None)
    pages = {page.name: page.read_text() for page in (tmp_path / "site").rglob("*.html")}
    assert any("mean of 3 draws of 10 pairs" in text for text in pages.values())
    assert any("by identity, 4 of them" in text and "3x10" in text for text in pages.values())
    assert any("identity mINP" in text for text in pages.values())
    assert any("unseen classes" in text for text in pages.values())
