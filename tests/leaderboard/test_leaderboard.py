"""The leaderboard: what is averaged, what is kept apart, what is marked, and that every format says the same."""

from __future__ import annotations

import csv
import io
import re
import statistics
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len

from cmr_bench import cli
from cmr_bench.commands import leaderboard
from cmr_bench.experiment.recipe import read_yaml, recipe_file
from cmr_bench.leaderboard.columns import best, columns, order
from cmr_bench.leaderboard.formats import render
from cmr_bench.leaderboard.rows import Row, Section, sections
from cmr_bench.registry import DATASETS, METHODS
from cmr_bench.results.groups import GROUPS
from cmr_bench.results.published import RECALLS, load_published, parse_published, with_sums
from cmr_bench.results.record import Result, write_result
from cmr_bench.results.store import store_external

SIZES = {"train": [6000, 30000], "val": [1000, 5000], "test": [1000, 5000]}
VIEWS = {
    "image": {"kind": "vector", "source": "timm:net/pool@0123abcd", "shape": [1280]},
    "text": {"kind": "tokens", "source": "", "shape": [30]},
}


def recalls(base: float, prefix: str = "") -> dict[str, float]:
    found = {name: base + 10 * place for place, name in enumerate(RECALLS)}
    found["rsum"] = sum(found.values())
    found["mr"] = found["rsum"] / 6
    found |= {f"{way}_medr": 100 - base for way in ("i2t", "t2i")}
    return {prefix + name: value for name, value in found.items()}


def a_result(method: str = "vsepp", base: float = 20.0, seed: int | None = 0, **changes: Any) -> Result:
    fields: dict[str, Any] = {
        "data": "flickr8k",
        "metrics": recalls(base),
        "run_id": f"run{seed}",
        "family": "pairwise",
        "fidelity": "paper",
        "split_sizes": SIZES,
        "fingerprint": "ab" * 32,
        "views": VIEWS,
        "protocol": {"folds": None, "postprocess": None, "definitions": {"i2t_r1": "hits at 1"}},
        "selection": {"criterion": "rsum"},
        "seed": seed,
        "created": "2025-01-01T00:00:00+00:00",
    }
    return Result(method, **(fields | changes))


def labelled(method: str = "adv_subspace", i2t: float = 0.4, seed: int = 0, **changes: Any) -> Result:
    metrics = recalls(5) | {"i2t_map": i2t, "t2i_map": i2t - 0.1, "map": i2t - 0.05}
    fields: dict[str, Any] = {
        "data": "wikipedia",
        "metrics": metrics,
        "split_sizes": {"train": [2173, 2173], "val": [231, 231], "test": [462, 462]},
        "selection": {"criterion": "map"},
        "family": "adversarial",
    }
    return a_result(method, seed=seed, **(fields | changes))


def only(found: list[Section]) -> Section:
    assert len(found) == 1
    return found[0]


# What is averaged.


def test_repetitions_are_averaged_over_seeds() -> None:
    values = [20.0, 21.5, 26.25]
    section = only(sections([a_result(base=base, seed=seed) for seed, base in enumerate(values)]))
    (row,) = section.rows
    assert row.metrics["i2t_r1"] == pytest.approx(statistics.fmean(values))
    assert row.spread["i2t_r1"] == pytest.approx(statistics.stdev(values))
    assert (row.seeds, row.n_seeds) == ((0, 1, 2), 3)


def test_one_seed_has_no_spread() -> None:
    (row,) = only(sections([a_result()])).rows
    assert row.spread == {}
    assert "±" not in render("table", sections([a_result()]))


def test_a_metric_that_one_seed_lacks_is_blank() -> None:
    whole, part = a_result(seed=0), a_result(seed=1)
    del part.metrics["rsum"]
    (row,) = only(sections([whole, part])).rows
    assert "rsum" not in row.metrics
    assert row.metrics["i2t_r1"] == 20.0


def test_of_two_runs_of_one_seed_the_later_counts() -> None:
    early, late = a_result(base=20, run_id="x"), a_result(base=30, run_id="a", created="2025-02-01T00:00:00+00:00")
    section = only(sections([late, early, a_result(base=40, seed=1)]))
    (row,) = section.rows
    assert row.metrics["i2t_r1"] == 35.0
    assert (row.n_seeds, row.superseded) == (2, 1)
    assert "Not shown: 1 earlier result of a repeated seed" in render("table", [section])


