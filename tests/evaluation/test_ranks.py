from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from cmr_bench.evaluation import ranks as ranks_module
from cmr_bench.evaluation.ranks import EmbeddingScores, FunctionScores, MatrixScores, retrieval_ranks
from cmr_bench.evaluation.scores import materialise, reorder_texts
from cmr_bench.support.errors import DataError, UsageError


def slow_ranks(similarity: NDArray[np.float64], image_of_text: NDArray[np.int64]) -> tuple[list[float], list[float]]:
    """Ranks from their definition, one comparison at a time."""
    n_images, n_texts = similarity.shape
    i2t, t2i = [], []
    for image in range(n_images):
        best = max(similarity[image, text] for text in range(n_texts) if image_of_text[text] == image)
        rank = 1.0
        for text in range(n_texts):
            if image_of_text[text] != image:
                rank += 1.0 * (similarity[image, text] > best) + 0.5 * (similarity[image, text] == best)
        i2t.append(rank)
    for text in range(n_texts):
        match = similarity[image_of_text[text], text]
        rank = 1.0
        for image in range(n_images):
            if image != image_of_text[text]:
                rank += 1.0 * (similarity[image, text] > match) + 0.5 * (similarity[image, text] == match)
        t2i.append(rank)
    return i2t, t2i


@st.composite
def problems(draw: st.DrawFn) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Small whole-number embeddings, so that scores are exact and ties common, with one to four texts an image."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n_images = draw(st.integers(1, 30))
    image_of_text = np.repeat(np.arange(n_images), rng.integers(1, 5, n_images))
    if draw(st.booleans()):
        rng.shuffle(image_of_text)
    spread = draw(st.integers(0, 4))
    images = rng.integers(-spread, spread + 1, (n_images, 3))
    return images, rng.integers(-spread, spread + 1, (len(image_of_text), 3)), image_of_text


@settings(max_examples=40, deadline=None)
@given(problems(), st.integers(1, 40), st.integers(1, 70))
def test_ranks_follow_the_definition_for_any_tile(
    problem: tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]], image_block: int, text_block: int
) -> None:
    images, texts, image_of_text = problem
    found = retrieval_ranks(
        EmbeddingScores(images, texts, normalize=False),
        image_of_text,
        image_block=image_block,
        text_block=text_block,
    )
    i2t, t2i = slow_ranks((images @ texts.T).astype(float), image_of_text)
    np.testing.assert_array_equal(found.i2t, i2t)
    np.testing.assert_array_equal(found.t2i, t2i)


@settings(max_examples=30, deadline=None)
@given(problems(), st.integers(0, 2**32 - 1))
def test_ranks_move_with_their_items(
    problem: tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]], seed: int
) -> None:
    images, texts, image_of_text = problem
    rng = np.random.default_rng(seed)
    new_images, new_texts = rng.permutation(len(images)), rng.permutation(len(texts))
    place = np.argsort(new_images)
    before = retrieval_ranks(MatrixScores(images @ texts.T), image_of_text)
    after = retrieval_ranks(
        MatrixScores((images @ texts.T)[new_images][:, new_texts]), place[image_of_text[new_texts]], image_block=7
    )
    np.testing.assert_array_equal(after.i2t, before.i2t[new_images])
    np.testing.assert_array_equal(after.t2i, before.t2i[new_texts])
    assert after.tie_rate == before.tie_rate


def test_many_rows_and_columns_do_not_overflow_a_byte() -> None:
    # Every other item beats the match, so that each count is as large as it can be.
    n_images, n_texts = 700, 2800
    image_of_text = np.arange(n_texts) // 4
    similarity = np.where(image_of_text == np.arange(n_images)[:, None], -1.0, 1.0)
    for block in ({}, {"image_block": 700, "text_block": 2800}):
        found = retrieval_ranks(MatrixScores(similarity), image_of_text, **block)
        assert (found.i2t == n_texts - 3).all()
        assert (found.t2i == n_images).all()
        assert found.tie_rate == 0.0


