"""The site as files: what is in it, what is refused, what older run folders give."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from benchmarks.dashboard import made_up_runs
from cmr_bench.cli import main
from cmr_bench.dashboard.collect import collect, slug
from cmr_bench.dashboard.site import MARKER, build
from cmr_bench.results.published import load_published
from cmr_bench.results.record import read_result
from tests.support.runs import OLDEST_RESULT

HOSTILE = '</script><img src=x onerror="window.hacked=1"><script>window.hacked=1</script>\'&'


def dashboard(tmp_path: Path, n_runs: int = 24) -> Path:
    made_up_runs(tmp_path / "runs", n_runs)
    build(tmp_path / "runs", tmp_path / "site", load_published())
    return tmp_path / "site"


def received(file: Path) -> Any:
    match = re.fullmatch(r"cmr\.receive\((\".*?\"),(.*)\);\n", file.read_text(encoding="utf-8"), flags=re.S)
    assert match is not None
    return json.loads(match[2])


def change(folder: Path, **values: Any) -> None:
    record = json.loads((folder / "result.json").read_text())
    (folder / "result.json").write_text(json.dumps(record | values))


def test_every_run_has_a_page_and_every_link_leads_somewhere(tmp_path: Path) -> None:
    site = dashboard(tmp_path)
    assert len(list((site / "runs").iterdir())) == 24
    for page in site.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        for address in re.findall(r'(?:href|src)="([^"#]+)', text):
            if not address.startswith("data:"):
                assert (page.parent / address).is_file(), (page, address)
        assert not re.search(r"(?:href|src)=\"(?:https?:)?//", text)


def test_a_run_page_has_what_repeats_the_run(tmp_path: Path) -> None:
    made_up_runs(tmp_path / "a b", 1)
    build(tmp_path / "a b", tmp_path / "site", None)
    (page,) = (tmp_path / "site" / "runs").iterdir()
    text = page.read_text()
    (config,) = (tmp_path / "a b").rglob("config.yaml")
    assert f"cmr-bench run --config &#39;{config}&#39;" in text
    for part in ("dataset: flickr30k", "2.13.0", "1 x made up", "1,000 images", "model.margin"):
        assert part in text


def test_rows_of_other_fingerprints_protocols_and_options_stay_apart(tmp_path: Path) -> None:
    made_up_runs(tmp_path / "runs", 4)
    folders = sorted((tmp_path / "runs").glob("*/*/*"))
    change(folders[0], fingerprint="f" * 64)
    change(folders[1], flags=["transductive"])
    build(tmp_path / "runs", tmp_path / "site", None)
    boards = [page.read_text() for page in (tmp_path / "site").glob("flickr30k-*.html")]
    assert sorted(text.count("<tr data-id") for text in boards) == [1, 2]
    entries = json.loads(re.search(r'id="data">(.*?)</script>', (tmp_path / "site/compare.html").read_text())[1])  # type: ignore[index]
    groups = {entry["run_id"]: entry["group"] for entry in entries["runs"]}
    assert len({groups[folder.name] for folder in folders}) == 2


def test_failed_runs_are_told_of_and_never_scored(tmp_path: Path) -> None:
    made_up_runs(tmp_path / "runs", 4)
    folders = sorted((tmp_path / "runs").glob("*/*/*"))
    (folders[0] / "result.json").unlink()
    (folders[0] / "failed.json").write_text(json.dumps({"schema": 1, "reason": "the loss is <b>nan</b>"}))
    built = build(tmp_path / "runs", tmp_path / "site", None)
    assert (built.n_runs, len(built.problems)) == (3, 1)
    assert "the loss is &lt;b&gt;nan&lt;/b&gt;" in (tmp_path / "site/index.html").read_text()


def test_folders_of_older_runs_work(tmp_path: Path) -> None:
    made_up_runs(tmp_path / "runs", 8)
    for folder in (tmp_path / "runs").glob("*/*/*"):
        (folder / "ranks.npz").unlink()
        (folder / "history.csv").unlink()
        (folder / "config.yaml").unlink()
        record = json.loads((folder / "examples.json").read_text())
        for entry in (*record["i2t"], *record["t2i"]):
            del entry["query"]["rank"], entry["query"]["match"]
        (folder / "examples.json").write_text(json.dumps(record))
    (tmp_path / "runs/old/old/old").mkdir(parents=True)
    shutil.copy(OLDEST_RESULT, tmp_path / "runs/old/old/old/result.json")
    assert build(tmp_path / "runs", tmp_path / "site", None).problems == []


@pytest.mark.parametrize("name", ["ranks.npz", "examples.json", "history.csv"])
def test_a_broken_side_file_costs_only_itself(tmp_path: Path, name: str) -> None:
    made_up_runs(tmp_path / "runs", 2)
    folder = next((tmp_path / "runs").glob("*/*/*"))
    (folder / name).write_bytes(b"{\x00\xff,nonsense")
    built = build(tmp_path / "runs", tmp_path / "site", None)
    assert built.n_runs == 2
    assert len(built.problems) == (name != "history.csv")


def test_figures_that_are_none_of_a_number_are_left_out(tmp_path: Path) -> None:
    made_up_runs(tmp_path / "runs", 2)
    folder = next((tmp_path / "runs").glob("*/*/*"))
    text = (
        (folder / "examples.json").read_text().replace("0.9", "NaN").replace('"rank": ', '"rank": -Infinity, "old": ')
    )
    (folder / "examples.json").write_text(text)
    (folder / "history.csv").write_text("epoch,train/loss\n0.0,nan\n1.0,inf\n2.0,\n")
    assert build(tmp_path / "runs", tmp_path / "site", None).problems == []
    content = received(next((tmp_path / "site/data").glob(f"*{folder.name}*.js")))
    assert content["own"]["history"]["train/loss"] == [None, None, None]
    assert content["answers"]["t2i"][0][1] is None


def test_hostile_names_stay_text_in_every_file(tmp_path: Path) -> None:
    made_up_runs(tmp_path / "runs", 4)
    for folder in (tmp_path / "runs").glob("*/*/*"):
        (folder / "config.yaml").unlink()  # the name of the method in it is another
        change(folder, method=HOSTILE, variant=HOSTILE, run_id=HOSTILE, family=HOSTILE, device=HOSTILE,
               flags=[HOSTILE], options={HOSTILE: HOSTILE})  # fmt: skip
        text = (folder / "examples.json").read_text().replace("made-up caption", json.dumps(HOSTILE)[1:-1])
        (folder / "examples.json").write_text(text.replace('"image', json.dumps(HOSTILE)[:-1]))
    build(tmp_path / "runs", tmp_path / "site", None)
    for file in (tmp_path / "site").rglob("*"):
        if file.suffix in (".html", ".js") and file.parent.name != "assets":
            assert "<img src=x" not in file.read_text()
            assert "<script>window" not in file.read_text()


def test_draws_give_back_the_mean_and_the_interval(tmp_path: Path) -> None:
    import base64

    import numpy as np

    from cmr_bench.evaluation.per_query import compare

    made_up_runs(tmp_path / "runs", 2)
    build(tmp_path / "runs", tmp_path / "site", None)
    stored, _ = collect(tmp_path / "runs")
    values = []
    for run in stored:
        packed = received(tmp_path / "site/data" / f"{run.slug}.js")["draws"]["t2i_r5"]
        numbers = np.frombuffer(base64.b64decode(packed["draws"]), dtype="<i2")
        values.append(packed["mean"] + packed["scale"] * numbers)
    assert stored[0].outcomes is not None
    assert stored[1].outcomes is not None
    verdict = compare(stored[0].outcomes, stored[1].outcomes)["t2i_r5"]
    found = np.quantile(values[0] - values[1], [0.025, 0.975])
    assert found.tolist() == pytest.approx([verdict.low, verdict.high], abs=0.01)


def test_only_a_site_is_replaced(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    site = dashboard(tmp_path, 2)
    (site / "left.txt").write_text("from the earlier build")
    words = ["dashboard", "--runs", str(tmp_path / "runs"), "--out"]
    assert main([*words, str(site)]) == 0
    assert not (site / "left.txt").exists()
    assert (site / MARKER).is_file()
    other = tmp_path / "thesis"
    other.mkdir()
    (other / "thesis.tex").write_text("three years of work")
    assert main([*words, str(other)]) == 2
    assert (other / "thesis.tex").read_text() == "three years of work"
    assert "is not a dashboard" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != "cache") == ["runs", "site", "thesis"]


@pytest.mark.parametrize(("runs", "code"), [("nowhere", 2), ("empty", 1)])
def test_no_runs_is_one_line(tmp_path: Path, runs: str, code: int, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    assert main(["dashboard", "--runs", str(tmp_path / runs), "--out", str(tmp_path / "site")]) == code
    assert capsys.readouterr().err.count("\n") == 1
    assert not (tmp_path / "site").exists()


def test_slugs_are_plain_and_different() -> None:
    names = [("a", "b/c"), ("a/b", "c"), ("A", "b-c"), ("ä", HOSTILE), ("\ud800", "x")]
    found = {slug((*name, "run")) for name in names}
    assert len(found) >= len(names) - 1
    assert all(re.fullmatch(r"[a-z0-9-]+", one) for one in found)


def test_made_up_runs_are_readable_results(tmp_path: Path) -> None:
    made_up_runs(tmp_path, 3)
    assert len([read_result(path) for path in tmp_path.rglob("result.json")]) == 3
