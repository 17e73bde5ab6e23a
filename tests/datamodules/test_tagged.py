"""NUS-WIDE and MIRFLICKR in their layouts on disk: features, tag vectors and labels by row."""

from __future__ import annotations

import importlib.resources
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from scipy.io import savemat

from cmr_bench.datamodules.doctor.examination import check
from cmr_bench.datamodules.mirflickr import MIRFlickr
from cmr_bench.datamodules.nuswide import NUSWide
from cmr_bench.datamodules.tagged import TaggedFeatures, divide
from cmr_bench.datamodules.views import ArrayView, View
from cmr_bench.evaluation.protocol import evaluate
from cmr_bench.evaluation.scores import MatrixScores
from cmr_bench.experiment import recipe
from cmr_bench.experiment.run import run
from cmr_bench.support.errors import CmrBenchError, DataError, UsageError
from tests.support.layouts import made_up, write_tagged

N = 60
SIZES = {"train_pairs": 30, "val_pairs": 10, "test_pairs": 12}
SETS = [("nuswide", NUSWide, 10), ("nuswide", NUSWide, 21), ("mirflickr", MIRFlickr, 24)]


def data_of(root: Path, kind: type[TaggedFeatures] = MIRFlickr, **options: Any) -> TaggedFeatures:
    return kind(root=str(root), **(SIZES | options))


def fetched(view: View | None) -> npt.NDArray[np.float32]:
    assert view is not None
    return view.fetch(np.arange(len(view)))["vector"].numpy()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_tagged(tmp_path / "mirflickr", 24).parent


@pytest.mark.parametrize("suffix", [".npz", ".npy", ".mat", ".h5"])
@pytest.mark.parametrize(("name", "kind", "n_labels"), SETS)
def test_rows_keep_together_in_every_format(
    tmp_path: Path, name: str, kind: type[TaggedFeatures], n_labels: int, suffix: str
) -> None:
    write_tagged(tmp_path / "npz" / name, n_labels)
    with np.load(tmp_path / "npz" / name / "features.npz") as content:
        whole = dict(content)
    data = data_of(write_tagged(tmp_path / name, n_labels, suffix=suffix).parent, kind)
    spec = data.load("vector", "vector")
    assert (spec.image.shape, spec.text.shape, spec.n_classes, spec.multi_label) == ((6,), (5,), n_labels, True)
    seen: list[int] = []
    for part, size in data.expected_counts().items():
        split = data.splits[part]
        rows = [int(k) for k in split.image_ids]
        seen += rows
        assert (split.n_images, split.n_texts) == size
        assert split.text_ids == split.image_ids
        np.testing.assert_array_equal(fetched(split.images), whole["IAll"][rows])
        np.testing.assert_array_equal(fetched(split.texts), whole["YAll"][rows])
        np.testing.assert_array_equal(split.labels, whole["LAll"][rows])
    assert len(seen) == len(set(seen)) == 52


def test_features_of_the_pixels_are_taken_where_iall_holds_pixels(tmp_path: Path) -> None:
    pixels, features = np.zeros((60, 3, 2, 2), dtype=np.uint8), made_up(1, 60, 6)
    data = data_of(write_tagged(tmp_path / "mirflickr", 24, IAll=pixels, XAll=features).parent)
    data.load("vector", "vector")
    split = data.splits["test"]
    np.testing.assert_array_equal(fetched(split.images), features[[int(k) for k in split.image_ids]].astype(np.float32))


def test_default_sizes_are_those_of_the_literature() -> None:
    for kind in (NUSWide, MIRFlickr):
        assert kind().expected_counts() == kind.expected
    assert NUSWide.published == {10: 186_577, 21: 195_834}
    assert MIRFlickr.published == {24: 20_015}


def test_the_draw_is_that_of_its_seed_and_not_of_the_run(root: Path) -> None:
    ids = {name: split.image_ids for name, split in data_of(root, seed=3).read().items()}
    assert ids == {name: split.image_ids for name, split in data_of(root, seed=4).read().items()}
    assert ids["test"] != data_of(root, split_seed=1).read()["test"].image_ids
    fewer = data_of(root, train_pairs=5).read()
    assert fewer["test"].image_ids == ids["test"]
    assert fewer["val"].image_ids == ids["val"]


def test_rows_that_are_given_are_not_drawn() -> None:
    parts = divide(20, {"train": 8, "val": 4, "test": 99}, 0, {"test": np.array([5, 3])})
    assert parts["test"].tolist() == [5, 3]
    assert [len(rows) for rows in parts.values()] == [8, 4, 2]
    assert len(set(np.concatenate(list(parts.values())).tolist())) == 14


