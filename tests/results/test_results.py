"""The result record: written whole or not at all, read back as it was, refused with one line where it is not one."""

from __future__ import annotations

import errno
import json
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cmr_bench.commands import leaderboard
from cmr_bench.leaderboard import rows
from cmr_bench.leaderboard.formats import render
from cmr_bench.results.published import load_published
from cmr_bench.results.record import SCHEMA, Result, read_result, write_result
from cmr_bench.results.store import load_results, new_run_folder, result_files, store_external
from cmr_bench.support.errors import CmrBenchError
from cmr_bench.support.files import write_atomic
from tests.support.runs import OLDEST_RESULT


def a_result(**changes: Any) -> Result:
    result = Result(
        method="vsepp",
        data="synthetic",
        metrics={"i2t_r1": 1 / 3, "rsum": 100.1},
        run_id="r",
        intervals={"rsum": (90.5, 110.25)},
        curves={"recall": [0.0, 1.0]},
        split_sizes={"test": [10, 50]},
        views={"image": {"kind": "vector", "shape": [3]}},
        seed=3,
        flags=["ensemble"],
        options={"model.margin": 0.3, "model.layers": [1, 2]},
        created="2025-01-01T00:00:00+00:00",
    )
    for name, value in changes.items():
        setattr(result, name, value)
    return result


def test_a_result_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    path = write_result(tmp_path / "run", a_result())
    assert read_result(path) == a_result()
    assert [p.name for p in path.parent.iterdir()] == ["result.json"]


def test_writing_stamps_the_time(tmp_path: Path) -> None:
    assert read_result(write_result(tmp_path, a_result(created=""))).created.endswith("+00:00")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_metric_that_is_not_finite_is_not_stored(tmp_path: Path, value: float) -> None:
    with pytest.raises(CmrBenchError, match=r"vsepp on synthetic is not finite: mr"):
        write_result(tmp_path, a_result(metrics={"mr": value, "rsum": 1.0}))
    assert list(tmp_path.iterdir()) == []


def test_the_first_schema_keeps_loading() -> None:
    result = read_result(OLDEST_RESULT)
    assert result.schema == 1
    assert (result.method, result.data, result.seed) == ("adv_subspace", "pascal", 0)
    assert result.metrics["i2t_map"] == 0.6123456789012345
    assert result.intervals == {"map": (0.58, 0.66)}
    assert result.options == {}


def test_fields_that_a_later_minor_version_added_are_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    path.write_text(json.dumps(json.loads(a_result().to_json()) | {"weather": "fine"}), encoding="utf-8")
    assert read_result(path) == a_result()


def test_a_newer_schema_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    path.write_text(json.dumps(json.loads(a_result().to_json()) | {"schema": SCHEMA + 1}), encoding="utf-8")
    with pytest.raises(CmrBenchError, match=f"schema {SCHEMA + 1}, newer than {SCHEMA}: update cmr-bench"):
        read_result(path)


@pytest.mark.parametrize(
    "content",
    [
        *("", "{", "[]", "null", "3", "[" * 100_000, "\N{REPLACEMENT CHARACTER}", '{"schema": 1}', '{"schema": true}'),
        '{"schema": 0, "method": "m", "data": "d", "metrics": {"r": 1}}',
        '{"schema": 1, "method": "m", "data": "d", "metrics": {}}',
        '{"schema": 1, "method": "m", "data": "d", "metrics": {"r": NaN}}',
        '{"schema": 1, "method": "m", "data": "d", "metrics": {"r": true}}',
        '{"schema": 1, "method": "m", "data": "d", "metrics": {"r": 1' + "0" * 400 + "}}",
        '{"schema": 1, "method": "m", "data": "d", "metrics": {"r": 1}, "intervals": {"r": [1]}}',
        '{"schema": 1, "method": "m", "data": "d", "metrics": {"r": 1}, "seed": "0"}',
        '{"schema": 1, "method": "m", "data": "d", "metrics": {"r": 1}, "flags": [1]}',
        '{"schema": 1, "method": "m", "data": "d", "metrics": {"r": 1}, "split_sizes": {"test": 5}}',
        '{"schema": 1, "method": ["m"], "data": "d", "metrics": {"r": 1}}',
    ],
)
def test_what_is_no_result_is_refused_with_one_line(tmp_path: Path, content: str) -> None:
    path = tmp_path / "result.json"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(CmrBenchError) as caught:
        read_result(path)
    assert str(path) in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_bytes_that_are_no_text_and_files_that_cannot_be_opened_are_refused(tmp_path: Path) -> None:
    (tmp_path / "result.json").write_bytes(b"\xff\xfe\x00")
    for path in (tmp_path / "result.json", tmp_path / "absent.json", tmp_path):
        with pytest.raises(CmrBenchError, match="is not a readable result"):
            read_result(path)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


