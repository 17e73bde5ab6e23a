"""Wikipedia in its layout on disk: lists, feature archives, articles, photographs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cmr_bench.datamodules.views import ArrayView
from cmr_bench.datamodules.wikipedia import Wikipedia
from cmr_bench.support.errors import CmrBenchError, DataError, UsageError
from tests.support.layouts import made_up, write_wikipedia, write_wikipedia_archive, write_wikipedia_articles

N_TRAIN, N_TEST = 20, 12
N = N_TRAIN + N_TEST
LABELS = np.arange(N) % 2


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_wikipedia(tmp_path / "data" / "wikipedia").parent


@pytest.fixture
def with_articles(root: Path) -> Path:
    write_wikipedia_articles(root / "wikipedia")
    return root


def _vectors(data: Wikipedia, split: str) -> tuple[torch.Tensor, torch.Tensor]:
    part = data.splits[split]
    assert part.images is not None
    assert part.texts is not None
    return (
        part.images.fetch(np.arange(part.n_images))["vector"],
        part.texts.fetch(np.arange(part.n_texts))["vector"],
    )


def test_default_split_and_features(root: Path) -> None:
    data = Wikipedia(root=str(root))
    spec = data.load("vector", "vector")
    assert {name: split.n_images for name, split in data.splits.items()} == {"train": 20, "val": 4, "test": 8}
    assert (spec.image.source, spec.text.source, spec.n_classes) == ("img_cnnpca128", "txt_tfidf1000", 2)
    for split, rows in (("train", range(20)), ("val", range(20, 24)), ("test", range(24, 32))):
        images, texts = _vectors(data, split)
        np.testing.assert_array_equal(images.numpy(), made_up(1, N, 6)[list(rows)])
        np.testing.assert_allclose(texts.numpy(), np.abs(made_up(2, N, 5))[list(rows)], rtol=1e-3)
        assert data.splits[split].image_ids == [f"i{k}" for k in rows]
        labels = data.splits[split].labels
        assert labels is not None
        assert labels.tolist() == LABELS[list(rows)].tolist()
    assert data.splits["train"].class_names == ["art", "biology"]


@pytest.mark.parametrize("name", ["I", "raw_features.mat:I"])
def test_halves_of_the_authors_features(root: Path, name: str) -> None:
    data = Wikipedia(root=str(root / "wikipedia"), image_features=name, text_features="T")
    assert data.load("vector", "vector").image.source == "raw_features.mat:I"
    images, texts = _vectors(data, "test")
    np.testing.assert_allclose(images.numpy(), made_up(5, N_TEST, 3)[4:], rtol=1e-6)
    np.testing.assert_allclose(texts.numpy(), made_up(7, N_TEST, 2)[4:], rtol=1e-6)


def test_authors_features_are_read_where_nothing_else_is_there(root: Path) -> None:
    (root / "wikipedia" / "wikipedia_features.npz").unlink()
    spec = Wikipedia(root=str(root)).load("vector", "vector")
    assert (spec.image.source, spec.text.source) == ("raw_features.mat:I", "raw_features.mat:T")


def test_archive_of_halves(root: Path) -> None:
    whole = made_up(8, N, 3)
    np.savez(root / "wikipedia" / "more.npz", img_deep_train=whole[:N_TRAIN], img_deep_test=whole[N_TRAIN:])
    data = Wikipedia(root=str(root), image_features="img_deep")
    data.load("vector", "vector")
    np.testing.assert_array_equal(_vectors(data, "val")[0].numpy(), whole[20:24])


def test_full_test_list_is_never_selected_on(root: Path) -> None:
    data = Wikipedia(root=str(root), full_test=True)
    data.load("vector", "vector")
    assert {name: split.n_images for name, split in data.splits.items()} == {"train": 16, "val": 4, "test": 12}
    ids = {name: set(split.image_ids) for name, split in data.splits.items()}
    assert ids["test"] == {f"i{k}" for k in range(20, 32)}
    assert ids["train"] | ids["val"] == {f"i{k}" for k in range(20)}
    assert not ids["train"] & ids["val"]
    assert np.bincount(data.splits["val"].labels).tolist() == [2, 2]
    rows = [int(name[1:]) for name in data.splits["val"].image_ids]
    np.testing.assert_array_equal(_vectors(data, "val")[0].numpy(), made_up(1, N, 6)[rows])
    assert Wikipedia(root=str(root), full_test=True, seed=5).read()["val"].image_ids == data.splits["val"].image_ids


@pytest.mark.parametrize("full_test", [False, True])
def test_a_split_seed_draws_parts_of_the_same_sizes(root: Path, full_test: bool) -> None:
    listed = Wikipedia(root=str(root), full_test=full_test).read()
    vectors = {
        image: vector
        for split, part in (
            (split, Wikipedia(root=str(root), full_test=full_test)) for split in ("train", "val", "test")
        )
        for image, vector in zip(listed[split].image_ids, _loaded(part, split), strict=True)
    }
    tests = set()
    for seed in range(4):
        data = Wikipedia(root=str(root), full_test=full_test, split_seed=seed)
        drawn = data.read()
        assert {name: split.n_images for name, split in drawn.items()} == {n: s.n_images for n, s in listed.items()}
        assert sorted(image for split in drawn.values() for image in split.image_ids) == sorted(vectors)
        assert not set(drawn["test"].image_ids) & set(listed["val"].image_ids)
        for image, vector in zip(drawn["test"].image_ids, _loaded(data, "test"), strict=True):
            assert torch.equal(vector, vectors[image])
        tests.add(tuple(drawn["test"].image_ids))
    assert len(tests) > 1


def _loaded(data: Wikipedia, split: str) -> torch.Tensor:
    data.load("vector", "vector")
    return _vectors(data, split)[0]


def test_arrays_for_the_data_check(root: Path) -> None:
    np.savez(root / "wikipedia" / "own.npz", deep=made_up(8, N, 3))
    data = Wikipedia(root=str(root))
    data.read()
    images, texts = data.image_arrays(), data.text_arrays()
    assert list(images) == ["deep", "img_cnnpca128", "I"]
    assert list(texts) == ["deep", "txt_tfidf1000", "txt_lda10", "T"]
    view = texts["txt_lda10"]["val"]
    assert isinstance(view, ArrayView)
    np.testing.assert_array_equal(view.fetch(np.arange(4))["vector"].numpy(), made_up(3, N, 4)[20:24])


def test_arrays_with_nan_are_left_to_the_data_check(root: Path) -> None:
    _nan(root)
    data = Wikipedia(root=str(root))
    data.read()
    assert np.isinf(data.image_arrays()["img_cnnpca128"]["val"].array[21]).all()


def test_articles_and_photographs(with_articles: Path) -> None:
    data = Wikipedia(root=str(with_articles), min_count=1, image_size=16)
    spec = data.load("pixels", "tokens")
    assert spec.image.shape == (3, 16, 16)
    captions = data.splits["val"].captions
    assert captions is not None
    assert captions[0] == "Article number20 on Tom & Jerry, a bold story & more"
    data = Wikipedia(root=str(with_articles), text_features="tfidf", text_dim=7)
    assert data.load("vector", "vector").text.shape == (7,)


def test_tfidf_is_the_default_where_only_articles_are_there(with_articles: Path) -> None:
    (with_articles / "wikipedia" / "wikipedia_features.npz").unlink()
    (with_articles / "wikipedia" / "raw_features.mat").unlink()
    assert Wikipedia(root=str(with_articles)).load("pixels", "vector").text.source == "tfidf"
    with pytest.raises(UsageError, match="data features wikipedia"):
        Wikipedia(root=str(with_articles)).load("vector", "vector")


def _cut_list(root: Path) -> None:
    file = root / "wikipedia" / "testset_txt_img_cat.list"
    file.write_text("".join(file.read_text().splitlines(keepends=True)[:-1]))


def _bad_line(root: Path) -> None:
    with (root / "wikipedia" / "testset_txt_img_cat.list").open("a") as file:
        file.write("t-99 i99 3\n")


def _twice(root: Path) -> None:
    with (root / "wikipedia" / "testset_txt_img_cat.list").open("a") as file:
        file.write("t-99 i3 2\n")


def _nan(root: Path) -> None:
    values = made_up(1, N, 6)
    values[21] = np.inf
    write_wikipedia_archive(root / "wikipedia", img_cnnpca128=values)


def _other_order(root: Path) -> None:
    write_wikipedia_archive(root / "wikipedia", text_id=np.array([f"t-{k}" for k in range(N)])[::-1])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_cut_list, "test_rows|has 32 rows for the 31 items"),
        (
            _bad_line,
            r"testset_txt_img_cat\.list:13: expected text id, image id and category in 1\.\.2, found 't-99 i99 3'",
        ),
        (_twice, "image i3 is listed 2 times"),
        (_nan, r"array 'img_cnnpca128' holds NaN or infinity in 1 rows, first 21"),
        (_other_order, "its 'text_id' differs from"),
        (
            lambda root: write_wikipedia_archive(root / "wikipedia", val_rows=np.arange(20, 25)),
            "its 'val_rows' differs from",
        ),
        (
            lambda root: write_wikipedia_archive(root / "wikipedia", img_cnnpca128=made_up(1, 30, 6)),
            "'img_cnnpca128' has 30 rows for the 32 items",
        ),
        (lambda root: (root / "wikipedia" / "wikipedia_features.npz").write_text("x"), r"\.npz cannot be read"),
        (lambda root: (root / "wikipedia" / "categories.list").unlink(), r"categories\.list is missing"),
        (lambda root: (root / "wikipedia" / "testset_txt_img_cat.list").write_text(""), "is empty"),
    ],
)
def test_damaged_files_are_one_line(root: Path, damage: Callable[[Path], Any], message: str) -> None:
    damage(root)
    with pytest.raises(DataError, match=message) as caught:
        Wikipedia(root=str(root)).load("vector", "vector")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "views", "message"),
    [
        ({"image_features": "img_cnn"}, ("vector", "vector"), r"no features 'img_cnn'.*img_cnnpca128 \(32, 6\)"),
        ({"text_features": "txt_lda11"}, ("vector", "vector"), "Did you mean 'txt_lda10'"),
        ({"text_features": "doc2vec"}, ("vector", "vector"), "computed from the articles"),
        ({}, ("vector", "tokens"), "reads texts as 'tokens' and there are no articles"),
        ({}, ("regions", "vector"), "reads images as 'regions' but 'img_cnnpca128' is 'vector'"),
        ({}, ("pixels", "vector"), "no images"),
        ({"image_features": "txt_lda10"}, ("vector", "vector"), "does not hold image features"),
    ],
)
def test_what_is_not_there(root: Path, options: dict[str, Any], views: tuple[Any, Any], message: str) -> None:
    with pytest.raises(CmrBenchError, match=message):
        Wikipedia(root=str(root), **options).load(*views)


def test_missing_article_and_photograph(with_articles: Path) -> None:
    photo = with_articles / "wikipedia" / "images" / "biology" / "i3.jpg"
    photo.unlink()
    with pytest.raises(DataError, match="1 of 20 images have no photo"):
        Wikipedia(root=str(with_articles)).load("pixels", "vector")
    data = Wikipedia(root=str(with_articles), skip_missing=True)
    data.load("pixels", "vector")
    part = data.splits["train"]
    assert part.texts is not None
    rows = [k for k in range(20) if k != 3]
    np.testing.assert_allclose(
        part.texts.fetch(np.arange(19))["vector"].numpy(), np.abs(made_up(2, N, 5))[rows], rtol=1e-3
    )
    (with_articles / "wikipedia" / "texts" / "t-7.xml").unlink()
    with pytest.raises(DataError, match=r"1 of 32 articles are missing, e\.g\. t-7\.xml"):
        Wikipedia(root=str(with_articles)).read()


@pytest.mark.real_data
def test_real_counts_and_alignment(data_root: Path) -> None:
    for full_test in (False, True):
        data = Wikipedia(root=str(data_root), full_test=full_test)
        spec = data.load("vector", "vector")
        counts = {name: (split.n_images, split.n_texts) for name, split in data.splits.items()}
        assert counts == data.expected_counts()
        assert (spec.image.shape, spec.text.shape, spec.n_classes) == ((128,), (1000,), 10)
    # The authors' file and the archive hold the same SIFT histograms, read by two different ways.
    arrays = data.image_arrays()
    rows = np.arange(693)
    np.testing.assert_allclose(
        arrays["I"]["test"].fetch(rows)["vector"].numpy(),
        arrays["img_sift128"]["test"].fetch(rows)["vector"].numpy(),
        atol=1e-6,
    )
