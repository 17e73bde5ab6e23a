"""Tables of suites: rows in the paper's order, what counts, what is compared and what is left blank."""

from __future__ import annotations

import csv
import io
import math
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from cmr_bench import cli, registry
from cmr_bench.commands import leaderboard
from cmr_bench.leaderboard.formats import render, show
from cmr_bench.leaderboard.rows import Row, Section
from cmr_bench.leaderboard.tables import table_sections
from cmr_bench.results.published import load_published, parse_published
from cmr_bench.results.record import Result, write_result
from cmr_bench.suites import plan
from cmr_bench.suites.tables import read_tables
from tests.support.runs import OWN

SUITE = {
    "runs": [{"method": ["cca", "dscmr"], "data": "pascal"}, {"method": "vsepp", "data": ["flickr30k", "mscoco"]}],
    "tables": [
        {
            "title": "Table 1",
            "source": "adcsl2023",
            "data": "pascal",
            "columns": ["map"],
            "rows": [
                {"method": "dscmr", "title": "DSCMR"},
                {"method": "gma", "title": "GMA"},
                {"method": "adv_subspace", "variant": "no_triplet"},
                {"method": "cca"},
            ],
        }
    ],
}
PASCAL = {"train": [800, 800], "val": [100, 100], "test": [100, 100]}


def a_result(method: str = "cca", i2t: float = 0.5, seed: int = 0, **changes: Any) -> Result:
    fields: dict[str, Any] = {
        "data": "pascal",
        "metrics": {"i2t_map": i2t, "t2i_map": i2t, "map": i2t},
        "run_id": f"run{seed}",
        "fidelity": "paper",
        "split_sizes": PASCAL,
        "fingerprint": "ab" * 32,
        "protocol": {"folds": None, "postprocess": None, "definitions": {"map": "whole ranking"}},
        "selection": {"criterion": "map"},
        "seed": seed,
        "created": "2025-01-01T00:00:00+00:00",
    }
    return Result(method, **(fields | changes))


def filled(results: list[Result], content: dict[str, Any] = SUITE) -> list[Section]:
    return table_sections(read_tables(content, "a suite"), results, load_published())


def test_rows_stand_in_the_order_and_under_the_names_of_the_table() -> None:
    (section,) = filled([a_result("cca"), a_result("dscmr", 0.7)])
    assert [row.label for row in section.rows] == ["DSCMR", "GMA", "adv_subspace (no_triplet)", "cca"]
    assert [row.metrics.get("map") for row in section.rows] == [0.7, None, None, 0.5]
    assert [row.published["i2t_map"] for row in section.rows] == [0.710, 0.427, 0.695, 0.457]
    assert section.title == "Table 1. pascal: whole test split, 100 images and 100 texts"


def test_the_difference_is_measured_minus_published_and_judged_by_the_seeds() -> None:
    near = [a_result("cca", 0.457 + step, seed) for seed, step in enumerate((-0.01, 0.0, 0.02))]
    far = [a_result("dscmr", 0.8 + step, seed) for seed, step in enumerate((-0.01, 0.0, 0.02))]
    (section,) = filled([*near, *far])
    dscmr, _, _, cca = section.rows
    difference = cca.difference("i2t_map")
    assert difference == pytest.approx(0.01 / 3)
    assert cca.inside("i2t_map") is True
    assert dscmr.inside("i2t_map") is False
    text = render("table", [section])
    assert re.search(r"cca +3 +0\.457 +0\.460 ±0\.015 +\+0\.003 in", text)
    assert re.search(r"DSCMR +3 +0\.710\* +0\.803 ±0\.015\* +\+0\.093 out", text)


def test_one_seed_gets_no_verdict_and_says_so() -> None:
    (section,) = filled([a_result("cca", 0.457)])
    assert section.rows[-1].inside("i2t_map") is None
    assert "+0.000 1 seed" in render("table", [section])


@given(
    measured=st.floats(0, 1),
    published=st.floats(0, 1),
    spread=st.floats(0, 0.5),
    reported=st.one_of(st.none(), st.floats(0, 0.5)),
)
def test_inside_two_standard_deviations_by_definition(
    measured: float, published: float, spread: float, reported: float | None
) -> None:
    row = Row(
        "m",
        metrics={"map": measured},
        spread={"map": spread},
        published={"map": published},
        published_spread={} if reported is None else {"map": reported},
    )
    variance = spread**2 + (reported or 0.0) ** 2
    if not math.isclose((measured - published) ** 2, 4 * variance, rel_tol=1e-6, abs_tol=1e-12):
        assert row.inside("map") == ((measured - published) ** 2 < 4 * variance)
    assert replace(row, published={}).inside("map") is None
    assert replace(row, metrics={}).difference("map") is None
    assert replace(row, spread={}).inside("map") is None