@pytest.mark.parametrize(
    ("change", "shown"),
    [
        ({"variant": "no_triplet"}, "no_triplet"),
        ({"options": {"model.margin": 0.3}}, "margin=0.3"),
        ({"views": {"image": {"kind": "vector", "source": "other"}}}, "other"),
        ({"views": {**VIEWS, "image": {**VIEWS["image"], "kind": "regions"}}}, "regions"),
        ({"flags": ["transductive"]}, "[t]"),
        ({"flags": ["uses_test_groups", "ensemble"]}, "[g,e]"),
        ({"flags": ["of_a_later_version"]}, "[of_a_later_version]"),
        ({"skipped": {"train": 1, "val": 0}}, "1 images skipped"),
        ({"split_sizes": {**SIZES, "train": [5999, 29995]}}, "train 5,999"),
        ({"batch_size": 64}, "batch 64"),
        ({"label_space": "category"}, "labels: category"),
        ({"fidelity": "code"}, "code"),
        ({"protocol": {"folds": None, "postprocess": "csls"}}, "csls"),
    ],
)
def test_runs_of_different_experiments_are_never_averaged(change: dict[str, Any], shown: str) -> None:
    section = only(sections([a_result(seed=0), a_result(base=30, seed=1, **change)]))
    assert sorted(row.metrics["i2t_r1"] for row in section.rows) == [20.0, 30.0]
    assert len({(row.label, row.features, row.flags) for row in section.rows}) == 2
    assert shown in render("table", [section])


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"fingerprint": "cd" * 32}, "the same size but another content (fingerprint cdcdcdcd, above abababab)"),
        ({"fingerprint": ""}, "another content (fingerprint unknown, above abababab)"),
        ({"split_sizes": {"test": [999, 4995]}}, "another size than 1,000 images and 5,000 texts"),
        ({"protocol": {"definitions": {"i2t_r1": "hits anywhere"}}}, "defines i2t_r1 otherwise"),
    ],
)
@pytest.mark.parametrize("kind", ["table", "markdown", "latex"])
def test_another_test_split_or_definition_makes_a_section_that_says_why(
    change: dict[str, Any], why: str, kind: str
) -> None:
    found = sections([a_result(seed=0), a_result(seed=1), a_result(base=30, seed=2, **change)])
    assert [section.rows[0].metrics["i2t_r1"] for section in found] == [20.0, 30.0]
    assert found[0].note == ""
    assert why in found[1].note
    assert why.replace("_", "\\_" if kind == "latex" else "_") in render(kind, found)


def test_sections_come_in_the_order_of_the_registry_whole_before_folds() -> None:
    folded = a_result(data="mscoco", metrics=recalls(30) | recalls(40, "fold5_"))
    found = sections([labelled(), folded, a_result()])
    assert [(section.data, section.folds) for section in found] == [
        ("flickr8k", None),
        ("mscoco", None),
        ("mscoco", 5),
        ("wikipedia", None),
    ]
    assert [section.rows[0].metrics["i2t_r1"] for section in found[1:3]] == [30, 40]
    assert found[2].title == "mscoco: mean of 5 folds of 200 images"
    assert all(set(section.rows[0].metrics) == set(recalls(0)) for section in found[1:3])


def test_scores_from_elsewhere_stand_beside_runs_on_a_test_split_of_their_size(tmp_path: Path) -> None:
    def external(n_texts: int) -> Result:
        return a_result(
            "theirs", 50, None, fidelity="external", fingerprint="links:1", split_sizes={"test": [1000, n_texts]}
        )

    found = sections([external(5000), a_result(), external(5010)])
    assert [[row.method for row in section.rows] for section in found] == [["vsepp", "theirs"], ["theirs"]]
    assert found[0].rows[1].flags == ("external",)
    assert found[0].fingerprint == "ab" * 32
    assert "[x] evaluated from external files" in render("table", found[:1])


