"""Files of features and samples that would grow, or read other files: one line, and the other file stays closed."""

from __future__ import annotations

import io
import json
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch

from cmr_bench.datamodules.readers.arrays import find_arrays
from cmr_bench.datamodules.readers.featurefiles import FeatureFile
from cmr_bench.datamodules.readers.report import Report
from cmr_bench.datamodules.readers.shards import shard_rows
from cmr_bench.datamodules.readers.tables import read_rows
from cmr_bench.support.errors import DataError

h5py = pytest.importorskip("h5py")
IDS = ["a.jpg", "b.jpg"]
GROWN = 300 * 2**20 // 8  # values of 64 bits


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    file = tmp_path / "secret.bin"
    file.write_bytes(np.arange(64.0).tobytes())
    return file


def test_sound_features_are_read(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "f.h5", "w") as content:
        content["features"] = np.arange(16.0).reshape(2, 8)
        content["ids"] = IDS
        content.create_dataset("zeros", data=np.zeros((2, 1000)), compression="gzip")
    found = FeatureFile("f.h5:features", tmp_path / "f.h5")
    assert found.rows(IDS).tolist() == [0, 1]
    assert found.array[np.array([1])].tolist() == [list(np.arange(8.0, 16.0))]


def test_hdf5_reads_no_other_file(tmp_path: Path, secret: Path) -> None:
    outside = h5py.ExternalLink(str(tmp_path / "other.h5"), "/ids")
    with h5py.File(tmp_path / "other.h5", "w") as content:
        content["ids"] = IDS
        content["features"] = np.ones((2, 8))
    file = tmp_path / "f.h5"
    with h5py.File(file, "w") as content:
        content["ids"] = IDS
        content.create_dataset("features", (2, 8), "f8", external=[(str(secret), 0, 128)])
    with pytest.raises(DataError, match="'/features' lies in other files, which are not opened"):
        FeatureFile("f.h5", file)
    with h5py.File(file, "w") as content:
        layout = h5py.VirtualLayout((2, 8), "f8")
        layout[:] = h5py.VirtualSource(str(tmp_path / "other.h5"), "features", (2, 8))
        content.create_virtual_dataset("features", layout)
        content["ids"] = IDS
    with pytest.raises(DataError, match="lies in other files"):
        FeatureFile("f.h5", file)
    with h5py.File(file, "w") as content:
        content["features"] = np.ones((2, 8))
        content["ids"] = outside
    with pytest.raises(DataError, match="does not say which row is which image"):
        FeatureFile("f.h5", file)
    with h5py.File(tmp_path / "image.mat", "w") as content:
        content.create_dataset("image", (2, 8), "f8", external=[(str(secret), 0, 128)])
    with pytest.raises(DataError, match="lies in other files"):
        find_arrays(tmp_path)["image"].load()


@pytest.mark.parametrize("kind", ["fill value", "compressed"])
def test_hdf5_that_grows_is_refused(kind: str, tmp_path: Path) -> None:
    with h5py.File(tmp_path / "f.h5", "w") as content:
        content["ids"] = IDS
        if kind == "fill value":
            content.create_dataset("features", (2, GROWN), "f8", chunks=(1, 4096))
        else:
            content.create_dataset("features", data=np.zeros((2, GROWN), "f4"), compression="gzip")
    with pytest.raises(DataError, match="when it is decompressed"):
        FeatureFile("f.h5", tmp_path / "f.h5")


def test_npz_and_pt_that_grow_are_refused(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "f.npz", ids=np.array(IDS), features=np.zeros((2, GROWN)))
    with pytest.raises(DataError, match="when it is decompressed"):
        FeatureFile("f.npz", tmp_path / "f.npz")
    sound = tmp_path / "f.pt"
    torch.save({"ids": IDS, "features": torch.ones(2, 8)}, sound)
    assert FeatureFile("f.pt", sound).rows(IDS).tolist() == [0, 1]


def test_pipes_are_refused_without_waiting(tmp_path: Path) -> None:
    for name in ("f.h5", "f.npz", "f.pt", "t.parquet", "s.tar", "t.csv", "t.jsonl"):
        os.mkfifo(tmp_path / name)
    for name in ("f.h5", "f.npz", "f.pt"):
        with pytest.raises(DataError, match="is a pipe"):
            FeatureFile(name, tmp_path / name)
    for name in ("t.parquet", "t.csv", "t.jsonl", "s.tar"):
        with pytest.raises(DataError, match="is a pipe"):
            list(read_rows(tmp_path / name))
    assert find_arrays(tmp_path) == {}


def test_parquet_that_grows_is_refused(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    table = pyarrow.table({"image": ["a.jpg"] * 3, "caption": ["x" * (110 * 2**20)] * 3})
    parquet.write_table(table, tmp_path / "t.parquet", compression="zstd", use_dictionary=False)
    assert (tmp_path / "t.parquet").stat().st_size < 2**20
    with pytest.raises(DataError, match="when it is decompressed"):
        list(read_rows(tmp_path / "t.parquet"))


def test_deep_json_in_a_shard_is_one_invalid_sample(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "s.tar", "w") as archive:
        for name, text in (("a.json", "[" * 100 + "]" * 100), ("b.json", json.dumps({"caption": "b"}))):
            entry = tarfile.TarInfo(name)
            entry.size = len(text)
            archive.addfile(entry, io.BytesIO(text.encode()))
    report = Report(True)
    rows = [row for _, row in shard_rows(tmp_path / "s.tar", report)]
    assert [row for row in rows if row] == [{"caption": "b"}]
    assert report.count == 1
