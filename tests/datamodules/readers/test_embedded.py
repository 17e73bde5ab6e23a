"""Photographs inside tables and archives: Parquet of the Hugging Face hub, tar shards, LMDB."""

from __future__ import annotations

import builtins
import io
import json
import os
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cmr_bench.datamodules.custom import Custom
from cmr_bench.datamodules.images.photos import read_photo
from cmr_bench.datamodules.split import Split
from cmr_bench.support.errors import DataError

Writer = Callable[..., Path]


def photo_bytes(k: int) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (8, 6), (25 * k, 0, 255 - 25 * k)).save(out, "PNG")
    return out.getvalue()


def colours(splits: Mapping[str, Split]) -> dict[str, int]:
    """The number that each photograph was made of."""
    return {
        image: round(np.asarray(read_photo(file))[0, 0, 0] / 25)
        for split in splits.values()
        for image, file in zip(split.image_ids, split.image_files or (), strict=True)
    }


@pytest.mark.parametrize("of_list", [True, False])
@pytest.mark.parametrize("struct", [True, False])
def test_parquet_with_photographs(tmp_path: Path, write_table: Writer, of_list: bool, struct: bool) -> None:
    rows: list[dict[str, Any]] = []
    for k in range(10):
        image: Any = {"bytes": photo_bytes(k), "path": f"{k:03d}.png"} if struct else photo_bytes(k)
        captions: list[Any] = [[f"a {k}", f"b {k}"]] if of_list else [f"a {k}", f"b {k}"]
        rows += [{"image": image, "caption": caption} for caption in captions]
    file = write_table(tmp_path / "train-00000-of-00001.parquet", rows)
    for _ in range(2):  # the second time the photographs are not read again
        splits = Custom(root=str(tmp_path)).read()
        found = colours(splits)
        if struct:
            assert found == {f"{k:03d}.png": k for k in range(10)}
            assert all(split.n_texts == 2 * split.n_images for split in splits.values())
        else:  # without a name every row is an image of its own
            assert sorted(found.values()) == sorted([*range(10)] * (1 if of_list else 2))
    unpacked = {f for split in splits.values() for f in split.image_files or ()}
    assert all(tmp_path / "cache" in f.parents for f in unpacked)
    before = {f: f.stat().st_mtime_ns for f in unpacked}
    one, other = rows[0]["image"], rows[-1]["image"]
    if struct:
        one["bytes"], other["bytes"] = other["bytes"], one["bytes"]
    write_table(file, rows)
    os.utime(file, ns=(1, 1))
    again = Custom(root=str(tmp_path)).read()
    assert colours(again) != found or not struct
    assert not unpacked & {f for split in again.values() for f in split.image_files or ()}
    assert before == {f: f.stat().st_mtime_ns for f in unpacked}


def test_parquet_names_do_not_decide_where_a_photograph_goes(tmp_path: Path, write_table: Writer) -> None:
    names = ["../../evil.png", "/root/.cache/000.png", "C:\\x\\001.png", "a/b.png", *(f"{k}.png" for k in range(6))]
    rows = [{"image": {"bytes": photo_bytes(k), "path": name}, "caption": f"{k}"} for k, name in enumerate(names)]
    write_table(tmp_path / "a.parquet", rows)
    data = Custom(root=str(tmp_path), skip_invalid=True)
    splits = data.read()
    assert data.report.count == 1
    assert "leads out" in data.report.rows[0]
    assert {"000.png", "001.png", "a/b.png"} < set(colours(splits))
    assert all((tmp_path / "cache") in f.parents for split in splits.values() for f in split.image_files or ())
    assert not list(tmp_path.parent.rglob("evil.png"))