def test_recalls_by_the_older_rule_for_ties_stand_apart_and_are_marked() -> None:
    def stored(base: float, seed: int, words: str, tie_rate: float) -> Result:
        i2t = "image query, all texts; an image ranks by its best text: percent of queries with a match at rank 1"
        return a_result(base=base, seed=seed, protocol={"definitions": {"i2t_r1": i2t + words}}, tie_rate=tie_rate)

    today = ", expected over all orders of tied items"
    found = sections([stored(90, 0, "", 0.3), stored(30, 1, today, 0.3), stored(20, 2, "", 0.0)])
    assert [[row.seeds for row in section.rows] for section in found] == [[(1, 2)], [(0,)]]
    assert [section.rows[0].flags for section in found] == [(), ("mid_rank_recalls",)]
    assert "defines i2t_r1 otherwise" in found[1].note
    assert "[m] R@K by an older rule for ties" in render("table", found)
    assert only(sections([stored(90, 0, "", 0.3)])).rows[0].flags == ("mid_rank_recalls",)


# What is marked and chosen.


def test_the_best_measured_value_of_each_column_is_marked_and_no_published_one() -> None:
    rows = [
        Row("a", metrics={"i2t_r1": 10.0, "i2t_medr": 3.0, "rsum": 5.0}),
        Row("b", metrics={"i2t_r1": 10.0, "i2t_medr": 4.0}),
        Row("c", source="paper", metrics={"i2t_r1": 99.0, "i2t_medr": 1.0}),
        Row("d", flags=("selected_on_test",), metrics={"i2t_r1": 11.0, "i2t_medr": 2.0}),
        Row("e", flags=("uses_test_groups",), metrics={"i2t_r1": 12.0, "i2t_medr": 1.0}),
    ]
    assert best(rows, ["i2t_r1", "i2t_medr", "rsum", "absent"]) == {"i2t_r1": 10.0, "i2t_medr": 3.0}
    text = render("markdown", [Section("d", None, 0, 0, rows=rows)], ["i2t_r1", "i2t_medr"])
    assert text.count("**") == 2 * 3
    assert "**99.0**" not in text


def test_columns_follow_what_the_methods_were_selected_by() -> None:
    section = only(sections([labelled()]))
    assert columns(section, None) == ["i2t_map", "t2i_map", "map"]
    assert columns(only(sections([a_result()])), None) == list(GROUPS["recall"])
    both = labelled(selection={"criterion": "rsum"})
    assert columns(only(sections([both])), None) == list(GROUPS["recall"])
    assert columns(section, ["recall", "map"]) == [*GROUPS["recall"], "i2t_map", "t2i_map", "map"]
    assert columns(section, ["map", "i2t_r1"])[-1] == "i2t_r1"
    assert set(columns(section, ["all"])) == set(section.names())
    odd = only(sections([a_result(metrics={"ndcg": 1.0})]))
    assert columns(odd, None) == ["ndcg"]


def test_rows_are_ordered_best_first_blanks_last_published_after_measured() -> None:
    rows = [
        Row("blank"),
        Row("good", metrics={"rsum": 9.0, "i2t_medr": 9.0}, n_seeds=1, family="x"),
        Row("bad", metrics={"rsum": 1.0, "i2t_medr": 1.0}, n_seeds=3, family="a"),
        Row("good", source="paper", metrics={"rsum": 99.0}, family="a"),
    ]
    names = {key: [row.method + row.source for row in order(rows, [key])] for key in ("rsum", "i2t_medr", "seeds")}
    assert names["rsum"] == ["good", "bad", "blank", "goodpaper"]
    assert names["i2t_medr"] == ["bad", "good", "blank", "goodpaper"]
    assert names["seeds"] == ["bad", "good", "blank", "goodpaper"]
    assert [row.method + row.source for row in order(rows, ["method"])] == ["bad", "blank", "good", "goodpaper"]
    assert [row.method + row.source for row in order(rows, ["family"])] == ["bad", "good", "blank", "goodpaper"]


def test_filters() -> None:
    results = [a_result(), a_result("cca", family="subspace"), labelled()]
    assert [row.method for row in only(sections(results, data="flickr8k")).rows] == ["vsepp", "cca"]
    assert [row.method for row in only(sections(results, family="subspace")).rows] == ["cca"]


# Published figures.


