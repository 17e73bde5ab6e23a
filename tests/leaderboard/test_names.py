"""Rows say what they are: by their difference from the recipe, whatever other runs there are."""

from __future__ import annotations

import csv
import io
import json
import statistics
from pathlib import Path
from typing import Any

import pytest

from cmr_bench import cli
from cmr_bench.dashboard.site import build
from cmr_bench.leaderboard.columns import best
from cmr_bench.leaderboard.formats import render
from cmr_bench.leaderboard.rows import Row, sections
from cmr_bench.results.published import RECALLS, parse_published
from cmr_bench.results.record import Result, write_result


def a_result(base: float = 20.0, seed: int | None = 0, **changes: Any) -> Result:
    recalls = {name: base + 5 * place for place, name in enumerate(RECALLS)}
    recalls |= {"rsum": sum(recalls.values()), "mr": sum(recalls.values()) / 6}
    fields: dict[str, Any] = {
        "metrics": recalls,
        "run_id": f"run{seed}",
        "family": "pairwise",
        "fidelity": "reconstruction",
        "split_sizes": {"train": [6000, 30000], "val": [1000, 5000], "test": [1000, 5000]},
        "fingerprint": "ab" * 32,
        "selection": {"split": "val", "criterion": "rsum", "epoch": 3},
        "seed": seed,
        "cost": {"train_seconds": base + (seed or 0) / 7},
        "created": "2025-01-01T00:00:00+00:00",
        "changes": {},
    }
    return Result("vsepp", **({"data": "flickr8k"} | fields | changes))


def labels(*results: Result) -> dict[float, str]:
    """The label of every row by its R@1."""
    return {row.metrics["i2t_r1"]: row.label for section in sections(results) for row in section.rows}


OTHERS = [
    a_result(30, options={"model.margin": 0.3}, changes={"model.margin": 0.3}),
    a_result(31, variant="fine_tuned"),
    a_result(32, options={"trainer.max_epochs": 1}, changes={"trainer.max_epochs": 1}, flags=["shortened"]),
    a_result(
        33,
        split_sizes={"train": [5, 25], "val": [1000, 5000], "test": [1000, 5000]},
        created="2025-01-02T00:00:00+00:00",
    ),
    a_result(34, changes={"data.skip_missing": True}, skipped={"train": 2}),
]


def test_a_row_is_named_by_what_it_changes_alone_and_among_others() -> None:
    together = labels(a_result(), *OTHERS)
    for result in (a_result(), *OTHERS[:3], OTHERS[4]):
        value = result.metrics["i2t_r1"]
        assert labels(result)[value] == together[value]
    assert together == {
        20: "vsepp",
        30: "vsepp (margin=0.3)",
        31: "vsepp (fine_tuned)",
        32: "vsepp (max_epochs=1)",
        33: "vsepp (train 5)",
        34: "vsepp (skip_missing=true, 2 images skipped)",
    }


def test_no_row_is_renamed_by_one_that_arrives_later() -> None:
    stored = [a_result()]
    names = labels(*stored)
    for number, later in enumerate(OTHERS):
        later.created = f"2025-02-0{number + 1}T00:00:00+00:00"
        stored.append(later)
        now = labels(*stored)
        assert {value: now[value] for value in names} == names
        assert len(set(now.values())) == len(stored)
        names = now


def test_an_older_record_is_compared_with_the_recipe_as_far_as_it_tells() -> None:
    recipe = {"model.lr_decay_every": 15, "trainer.gradient_clip": 2.0}
    old = a_result(options={**recipe, "model.margin": 0.3}, changes=None, data="flickr30k")
    assert labels(old)[20] == "vsepp (margin=0.3)"
    short = a_result(options={"trainer.max_epochs": 2}, changes=None)
    (row,) = (row for section in sections([short]) for row in section.rows)
    assert row.flags == ("shortened",)


@pytest.mark.parametrize("flag", ["shortened", "selected_on_test"])
def test_a_flagged_row_is_never_the_best(flag: str) -> None:
    rows = [Row("a", metrics={"rsum": 1.0}), Row("b", metrics={"rsum": 2.0}), Row("c", ("x"), metrics={"rsum": 9.0})]
    rows[2].flags = (flag,)
    assert best(rows, ["rsum"]) == {"rsum": 2.0}
    equal = [*rows[:2], Row("d", metrics={"rsum": 2.0}, flags=(flag,))]
    (section,) = sections([a_result()])
    section.rows = equal
    assert render("markdown", [section], ["rsum"]).count("**") == 2


