"""Image features that another program wrote, by image id."""

from __future__ import annotations

import builtins
import io
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from scipy.io import savemat

from cmr_bench.datamodules.custom import Custom
from cmr_bench.datamodules.doctor.examination import check
from cmr_bench.datamodules.readers.arrays import find_arrays, pick
from cmr_bench.support.errors import DataError

Writer = Callable[..., Path]
NAMES = [f"COCO_val2014_{k:012d}.jpg" for k in (7, 391895, 3, 20, 100, 41, 5, 8, 9, 11)]
PARTS = ["train"] * 6 + ["val"] * 2 + ["test"] * 2


def features(regions: bool) -> npt.NDArray[np.float32]:
    shape = (len(NAMES), 3, 4) if regions else (len(NAMES), 4)
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


@pytest.fixture
def table(tmp_path: Path, write_table: Writer) -> Path:
    rows = [
        {"image": f"val2014/{name}", "caption": f"thing {k} here", "split": part}
        for k, (name, part) in enumerate(zip(NAMES, PARTS, strict=True))
    ]
    write_table(tmp_path / "a.csv", rows)
    return tmp_path


def write(file: Path, how: str, ids: list[str], array: npt.NDArray[np.float32]) -> Path:
    """Write features by id: an array of all beside ``ids``, or an array for each image."""
    order = np.random.default_rng(1).permutation(len(ids))
    ids, array = [ids[row] for row in order.tolist()], array[order]
    is_keyed = how == "keyed"
    if file.suffix == ".h5":
        h5py = pytest.importorskip("h5py")
        with h5py.File(file, "w") as content:
            if how == "nested":
                for name, row in zip(ids, array, strict=True):
                    content[f"{name}/features"] = row
                    content[f"{name}/bbox"] = np.zeros((3, 4))
            elif is_keyed:
                for name, row in zip(ids, array, strict=True):
                    content[name] = row
            else:
                content["features"], content["image_ids"] = array, ids
    elif file.suffix == ".npz":
        np.savez(file, **(dict(zip(ids, array, strict=True)) if is_keyed else {"x": array, "ids": np.array(ids)}))
    elif file.suffix == ".pt":
        tensors: dict[str, Any] = {name: torch.from_numpy(row) for name, row in zip(ids, array, strict=True)}
        torch.save(tensors if is_keyed else {"features": torch.from_numpy(array), "ids": ids}, file)
    else:
        lmdb = pytest.importorskip("lmdb")
        with lmdb.open(str(file), subdir=False, map_size=1 << 24) as environment, environment.begin(write=True) as into:
            for name, row in zip(ids, array, strict=True):
                out = io.BytesIO()
                np.save(out, row)
                into.put(name.encode(), out.getvalue())
    return file


FORMATS = [
    *((".h5", how) for how in ("ids", "keyed", "nested")),
    *((suffix, how) for suffix in (".npz", ".pt") for how in ("ids", "keyed")),
    (".lmdb", "keyed"),
]


@pytest.mark.parametrize(("suffix", "how"), FORMATS)
@pytest.mark.parametrize("regions", [False, True])
@pytest.mark.parametrize("naming", ["name", "stem", "number"])
def test_rows_are_matched_by_id(table: Path, suffix: str, how: str, regions: bool, naming: str) -> None:
    ids = {
        "name": NAMES,
        "stem": [name.removesuffix(".jpg") for name in NAMES],
        "number": [str(int(name[13:25])) for name in NAMES],
    }[naming]
    array = features(regions)
    write(table / f"f{suffix}", how, ids, array)
    for named in ("f" + suffix, str(table / f"f{suffix}")):
        data = Custom(root=str(table), image_features=named, text_features="tfidf", min_count=1)
        data.load("regions" if regions else "vector", "vector")
        for name, split in data.splits.items():
            assert split.images is not None
            values = split.images.fetch(np.arange(split.n_images))[split.images.spec.kind]
            rows = [k for k, part in enumerate(PARTS) if part == name]
            np.testing.assert_array_equal(values.numpy(), array[rows])
            again = pickle.loads(pickle.dumps(split.images)).fetch(np.array([1, 0]))
            np.testing.assert_array_equal(again[split.images.spec.kind].numpy(), array[rows][[1, 0]])
        assert not [f for f in check(data) if f.level == "error" and "features" in f.what]


def test_images_without_a_row_are_named_and_may_be_skipped(table: Path) -> None:
    write(table / "f.npz", "ids", NAMES[:7] + NAMES[8:], features(False)[[*range(7), 8, 9]])
    data = Custom(root=str(table), image_features="f.npz", text_features="tfidf")
    with pytest.raises(
        DataError, match=r"val: 1 of 2 images have no row in features 'f\.npz', e\.g\. val2014/.*08\.jpg"
    ):
        data.load("vector", "vector")
    [finding] = [f for f in check(data) if "without a row" in f.what]
    assert (finding.level, finding.count) == ("error", 1)
    data.skip_missing = True
    data.load("vector", "vector")
    assert data.splits["val"].n_images == 1


def test_one_of_several_arrays(table: Path) -> None:
    array = features(False)
    np.savez(table / "f.npz", ids=np.array(NAMES), one=array, two=2 * array)
    with pytest.raises(DataError, match=r"2 arrays with a row for each of its 10 ids \(one, two\).*f\.npz:KEY"):
        Custom(root=str(table), image_features="f.npz", text_features="tfidf").load("vector", "vector")
    data = Custom(root=str(table), image_features="f.npz:two", text_features="tfidf")
    data.load("vector", "vector")
    np.testing.assert_array_equal(data.splits["train"].images.fetch(np.arange(6))["vector"].numpy(), 2 * array[:6])


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("executed"),)