def test_published_figures_are_those_of_the_papers() -> None:
    rows = load_published().rows
    assert Counter(row.source for row in rows) == {
        "survey2020": 32, "adcsl2023": 22, "scan_readme": 8, "itr10": 3, "itr_quoted": 1, "itr_reproduced": 4,
        "awesome_matching": 28, "mtfn2019": 4, "pfan_readme": 1, "jfse2021": 30, "dscmr_result": 8, "man_result": 5,
        "sdml_result": 6,
    }  # fmt: skip
    vsepp = {row.variant: row for row in rows if (row.method, row.data, row.seeds) == ("vsepp", "flickr30k", None)}
    assert [vsepp["fine_tuned"].metrics[name] for name in RECALLS] == [52.9, 80.5, 87.2, 39.6, 70.1, 79.5]
    assert [vsepp[""].metrics[name] for name in RECALLS] == [43.7, 71.9, 82.1, 32.3, 60.9, 72.1]
    coco = {row.folds: row for row in rows if (row.method, row.data) == ("vsepp", "mscoco")}
    assert {folds: row.metrics["i2t_r1"] for folds, row in coco.items()} == {5: 64.6, None: 41.3}
    assert {row.variant for row in coco.values()} == {"fine_tuned"}
    people = {row.method: row.metrics for row in rows if row.data == "cuhk_pedes"}
    assert people["timam"] == {"t2i_r1": 54.51, "t2i_r5": 77.56, "t2i_r10": 84.78}
    assert people["cmpm_cmpc"] == {"t2i_r1": 49.37, "t2i_r10": 79.27}
    ours = next(row for row in rows if (row.method, row.data, row.variant) == ("adv_subspace", "wikipedia", ""))
    assert (ours.metrics["i2t_map"], ours.metrics["t2i_map"]) == (0.490, 0.426)


def test_sources_that_disagree_both_stand() -> None:
    rows = load_published().rows
    dcca = {row.source: row.metrics["i2t_map"] for row in rows if (row.method, row.data) == ("dcca", "pascal")}
    assert dcca == {"adcsl2023": 0.606, "jfse2021": 0.568, "dscmr_result": 0.678, "man_result": 0.529}
    same = [
        (row.method, row.variant, row.data, row.source, row.folds, *row.flags, *row.metrics.values()) for row in rows
    ]
    assert len(set(same)) == len(same)
    ranked = {row.variant: row.flags for row in rows if (row.method, row.source) == ("mtfn_rr", "mtfn2019")}
    assert ranked == {"no_rerank": (), "rr_no_stt": ("transductive",)}


def test_variants_of_published_rows_are_those_of_the_recipes() -> None:
    for row in load_published().rows:
        file = recipe_file(row.data, row.method) if row.method in METHODS and row.data in DATASETS else None
        # Published, not implemented: position alone, and an untrained BERT.
        if (row.method, row.variant) in (("pfan", "position_only"), ("saem", "random_bert")):
            continue
        if file is not None and row.variant:
            assert row.variant in read_yaml(file)["variants"], (row.method, row.data, row.variant)


def test_every_published_row_has_a_source_a_family_and_plausible_numbers() -> None:
    published = load_published()
    for row in published.rows:
        assert row.source in published.sources
        assert row.family in {"pairwise", "adversarial", "interaction", "attributes", "subspace"}
        assert row.data in published.tests
        assert all(0 < value < 1 for name, value in row.metrics.items() if name.endswith("map"))
        for way in ("i2t", "t2i"):
            rising = [row.metrics[f"{way}_r{k}"] for k in (1, 5, 10) if f"{way}_r{k}" in row.metrics]
            assert rising == sorted(rising)
            assert all(0 < value <= 100 for value in rising)


def test_sums_of_published_rows_need_every_recall() -> None:
    for row in load_published().rows:
        whole = all(name in row.metrics for name in RECALLS)
        assert ("rsum" in row.metrics) == ("mr" in row.metrics) == whole
        if whole:
            assert row.metrics["rsum"] == pytest.approx(sum(row.metrics[name] for name in RECALLS))
            assert row.metrics["mr"] == pytest.approx(row.metrics["rsum"] / 6)
    assert "rsum" not in with_sums(dict.fromkeys(RECALLS[1:], 1.0))
    assert "map" not in with_sums({"i2t_map": 0.5})


def test_a_value_that_was_not_reported_is_blank() -> None:
    published = load_published()
    (row,) = (row for row in published.rows if (row.method, row.data) == ("a_ganet", "flickr30k"))
    assert set(row.metrics) == {"t2i_r1", "t2i_r5", "t2i_r10"}
    found = sections([], published, data="flickr30k")
    rows = list(csv.DictReader(io.StringIO(render("csv", found, ["all"]))))
    (line,) = (line for line in rows if line["method"] == "a_ganet")
    assert (line["i2t_r1"], line["rsum"], line["t2i_r1"]) == ("", "", "39.5")


