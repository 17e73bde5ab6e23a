"""An index of results is never stale, and as good as none where it is damaged."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from cmr_bench.dashboard.collect import collect
from cmr_bench.evaluation.per_query import PerQuery
from cmr_bench.leaderboard import checks
from cmr_bench.leaderboard.checks import load_checked
from cmr_bench.results import index
from cmr_bench.results.record import Result, write_result
from cmr_bench.support.errors import CmrBenchError

RANKS = PerQuery(np.arange(4), np.array([1.0, 1, 2, 30]), np.array([1.0, 2, 2, 9]))


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Six runs that changed long enough ago to be kept."""
    monkeypatch.setattr(index, "_SETTLED_NS", -(10**18))
    for number in range(6):
        folder = tmp_path / "runs" / "flickr8k" / "vsepp" / f"r{number}"
        folder.mkdir(parents=True)
        intervals = {"i2t_meanr": (100.0, 300.0)}
        result = Result(
            "vsepp", "flickr8k", {"i2t_meanr": 200.0 + number}, f"r{number}", intervals=intervals, seed=number
        )
        result.created = "2026-01-01T00:00:00+00:00"
        write_result(folder, result)
        (folder / "ranks.npz").write_bytes(RANKS.to_bytes())
        (folder / "config.yaml").write_text(f"method: vsepp\nseed: {number}\n")
    return tmp_path / "runs"


def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return a list that gets the run folder of every result that is read from its own file."""
    seen: list[str] = []
    read = checks.read_result
    monkeypatch.setattr(checks, "read_result", lambda path: seen.append(path.parent.name) or read(path))  # type: ignore[func-returns-value]
    return seen


def test_what_was_read_before_is_the_same_and_not_opened_again(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = load_checked(runs)
    seen = opened(monkeypatch)
    assert load_checked(runs) == first
    assert not seen
    assert [run.result for run in collect(runs)[0]] == [result for _, result in first[0]]


def rewrite(folder: Path) -> None:
    file = folder / "result.json"
    times = file.stat().st_atime_ns, file.stat().st_mtime_ns
    text = file.read_text()
    file.write_text(text.replace("202.0", "209.0"))
    assert len(file.read_text()) == len(text)
    assert file.read_text() != text
    os.utime(file, ns=times)  # as copies with their times are


def replace(folder: Path) -> None:
    text = (folder / "result.json").read_text()
    (folder / "new").write_text(text.replace("202.0", "209.0"))
    (folder / "new").replace(folder / "result.json")


@pytest.mark.parametrize("change", [rewrite, replace])
def test_a_record_of_the_same_size_is_seen(
    runs: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[Path], None]
) -> None:
    load_checked(runs)
    seen = opened(monkeypatch)
    change(runs / "flickr8k/vsepp/r2")
    assert [result.metrics["i2t_meanr"] for _, result in load_checked(runs)[0]] == [200, 201, 209, 203, 204, 205]
    assert seen == ["r2"]


@pytest.mark.parametrize("name", ["ranks.npz", "config.yaml"])
@pytest.mark.parametrize("gone", [True, False])
def test_a_change_of_what_lies_beside_a_record_is_seen(
    runs: Path, monkeypatch: pytest.MonkeyPatch, name: str, gone: bool
) -> None:
    load_checked(runs)
    seen = opened(monkeypatch)
    file = runs / "flickr8k/vsepp/r2" / name
    if gone:
        file.unlink()
    else:
        file.write_bytes(b"seed: 7\n")
    found, problems = load_checked(runs)
    assert seen == ["r2"]
    assert len(problems) == (not gone)
    assert len(found) == (5 if (name, gone) == ("config.yaml", False) else 6)
    assert load_checked(runs) == (found, problems)  # what is wrong is told every time


def test_a_deleted_run_goes_and_a_new_one_comes(runs: Path) -> None:
    load_checked(runs)
    shutil.move(runs / "flickr8k/vsepp/r2", runs / "flickr8k/vsepp/r7")
    shutil.rmtree(runs / "flickr8k/vsepp/r0")
    assert [folder.name for folder, _ in load_checked(runs)[0]] == ["r1", "r3", "r4", "r5", "r7"]
    kept = json.loads(next(Path(os.environ["CMR_BENCH_CACHE"]).rglob("*.json")).read_text())
    assert sorted(kept["runs"]) == [f"flickr8k/vsepp/r{number}" for number in (1, 3, 4, 5, 7)]


def test_what_changed_a_moment_ago_is_not_kept(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index, "_SETTLED_NS", 10**12)
    load_checked(runs)
    seen = opened(monkeypatch)
    load_checked(runs)
    assert len(seen) == 6


def test_a_link_out_of_the_folder_is_refused_every_time(runs: Path, tmp_path: Path) -> None:
    load_checked(runs)
    file = runs / "flickr8k/vsepp/r2/result.json"
    file.rename(tmp_path / "elsewhere.json")
    file.symlink_to(tmp_path / "elsewhere.json")
    for _ in range(2):
        found, problems = load_checked(runs)
        assert len(found) == 5
        assert "outside of" in problems[0]


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b'{"code": 1}', b"\xff\xfe", b"[" * 100_000])
def test_a_damaged_index_is_as_good_as_none(runs: Path, damage: bytes) -> None:
    first = load_checked(runs)
    file = next(Path(os.environ["CMR_BENCH_CACHE"]).rglob("*.json"))
    whole = file.read_bytes()
    for content in (damage, whole[: len(whole) // 2], whole.replace(b'"intervals"', b'"intervalz"')):
        file.write_bytes(content)
        assert load_checked(runs) == first
    assert json.loads(file.read_text()) == json.loads(whole)


def test_an_index_of_other_code_is_not_read(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load_checked(runs)
    monkeypatch.setattr(checks, "combined", lambda parts: "other")
    seen = opened(monkeypatch)
    load_checked(runs)
    assert len(seen) == 6


def test_results_are_read_where_no_index_can_be_written(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise CmrBenchError("no space left")

    monkeypatch.setattr(index, "write_atomic", full)
    assert len(load_checked(runs)[0]) == 6


def _again(runs: Path, n: int) -> None:
    index._SETTLED_NS = -(10**18)
    for _ in range(n):
        for number in range(0, 6, 2):
            os.utime(runs / "flickr8k/vsepp" / f"r{number}" / "result.json")
        found, problems = load_checked(runs)
        assert [result.seed for _, result in found] == list(range(6)), problems


def test_two_processes_at_once(runs: Path) -> None:
    context = multiprocessing.get_context("fork")
    both = [context.Process(target=_again, args=(runs, 20)) for _ in range(2)]
    for one in both:
        one.start()
    for one in both:
        one.join(60)
    assert [one.exitcode for one in both] == [0, 0]