@pytest.mark.parametrize(
    "name", ["rows.npy", "rows.npz", "twice.npz", "ragged.npz", "evil.pt", "evil.npz", "cut.h5", "cut.pt"]
)
def test_files_that_say_nothing_or_are_damaged(table: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(table)
    np.save("rows.npy", features(False))
    np.savez("rows.npz", x=features(False))
    np.savez("twice.npz", ids=np.array([*NAMES[:9], NAMES[0]]), x=features(False))
    np.savez("ragged.npz", a=np.zeros((2, 4)), b=np.zeros((3, 4)))
    np.savez("evil.npz", ids=np.array([Evil()], dtype=object), x=features(False))
    torch.save({"a": Evil()}, "evil.pt")
    Path("cut.h5").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100))
    Path("cut.pt").write_bytes(b"PK\x03\x04garbage")
    if name == "cut.h5":
        pytest.importorskip("h5py")
    with pytest.raises(DataError, match=name.replace(".", r"\.")) as error:
        Custom(root=str(table), image_features=name, text_features="tfidf").load("vector", "vector")
    assert len(str(error.value).splitlines()) == 1
    assert not Path("executed").exists()


@pytest.mark.parametrize("suffix", [".npz", ".h5", ".mat"])
def test_files_that_grow_out_of_proportion_are_not_read(table: Path, suffix: str) -> None:
    zeros = np.zeros((10, 8 << 20), dtype=np.float32)  # 320 MiB, and a thousandth of it on disk
    file = table / f"f{suffix}"
    if suffix == ".npz":
        np.savez_compressed(file, ids=np.array(NAMES), x=zeros)
    else:
        h5py = pytest.importorskip("h5py")
        with h5py.File(file, "w") as content:
            content["ids"] = NAMES
            content.create_dataset("x", data=zeros, compression="gzip", chunks=(1, 8 << 20))
    with pytest.raises(DataError, match="would grow to more than 100 times its size"):
        Custom(root=str(table), image_features=file.name, text_features="tfidf").load("vector", "vector")


def test_pickled_values_in_lmdb_are_not_read(table: Path) -> None:
    lmdb = pytest.importorskip("lmdb")
    with lmdb.open(str(table / "f.lmdb"), subdir=False) as environment, environment.begin(write=True) as into:
        into.put(NAMES[0].encode(), pickle.dumps(Evil()))
    with pytest.raises(DataError, match=r"the value of COCO.* is no \.npy array"):
        Custom(root=str(table), image_features="f.lmdb", text_features="tfidf").load("vector", "vector")
    assert not Path("executed").exists()


def save_v73(file: Path, **arrays: npt.NDArray[Any]) -> None:
    """Write what MATLAB writes with -v7.3: HDF5 with the last dimension first, behind a header of its own."""
    h5py = pytest.importorskip("h5py")
    with h5py.File(file, "w", userblock_size=512) as content:
        for name, array in arrays.items():
            content[name] = array.T
        content["#refs#/a"] = np.zeros((4, 4))
    with file.open("r+b") as stream:
        stream.write(b"MATLAB 7.3 MAT-file".ljust(124) + b"\0\2IM")


@pytest.mark.parametrize("version", ["5", "7.3"])
def test_matlab_files_of_every_version(tmp_path: Path, version: str) -> None:
    rng = np.random.default_rng(0)
    halves = {name: rng.normal(size=(n, 3)) for name, n in (("I_tr", 5), ("I_te", 2))}
    (savemat if version == "5" else lambda file, arrays: save_v73(file, **arrays))(tmp_path / "raw.mat", halves)
    found = find_arrays(tmp_path)
    assert list(found) == ["I"]
    assert found["I"].source == "raw.mat:I"
    np.testing.assert_array_equal(found["I"].load(), np.concatenate([halves["I_tr"], halves["I_te"]]))


@pytest.mark.parametrize("suffix", [".mat", ".npz", ".npy", ".h5", ".pt"])
@pytest.mark.parametrize("key", ["same", "other"])
def test_halves_in_two_files(tmp_path: Path, suffix: str, key: str) -> None:
    rng = np.random.default_rng(0)
    halves = {name: rng.normal(size=(n, 3)).astype(np.float32) for name, n in (("train_img", 5), ("test_img", 2))}
    for name, array in halves.items():
        inside = name if key == "same" else "data"
        file = tmp_path / f"{name}{suffix}"
        if suffix == ".mat":
            savemat(file, {inside: array})
            savemat(tmp_path / f"{name}_lab.mat", {f"{name}_lab": np.zeros((len(array), 1))})
        elif suffix == ".npz":
            np.savez(file, **{inside: array})
        elif suffix == ".npy":
            np.save(file, array)
        elif suffix == ".pt":
            torch.save({inside: torch.from_numpy(array)}, file)
        else:
            h5py = pytest.importorskip("h5py")
            with h5py.File(file, "w") as content:
                content[inside] = array
    (tmp_path / f"._train_img{suffix}").write_bytes(b"\0\5\x16\7")
    found = find_arrays(tmp_path)
    assert list(found) == ["img"]
    assert found["img"].source == "img"
    np.testing.assert_array_equal(found["img"].load(), np.concatenate(list(halves.values())))


def test_arrays_without_h5py_name_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_v73(tmp_path / "raw.mat", I=np.zeros((4, 3)))
    plain = builtins.__import__

    def refuse(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "h5py":
            raise ImportError(name)
        return plain(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(DataError, match=r"raw\.mat is HDF5, which needs h5py: pip install 'cmr-bench\[hdf5\]'"):
        pick(find_arrays(tmp_path), "I", tmp_path, "image")
