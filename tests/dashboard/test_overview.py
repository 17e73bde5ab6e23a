"""What the front page, the heat map and the breakdowns are made of, against their definitions."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.dashboard import made_up_runs
from cmr_bench.dashboard.board import SHAPES, board
from cmr_bench.dashboard.breakdown import breakdown
from cmr_bench.dashboard.collect import collect
from cmr_bench.dashboard.ended import ended
from cmr_bench.dashboard.front import best_pair, card
from cmr_bench.dashboard.heatmap import heat_map
from cmr_bench.dashboard.site import build
from cmr_bench.leaderboard.rows import sections
from cmr_bench.results.published import load_published
from cmr_bench.support.errors import CmrBenchError


def boards(runs: Path, published: bool = True) -> list[dict[str, Any]]:
    stored, _ = collect(runs)
    run_of = {id(run.result): run for run in stored}
    found = sections([run.result for run in stored], load_published() if published else None)
    return [board(section, run_of) for section in found]


def change(folder: Path, **values: Any) -> None:
    record = json.loads((folder / "result.json").read_text())
    (folder / "result.json").write_text(json.dumps(record | values))


def external(runs: Path, data: str, rsum: float) -> None:
    """Add a result of external files to the runs, better than any."""
    folder = sorted((runs / data).glob("*/*"))[0]
    other = runs / data / "theirs" / "20260101-999999-eval"
    other.mkdir(parents=True)
    (other / "result.json").write_text((folder / "result.json").read_text())
    change(other, method="theirs", family="", fidelity="external", fingerprint="links:0", run_id=other.name,
           metrics={"rsum": rsum}, intervals={}, curves={}, options={}, cost={})  # fmt: skip


def test_a_card_is_led_by_the_best_verified_row_of_each_family(tmp_path: Path) -> None:
    made_up_runs(tmp_path, 15, seeds=1)
    external(tmp_path, "flickr30k", 590.0)
    (shown,) = (one for one in boards(tmp_path) if one["data_name"] == "flickr30k")
    found = card(shown)
    for family in found["families"]:
        for kind, measured in (("measured", True), ("published", False)):
            values = [
                row["cells"]["rsum"]["value"]
                for row in shown["rows"]
                if "rsum" in row["cells"] and (row["family"], row["measured"]) == (family["key"], measured)
            ]
            assert (family[kind] or {"value": None})["value"] == max(values, default=None)
            assert family[kind] is None or 0 < family[kind]["share"] <= 100
    measured = [family["measured"]["value"] for family in found["families"] if family["measured"]]
    assert measured == sorted(measured, reverse=True)
    assert [(one["title"], one["marks"][0][0]) for one in found["unverified"]] == [("theirs", "x")]
    build(tmp_path, tmp_path.parent / "site", None)
    page = (tmp_path.parent / "site" / "index.html").read_text()
    assert re.search(r">unverified</span> theirs <abbr[^>]*>x</abbr>: 590\.0", page)


def test_the_heat_map_ranks_the_best_row_of_each_method(tmp_path: Path) -> None:
    made_up_runs(tmp_path, 15, seeds=1)
    external(tmp_path, "flickr30k", 590.0)
    every = boards(tmp_path)
    found = heat_map(every, "rsum")
    assert [column["data_name"] for column in found["columns"]] == [shown["data_name"] for shown in every]
    for column, shown in enumerate(every):
        values: dict[str, float] = {}
        for row in shown["rows"]:
            if row["measured"] and not {"external", "shortened"} & set(row["row"].flags):
                values[row["method"]] = max(values.get(row["method"], 0.0), row["cells"]["rsum"]["value"])
        order = sorted(values, key=lambda name: -values[name])
        for row in found["rows"]:
            cell = row["cells"][column]
            if row["method"] in values:
                assert (cell["rank"], cell["n_ranked"]) == (order.index(row["method"]) + 1, len(order))
                assert cell["value"] == values[row["method"]]
                assert found["told"][cell["id"]]["facts"][1].startswith(f"rank {cell['rank']} of")
            else:
                assert cell is None or (cell["rank"], cell["level"]) == (0, "none")
    theirs = next(row for row in found["rows"] if row["method"] == "theirs")
    assert [cell["letter"] for cell in theirs["cells"] if cell] == ["X"]
    assert any(told["deviations"] for told in found["told"])


def test_runs_without_a_result_say_how_they_go_on(tmp_path: Path) -> None:
    made_up_runs(tmp_path / "my runs", 4)
    folders = sorted((tmp_path / "my runs").glob("*/*/*"))
    for folder in folders[:3]:
        (folder / "result.json").unlink()
    (folders[0] / "history.csv").unlink()
    (folders[1] / "checkpoints").mkdir()
    (folders[1] / "checkpoints" / "last.ckpt").write_bytes(b"")
    (folders[2] / "failed.json").write_text(json.dumps({"schema": 1, "reason": "the loss is <b>nan</b>"}))
    found = {one.run_id: one for one in ended(tmp_path / "my runs")}
    assert len(found) == 3
    fresh, begun, failed = (found[folder.name] for folder in folders[:3])
    assert (fresh.failed, fresh.reason) == (False, "no checkpoint yet: begins anew")
    assert fresh.command == f"cmr-bench run --resume '{folders[0]}'"
    assert begun.reason == "goes on after 30 epochs"
    assert (failed.failed, failed.reason, failed.command) == (True, "the loss is <b>nan</b>", "")
    (folders[0] / "config.yaml").write_text("method: net.py:Net\ndataset: flickr30k\n")
    (folders[1] / "config.yaml").write_text("{ nonsense")
    commands = {one.run_id: one.command for one in ended(tmp_path / "my runs")}
    assert commands[folders[0].name].endswith(" --trust")
    assert commands[folders[1].name] == ""
    build(tmp_path / "my runs", tmp_path / "site", None)
    for page in ("index.html", "runs.html"):
        text = (tmp_path / "site" / page).read_text()
        assert "the loss is &lt;b&gt;nan&lt;/b&gt;" in text
        assert "cmr-bench run --resume &#39;" in text
    assert "nan" not in (tmp_path / "site" / "index.html").read_text().partition(">Skipped<")[2]


def test_with_unfinished_runs_alone_the_error_says_how_to_go_on(tmp_path: Path) -> None:
    made_up_runs(tmp_path, 1)
    (folder,) = tmp_path.glob("*/*/*")
    (folder / "result.json").unlink()
    with pytest.raises(CmrBenchError, match=re.escape(f"cmr-bench run --resume {folder}")):
        build(tmp_path, tmp_path.parent / "site", None)


def test_a_comparison_begins_with_the_best_two_of_the_largest_board(tmp_path: Path) -> None:
    made_up_runs(tmp_path, 20, seeds=2)
    every = boards(tmp_path, published=False)
    largest = max(every, key=lambda shown: shown["n_measured"])
    first, second = [row for row in largest["rows"] if "shortened" not in row["row"].flags][:2]
    ready = {seed["slug"]: 1 for shown in every for row in shown["rows"] for seed in row["seeds"]}
    assert best_pair(every, ready) == [first["seeds"][0]["slug"], second["seeds"][0]["slug"]]
    del ready[first["seeds"][0]["slug"]]
    assert best_pair(every, ready) == [first["seeds"][1]["slug"], second["seeds"][1]["slug"]]
    assert best_pair(every, {}) == []


def test_breakdowns_are_those_of_the_queries(tmp_path: Path) -> None:
    made_up_runs(tmp_path, 4)
    runs = [run for run in collect(tmp_path)[0] if run.outcomes is not None]
    outcomes = [run.outcomes for run in runs if run.outcomes is not None]
    found = breakdown(outcomes)
    for way, n_items in (("i2t", 5000), ("t2i", 1000)):
        assert found["gallery"][way]["sizes"][-1] == n_items
        for k in (1, 5, 10):
            whole = np.mean([run.result.metrics[f"{way}_r{k}"] for run in runs])
            assert found["gallery"][way][str(k)][-1] == pytest.approx(whole, rel=1e-4)
    ends = [name.split("–") for name in found["length"]["bins"]]
    assert sum(found["length"]["n"]) == len(outcomes[0].words)
    for place, end in enumerate(ends):
        low, high = int(end[0]), int(end[-1])
        inside = [low <= words <= high for words in outcomes[0].words]
        hits = np.mean([one.columns()["t2i_r5"][inside].mean() for one in outcomes])
        assert found["length"]["n"][place] == sum(inside)
        assert found["length"]["5"][place] == pytest.approx(hits, rel=1e-4)


def test_runs_that_kept_less_have_fewer_breakdowns(tmp_path: Path) -> None:
    made_up_runs(tmp_path, 1)
    (run,) = collect(tmp_path)[0]
    assert run.outcomes is not None
    older = type(run.outcomes)(run.outcomes.image_of_text, i2t=run.outcomes.i2t, t2i=run.outcomes.t2i)
    assert breakdown([older]) == breakdown([]) == {}
    wordless = type(run.outcomes)(
        run.outcomes.image_of_text, run.outcomes.i2t, run.outcomes.t2i, matches=run.outcomes.matches
    )
    assert set(breakdown([wordless])) == {"gallery"}


def test_every_shape_of_a_family_can_be_drawn() -> None:
    parts = Path(__file__).parents[2] / "benchmark" / "dashboard" / "templates" / "parts.html"
    text = parts.read_text()
    assert all(f'"{shape}": "M' in text for shape in {*SHAPES.values(), "star"})
    from cmr_bench import registry

    assert set(SHAPES) <= set(registry.FAMILIES)