def test_equal_names_of_different_photographs_are_told_apart(tmp_path: Path, write_table: Writer) -> None:
    for part, first in (("train", 0), ("val", 4), ("test", 7)):
        rows = [
            {"image": {"bytes": photo_bytes(first + k), "path": f"{k}.png"}, "caption": f"{first + k}"}
            for k in range(3)
        ]
        write_table(tmp_path / f"{part}.parquet", rows)
    splits = Custom(root=str(tmp_path)).read()
    assert colours({"train": splits["train"]}) == {"0.png": 0, "1.png": 1, "2.png": 2}
    assert colours({"val": splits["val"]}) == {"val/0.png": 4, "val/1.png": 5, "val/2.png": 6}


def test_an_interrupted_unpacking_is_done_again(tmp_path: Path, write_table: Writer) -> None:
    rows = [{"image": {"bytes": photo_bytes(k), "path": f"{k}.png"}, "caption": ["x", "y"]} for k in range(9)]
    rows.append({"image": {"bytes": photo_bytes(9), "path": "../9.png"}, "caption": ["x", "y"]})
    write_table(tmp_path / "a.parquet", rows)
    reader = Custom(root=str(tmp_path)).read
    with pytest.raises(DataError, match="leads out"):
        reader()
    [done] = (tmp_path / "cache").rglob("complete")
    done.unlink()
    first = next((tmp_path / "cache").rglob("*.img"))
    first.write_bytes(b"half")
    assert len(colours(Custom(root=str(tmp_path), skip_invalid=True).read())) == 9


def write_tar(file: Path, members: Mapping[str, bytes], mode: str = "w") -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(file, mode) as archive:
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return file


def samples(numbers: range, how: str) -> dict[str, bytes]:
    members: dict[str, bytes] = {}
    for k in numbers:
        key = f"./{k // 4:05d}/{k:09d}"
        members[f"{key}.png"] = photo_bytes(k)
        if how == "txt":
            members[f"{key}.txt"] = f"a {k}\nb {k}\n".encode()
            members[f"{key}.cls"] = b"ab"[k % 2 : k % 2 + 1]
        else:
            members[f"{key}.json"] = json.dumps(
                {"caption": [f"a {k}", f"b {k}"], "label": "ab"[k % 2], "width": 8}
            ).encode()
        members[f"{key}.npy"] = b"not looked at"
    return members


@pytest.mark.parametrize("how", ["txt", "json"])
@pytest.mark.parametrize("folders", [True, False])
def test_shards_of_samples(tmp_path: Path, how: str, folders: bool) -> None:
    shares = {"train": range(6), "val": range(6, 8), "test": range(8, 10)}
    for part, numbers in shares.items():
        write_tar(tmp_path / (f"{part}/0.tar" if folders else f"mine-{part}-000000.tar"), samples(numbers, how))
    options = {"file": "*/*.tar"} if folders else {}
    for _ in range(2):
        splits = Custom(root=str(tmp_path), **options).read()
        assert {name: s.n_images for name, s in splits.items()} == {"train": 6, "val": 2, "test": 2}
        assert colours(splits) == {f"{k // 4:05d}/{k:09d}.png": k for k in range(10)}
        assert splits["test"].captions == ["a 8", "b 8", "a 9", "b 9"]
        assert splits["train"].labels is not None
        assert splits["train"].labels.tolist() == [0, 1] * 3


def test_shards_without_a_split_in_their_names_are_shared_out(tmp_path: Path) -> None:
    for shard in range(2):
        write_tar(tmp_path / f"{shard:05d}.tar", samples(range(5 * shard, 5 * shard + 5), "txt"))
    splits = Custom(root=str(tmp_path)).read()
    assert {name: s.n_images for name, s in splits.items()} == {"train": 8, "val": 1, "test": 1}


def test_samples_that_cannot_be_read(tmp_path: Path) -> None:
    members = samples(range(6), "json")
    members["./00000/000000001.json"] = b"{"
    del members["./00000/000000002.png"]
    write_tar(tmp_path / "a.tar", members)
    with pytest.raises(DataError, match=r"000000001\.json: cannot be read: .*sample .*000000002: no image"):
        Custom(root=str(tmp_path)).read()
    data = Custom(root=str(tmp_path), skip_invalid=True)
    assert sum(split.n_images for split in data.read().values()) == 4


