"""Metrics by relevance judgments on the leaderboard."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from cmr_bench.cli import main
from cmr_bench.dashboard.site import build
from cmr_bench.leaderboard.board import head, number
from cmr_bench.leaderboard.columns import columns
from cmr_bench.leaderboard.formats import render
from cmr_bench.leaderboard.rows import sections
from cmr_bench.results.groups import GROUPS
from cmr_bench.results.store import load_results


def scored(folder: Path, name: str, judged: dict[str, list[str]]) -> None:
    """Store a result of 6 images and 12 texts that is scored by judgments of the file ``NAME.json`` too."""
    rng = np.random.default_rng(0)
    np.save(folder / "s.npy", rng.random((6, 12)))
    np.save(folder / "m.npy", np.repeat(np.arange(6), 2))
    (folder / f"{name}.json").write_text(json.dumps(judged))
    words = ["--similarity", folder / "s.npy", "--image-of-text", folder / "m.npy", "--bootstrap", "20"]
    words += ["--qrels", folder / f"{name}.json", "--name", name, "--data", "mine", "--runs", folder / "runs"]
    assert main(["eval", *map(str, words)]) == 0


def test_judgments_have_columns_beside_the_recalls(tmp_path: Path) -> None:
    scored(tmp_path, "a", {"0": ["1", "5"], "1": ["2"]})
    results, _ = load_results(tmp_path / "runs")
    (section,) = sections(results)
    shown = columns(section, None)
    assert shown == [*GROUPS["recall"], *GROUPS["qrels"]]
    assert {"i2t_r1", *GROUPS["qrels"]} <= set(columns(section, ["recall", "qrels"]))
    text = render("csv", [section])
    assert "qrels_t2i_ndcg_at_10" in text
    build(tmp_path / "runs", tmp_path / "site", None)
    (page,) = (tmp_path / "site").glob("mine-*.html")
    assert "Relevance judgments" in page.read_text()
    assert "qrels nDCG@10" in page.read_text()


def test_rows_of_other_judgments_stand_apart(tmp_path: Path) -> None:
    scored(tmp_path, "a", {"0": ["1", "5"], "1": ["2"]})
    scored(tmp_path, "b", {"0": ["7"], "1": ["2"]})
    found = sections(load_results(tmp_path / "runs")[0])
    assert len(found) == 2
    definitions = sorted(section.definitions["qrels_i2t_map_at_r"] for section in found)
    assert [text.partition(":")[0] for text in definitions] == ["a.json", "b.json"]


@pytest.mark.parametrize(
    ("name", "title", "text"),
    [
        ("qrels_i2t_r1", ("i2t", "qrels R@1"), "12.3"),
        ("qrels_t2i_ndcg_at_10", ("t2i", "qrels nDCG@10"), "12.345"),
        ("i2t_map_at_r", ("i2t", "mAP@R"), "12.345"),
        ("map_at_r", ("", "mAP@R"), "12.345"),
    ],
)
def test_metrics_are_named_and_written_by_their_unit(name: str, title: tuple[str, str], text: str) -> None:
    assert head(name) == title
    assert number(name, 12.3451) == text