def test_a_spread_that_the_paper_gives_is_shown_and_counts() -> None:
    content = {
        "runs": [{"method": "vsepp", "data": "flickr30k"}],
        "tables": [
            {
                "title": "Seeds",
                "source": "itr10",
                "data": "flickr30k",
                "columns": ["i2t_r1"],
                "rows": [{"method": "vsepp"}],
            }
        ],
    }
    runs = [
        a_result("vsepp", data="flickr30k", metrics={"i2t_r1": value}, seed=seed, split_sizes={"test": [1000, 5000]})
        for seed, value in enumerate((42.0, 42.4))
    ]
    (section,) = filled(runs, content)
    assert section.rows[0].inside("i2t_r1") is True
    assert "44.4 ±1.4" in render("table", [section])


def test_results_with_a_flag_are_left_out_and_counted() -> None:
    (section,) = filled([a_result("cca"), a_result("cca", 0.9, seed=1, flags=["transductive"])])
    assert section.rows[-1].metrics["map"] == 0.5
    assert section.rows[-1].n_seeds == 1
    assert "Not shown: 1 result with a flag" in render("table", [section])


@pytest.mark.parametrize(
    "change",
    [
        {"fingerprint": "cd" * 32},
        {"split_sizes": PASCAL | {"test": [99, 99]}},
        {"protocol": {"definitions": {"map": "first 50"}}},
    ],
)
def test_another_test_split_is_neither_averaged_nor_in_the_same_table(change: dict[str, Any]) -> None:
    results = [a_result("cca", 0.4, seed=0), a_result("cca", 0.6, seed=1), a_result("cca", 0.9, seed=2, **change)]
    found = filled(results)
    table, apart = found
    assert table.rows[-1].metrics["map"] == pytest.approx(0.5)
    assert [(row.method, row.metrics["map"]) for row in apart.rows] == [("cca", 0.9)]
    assert "Shown apart" in apart.note
    assert table.note == ""


def test_figures_of_another_test_split_are_not_compared() -> None:
    found = filled([a_result("cca", split_sizes=PASCAL | {"test": [90, 90]})])
    assert [len(section.rows) for section in found] == [4, 1]
    assert [bool(section.paper) for section in found] == [True, False]
    assert not any(row.metrics for row in found[0].rows)
    assert not found[1].rows[0].published


def test_experiments_that_differ_in_more_than_the_seed_have_rows_of_their_own() -> None:
    results = [a_result("cca", 0.4), a_result("cca", 0.6, seed=1, options={"model.dim": 3})]
    (section,) = filled(results)
    rows = [row for row in section.rows if row.method == "cca"]
    assert sorted(row.metrics["map"] for row in rows) == [0.4, 0.6]
    assert "cca (dim=3)" in {row.label for row in rows}


def test_without_published_figures_nothing_is_compared() -> None:
    (section,) = table_sections(read_tables(SUITE, "a suite"), [a_result("cca")], None)
    text = render("table", [section])
    assert "difference" not in text
    assert "GMA" in text


def test_without_tables_there_is_one_for_each_data_set_of_the_runs() -> None:
    tables = read_tables({"runs": SUITE["runs"]}, "a suite")
    assert [(table.data, [row.method for row in table.rows]) for table in tables] == [
        ("pascal", ["cca", "dscmr"]),
        ("flickr30k", ["vsepp"]),
        ("mscoco", ["vsepp"]),
    ]
    found = table_sections(tables, [a_result("cca")], load_published())
    assert "cca" in render("table", found)
    assert "i2t" in render("table", found[:1])


def test_folds_are_compared_with_folds() -> None:
    content = {
        "runs": [{"method": "vsepp", "data": "mscoco"}],
        "tables": [
            {
                "title": "T",
                "source": "survey2020",
                "data": "mscoco",
                "protocol": "5x1k",
                "columns": ["i2t_r1"],
                "rows": [{"method": "vsepp", "variant": "fine_tuned"}, {"method": "scan"}],
            }
        ],
    }
    metrics = {"i2t_r1": 40.0, "fold5_i2t_r1": 65.0}
    (section,) = filled(
        [a_result("vsepp", variant="fine_tuned", data="mscoco", metrics=metrics, split_sizes={"test": [5000, 25010]})],
        content,
    )
    assert section.rows[0].difference("i2t_r1") == pytest.approx(0.4)
    assert section.rows[1].flags == ("published_ensemble",)
    assert "[pe] the published results are those of an ensemble" in render("table", [section])