def test_damaged_archives_are_one_line(tmp_path: Path) -> None:
    whole = write_tar(tmp_path / "whole.tar", samples(range(6), "txt")).read_bytes()
    (tmp_path / "whole.tar").unlink()
    damaged = {"cut": whole[:900], "empty": b"", "no": b"no tar file" * 100, "gz": b"\x1f\x8b\x08" + bytes(600)}
    for name, content in damaged.items():
        (tmp_path / f"{name}.tar").write_bytes(content)
        with pytest.raises(DataError, match=rf"{name}\.tar") as error:
            Custom(root=str(tmp_path), file=f"{name}.tar").read()
        assert len(str(error.value).splitlines()) == 1


def test_links_and_paths_in_a_shard_touch_nothing(tmp_path: Path) -> None:
    (tmp_path / "secret.png").write_bytes(photo_bytes(1))
    file = tmp_path / "a.tar"
    with tarfile.open(file, "w") as archive:
        for k, target in enumerate(["/etc/passwd", "../secret.png"]):
            link = tarfile.TarInfo(f"{k}.png")
            link.type, link.linkname = (tarfile.SYMTYPE, tarfile.LNKTYPE)[k], target
            archive.addfile(link)
            text = tarfile.TarInfo(f"{k}.txt")
            text.size = 1
            archive.addfile(text, io.BytesIO(b"x"))
        for name, content in samples(range(4), "txt").items():
            entry = tarfile.TarInfo(f"../../{name}")
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    data = Custom(root=str(tmp_path), skip_invalid=True, image_column="image")
    with pytest.raises(DataError):
        data.read()
    assert {f.name for f in tmp_path.iterdir()} <= {"a.tar", "secret.png", "cache"}


def lmdb_of(path: Path, entries: Mapping[str, bytes], folder: bool) -> Path:
    lmdb = pytest.importorskip("lmdb")
    with lmdb.open(str(path), subdir=folder, map_size=1 << 24) as environment, environment.begin(write=True) as into:
        for key, content in entries.items():
            into.put(key.encode(), content)
    return path


@pytest.mark.parametrize("folder", [True, False])
@pytest.mark.parametrize("key", ["p/{}.png", "{}.png", "{}"])
def test_photographs_in_lmdb(tmp_path: Path, write_table: Writer, folder: bool, key: str) -> None:
    lmdb_of(tmp_path / "photos.lmdb", {key.format(k): photo_bytes(k) for k in range(9)}, folder)
    parts = ["train"] * 6 + ["val"] * 2 + ["test"] * 2
    write_table(tmp_path / "a.csv", [{"image": f"p/{k}.png", "caption": f"{k}", "split": parts[k]} for k in range(10)])
    data = Custom(root=str(tmp_path), images="photos.lmdb")
    for _ in range(2):
        splits = data.read()
        assert data.missing_images("pixels", splits["test"]).tolist() == [False, True]
        whole = {name: split.keep_images(~data.missing_images("pixels", split)) for name, split in splits.items()}
        assert colours(whole) == {f"p/{k}.png": k for k in range(9)}


def test_no_lmdb(tmp_path: Path, write_table: Writer, monkeypatch: pytest.MonkeyPatch) -> None:
    write_table(tmp_path / "a.csv", [{"image": f"{k}.png", "caption": f"{k}"} for k in range(10)])
    (tmp_path / "photos.lmdb").write_bytes(b"nothing of the kind")
    pytest.importorskip("lmdb")
    with pytest.raises(DataError, match=r"cannot read .*photos\.lmdb as LMDB"):
        Custom(root=str(tmp_path), images="photos.lmdb").read()
    plain = builtins.__import__

    def refuse(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "lmdb":
            raise ImportError(name)
        return plain(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(DataError, match=r"needs lmdb: pip install 'cmr-bench\[lmdb\]'"):
        Custom(root=str(tmp_path), images="photos.lmdb").read()