def test_shortened_runs_are_marked_in_every_format() -> None:
    found = sections([OTHERS[2]])
    for kind in ("table", "markdown", "latex"):
        assert "never the best" in render(kind, found)
    assert ",shortened," in render("csv", found)


def test_weights_that_were_chosen_on_the_test_split_are_marked_without_the_flag() -> None:
    chosen = a_result(50, seed=1, selection={"split": "test", "criterion": "rsum", "epoch": 3})
    (section,) = sections([a_result(), chosen])
    flags = {row.metrics["i2t_r1"]: row.flags for row in section.rows}
    assert flags == {20: (), 50: ("selected_on_test",)}


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"versions": {"torch": "1.0"}}, "torch 2.5 and 1.0"),
        ({"commit": "f" * 40 + "+"}, "commits aaaaaaaaaaaa and ffffffffffff+"),
        ({"device": "8 x H100"}, "devices 1 x cpu and 8 x H100"),
    ],
)
def test_a_mean_over_versions_commits_or_devices_says_so(change: dict[str, Any], told: str) -> None:
    same: dict[str, Any] = {"versions": {"torch": "2.5"}, "commit": "a" * 40, "device": "1 x cpu"}
    found = sections([a_result(**same), a_result(21, seed=1, **(same | change))])
    for kind in ("table", "markdown", "latex"):
        assert told in render(kind, found)
    assert "averaged over" not in render("table", sections([a_result(**same), a_result(21, seed=1, **same)]))


def test_one_result_under_several_seeds_counts_once() -> None:
    copies = [a_result(cost={"train_seconds": 1.5}, seed=seed, run_id=f"r{seed}") for seed in range(3)]
    (section,) = sections([*copies, a_result(30, seed=3)])
    (row,) = section.rows
    assert (row.seeds, row.copies, row.metrics["i2t_r1"]) == ((0, 3), 2, 25)
    assert "one result copied under several seeds" in render("table", [section])


def test_a_closed_form_gives_the_same_figures_with_every_seed_and_is_no_copy() -> None:
    chosen = {"split": "val", "criterion": "rsum", "epoch": None}
    repeated = [a_result(cost={"train_seconds": 1 + seed}, seed=seed, selection=chosen) for seed in range(3)]
    (row,) = (row for section in sections(repeated) for row in section.rows)
    assert (row.n_seeds, row.copies, row.mixture) == (3, 0, ())
    for result in repeated:
        result.selection = {"split": "val", "epoch": 2}
    (row,) = (row for section in sections(repeated) for row in section.rows)
    assert row.mixture == ("seeds that have every figure in common, to the last digit",)


def test_one_result_under_two_names_is_told() -> None:
    moved = a_result(cost={"train_seconds": 2.0})
    moved.method = "scan"
    text = render("table", sections([a_result(cost={"train_seconds": 2.0}), moved]))
    assert "vsepp (run0) and scan (run0) have the same figures" in text


def on_draw(base: float, split: int, seed: int = 0, **changes: Any) -> Result:
    option = {"data.split_seed": split}
    fields = {"fingerprint": f"{split:02}" * 32, "options": option, "changes": option}
    return a_result(base, seed, **(fields | changes))


def test_draws_are_averaged_over_splits_and_seeds() -> None:
    values = {(0, 0): 20.0, (0, 1): 22.0, (1, 0): 30.0}
    own, drawn = sections([a_result(50), *(on_draw(base, *place) for place, base in values.items())])
    (row,) = drawn.rows
    assert (row.label, row.draws, row.n_seeds, row.repeats) == ("vsepp", (0, 1), 2, "2x2")
    assert row.metrics["i2t_r1"] == pytest.approx((21 + 30) / 2)
    assert row.spread["i2t_r1"] == pytest.approx(statistics.stdev(values.values()))
    assert "draws" in row.flags
    assert [one.metrics["i2t_r1"] for one in own.rows] == [50]
    text = render("table", [drawn])
    for part in ("mean of 2 draws of the test split", "2x2", "over seeds and draws", "[d] mean over seeded draws"):
        assert part in text
    (line,) = csv.DictReader(io.StringIO(render("csv", [drawn])))
    assert (line["draws"], line["flags"]) == ("0;1", "draws")