def test_a_paper_with_a_single_model_and_an_ensemble_is_compared_by_the_single_model() -> None:
    entry = {"method": "vsepp", "data": "flickr30k", "i2t": [1, 2, 3], "t2i": [1, 2, 3], "source": "s"}
    published = parse_published(
        {"sources": {"s": "S"}, "recall": [entry | {"ensemble": True, "i2t": [4, 5, 6]}, entry]}
    )
    tables = read_tables({"runs": [{"method": "vsepp", "data": "flickr30k"}]}, "a suite")
    (section,) = table_sections([replace(tables[0], source="s")], [], published)
    assert section.rows[0].published["i2t_r1"] == 1


def test_a_variant_of_the_paper_stands_beside_the_figures_of_its_model() -> None:
    rows = [{"method": "scan", "variant": name} for name in ("paper_t2i_lse", "t2i_lse", "released_program")]
    table = {"title": "T", "source": "scan_readme", "data": "flickr30k", "columns": ["i2t_r1"], "rows": rows}
    (section,) = filled([], {"runs": [{"method": "scan", "data": "flickr30k"}], "tables": [table]})
    assert [row.published.get("i2t_r1") for row in section.rows] == [61.1, 61.1, None]


# Formats.


@pytest.fixture
def found() -> list[Section]:
    results = [a_result("cca", 0.4 + seed / 100, seed) for seed in range(3)]
    return filled([*results, a_result("dscmr", 0.7), a_result("cca", 0.9, fingerprint="cd" * 32)])


def test_csv_has_every_figure_and_the_verdict(found: list[Section]) -> None:
    rows = list(csv.DictReader(io.StringIO(render("csv", found))))
    cca = next(row for row in rows if row["method"] == "cca")
    assert (cca["table"], cca["kind"], cca["source"], cca["seeds"]) == ("Table 1", "measured", "adcsl2023", "0;1;2")
    assert float(cca["i2t_map_published"]) == 0.457
    assert float(cca["i2t_map_difference"]) == pytest.approx(0.41 - 0.457)
    assert cca["i2t_map_inside_two_sd"] == "no"
    gma = next(row for row in rows if row["method"] == "gma")
    assert (gma["kind"], gma["row"], gma["map"], gma["map_difference"]) == ("not run", "GMA", "", "")
    assert all(None not in row and None not in row.values() for row in rows)


def test_markdown_and_latex_have_the_cells_of_their_heads(found: list[Section]) -> None:
    for block in render("markdown", found).split("\n\n"):
        if block.startswith("|"):
            assert len({line.count("|") for line in block.splitlines()}) == 1
    text = render("latex", found)
    assert r"\multicolumn{3}{c}{i2t mAP}" in text
    assert "& $-$0.047 out" in text
    for table in re.findall(r"\\begin{tabular}.*?\\end{tabular}", text, flags=re.S):
        spec = re.search(r"@{}(\w+)@{}", table)
        assert spec is not None
        for line in table.splitlines():
            if line.endswith(r"\\"):
                spanned = sum(int(count) - 1 for count in re.findall(r"multicolumn{(\d+)}", line))
                assert len(re.findall(r"(?<!\\)&", line)) + spanned == len(spec[1]) - 1
    assert text.isascii()


@pytest.mark.parametrize("kind", leaderboard.FORMATS)
def test_best_measured_and_best_published_are_marked(found: list[Section], kind: str) -> None:
    text = render(kind, found)
    mark = {"table": r"{}\*", "markdown": r"\*\*{}\*\*", "latex": r"\\textbf{{{}}}", "csv": "{}"}[kind]
    for value in ("0.700" if kind != "csv" else "0.7", "0.710" if kind != "csv" else "0.71"):
        assert re.search(mark.format(re.escape(value)), text)


@pytest.mark.parametrize("width", [40, 60, 80, 100, 120])
def test_a_narrow_terminal_gets_whole_numbers(found: list[Section], width: int) -> None:
    text = render("table", found, width=width)
    assert max(cell_len(line) for line in text.splitlines()) <= width
    assert "…" not in text
    assert "0.706*" in text
    whole = "Not shown for lack of width" not in text
    assert whole == (width >= 100)