def test_published_figures_stand_beside_runs_under_their_protocol_only() -> None:
    def coco(n: int) -> Result:
        sizes = {"test": [n, 5 * n]}
        return a_result(data="mscoco", metrics=recalls(30) | recalls(40, "fold5_"), split_sizes=sizes)

    whole, folds = sections([coco(5000)], load_published())
    published = Counter(row.folds for row in load_published().rows if row.data == "mscoco")
    assert sum(not row.measured for row in whole.rows) == published[None]
    assert sum(not row.measured for row in folds.rows) == published[5]
    measured = [section for section in sections([coco(106)], load_published()) if any(r.measured for r in section.rows)]
    assert len(measured) == 2
    assert all(row.measured for section in measured for row in section.rows)


def test_published_figures_come_with_source_spread_and_flags() -> None:
    published = load_published()
    text = render("table", sections([], published, data="flickr30k"))
    assert "survey2020: Chen, Zhang, Bai, Kpalma" in text
    assert re.search(r"vsepp +itr10 +10 +44\.4 ±1\.4", text)
    assert re.search(r"mtfn_rr \[g,t\]", text)
    assert "[e] ensemble of several models" in text


def test_data_without_published_figures_or_with_none_wanted_has_none() -> None:
    (row,) = only(sections([a_result(data="custom")], load_published())).rows
    assert row.measured
    assert all(row.measured for row in only(sections([labelled()])).rows)


def test_a_row_of_published_figures_with_nothing_to_show_is_left_out() -> None:
    published = parse_published(
        {
            "sources": {"s": "S"},
            "recall": [{"method": "m", "data": "wikipedia", "i2t": [1, 2, 3], "t2i": [1, 2, 3], "source": "s"}],
        }
    )
    found = sections([labelled()], published)
    assert "\nm " not in render("table", found)
    assert "\nm " in render("table", found, ["recall"])


# Formats.

NASTY = r"a|b_c & 50% $x$ #1 {y} ~^\ [red]x[/red] <i>*_e_*"


@pytest.fixture
def board() -> list[Section]:
    results = [a_result(base=20 + seed, seed=seed) for seed in range(3)]
    results += [
        a_result("cca", 35.123456789, family="subspace"),
        a_result(NASTY, 10, flags=["transductive", "own|flag"]),
    ]
    results += [
        a_result(data="mscoco", metrics=recalls(30) | recalls(40, "fold5_"), split_sizes={"test": [5000, 25010]})
    ]
    return sections([*results, labelled(), labelled("cca", 0.3)], load_published())


def test_csv_holds_every_value_unrounded(board: list[Section]) -> None:
    rows = list(csv.DictReader(io.StringIO(render("csv", board, ["all"]))))
    assert len(rows) == sum(len(section.rows) for section in board)
    assert all(None not in row and None not in row.values() for row in rows)
    lines = iter(rows)
    for section in board:
        for row in section.rows:
            line = next(lines)
            assert (line["data"], line["method"]) == (section.data, row.method)
            for name in section.names():
                assert line[name] == (str(float(row.metrics[name])) if name in row.metrics else "")
                assert (float(line[f"{name}_sd"]) if line[f"{name}_sd"] else None) == row.spread.get(name)
    assert {row["kind"] for row in rows} == {"measured", "published"}
    assert {row["seeds"] for row in rows if row["method"] == "vsepp" and row["data"] == "flickr8k"} == {"0;1;2"}


@pytest.mark.parametrize("name", ["=HYPERLINK(1)", "+1+cmd", "-2+3", "@SUM(A1)", "\t=1", "=", "-"])
def test_no_cell_of_the_csv_is_a_formula(name: str) -> None:
    result = a_result(method=name, variant=name, seed=-1)
    (row,) = csv.DictReader(io.StringIO(render("csv", sections([result]), ["all"])))
    for cell in row.values():
        assert not cell.startswith(("=", "+", "@", "\t"))
        assert not cell.startswith("-") or float(cell) < 0
    assert row["method"].removeprefix("'") == name.strip()
    assert row["seeds"] == "-1"


