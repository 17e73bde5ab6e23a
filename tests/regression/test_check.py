"""The check: its verdicts, reports and exit codes on made-up results."""

from __future__ import annotations

import copy
import dataclasses
import itertools
import re
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cmr_bench.cli import main
from cmr_bench.experiment import recipe
from cmr_bench.regression import compare, expected
from cmr_bench.regression import formats as check_formats
from cmr_bench.regression.compare import Comparison, Report, Row
from cmr_bench.regression.expected import Score
from cmr_bench.results.record import write_result
from cmr_bench.suites import plan, pool
from cmr_bench.support import environment
from cmr_bench.support.errors import CmrBenchError
from tests.regression.test_expected import RSUMS, result

SUITE = (
    "seeds: [0]\nruns:\n  - {method: cca, data: synthetic}\n  - {method: gma, data: synthetic, variants: ['', mfa]}\n"
)


@pytest.mark.parametrize(
    ("found", "allowed", "verdict"),
    [(300, 5, "as expected"), (295, 5, "as expected"), (294.9, 5, "fell"), (305, 5, "as expected"),
     (305.1, 5, "suspiciously better"), (0.1 + 0.2 + 300, 0.3, "as expected"), (300, 0, "as expected")],
)  # fmt: skip
def test_verdict(found: float, allowed: float, verdict: str) -> None:
    assert Comparison("rsum", Score(300, 1, 5, allowed), found, allowed, True).verdict == verdict


@pytest.fixture(scope="module")
def resolve() -> Callable[..., recipe.RunConfig]:
    """``recipe.resolve`` that builds the parser of a method once, which takes longer than the rest of a test."""
    known: dict[str, recipe.RunConfig] = {}

    def once(*args: Any, **kwargs: Any) -> recipe.RunConfig:
        key = repr((args, kwargs))
        if key not in known:
            known[key] = original(*args, **kwargs)
        return copy.deepcopy(known[key])

    original = recipe.resolve
    return once