@pytest.mark.parametrize("how", ["npz", "mat", "folder"])
def test_files_of_indices(root: Path, how: str) -> None:
    test, train = np.arange(50, 60), np.arange(0, 20)
    folder = root / "mirflickr" / "split"
    folder.mkdir()
    if how == "npz":
        np.savez(folder / "rows.npz", query=test, train=train, retrieval=np.arange(50))
    elif how == "mat":  # MATLAB counts from 1
        savemat(folder / "rows.mat", {"indexTest": test + 1, "indexTrain": train + 1, "indexRetrieval": train})
    else:
        for name, rows in (("idx_test", test), ("idx_train", train), ("idx_ret", np.arange(50))):
            np.save(folder / f"{name}.npy", rows)
    splits = data_of(root, indices="split" if how == "folder" else f"split/rows.{how}").read()
    assert splits["test"].image_ids == [str(k) for k in test]
    assert splits["train"].image_ids == [str(k) for k in train]
    assert {int(k) for k in splits["val"].image_ids} <= set(range(20, 50))
    assert splits["val"].n_images == 10


def test_a_second_half_is_the_test_split(tmp_path: Path) -> None:
    labels = np.eye(24, dtype=np.uint8)[np.arange(60) % 24]
    whole = {"I": made_up(1, 60, 4), "T": made_up(2, 60, 3), "L": labels}
    halves = {f"{name}_{end}": part for name, v in whole.items() for end, part in (("tr", v[:45]), ("te", v[45:]))}
    write_tagged(tmp_path / "mirflickr", 24, IAll=None, YAll=None, LAll=None, **halves)
    data = data_of(tmp_path)
    data.load("vector", "vector")
    assert data.splits["test"].image_ids == [str(k) for k in range(45, 60)]
    assert {int(k) for name in ("train", "val") for k in data.splits[name].image_ids} <= set(range(45))
    np.testing.assert_array_equal(fetched(data.splits["test"].texts), whole["T"][45:])


def test_map_counts_whatever_shares_a_label(root: Path) -> None:
    data = data_of(root)
    data.load("vector", "vector")
    split = data.splits["test"]
    assert split.labels is not None
    scores = made_up(9, 12, 12)
    relevant = (split.labels[:, None] & split.labels[None]).any(axis=2)
    expected = []
    for query in range(12):
        found = relevant[query][np.argsort(-scores[query], kind="stable")]
        expected.append(np.mean((np.cumsum(found) / np.arange(1, 13))[found]))
    assert not np.array_equal(relevant, (split.labels[:, None] == split.labels[None]).all(axis=2))
    result = evaluate(MatrixScores(scores), split.image_of_text, split.labels)
    assert result.metrics["i2t_map"] == pytest.approx(np.mean(expected))


def test_one_of_several_arrays_is_named(root: Path) -> None:
    folder = root / "mirflickr"
    np.save(folder / "images_fc7.npy", made_up(7, N, 8))
    with pytest.raises(DataError, match=r"several arrays of image features .*--data\.image_features"):
        data_of(root).load("vector", "vector")
    assert data_of(root, image_features="images_fc7").load("vector", "vector").image.shape == (8,)
    data = data_of(root)
    data.read()
    assert list(data.image_arrays()) == ["IAll", "images_fc7"]
    view = data.text_arrays()["YAll"]["val"]
    assert isinstance(view, ArrayView)
    assert len(view) == 10


