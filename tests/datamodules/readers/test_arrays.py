"""Arrays by name from the files of a folder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from cmr_bench.datamodules.readers.arrays import find_arrays, pick
from cmr_bench.support.errors import DataError


def _array(rows: int, columns: int, start: float = 0) -> np.ndarray:
    return np.arange(rows * columns, dtype=np.float32).reshape(rows, columns) + start


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    np.savez_compressed(
        tmp_path / "a.npz",
        img_x=_array(5, 3),
        txt_x_train=_array(3, 2),
        txt_x_test=_array(2, 2, 100),
        names=np.array(["a"] * 5),
        labels=np.arange(5),
        alone_tr=_array(3, 2),
    )
    np.save(tmp_path / "train_vgg.npy", _array(3, 4))
    np.save(tmp_path / "test_vgg.npy", _array(2, 4, 50))
    np.save(tmp_path / "objects.npy", np.array([{}, []], dtype=object), allow_pickle=True)
    savemat(
        tmp_path / "raw.mat", {"I_tr": _array(3, 2), "I_te": _array(2, 2, 9), "T": _array(5, 2), "img_x": _array(5, 1)}
    )
    (tmp_path / "broken.npz").write_text("no archive")
    return tmp_path


def test_everything_numeric_is_listed_once(folder: Path) -> None:
    shapes = {name: stored.shape for name, stored in find_arrays(folder).items()}
    assert shapes == {
        "img_x": (5, 3),
        "txt_x": (5, 2),
        "alone_tr": (3, 2),
        "vgg": (5, 4),
        "I": (5, 2),
        "T": (5, 2),
        "raw.mat:img_x": (5, 1),
    }


def test_halves_are_put_together_in_order(folder: Path) -> None:
    arrays = find_arrays(folder)
    np.testing.assert_array_equal(arrays["txt_x"].load(), np.concatenate([_array(3, 2), _array(2, 2, 100)]))
    np.testing.assert_array_equal(arrays["vgg"].load(), np.concatenate([_array(3, 4), _array(2, 4, 50)]))
    np.testing.assert_array_equal(arrays["I"].load(), np.concatenate([_array(3, 2), _array(2, 2, 9)]))
    np.testing.assert_array_equal(arrays["img_x"].load(), _array(5, 3))


def test_names_and_modalities(folder: Path) -> None:
    arrays = find_arrays(folder)
    assert pick(arrays, "raw.mat:I", folder, "image") is arrays["I"]
    assert pick(arrays, "vgg", folder, "text").source == "vgg"
    assert arrays["T"].source == "raw.mat:T"
    with pytest.raises(
        DataError, match=r"no image features 'img_y' in .*; there are img_x \(5, 3\).*Did you mean 'img_x'"
    ):
        pick(arrays, "img_y", folder, "image")
    with pytest.raises(DataError, match="'txt_x' does not hold image features"):
        pick(arrays, "txt_x", folder, "image")


def test_values_that_are_no_numbers(tmp_path: Path) -> None:
    array = _array(4, 2)
    array[2, 1] = np.nan
    np.save(tmp_path / "x.npy", array)
    with pytest.raises(DataError, match=r"x\.npy: array 'x' holds NaN or infinity in 1 rows, first 2"):
        find_arrays(tmp_path)["x"].require_finite(array)


def test_file_cut_short_after_it_was_listed(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=_array(50, 20))
    stored = find_arrays(tmp_path)["x"]
    (tmp_path / "a.npz").write_bytes((tmp_path / "a.npz").read_bytes()[:-900])
    with pytest.raises(DataError, match=r"a\.npz: array 'x' cannot be read"):
        stored.load()