@pytest.fixture
def store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, resolve: Callable[..., recipe.RunConfig]
) -> Callable[..., Path]:
    """Store a made-up run in ``runs`` of the working folder: ``store("cca", seed, rsum, **fields of the result)``."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(environment.JOB_SUMMARY, raising=False)
    monkeypatch.setattr(recipe, "resolve", resolve)
    (tmp_path / "mine.yaml").write_text(SUITE)
    count = itertools.count(100)

    def one(name: str, seed: int = 0, rsum: float = 300.0, **changes: Any) -> Path:
        method, variant = name[:3], name[3:]
        config = recipe.resolve(method, "synthetic", ["--trainer.progress=false"], variant=variant)
        folder = tmp_path / "runs" / "synthetic" / method / f"{next(count):04d}"
        folder.mkdir(parents=True)
        (folder / "config.yaml").write_text(dataclasses.replace(config, seed=seed).to_yaml())
        write_result(folder, result(seed, rsum, **({"method": method, "variant": variant} | changes)))
        return folder

    return one


WORDS = ["check", "--suite", "mine.yaml", "--expected", "expected.yaml", "--stored"]


@pytest.fixture
def recorded(store: Callable[..., Path]) -> Callable[..., Path]:
    """As ``store``, after five seeds of every row were recorded."""
    for name, (seed, score) in itertools.product(("cca", "gma", "gmamfa"), enumerate(RSUMS)):
        store(name, seed, score)
    assert main([*WORDS, "--record"]) == 0
    return store


def test_what_was_recorded_passes(recorded: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*WORDS, "--junit", "out/check.xml", "--markdown", "out/check.md"]) == 0
    printed = capsys.readouterr()
    assert "passed: suite mine, 6 scores tested, 0 fell" in printed.out
    assert "3 of the results were stored before" in printed.out
    assert not printed.err
    (cases,) = ElementTree.parse("out/check.xml").getroot()
    assert [len(cases), cases.get("tests"), cases.get("failures"), cases.get("errors")] == [6, "6", "0", "0"]


@pytest.mark.parametrize(("rsum", "words", "code"), [
    (270.0, [], 1), (330.0, [], 0), (330.0, ["--fail-on-rise"], 1), (301.0, ["--fail-on-rise"], 0),
])  # fmt: skip
def test_exit_code(
    recorded: Callable[..., Path], capsys: pytest.CaptureFixture[str], rsum: float, words: list[str], code: int
) -> None:
    recorded("gmamfa", 0, rsum)  # newer than the one recorded, which it replaces
    capsys.readouterr()
    assert main([*WORDS, *words, "--junit", "check.xml"]) == code
    printed = capsys.readouterr()
    failures = list(ElementTree.parse("check.xml").getroot().iter("failure"))
    assert len(failures) == code
    if rsum == 270.0:
        (line,) = printed.err.splitlines()
        assert line.startswith("cmr-bench check: gma (mfa) on synthetic: rsum fell to 270, 30 below the expected 300; ")
        assert "R@1" in printed.out  # the recalls of what fell are shown
    elif rsum == 330.0:
        assert "suspiciously better" in printed.err


def test_another_seed_is_judged_too(recorded: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("cca", "gma", "gmamfa"):
        recorded(name, 77, 310.0)
    assert main([*WORDS, "--seed", "77"]) == 0
    assert main([*WORDS, "--seed", "78"]) == 1
    assert "seed 78 is not stored in runs" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"fingerprint": "0" * 64}, "another test split"),
        ({"split_sizes": {"test": [250, 999]}}, "another test split"),
        ({"options": {"model.n_components": 4}}, "model.n_components default -> 4"),
        ({"views": {"image": {"source": "regions"}}}, "features differ"),
        ({"metrics": {"rsum": 300.0}}, "has no"),
    ],
)
def test_what_is_no_repetition_is_not_compared(
    recorded: Callable[..., Path], capsys: pytest.CaptureFixture[str], changes: dict[str, Any], says: str
) -> None:
    recorded("cca", 0, **changes)
    capsys.readouterr()
    assert main([*WORDS, "--junit", "check.xml"]) == 1
    printed = capsys.readouterr()
    assert says in printed.err
    assert len(printed.err.splitlines()) == 1
    assert "1 of 3 methods not compared" in printed.out
    assert len(list(ElementTree.parse("check.xml").getroot().iter("error"))) == 1


def test_a_failed_run_is_missing(
    store: Callable[..., Path], recorded: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    for place in Path("runs/synthetic/cca").iterdir():
        (place / "result.json").unlink()
        (place / "failed.json").write_text('{"reason": "the loss is\\nnot finite"}')
    assert main(WORDS) == 1
    assert "cca on synthetic: seed 0 failed: the loss is not finite" in capsys.readouterr().err


def test_an_older_result_does_not_stand_in_for_a_run_that_fails(
    recorded: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(todo: Any, *_: Any) -> dict[str, str]:
        return {job.title: "boom" for job, _ in todo if job.config.method == "cca"}

    monkeypatch.setattr(pool, "run_suite", fail)
    assert main([*WORDS[:-1], "--again"]) == 1
    assert capsys.readouterr().err == "cmr-bench check: cca on synthetic: seed 0 failed: boom\n"


def test_rows_that_only_one_side_has_are_named(
    recorded: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    Path("mine.yaml").write_text(SUITE.replace("variants: ['', mfa]", "variants: ''"))
    assert main(WORDS) == 1
    assert "gma (mfa) on synthetic: is expected, but the suite no longer runs it" in capsys.readouterr().err
    Path("mine.yaml").write_text(SUITE + "  - {method: lcfs, data: synthetic}\n")
    assert main(WORDS) == 1
    assert "lcfs on synthetic: seed 0 is not stored" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--suite", "four_families", "--stored"], "no expected scores are shipped"),
        (["--suite", "four_families", "--expected", "expected.yaml"], "contains the scores of the suite 'mine'"),
        (["--suite", "mine.yaml", "--expected", "nowhere.yaml"], "no expected scores at nowhere.yaml"),
        (["--record"], "--record needs --expected"),
        (["--record", "--expected", "x.yaml", "--seeds", "1"], "estimate the spread"),
        (["--record", "--expected", "x.yaml", "--seeds", "2"], "or pass --force"),
        (["--force"], "--force needs --record"),
        (["--seeds", "0"], "must be at least 1"),
        (["--seeds", "1,2"], "expected an integer"),
        (["--jobs", "0"], "must be at least 1"),
        (["--false-alarms", "2"], "must be between 0 and 1"),
        (["--stored", "--again"], "not allowed with"),
        (["--sead", "3"], "Did you mean '--seed'"),
    ],
)
def test_wrong_usage_is_one_line_and_2(
    recorded: Callable[..., Path], capsys: pytest.CaptureFixture[str], words: list[str], says: str
) -> None:
    capsys.readouterr()
    assert main(["check", *words]) == 2
    printed = capsys.readouterr().err
    assert says in printed
    assert len(printed.splitlines()) == 1


def test_few_seeds_are_recorded_by_force_and_a_toothless_score_is_warned_of(
    store: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    for seed, value in enumerate((72.0, 73.6)):
        store("cca", seed, value)
        store("gma", seed, 300.0 + seed / 100)
        store("gmamfa", seed, 300.0 + seed / 100)
    assert main([*WORDS, "--record", "--seeds", "2", "--force"]) == 0
    printed = capsys.readouterr().err
    assert "warning: cca on synthetic: rsum of 72.8 may fall by" in printed
    assert "gma" not in printed
    assert "--seeds 2 --force" in Path("expected.yaml").read_text().splitlines()[0]


def test_nothing_is_recorded_where_a_seed_is_missing(
    store: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    store("cca", 0)
    assert main([*WORDS, "--record", "--seeds", "2", "--force"]) == 1
    assert "nothing recorded: cca on synthetic: seed 1 is not stored" in capsys.readouterr().err
    assert not Path("expected.yaml").exists()


def test_results_that_differ_in_more_than_the_seed_are_not_recorded() -> None:
    for changes in ({"fingerprint": "x"}, {"options": {"a": 1}}, {"views": {}}, {"metrics": {"rsum": 1.0}}):
        with pytest.raises(CmrBenchError, match="differ"):
            expected.expect("mine", [[result(0), result(1, **changes)]], 0.01, {})
    with pytest.raises(CmrBenchError, match="neither rsum nor map"):
        expected.expect("mine", [[result(0, metrics={"mr": 1.0}), result(1, metrics={"mr": 1.0})]], 0.01, {})


def test_several_seeds_are_allowed_less_than_one(
    recorded: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    Path("mine.yaml").write_text(SUITE.replace("[0]", "[0, 1, 2]"))
    report = expected.read_expected(Path("expected.yaml"))
    planned = list(plan.jobs(plan.read_suite("mine.yaml"), None, ["--trainer.progress=false"]))
    rows = compare.compare(report, compare.collect(planned, Path("runs"), {}))
    score = report.rows[0].metrics["rsum"]
    one = rows[0].judged[0]
    assert one.found == pytest.approx(statistics.fmean(RSUMS[:3]))
    assert one.allowed == pytest.approx(expected.half_width(score.sd, 5, 0.01 / 6, 3))
    assert one.allowed < score.tolerance


def test_other_versions_and_devices_are_told(recorded: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
    recorded("cca", 0, versions={"torch": "3.0"}, device="2 x quill")
    assert main(WORDS) == 0
    assert "torch 2.0 -> 3.0, 1 x abacus -> 2 x quill" in capsys.readouterr().out


def test_summary_of_a_job_is_added_to(
    recorded: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "summary.md"
    file.write_text("before\n")
    monkeypatch.setenv(environment.JOB_SUMMARY, str(file))
    assert main(WORDS) == 0
    assert file.read_text().startswith("before\n### Recall@K: passed")
    monkeypatch.setenv(environment.JOB_SUMMARY, str(tmp_path / "no" / "summary.md"))
    assert main(WORDS) == 1
    assert "cannot write" in capsys.readouterr().err.splitlines()[-1]


def hostile(text: str) -> Report:
    fallen = Comparison("rsum", Score(300.0, 2.0, 5, 9.0), 200.0, 9.0, True)
    recall = Comparison("i2t_r1", Score(50.0, 2.0, 5, 9.0), 60.0, 9.0, False)
    rows = (Row(text, text, text, (0,), (fallen, recall)), Row(text, text, text, problem=text or "?"))
    return Report(text, rows, (text,), 0.01, 2)


@settings(max_examples=30, deadline=None)
@given(
    text=st.text(max_size=30)
    | st.sampled_from(["a|b", "<script>alert(1)</script>", "]]>", "\x00\x1b[31m", "[red]x", "[/x]", "`|`"])
)
def test_reports_stay_whole_whatever_the_names(text: str) -> None:
    report = hostile(text)
    cases = list(ElementTree.fromstring(check_formats.junit(report)).iter("testcase"))
    assert [case[0].tag for case in cases] == ["failure", "error"]
    page = check_formats.markdown(report)
    tables = [line for line in page.splitlines() if line.startswith("|")]
    assert len(tables) == 3 + 4
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in tables} == {8}
    assert "<script" not in page
    with check_formats.Console(file=None, quiet=True) as console:
        check_formats.show(report, console)


def test_help_teaches(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "--help"]) == 0
    printed = capsys.readouterr().out
    assert "prediction interval" in printed
    assert "--record --seeds 5" in printed