def test_the_data_check_compares_the_counts(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def errors() -> list[str]:
        return [finding.what for finding in check(data_of(root), decode=False) if finding.level == "error"]

    assert errors() == [f"{root / 'mirflickr' / 'features.npz'}: 60 pairs, where mirflickr with 24 labels has 20,015"]
    monkeypatch.setattr(MIRFlickr, "published", {24: N})
    assert errors() == []


def nan(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    values[7, 2] = np.nan
    return values


LABELS = np.eye(24)[np.arange(N) % 24]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"IAll": None}, r"no array of image features .* there are YAll \(60, 5\), LAll \(60, 24\)"),
        ({"IAll": np.zeros((N, 3, 4, 4))}, "no array of image features"),
        ({"YAll": None}, "no array of tag vectors"),
        ({"LAll": None}, "no array of labels"),
        ({"labels": LABELS}, "several arrays of labels .* keep one"),
        ({"IAll": made_up(1, N - 1, 6)}, "'IAll' has 59 rows for the 60 rows of the labels"),
        ({"YAll": made_up(1, N + 1, 6)}, "'YAll' has 61 rows for the 60 rows of the labels"),
        ({"LAll": LABELS[:, :23]}, "'LAll' has 23 labels a pair, mirflickr has 24"),
        ({"LAll": 2 * LABELS - 1}, r"'LAll' holds -1\.0 in row 0, label 1, and 1,379 more values that are not 0 or 1"),
        ({"LAll": nan(LABELS.copy())}, "'LAll' holds nan in row 7, label 2, and 0 more values"),
        ({"IAll": nan(made_up(1, N, 6))}, "'IAll' holds NaN or infinity in 1 rows, first 7"),
        ({"YAll": nan(made_up(1, N, 6))}, "'YAll' holds NaN or infinity in 1 rows, first 7"),
    ],
)
def test_what_is_wrong_with_the_arrays_is_one_line(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    write_tagged(tmp_path / "mirflickr", 24, **change)
    with pytest.raises(DataError, match=message) as caught:
        data_of(tmp_path).load("vector", "vector")
    assert "\n" not in str(caught.value)


def write_rows(root: Path, **rows: Sequence[float]) -> None:
    np.savez(root / "mirflickr" / "rows.npz", **{name: np.array(values) for name, values in rows.items()})


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda root: None, r"rows\.npz: no such file or folder"),
        (lambda root: write_rows(root, database=[1]), "no arrays of row numbers called train, val, test or query"),
        (lambda root: write_rows(root, test=[1, 60]), r"array 'test' holds 60, expected whole numbers in 0\.\.59"),
        (lambda root: write_rows(root, test=[1, 2.5]), r"array 'test' holds 2\.5"),
        (lambda root: write_rows(root, test=[]), "array 'test' is empty"),
        (lambda root: write_rows(root, test=[1, 2], train=[2, 3]), "1 rows are listed twice, first 2"),
        (lambda root: write_rows(root, test=[1], query=[2]), "several arrays of test rows, the second is 'query'"),
        (lambda root: (root / "mirflickr" / "rows.npz").write_text("x"), r"rows\.npz cannot be read"),
    ],
)
def test_what_is_wrong_with_the_indices(root: Path, write: Callable[[Path], Any], message: str) -> None:
    write(root)
    with pytest.raises(DataError, match=message):
        data_of(root, indices="rows.npz").read()


@pytest.mark.parametrize(
    ("options", "views", "message"),
    [
        (
            {"train_pairs": 39},
            ("vector", "vector"),
            "cannot draw 12 test, 10 val, 39 train pairs from 60; pass fewer by",
        ),
        ({"val_pairs": 0}, ("vector", "vector"), "are at least 1"),
        ({"split_seed": -1}, ("vector", "vector"), "split_seed -1 is negative"),
        ({"text_features": "YALL"}, ("vector", "vector"), "Did you mean 'YAll'"),
        ({"text_features": "IAll"}, ("vector", "vector"), "no text features 'IAll'"),
        ({}, ("vector", "tokens"), "mirflickr has tag vectors only"),
        ({}, ("pixels", "vector"), "no images"),
        ({}, ("regions", "vector"), "reads images as 'regions' but 'IAll' is 'vector'"),
    ],
)
def test_what_is_not_there(root: Path, options: dict[str, Any], views: tuple[Any, Any], message: str) -> None:
    with pytest.raises(CmrBenchError, match=message):
        data_of(root, **options).load(*views)


def test_a_root_without_files(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nuswide not found: looked for \*\.npz .* expected layout: image features"):
        NUSWide(root=str(tmp_path)).read()


@pytest.mark.parametrize("name", ["nuswide", "mirflickr"])
def test_recipes_are_those_of_methods_that_read_vectors(name: str) -> None:
    files = importlib.resources.files("cmr_bench.experiments").joinpath(name).iterdir()
    methods = {"cca", "gma", "dcca", "acmr", "dscmr", "drsl", "adv_subspace", "jrl", "s2mc"}
    assert {file.name for file in files} == {f"{method}.yaml" for method in methods}


def test_too_few_rows_name_the_option() -> None:
    with pytest.raises(DataError, match=r"cannot draw 2 val, 9 train pairs from 10; pass fewer by --data\.val_pairs"):
        divide(12, {"train": 9, "val": 2, "test": 2}, 0, {"test": np.array([0, 1])})
    with pytest.raises(UsageError, match="at least 1"):
        MIRFlickr(test_pairs=0)


@pytest.mark.parametrize("method", ["cca", "gma", "jrl", "dcca", "acmr", "dscmr", "drsl", "adv_subspace", "s2mc"])
def test_recipes_run_on_several_labels_a_pair(tmp_path: Path, method: str) -> None:
    write_tagged(tmp_path / "nuswide", 10, n=400)
    sizes = {"train_pairs": 300, "val_pairs": 40, "test_pairs": 60, "split_seed": 5}
    options = {f"data.{name}": size for name, size in sizes.items()} | {"data.root": tmp_path, "data.batch_size": 100}
    options |= {"trainer.max_epochs": 3, "trainer.accelerator": "cpu"}
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    result = run(recipe.resolve(method, "nuswide", words), tmp_path / "run")
    # By chance mAP is the share of pairs with a common label, about 0.2 here.
    assert result.metrics["i2t_map"] > 0.25
    assert result.options["data.split_seed"] == 5
