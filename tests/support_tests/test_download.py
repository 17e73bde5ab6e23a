"""Downloads from a server on this machine that breaks off, changes its mind, or does not know ranges."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cmr_bench.support import download as module
from cmr_bench.support.download import download
from cmr_bench.support.errors import CmrBenchError, DataError
from tests.support.host import CONTENT, Host


def get(host: Host, folder: Path, checksum: str = "") -> str:
    return download(host.url, folder / "data.zip", checksum, pause=0.001)


def test_a_file_comes_whole_with_its_checksum(host: Host, tmp_path: Path) -> None:
    seen: list[tuple[int, int | None]] = []
    file = tmp_path / "new" / "data.zip"
    sha256 = download(host.url, file, f"md5:{hashlib.md5(CONTENT).hexdigest()}", lambda *told: seen.append(told))
    assert sha256 == hashlib.sha256(CONTENT).hexdigest()
    assert file.read_bytes() == CONTENT
    assert seen[-1] == (len(CONTENT), len(CONTENT))
    assert [path.name for path in file.parent.iterdir()] == ["data.zip"]


def test_a_broken_connection_goes_on_where_it_broke(host: Host, tmp_path: Path) -> None:
    host.break_after = [100_000, 50_000, 0, 70_000]
    get(host, tmp_path)
    assert (tmp_path / "data.zip").read_bytes() == CONTENT
    assert host.asked == [None, "bytes=100000-", "bytes=150000-", "bytes=150000-", "bytes=220000-"]


def test_the_next_command_goes_on_where_the_last_stopped(host: Host, tmp_path: Path) -> None:
    host.break_after = [120_000, 0, 0, 0, 0, 0]
    with pytest.raises(CmrBenchError, match=r"120,000 bytes are kept: the same command resumes") as error:
        get(host, tmp_path)
    assert error.value.exit_code == 1
    assert not (tmp_path / "data.zip").exists()
    host.asked.clear()
    get(host, tmp_path)
    assert host.asked == ["bytes=120000-"]
    assert (tmp_path / "data.zip").read_bytes() == CONTENT


def test_parts_of_two_versions_are_never_joined(host: Host, tmp_path: Path) -> None:
    host.break_after = [120_000, 0, 0, 0, 0, 0]
    with pytest.raises(CmrBenchError):
        get(host, tmp_path)
    host.content, host.version = CONTENT[::-1], '"two"'
    get(host, tmp_path)
    assert (tmp_path / "data.zip").read_bytes() == CONTENT[::-1]


@pytest.mark.parametrize("version", ["", 'W/"weak"'])
def test_without_a_version_to_name_it_begins_again(version: str, host: Host, tmp_path: Path) -> None:
    host.version, host.break_after = version, [100_000]
    get(host, tmp_path)
    assert host.asked == [None, None]
    assert (tmp_path / "data.zip").read_bytes() == CONTENT


def test_a_server_without_ranges_sends_all_of_it_again(host: Host, tmp_path: Path) -> None:
    host.ranges, host.break_after = False, [100_000]
    get(host, tmp_path)
    assert host.asked == [None, "bytes=100000-"]
    assert (tmp_path / "data.zip").read_bytes() == CONTENT


def test_another_part_than_was_asked_for_is_not_taken(host: Host, tmp_path: Path) -> None:
    host.wrong_part, host.break_after = True, [100_000]
    with pytest.raises(CmrBenchError, match="another part"):
        get(host, tmp_path)


def test_all_was_there_but_the_name(host: Host, tmp_path: Path) -> None:
    (tmp_path / "data.zip.part").write_bytes(CONTENT)
    (tmp_path / "data.zip.part.version").write_text('{"version": "\\"one\\""}')
    get(host, tmp_path)
    assert (tmp_path / "data.zip").read_bytes() == CONTENT


def test_a_part_that_is_longer_than_the_file_begins_again(host: Host, tmp_path: Path) -> None:
    (tmp_path / "data.zip.part").write_bytes(CONTENT + b"more")
    (tmp_path / "data.zip.part.version").write_text('{"version": "\\"one\\""}')
    get(host, tmp_path)
    assert (tmp_path / "data.zip").read_bytes() == CONTENT


def test_a_wrong_checksum_keeps_nothing(host: Host, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"has sha256 .*, not 0000: try again later"):
        get(host, tmp_path, "sha256:0000")
    assert not list(tmp_path.iterdir())


def test_a_file_that_is_there_is_checked_and_kept(host: Host, tmp_path: Path) -> None:
    (tmp_path / "data.zip").write_bytes(b"by hand")
    assert get(host, tmp_path) == hashlib.sha256(b"by hand").hexdigest()
    with pytest.raises(DataError, match="not 0000"):
        get(host, tmp_path, "sha256:0000")
    assert (tmp_path / "data.zip").read_bytes() == b"by hand"
    assert not host.asked


@pytest.mark.parametrize(("statuses", "error"), [([404], DataError), ([403], DataError), ([503] * 5, CmrBenchError)])
def test_what_the_server_refuses_is_one_line(
    statuses: list[int], error: type[CmrBenchError], host: Host, tmp_path: Path, one_line: Callable[..., Any]
) -> None:
    host.statuses = list(statuses)
    with pytest.raises(error, match=str(statuses[0])) as caught:
        get(host, tmp_path)
    assert len(str(caught.value).splitlines()) == 1
    assert len(host.asked) == len(statuses)


def test_a_server_that_recovers_is_asked_again(host: Host, tmp_path: Path) -> None:
    host.statuses = [503, 429, 500]
    get(host, tmp_path)
    assert (tmp_path / "data.zip").read_bytes() == CONTENT


def test_nobody_there_and_other_schemes(tmp_path: Path) -> None:
    with pytest.raises(CmrBenchError, match="cannot be downloaded"):
        download("http://127.0.0.1:9/data.zip", tmp_path / "data.zip", pause=0.001)
    with pytest.raises(DataError, match="no address of the web"):
        download(f"file://{tmp_path}/secret", tmp_path / "data.zip")


def test_more_than_there_is_room_for(host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.shutil, "disk_usage", lambda place: type("Usage", (), {"free": 1000})())
    with pytest.raises(CmrBenchError, match="300,000 bytes, more than there is room for"):
        get(host, tmp_path)