def damaged(seed: int, value: Any) -> str:
    """The stored record with one entry, at any depth, replaced by another value."""
    record = json.loads(OLDEST_RESULT.read_text(encoding="utf-8"))
    rng = random.Random(seed)
    inside = record
    while True:
        key = rng.choice(list(inside) if isinstance(inside, dict) else range(len(inside)))
        if not isinstance(inside[key], dict | list) or not inside[key] or rng.random() < 0.5:
            inside[key] = value
            return json.dumps(record)
        inside = inside[key]


@settings(max_examples=150, deadline=None)
@given(seed=st.integers(0, 2**32), value=JSON)
@example(seed=2503, value=[])  # a split without its number of images
@example(seed=5434, value={"": 0})  # a metric without a name
def test_a_damaged_record_is_refused_with_one_line_or_does_no_harm(
    tmp_path_factory: pytest.TempPathFactory, seed: int, value: Any
) -> None:
    path = tmp_path_factory.mktemp("damage") / "pascal" / "adv_subspace" / "run" / "result.json"
    path.parent.mkdir(parents=True)
    path.write_text(damaged(seed, value), encoding="utf-8")
    results, problems = load_results(path.parents[3])
    assert len(results) + len(problems) == 1
    assert all(len(problem.splitlines()) == 1 for problem in problems)
    found = rows.sections([*results, a_result()], load_published())
    for kind in leaderboard.FORMATS:
        assert render(kind, found, ["all"]).encode()


def test_one_bad_file_does_not_hide_the_others(tmp_path: Path) -> None:
    for number in range(3):
        write_result(tmp_path / "synthetic" / "vsepp" / f"run{number}", a_result(seed=number))
    (tmp_path / "synthetic" / "vsepp" / "run1" / "result.json").write_text("{", encoding="utf-8")
    (tmp_path / "synthetic" / "vsepp" / "unfinished").mkdir()
    results, problems = load_results(tmp_path)
    assert [result.seed for result in results] == [0, 2]
    assert len(problems) == 1
    assert "run1" in problems[0]


def test_no_folder_holds_no_results(tmp_path: Path) -> None:
    assert load_results(tmp_path / "absent") == ([], [])


def test_a_full_disk_leaves_the_old_file_and_nothing_half_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "result.json"
    write_atomic(path, "old")

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(CmrBenchError, match=r"cannot write .*No space left"):
        write_atomic(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("failure", [OSError(errno.EIO, "broken"), KeyboardInterrupt()])
def test_a_failure_or_interrupt_before_the_rename_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: BaseException
) -> None:
    path = tmp_path / "result.json"
    write_atomic(path, "old")

    def fail(source: str, target: Path) -> None:
        assert Path(source).read_text() == "new"
        assert Path(source).parent == path.parent
        raise failure

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises((CmrBenchError, KeyboardInterrupt)):
        write_atomic(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path: Path, one_line: Callable[..., Any]) -> None:
    (tmp_path / "file").write_text("")
    assert one_line(lambda: write_atomic(tmp_path / "file" / "result.json", "x")) is None
    assert one_line(lambda: new_run_folder(tmp_path / "file", "d", "m", "s0")) is None


def test_two_runs_started_in_the_same_second_get_two_folders(tmp_path: Path) -> None:
    folders = {new_run_folder(tmp_path, "d", "m", "s0") for _ in range(5)}
    assert len(folders) == 5
    assert all(folder.parent == tmp_path / "d" / "m" for folder in folders)


@pytest.mark.parametrize("name", ["mine", "a/b", "../../up", "..", "sp ace", "ünïcode", "."])
def test_scores_from_elsewhere_are_stored_below_the_folder_of_runs(tmp_path: Path, name: str) -> None:
    runs = tmp_path / "runs"
    path = store_external(
        runs=runs, name=name, data="flickr8k", metrics={"i2t_r1": 1.0}, units={}, protocol={}, split_sizes={}
    )
    assert list(result_files(runs)) == [path]
    assert path.resolve().is_relative_to(runs.resolve())
    result = read_result(path)
    assert (result.method, result.fidelity) == (name, "external")