def test_markdown_rows_have_the_cells_of_their_head_whatever_the_names(board: list[Section]) -> None:
    text = render("markdown", board)
    tables = [block for block in text.split("\n\n") if block.startswith("|")]
    assert len(tables) == len(board)
    for table in tables:
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}) == 1
    assert r"a\|b_c" in text
    assert "<i>" not in text
    assert r"own\|flag" in text


def test_latex_is_balanced_and_escaped(board: list[Section]) -> None:
    text = render("latex", board)
    bare = text.replace(r"\textbackslash{}", "").replace(r"\{", "").replace(r"\}", "")
    depth = 0
    for char in bare:
        depth += {"{": 1, "}": -1}.get(char, 0)
        assert depth >= 0
    assert depth == 0
    assert text.count(r"\begin{tabular}") == text.count(r"\end{tabular}") == len(board)
    assert text.count(r"\toprule") == text.count(r"\bottomrule") == len(board)
    for table in re.findall(r"\\begin{tabular}.*?\\end{tabular}", text, flags=re.S):
        spec = re.search(r"@{}(\w+)@{}", table)
        assert spec is not None
        for line in table.splitlines():
            if line.endswith(r"\\"):
                spanned = sum(int(count) - 1 for count in re.findall(r"multicolumn{(\d+)}", line))
                assert len(re.findall(r"(?<!\\)&", line)) + spanned == len(spec[1]) - 1
    body = re.sub(r"\\[&%$#_{}]|\$\\pm\$", "", "\n".join(re.findall(r"^.*\\\\$", text, flags=re.M)))
    assert not re.search(r"[%$#_~^|<>]", body)
    assert text.isascii()


@pytest.mark.parametrize("width", [40, 60, 80, 100, 120, 200])
@pytest.mark.parametrize("wanted", [None, ["recall", "map"], ["all"]])
def test_a_narrow_terminal_gets_fewer_columns_but_whole_numbers(
    board: list[Section], width: int, wanted: list[str] | None
) -> None:
    text = render("table", board, wanted, width=width)
    assert "…" not in text
    assert max(cell_len(line) for line in text.splitlines()) <= width
    numbers = {f"{value:.1f}" for section in board for row in section.rows for value in row.metrics.values()}
    numbers |= {f"{value:.3f}" for section in board for row in section.rows for value in row.metrics.values()}
    spreads = {f"{value:.1f}" for section in board for row in section.rows for value in row.spread.values()}
    for line in text.splitlines():
        if "└" in line or not re.search(r"\d\.\d", line) or ":" in line:
            continue
        for sign, number in re.findall(r"(±?)(?<![\d.])(\d+\.\d+)", line):
            assert number in (spreads if sign else numbers), line


def test_eighty_columns_show_all_recalls_and_their_sum(board: list[Section]) -> None:
    text = render("table", board, width=80)
    assert "Not shown for lack of width" not in text
    assert text.count("rsum") >= 3


def test_a_narrow_table_says_what_it_left_out(board: list[Section]) -> None:
    assert "Not shown for lack of width: " in render("table", board, width=40)


def test_best_is_marked_in_plain_text_too(board: list[Section]) -> None:
    text = render("table", board)
    assert "* best of the measured rows" in text
    assert re.search(r"cca .* 35\.1\*", text)


def test_markup_in_names_is_shown_as_it_is(board: list[Section]) -> None:
    assert "[red]x[/red]" in render("table", board)


@settings(max_examples=40, deadline=None)
@given(
    names=st.lists(st.text(min_size=1, max_size=12), min_size=1, max_size=3),
    width=st.integers(30, 120),
    values=st.lists(st.floats(0, 100), min_size=1, max_size=3),
)
def test_any_name_and_value_can_be_shown(names: list[str], width: int, values: list[float]) -> None:
    results = [
        a_result(name, metrics={"i2t_r1": value, "own_metric": value}, variant=name)
        for name in names
        for value in values
    ]
    found = sections(results)
    for kind in leaderboard.FORMATS:
        text = render(kind, found, ["all"], width=width)
        text.encode()
        assert text.endswith("\n")
    lines = render("csv", found, ["all"]).splitlines()
    assert len(list(csv.reader(lines))) == len(lines) == 1 + sum(len(section.rows) for section in found)


# The command.


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    folder = tmp_path / "runs"
    for seed in range(2):
        write_result(folder / "flickr8k" / "vsepp" / f"s{seed}", a_result(base=20 + seed, seed=seed))
        write_result(folder / "wikipedia" / "adv_subspace" / f"s{seed}", labelled(seed=seed))
    return folder