def test_rows_over_other_draws_do_not_share_a_table() -> None:
    few = [on_draw(40, split, options={"data.split_seed": split, "model.dim": 9}, changes={}) for split in (0,)]
    many, one = sections([*(on_draw(20 + split, split) for split in range(3)), *few])
    assert (many.draws, one.draws) == ((0, 1, 2), (0,))
    assert "measured on other draws (0)" in one.note
    assert one.title.startswith("flickr8k: draw 0 of the test split")


def test_draws_of_other_data_are_never_averaged() -> None:
    other = on_draw(40, 1)
    other.fingerprint = "ef" * 32
    found = sections([on_draw(20, 0), on_draw(21, 1), other])
    assert [[row.metrics["i2t_r1"] for row in section.rows] for section in found] == [[20.5], [40]]


def test_published_rows_are_matched_by_variant() -> None:
    entry = {"method": "vsepp", "data": "flickr8k", "t2i": [1, 2, 3], "source": "s"}
    published = parse_published(
        {
            "sources": {"s": "S"},
            "recall": [entry | {"i2t": [50, 60, 70], "variant": "fine_tuned"}, entry | {"i2t": [40, 50, 60]}],
        }
    )
    text = render("table", sections([a_result()], published))
    assert any(line.startswith("vsepp (fine_tuned)") and " 50.0" in line for line in text.splitlines())
    from cmr_bench.leaderboard.tables import table_sections
    from cmr_bench.suites.tables import Table, TableRow

    rows = (TableRow("vsepp"), TableRow("vsepp", "fine_tuned"))
    (section,) = table_sections([Table("T", "flickr8k", "s", None, None, rows)], [a_result(), OTHERS[1]], published)
    beside = [(row.variant, row.metrics["i2t_r1"], row.published["i2t_r1"]) for row in section.rows]
    assert beside == [("", 20, 40), ("fine_tuned", 31, 50)]


# Every page of the dashboard.


@pytest.fixture
def site(tmp_path: Path) -> Path:
    external = a_result(60, None, fidelity="external", fingerprint="links:1", options={}, changes=None)
    external.method = "theirs"
    deviating = a_result(35, 2, deviations=["no bias <b>"], changes={"model.dim": 9}, options={"model.dim": 9})
    for number, result in enumerate([a_result(), *OTHERS, external, deviating]):
        result.run_id = f"run-{number}"
        write_result(tmp_path / "runs" / result.data / result.method / result.run_id, result)
    build(tmp_path / "runs", tmp_path / "site", None)
    return tmp_path / "site"


def test_every_page_shows_the_options_that_differ_and_the_marks(site: Path) -> None:
    for name in ("runs.html", "compare.html"):
        text = (site / name).read_text()
        assert "vsepp (margin=0.3), seed 0" in text
        assert "shortened" in text
    (board,) = site.glob("flickr8k-whole-*.html")
    assert "margin=0.3" in board.read_text()
    index = (site / "index.html").read_text()
    assert 'theirs <abbr class="badge" title="evaluated from external files' in index
    assert '"label":"theirs [x]"' in board.read_text()
    entries = json.loads((site / "compare.html").read_text().split('id="data">')[1].split("</script>")[0])["runs"]
    assert {entry["label"]: entry["ranked"] for entry in entries}["vsepp (max_epochs=1), seed 0"] is False
    assert {entry["label"]: entry["marks"] for entry in entries}["theirs"] == ["x"]


def test_deviations_stand_on_the_run_page_and_behind_the_label_of_the_board(site: Path) -> None:
    (board,) = site.glob("flickr8k-whole-*.html")
    assert 'title="no bias &lt;b&gt;">reconstruction</abbr>' in board.read_text()
    pages = [page.read_text() for page in (site / "runs").iterdir()]
    (page,) = (page for page in pages if "<li>no bias &lt;b&gt;</li>" in page)
    assert "Differs from its recipe in" in page


# The command `compare` is tested beside what it calls, in test_pairs.py; here only that names lead to rows.


def test_a_row_is_found_by_its_name(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = str(site.parent / "runs")
    assert cli.main(["compare", "vsepp (margin=0.3)", "vsep", "--runs", runs]) == 2
    assert "Did you mean 'vsepp'?" in capsys.readouterr().err