def test_eighty_columns_show_the_whole_tables(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in {"COLUMNS": "80", "FORCE_COLOR": "1", "TERM": "xterm-256color"}.items():
        monkeypatch.setenv(name, value)
    results = [a_result(method, 0.4 + seed / 100, seed) for seed in range(3) for method in ("cca", "dscmr")]
    tables = read_tables(plan.read_suite("adcsl_tables"), "adcsl_tables")
    show(table_sections(tables, results, load_published()), None)
    text = capsys.readouterr().out
    assert "0.718" in text
    assert "Not shown for lack of width" not in text


# The command.

FILE = """
seeds: [0, 1]
options: {trainer.max_epochs: 1}
runs:
  - {method: "own.py:Linear", data: "own.py:Toy"}
  - {method: "own.py:Linear", data: "own.py:Toy", options: {model.dim: 5}}
tables:
  - title: Mine
    data: "own.py:Toy"
    columns: [i2t_r1]
    rows: [{method: cca, title: CCA}, {method: "own.py:Linear", title: Linear}]
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copy(OWN, tmp_path)
    (tmp_path / "try.yaml").write_text(FILE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def store(folder: Path) -> Callable[..., Path]:
    """Store a result of one of the suite's jobs with changed options: ``store(job, value, **options of the model)``."""

    def write(job: plan.Job, value: float, seed: int = 0, **model: Any) -> Path:
        config = replace(job.config, seed=seed, model={**job.config.model, **model})
        place = folder / "runs" / "Toy" / "Linear" / f"{value}-{seed}"
        options = {f"model.{name}": option for name, option in config.model.items() if option != 8}
        result = a_result(
            config.method, data=config.dataset, metrics={"i2t_r1": value}, seed=seed, options=options, run_id=place.name
        )
        write_result(place, result)
        (place / "config.yaml").write_text(config.to_yaml())
        return place

    return write


def test_the_runs_of_the_suite_count_and_no_others(
    folder: Path, store: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    first, *_, other = plan.jobs(plan.read_suite("try.yaml"), None, [])
    for seed in range(3):
        store(first, 20.0 + seed, seed)
    store(other, 50.0)
    store(first, 90.0, dim=7)
    broken = store(first, 91.0, seed=3)
    (broken / "result.json").write_text("{")
    (store(first, 92.0, seed=4) / "result.json").unlink()
    (store(first, 93.0, seed=5) / "config.yaml").unlink()
    assert cli.main(["leaderboard", "--suite", "try.yaml", "--format", "csv"]) == 0
    captured = capsys.readouterr()
    rows = list(csv.DictReader(io.StringIO(captured.out)))
    assert [(row["row"].split()[0], row["i2t_r1"], row["seeds"]) for row in rows] == [
        ("CCA", "", ""),
        ("Linear", "21.0", "0;1;2"),
        ("Linear", "50.0", "0"),
    ]
    assert captured.err.count("\n") == 1
    assert str(broken.relative_to(folder)) in captured.err


def test_without_results_the_table_is_there_and_one_line_says_what_to_run(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["leaderboard", "--suite", "adcsl_tables", "--data", "pascal"]) == 0
    captured = capsys.readouterr()
    assert captured.err == "No results of this suite in runs. Make them: cmr-bench suite adcsl_tables\n"
    assert re.search(r"ADCSL +not run +0\.718\*", captured.out)
    assert "wikipedia" not in captured.out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--suite", "four_familes"], "Did you mean 'four_families'?"),
        (["--suite", "try.yaml", "--sort", "map"], "--sort cannot be combined with --suite"),
        (["--suite", "try.yaml", "--family", "pairwise"], "--family cannot be combined with --suite"),
        (["--suite", "try.yaml", "--data", "pascal"], "the suite has no table of it"),
        (["--set", "data.root=x"], "--set needs --suite"),
        (["--suite", "try.yaml", "--metrics", "recal"], "Did you mean 'recall'?"),
    ],
)
def test_wrong_usage_is_one_line(
    folder: Path, words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "runs").mkdir()
    assert cli.main(["leaderboard", *words]) == 2
    err = capsys.readouterr().err
    assert message in err.splitlines()[-1]


def test_tables_of_the_papers_have_the_rows_of_the_papers() -> None:
    published = load_published()
    tables = read_tables(plan.read_suite("adcsl_tables"), "adcsl_tables")
    assert [(table.data, len(table.rows)) for table in tables] == [
        ("pascal", 8),
        ("pascal", 8),
        ("wikipedia", 8),
        ("pascal", 4),
        ("pascal", 4),
        ("wikipedia", 4),
        ("pascal", 8),
        ("pascal", 8),
        ("wikipedia", 8),
    ]
    assert [table.draws for table in tables] == [False, True, False, False, True, False, False, True, False]
    tables, others = tables[:6], tables[6:]
    assert {row.method for table in others for row in table.rows} < set(registry.METHODS)
    for section in table_sections(tables, [], published):
        assert all({"i2t_map", "t2i_map", "map"} <= set(row.published) for row in section.rows)
    reported = {(row.data, row.method, row.variant) for row in published.rows if row.source == "adcsl2023"}
    assert reported == {(table.data, row.method, row.variant) for table in tables for row in table.rows}