@pytest.fixture
def command(runs: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    def call(*words: str, folder: Path | None = runs) -> tuple[int, str, str]:
        code = cli.main(["leaderboard", *(["--runs", str(folder)] if folder is not None else []), *words])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


def test_the_command_shows_every_data_set_with_results(command: Callable[..., tuple[int, str, str]]) -> None:
    code, out, err = command()
    assert (code, err) == (0, "")
    assert "flickr8k: whole test split, 1,000 images and 5,000 texts" in out
    assert re.search(r"vsepp .* 2 +20\.5 ±0\.7", out)
    assert re.search(r"dscmr +adcsl2023", out)
    code, out, _ = command("--no-published", "--data", "wikipedia")
    assert "dscmr" not in out
    assert "flickr8k" not in out


def test_unreadable_results_are_reported_and_the_rest_is_shown(
    runs: Path, command: Callable[..., tuple[int, str, str]]
) -> None:
    bad = runs / "flickr8k" / "vsepp" / "s1" / "result.json"
    bad.write_text("{")
    code, out, err = command("--data", "flickr8k")
    assert code == 0
    assert "vsepp" in out
    assert err.count("\n") == 1
    assert str(bad) in err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--data", "flicker8k"], "--data flicker8k: no such data set. Did you mean 'flickr8k'?"),
        (["--metrics", "recal"], "--metrics recal: no such metric. Did you mean 'recall'?"),
        (["--sort", "rsun"], "--sort rsun: no such column. Did you mean 'rsum'?"),
        (["--family", "pairwize"], "--family pairwize: no such family. Did you mean 'pairwise'?"),
        (["--runs", "absent"], "--runs absent: no such folder"),
        (["--fromat", "csv"], "unknown option '--fromat'. Did you mean '--format'?"),
        (["--format", "pdf"], "invalid choice: 'pdf'"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_2(
    command: Callable[..., tuple[int, str, str]], words: list[str], message: str
) -> None:
    code, out, err = command(*words)
    assert (code, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1


def test_without_results_one_line_says_where_it_looked_and_what_to_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Callable[..., tuple[int, str, str]]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    code, out, err = command(folder=tmp_path / "empty")
    assert (code, err) == (0, "")
    assert out == f"No results in {tmp_path / 'empty'}. Make one: cmr-bench run --model vsepp\n"
    (tmp_path / "runs").rename(tmp_path / "elsewhere")
    code, out, err = command(folder=None)
    assert (code, out) == (1, "")
    assert "there is no folder 'runs' here. Make one: cmr-bench run --model vsepp" in err
    code, out, err = command("--data", "mscoco", folder=tmp_path / "elsewhere")
    assert code == 0
    assert "survey2020" in out
    assert "No results of mscoco" in err
    assert "there are results of flickr8k, wikipedia" in err
    assert err.count("\n") == 1


def test_the_table_can_go_to_a_file(tmp_path: Path, command: Callable[..., tuple[int, str, str]]) -> None:
    for kind in leaderboard.FORMATS:
        code, out, _ = command("--format", kind, "--out", str(tmp_path / "new" / f"board.{kind}"))
        assert code == 0
        assert out == f"written: {tmp_path / 'new' / f'board.{kind}'}\n"
        _, printed, _ = command("--format", kind)
        assert (tmp_path / "new" / f"board.{kind}").read_text(encoding="utf-8") == printed


def test_metrics_can_be_named_in_any_way(command: Callable[..., tuple[int, str, str]]) -> None:
    _, out, _ = command("--data", "wikipedia", "--metrics", "map,i2t_r1", "rsum", "--format", "csv", "--no-published")
    (first, _) = csv.reader(io.StringIO(out))
    assert [name for name in first if name in ("map", "i2t_r1", "rsum", "i2t_r5")] == ["map", "i2t_r1", "rsum"]


def test_stored_scores_from_elsewhere_are_shown(runs: Path, command: Callable[..., tuple[int, str, str]]) -> None:
    store_external(
        runs=runs,
        name="theirs",
        data="flickr8k",
        metrics={"i2t_r1": 90.0},
        units={},
        protocol={},
        split_sizes={"test": [1000, 5000]},
    )
    _, out, _ = command("--data", "flickr8k")
    assert re.search(r"theirs \[x\] .* 90\.0\*", out)