def test_a_constant_scorer_lands_in_the_middle() -> None:
    found = retrieval_ranks(MatrixScores(np.zeros((100, 500))), np.arange(500) // 5)
    assert (found.i2t == 1 + 495 / 2).all()
    assert (found.t2i == 1 + 99 / 2).all()
    assert found.tie_rate == 1.0


def test_exact_duplicates_tie_wherever_they_stand() -> None:
    rng = np.random.default_rng(0)
    images = rng.standard_normal((64, 48)).astype(np.float32)
    images[40] = images[3]
    texts = np.repeat(images, 2, axis=0) + rng.standard_normal((128, 48)).astype(np.float32) / 8
    texts[80:82] = texts[6:8]
    found = retrieval_ranks(EmbeddingScores(images, texts), np.arange(128) // 2, image_block=16, text_block=32)
    assert found.i2t[[3, 40]].tolist() == [1.5, 1.5]
    assert found.t2i[[6, 7, 80, 81]].tolist() == [1.5] * 4


def test_other_texts_of_the_image_never_count_against_it() -> None:
    similarity = np.array([[0.9, 0.8, 0.7, 0.85], [0.1, 0.2, 0.3, 0.4]])
    found = retrieval_ranks(MatrixScores(similarity), np.array([0, 0, 0, 1]))
    assert found.i2t.tolist() == [1.0, 1.0]
    similarity[0, 3] = 1.0
    assert retrieval_ranks(MatrixScores(similarity), np.array([0, 0, 0, 1])).i2t.tolist() == [2.0, 1.0]


@pytest.mark.parametrize("kept", [0, 2**28], ids=["recomputed", "kept"])
def test_folds_rank_as_if_each_were_alone(kept: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranks_module, "_KEPT_BYTES", kept)
    rng = np.random.default_rng(1)
    image_of_text = np.repeat(np.arange(40), rng.integers(1, 7, 40))
    rng.shuffle(image_of_text)
    similarity = rng.integers(0, 12, (40, len(image_of_text)))
    found = retrieval_ranks(MatrixScores(similarity), image_of_text, folds=4, image_block=6, text_block=9)
    assert found.images_in_fold is not None
    assert found.texts_in_fold is not None
    for fold in range(4):
        texts = image_of_text // 10 == fold
        i2t, t2i = slow_ranks(similarity[fold * 10 : fold * 10 + 10][:, texts], image_of_text[texts] - fold * 10)
        np.testing.assert_array_equal(found.images_in_fold.rank[fold * 10 : fold * 10 + 10], i2t)
        np.testing.assert_array_equal(found.texts_in_fold.rank[texts], t2i)
    i2t, t2i = slow_ranks(similarity, image_of_text)
    np.testing.assert_array_equal(found.i2t, i2t)
    np.testing.assert_array_equal(found.t2i, t2i)


class _Bare:
    """A source with nothing but the contract, that notes how much was asked of it."""

    def __init__(self, similarity: NDArray[np.float64]) -> None:
        self.similarity = torch.from_numpy(similarity)
        self.n_images, self.n_texts = similarity.shape
        self.asked = 0

    def block(self, images: slice, texts: slice) -> torch.Tensor:
        block = self.similarity[images, texts]
        self.asked += block.numel()
        return block


def test_any_source_will_do_and_each_score_is_asked_for_once() -> None:
    rng = np.random.default_rng(2)
    similarity = rng.integers(0, 9, (30, 60)).astype(float)
    image_of_text = np.arange(60) // 2
    source = _Bare(similarity)
    kept = similarity.copy()
    found = retrieval_ranks(source, image_of_text, image_block=7, text_block=11)
    np.testing.assert_array_equal(found.i2t, slow_ranks(similarity, image_of_text)[0])
    assert source.asked == similarity.size
    np.testing.assert_array_equal(source.similarity.numpy(), kept)

    rng.shuffle(image_of_text)
    i2t, t2i = slow_ranks(similarity, image_of_text)
    found = retrieval_ranks(_Bare(similarity), image_of_text, image_block=7, text_block=11)
    np.testing.assert_array_equal(found.i2t, i2t)
    np.testing.assert_array_equal(found.t2i, t2i)


def test_sources_agree_with_each_other(tmp_path) -> None:  # type: ignore[no-untyped-def]
    rng = np.random.default_rng(3)
    images, texts = rng.integers(-4, 5, (20, 6)), rng.integers(-4, 5, (50, 6))
    np.save(tmp_path / "s.npy", (images @ texts.T).astype(np.float32))
    order = rng.permutation(50)
    sources = [
        EmbeddingScores(images, torch.from_numpy(texts), normalize=False),
        EmbeddingScores(torch.from_numpy(images).bfloat16(), texts.astype(np.float16), normalize=False),
        MatrixScores(np.load(tmp_path / "s.npy", mmap_mode="r")),
        MatrixScores(torch.from_numpy(images @ texts.T)),
        MatrixScores((images @ texts.T).astype(np.float32)[::-1, ::-1].copy()[::-1, ::-1]),
        MatrixScores(np.asfortranarray(images @ texts.T, dtype=np.float64)),
        MatrixScores((images @ texts.T).astype(">i4")),
        FunctionScores(torch.from_numpy(images).float(), torch.from_numpy(texts).float(), lambda a, b: a @ b.T),
        _Bare((images @ texts.T).astype(float)),
    ]
    for source in sources:
        for seen, columns in (
            (source, np.arange(50)),
            (reorder_texts(source, order), order),
            (reorder_texts(reorder_texts(source, order), order), order[order]),
            (materialise(source, 10**6, block=8), np.arange(50)),
        ):
            block = seen.block(slice(3, 17), slice(5, 40))
            assert block.dtype in (torch.float32, torch.float64)
            np.testing.assert_array_equal(block.numpy(), (images @ texts.T)[3:17][:, columns[5:40]])
    assert materialise(sources[0], 100) is sources[0]


def test_cosines_ignore_length_and_survive_extreme_rows() -> None:
    images = np.array([[3.0, 4.0], [0.0, 0.0], [3e25, 4e25]], dtype=np.float32)
    texts = np.array([[6.0, 8.0], [4e-30, 3e-30]], dtype=np.float32)
    block = EmbeddingScores(images, texts).block(slice(0, 3), slice(0, 2))
    np.testing.assert_allclose(block.numpy(), [[1, 0.96], [0, 0], [1, 0.96]], rtol=1e-6)


def test_scores_stay_in_full_precision_under_autocast() -> None:
    rng = np.random.default_rng(4)
    images, texts = rng.standard_normal((50, 32)), rng.standard_normal((100, 32))
    source = EmbeddingScores(images.astype(np.float32), texts.astype(np.float32))
    plain = retrieval_ranks(source, np.arange(100) // 2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = retrieval_ranks(source, np.arange(100) // 2)
    np.testing.assert_array_equal(plain.i2t, inside.i2t)
    assert inside.tie_rate == 0.0


def test_bad_input_is_named() -> None:
    ones = MatrixScores(np.ones((3, 4)))
    for links, message in [
        ([0, 1, 1, 1], r"split without positives: image 2 has no text \(1 of 3 images have none\)"),
        ([0, 1, 2, 3], r"text 3 belongs to image 3, but images are numbered 0 to 2"),
        ([0, 1, 2, -1], r"text 3 belongs to image -1"),
        ([0, 1, 2], r"one entry for each of 4 texts, it has shape \(3,\)"),
        ([0, 1, 2, 0.5], r"row numbers of images"),
        ([0, 1, 2, np.nan], r"row numbers of images"),
        (["0", "1", "2", "2"], r"row numbers of images"),
    ]:
        with pytest.raises(DataError, match=message):
            retrieval_ranks(ones, np.array(links))
    similarity = np.ones((3, 4))
    similarity[1, 2] = np.nan
    with pytest.raises(DataError, match="score of image 1 and text 2 is NaN"):
        retrieval_ranks(MatrixScores(similarity), np.array([0, 1, 2, 0]), image_block=1)
    with pytest.raises(UsageError, match="3 images do not divide into 2 equal folds"):
        retrieval_ranks(ones, np.array([0, 1, 2, 2]), folds=2)
    with pytest.raises(DataError, match="embedding of text 1 is not finite"):
        EmbeddingScores(np.ones((2, 2)), np.array([[1.0, 1.0], [np.inf, 0.0]]))
    with pytest.raises(DataError, match="2 dimensions and text embeddings 3"):
        EmbeddingScores(np.ones((2, 2)), np.ones((2, 3)))
    columns = torch.ones(3, 1), torch.ones(4, 1)
    with pytest.raises(DataError, match="bfloat16: score in float32 at least"):
        retrieval_ranks(FunctionScores(*columns, lambda a, b: (a @ b.T).bfloat16()), np.array([0, 1, 2, 2]))
    with pytest.raises(DataError, match=r"3 images and 4 texts came as shape \(4, 3\)"):
        retrieval_ranks(FunctionScores(*columns, lambda a, b: b @ a.T), np.array([0, 1, 2, 2]))


def test_infinite_scores_are_scores() -> None:
    similarity = np.array([[-np.inf, np.inf, -np.inf], [1.0, -np.inf, 2.0]])
    found = retrieval_ranks(MatrixScores(similarity), np.array([0, 1, 1]))
    i2t, t2i = slow_ranks(similarity, np.array([0, 1, 1]))
    assert found.i2t.tolist() == i2t
    assert found.t2i.tolist() == t2i
