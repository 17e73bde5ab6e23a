"""Checksums of files: those of the content as it is now, whatever is remembered."""

from __future__ import annotations

import hashlib
import os
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cmr_bench.support import checksums
from cmr_bench.support.checksums import checksum, folder_checksum, readable_checksums
from cmr_bench.support.errors import DataError
from cmr_bench.support.places import cache_dir


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Files that are read, where every file counts as old enough to be remembered."""
    seen: list[Path] = []
    read = checksums.read_checksum
    monkeypatch.setattr(checksums, "_FRESH", -60.0)
    monkeypatch.setattr(checksums, "read_checksum", lambda file: seen.append(file) or read(file))
    return seen


def test_a_file_is_read_once(tmp_path: Path, reads: list[Path]) -> None:
    files = [tmp_path / f"{n}.bin" for n in range(1200)]
    for n, file in enumerate(files):
        file.write_bytes(b"%d" % n)
    found = checksums.checksums(files)
    assert found == [hashlib.sha256(b"%d" % n).hexdigest() for n in range(1200)]
    assert len(reads) == 1200
    assert checksums.checksums(files[::-1]) == found[::-1]
    assert len(reads) == 1200


def rewrite(file: Path) -> None:
    file.write_bytes(b"two")


def rewrite_and_turn_the_clock_back(file: Path) -> None:
    before = file.stat()
    file.write_bytes(b"two")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


def put_another_in_its_place(file: Path) -> None:
    before = file.stat()
    (file.parent / "other").write_bytes(b"two")
    os.utime(file.parent / "other", ns=(before.st_atime_ns, before.st_mtime_ns))
    (file.parent / "other").replace(file)


def turn_a_link(file: Path) -> None:
    (file.parent / "other").write_bytes(b"two")
    file.unlink()
    file.symlink_to(file.parent / "other")


@pytest.mark.parametrize("change", [rewrite, rewrite_and_turn_the_clock_back, put_another_in_its_place, turn_a_link])
def test_no_change_goes_unnoticed(change: Callable[[Path], None], tmp_path: Path, reads: list[Path]) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"one")
    assert checksum(file) == hashlib.sha256(b"one").hexdigest()
    change(file)
    assert checksum(file) == hashlib.sha256(b"two").hexdigest()


def test_a_file_that_was_just_written_is_not_trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"one")
    checksum(file)
    with sqlite3.connect(cache_dir("checksums") / "files.sqlite") as memory:
        assert memory.execute("SELECT COUNT(*) FROM files").fetchone() == (0,)


def test_what_cannot_be_read_is_told_in_its_place(tmp_path: Path) -> None:
    (tmp_path / "there").write_bytes(b"x")
    good, folder, absent = readable_checksums([tmp_path / "there", tmp_path, tmp_path / "absent"])
    assert good == hashlib.sha256(b"x").hexdigest()
    for error, name in ((folder, tmp_path), (absent, tmp_path / "absent")):
        assert isinstance(error, DataError)
        assert str(name) in str(error)
    with pytest.raises(DataError, match="absent"):
        checksum(tmp_path / "absent")


@pytest.mark.parametrize("damage", ["no folder", "no database"])
def test_without_a_memory_files_are_read_each_time(
    damage: str, tmp_path: Path, reads: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    if damage == "no folder":
        (tmp_path / "taken").write_text("")
        monkeypatch.setenv("CMR_BENCH_CACHE", str(tmp_path / "taken"))
    else:
        cache_dir("checksums").mkdir(parents=True)
        (cache_dir("checksums") / "files.sqlite").write_bytes(os.urandom(4096))
    (tmp_path / "file").write_bytes(b"x")
    assert [checksum(tmp_path / "file") for _ in range(2)] == [hashlib.sha256(b"x").hexdigest()] * 2
    assert len(reads) == 2


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    trees=st.lists(
        st.dictionaries(st.sampled_from(["a", "b", "c/d", "c/e"]), st.sampled_from([b"", b"x", b"ab", b"b"])),
        min_size=2,
        max_size=2,
    )
)
def test_folders_with_the_same_files_have_the_same_checksum(
    trees: list[dict[str, bytes]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    found = []
    for tree in trees:
        folder = tmp_path_factory.mktemp("tree")
        for name, content in tree.items():
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_bytes(content)
        found.append(folder_checksum(folder))
    assert (found[0] == found[1]) == (trees[0] == trees[1])
