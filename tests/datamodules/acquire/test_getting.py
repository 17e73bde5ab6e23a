"""Data sets from a server on this machine: what is unpacked, what is remembered, what is refused."""

from __future__ import annotations

import hashlib
import io
import json
import stat
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from cmr_bench import cli
from cmr_bench.datamodules.acquire import sources
from cmr_bench.datamodules.acquire.getting import RECORD, get
from cmr_bench.datamodules.acquire.sources import SOURCES, Archive, Source
from cmr_bench.datamodules.flickr8k import Flickr8k
from cmr_bench.registry import DATASETS
from cmr_bench.support.errors import DataError
from tests.support.host import Host


def zipped(files: dict[str, bytes | str], link: str = "") -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
        if link:
            entry = zipfile.ZipInfo(link)
            entry.external_attr = (stat.S_IFLNK | 0o777) << 16
            archive.writestr(entry, "/etc/passwd")
    return content.getvalue()


KARPATHY = json.dumps(
    {"images": [{"filename": f"{part}.jpg", "split": part, "sentences": [{"raw": f"a {part}"}]}
                for part in ("train", "val", "test")]}
)  # fmt: skip


def archive(host: Host, **changes: object) -> Archive:
    return Archive("annotations", host.url, "free", **changes)  # type: ignore[arg-type]


def test_what_is_wanted_is_unpacked_and_remembered(host: Host, tmp_path: Path) -> None:
    host.content = zipped(
        {"set/a.txt": "A", "set/deep/b.txt": "B", "other.txt": "C", "__MACOSX/set/._a.txt": "D", "set/": ""}
    )
    count, sha256 = get(archive(host, members={"set/": ""}), tmp_path)
    assert count == 2
    assert sha256 == hashlib.sha256(host.content).hexdigest()
    files = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert files == {"a.txt", "deep/b.txt", RECORD}
    (entry,) = json.loads((tmp_path / RECORD).read_text()).values()
    assert (entry["sha256"], entry["bytes"], entry["unpacked"]) == (sha256, len(host.content), 2)
    assert get(archive(host, members={"set/": ""}), tmp_path) == (0, sha256)
    assert len(host.asked) == 1


def test_an_unpacking_that_was_cut_off_goes_on_without_another_download(
    host: Host,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    host.content = zipped({"a.txt": "A", "b.txt": "B"})

    def interrupted(*args: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("shutil.copyfileobj", interrupted)
        with pytest.raises(KeyboardInterrupt):
            get(archive(host), tmp_path)
    assert get(archive(host), tmp_path)[0] == 2
    assert len(host.asked) == 1
    assert (tmp_path / "b.txt").read_text() == "B"


def test_the_first_checksum_is_that_of_all_later_downloads(host: Host, tmp_path: Path) -> None:
    host.content = zipped({"a.txt": "A"})
    get(archive(host), tmp_path)
    record = json.loads((tmp_path / RECORD).read_text())
    for entry in record.values():
        del entry["unpacked"]
    (tmp_path / RECORD).write_text(json.dumps(record))
    host.content, host.version = zipped({"a.txt": "changed"}), '"two"'
    with pytest.raises(DataError, match="has sha256"):
        get(archive(host), tmp_path)
    assert (tmp_path / "a.txt").read_text() == "A"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (zipped({"../evil.txt": "x"}), "leads out of"),
        (zipped({"/evil.txt": "x"}), "leads out of"),
        (zipped({"a.txt": "x"}, link="passwd"), "is a symbolic link"),
        (zipped({"zeros": bytes(300 * 2**20)}), "when it is decompressed"),
        (b"no archive", "cannot be unpacked"),
        (zipped({"a.txt": "x"})[:-10], "cannot be unpacked"),
    ],
    ids=["above", "absolute", "link", "bomb", "page", "cut"],
)
def test_archives_that_do_harm_or_are_none(
    content: bytes,
    message: str,
    host: Host,
    tmp_path: Path,
) -> None:
    host.content = content
    folder = tmp_path / "set"
    with pytest.raises(DataError, match=message):
        get(archive(host), folder)
    assert {path.name for path in tmp_path.iterdir()} == {"set"}
    assert not {path.name for path in folder.iterdir()} - {"data.zip", RECORD, "a.txt"}


def test_an_archive_without_what_is_wanted(host: Host, tmp_path: Path) -> None:
    host.content = zipped({"a.txt": "A"})
    with pytest.raises(DataError, match=r"holds none of dataset\.json"):
        get(archive(host, members={"dataset.json": "dataset.json"}), tmp_path)


def test_the_command_gets_what_can_be_had_and_says_whom_to_ask(
    host: Host,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    host.content, host.break_after = zipped({"dataset_flickr8k.json": KARPATHY, "dataset_coco.json": "{}"}), [100]
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    wanted = archive(host, members={"dataset_flickr8k.json": "dataset_flickr8k.json"})
    monkeypatch.setitem(sources.SOURCES, "flickr8k", Source((wanted,), SOURCES["flickr8k"].ask))
    assert cli.main(["data", "get", "flickr8k", "--root", str(tmp_path)]) == 0
    told = capsys.readouterr().out
    assert "terms: free" in told
    assert "the host publishes none" in told
    assert "forms.illinois.edu" in told
    assert {name: split.n_texts for name, split in Flickr8k(root=str(tmp_path)).read().items()} == {
        "train": 1, "val": 1, "test": 1
    }  # fmt: skip
    assert cli.main(["data", "get", "flickr8k", "--root", str(tmp_path)]) == 0
    assert "there already" in capsys.readouterr().out
    assert cli.main(["data", "get", "flickr8k", "--root", str(tmp_path), "--only", "photos"]) == 1
    assert "flickr8k cannot be downloaded: the photographs are sent" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["pascal", "--root", "x"], 1, "pascal cannot be downloaded: UIUC Pascal Sentence is on the page"),
        (["flikr8k", "--root", "x"], 2, "Did you mean 'flickr8k'?"),
        (["flickr8k"], 2, "pass --root DIR or set CMR_BENCH_DATA"),
    ],
)
def test_what_cannot_be_got(
    words: list[str], code: int, message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("CMR_BENCH_DATA", raising=False)
    assert cli.main(["data", "get", *words]) == code
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


@pytest.mark.parametrize("name", SOURCES)
def test_sources_are_those_of_data_sets_with_terms(name: str, one_line: Callable[..., object]) -> None:
    source = SOURCES[name]
    assert name in DATASETS
    assert source.archives or source.ask
    for one in source.archives:
        assert one.terms
        assert one.part in ("annotations", "photos")
        kind, _, digest = one.checksum.partition(":")
        assert not one.checksum or len(digest) == 2 * hashlib.new(kind).digest_size
