"""Subsets of pairs: drawn once and for all, ranked by themselves, and reported as the mean over the draws."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from cmr_bench.evaluation.postprocess import postprocess
from cmr_bench.evaluation.protocol import Protocol, evaluate
from cmr_bench.evaluation.queries import Queries
from cmr_bench.evaluation.scores import EmbeddingScores, FunctionScores, MatrixScores, ScoreSource, take
from cmr_bench.evaluation.subgalleries import recall_in_subgalleries
from cmr_bench.evaluation.subsets import Subsets, read_subsets
from cmr_bench.models.scoring import PairScores
from cmr_bench.search.ensemble import MeanScores
from cmr_bench.support.errors import UsageError

Index = NDArray[np.int64]


def split(n_images: int = 40, n_texts: int = 90, levels: int = 0, seed: int = 0) -> tuple[NDArray[np.float64], Index]:
    rng = np.random.default_rng(seed)
    owner = rng.permutation(np.concatenate([np.arange(n_images), rng.integers(n_images, size=n_texts - n_images)]))
    scores = rng.normal(size=(n_images, n_texts)) + 2 * (np.arange(n_images)[:, None] == owner)
    return np.round(levels * scores) if levels else scores, owner


@given(st.integers(1, 30), st.integers(0, 40), st.integers(1, 4), st.data())
@settings(max_examples=40, deadline=None)
def test_a_draw_is_of_pairs_of_different_images(n_images: int, more: int, count: int, data: st.DataObject) -> None:
    _, owner = split(n_images, n_images + more, seed=more)
    size = data.draw(st.integers(1, n_images))
    draws = Subsets(count, size).draw(owner)
    assert len(draws) == count
    for part in draws:
        assert len(set(part.images.tolist())) == size
        assert owner[part.texts].tolist() == part.images.tolist()
        assert part.image_of_text.tolist() == list(range(size))
    again = Subsets(count + 1, size).draw(owner)
    assert all(np.array_equal(one.texts, two.texts) for one, two in zip(draws, again, strict=False))


def test_every_image_and_each_of_its_texts_is_drawn_equally_often() -> None:
    owner = np.array([2, 0, 1, 2, 2, 0])
    draws = Subsets(3000, 2).draw(owner)
    images = np.bincount(np.concatenate([part.images for part in draws]), minlength=3) / 3000
    texts = np.bincount(np.concatenate([part.texts for part in draws]), minlength=6) / 3000
    assert images == pytest.approx([2 / 3] * 3, abs=0.03)
    assert texts == pytest.approx([2 / 9, 1 / 3, 2 / 3, 2 / 9, 2 / 9, 1 / 3], abs=0.03)


def naive(scores: NDArray[np.float64]) -> dict[str, float]:
    found = {}
    for way, table in (("i2t", scores), ("t2i", scores.T)):
        own = np.diag(table)[:, None]
        rank = 1 + (table > own).sum(1) + ((table == own).sum(1) - 1) / 2
        found |= {f"{way}_medr": float(np.median(rank)), f"{way}_meanr": float(rank.mean())}
        better, tied = (table > own).sum(1), (table == own).sum(1)
        for k in (1, 5, 10):
            found[f"{way}_r{k}"] = float(100 * np.mean(np.clip((k - better) / tied, 0, 1)))
    return found


@pytest.mark.parametrize("levels", [0, 1], ids=["untied", "tied"])
def test_the_mean_over_draws_is_that_of_a_slow_program(levels: int) -> None:
    scores, owner = split(levels=levels)
    subsets = (Subsets(4, 12), Subsets(2, 40))
    found = evaluate(MatrixScores(scores), owner, protocol=Protocol(subsets=subsets, bootstrap=10))
    for each in subsets:
        tables = [naive(scores[np.ix_(part.images, part.texts)]) for part in each.draw(owner)]
        for name in tables[0]:
            assert found.metrics[each.prefix + name] == pytest.approx(np.mean([one[name] for one in tables]))
    assert found.metrics.items() >= evaluate(MatrixScores(scores), owner).metrics.items()
    assert found.metrics["subsets4x12_rsum"] == pytest.approx(6 * found.metrics["subsets4x12_mr"])
    assert set(found.intervals) == set(found.metrics)
    assert found.definitions["subsets4x12_i2t_medr"].startswith("mean over 4 draws of 12 pairs, image query")
    assert found.record()["subsets"] == ["4x12", "2x40"]
    assert found.record()["subset_seed"] == 0
    assert "subsets" not in evaluate(MatrixScores(scores), owner).record()


def test_a_draw_of_all_pairs_is_the_whole_split() -> None:
    scores, owner = split(30, 30)
    protocol = Protocol(subsets=(Subsets(3, 30),), bootstrap=50)
    found = evaluate(MatrixScores(scores), owner, protocol=protocol)
    for name in ("i2t_r1", "t2i_medr", "rsum"):
        assert found.metrics[f"subsets3x30_{name}"] == pytest.approx(found.metrics[name], rel=1e-12)
        assert found.intervals[f"subsets3x30_{name}"] == pytest.approx(found.intervals[name], rel=1e-9)


def test_the_seed_of_the_resamples_does_not_choose_the_pairs() -> None:
    scores, owner = split()
    one, other = (
        evaluate(MatrixScores(scores), owner, protocol=Protocol(subsets=(Subsets(2, 9),), bootstrap=20, seed=seed))
        for seed in (0, 7)
    )
    assert one.metrics == other.metrics
    assert one.intervals != other.intervals


def test_many_draws_are_the_expected_recall_of_a_smaller_gallery() -> None:
    scores, owner = split(60, 60)
    found = evaluate(MatrixScores(scores), owner, protocol=Protocol(subsets=(Subsets(300, 20),)))
    assert found.ranks is not None
    expected = recall_in_subgalleries(found.ranks.texts, np.ones(60, dtype=np.int64), 60, (1, 5, 10), (20,))
    for row, k in enumerate((1, 5, 10)):
        assert found.metrics[f"subsets300x20_t2i_r{k}"] == pytest.approx(expected[row, 0], abs=1.0)


def sources() -> dict[str, Callable[[], ScoreSource]]:
    rng = np.random.default_rng(0)
    images, texts = (torch.from_numpy(rng.integers(-3, 4, (n, 6)).astype(np.float32)) for n in (20, 45))

    class Scorer:
        device = torch.device("cpu")

        def similarity(self, images: Any, texts: Any) -> torch.Tensor:
            return images @ texts.T

    class Plain:
        n_images, n_texts = 20, 45

        def block(self, one: slice, other: slice) -> torch.Tensor:
            return images[one] @ texts[other].T

    embeddings = EmbeddingScores(images, texts, normalize=False)
    return {
        "embeddings": lambda: embeddings,
        "matrix": lambda: MatrixScores((images @ texts.T).numpy()),
        "tensor": lambda: MatrixScores(images @ texts.T),
        "function": lambda: FunctionScores(images, texts, lambda one, other: one @ other.T),
        "pairs": lambda: PairScores(Scorer(), images, texts),
        "mean": lambda: MeanScores([embeddings, embeddings]),
        "plain": lambda: Plain(),
    }


@pytest.mark.parametrize("kind", [*sources()])
def test_a_part_of_any_source_is_its_rows_and_columns(kind: str) -> None:
    source, whole = sources()[kind](), sources()["matrix"]().block(slice(0, 20), slice(0, 45))
    rng = np.random.default_rng(1)
    for images in (np.arange(4, 11), np.sort(rng.permutation(20)[:9]), rng.permutation(20)):
        texts = rng.permutation(45)[:13]
        part = take(source, images, texts)
        assert (part.n_images, part.n_texts) == (len(images), 13)
        block = part.block(slice(2, 6), slice(3, 10))
        assert torch.equal(block.float(), whole[images[2:6]][:, texts[3:10]].float())
        again = take(part, np.array([1, 0]), np.array([4, 12, 0]))
        assert torch.equal(
            again.block(slice(0, 2), slice(0, 3)).float(), whole[images[[1, 0]]][:, texts[[4, 12, 0]]].float()
        )


@pytest.mark.parametrize("name", ["csls", "mtfn_rr"])
def test_a_draw_is_corrected_by_what_is_in_it(name: str) -> None:
    scores, owner = split(levels=3)
    found = evaluate(MatrixScores(scores), owner, protocol=Protocol(subsets=(Subsets(3, 15),), postprocess=name))
    each = []
    for part in Subsets(3, 15).draw(owner):
        corrected = postprocess(name, MatrixScores(scores[np.ix_(part.images, part.texts)]), part.image_of_text)
        ways = [evaluate(source, np.arange(15)).metrics for source in (corrected.images, corrected.texts)]
        each.append({"i2t_r1": ways[0]["i2t_r1"], "t2i_r1": ways[1]["t2i_r1"]})
    for key in ("i2t_r1", "t2i_r1"):
        assert found.metrics[f"subsets3x15_{key}"] == pytest.approx(np.mean([one[key] for one in each]))


def test_who_does_not_ask_is_not_drawn() -> None:
    scores, owner = split()
    images, texts = np.arange(40) < 25, (owner < 25) & (np.arange(90) % 5 > 0)
    images &= np.bincount(owner[texts], minlength=40) > 0
    who = Queries(images, texts)
    found = evaluate(
        MatrixScores(scores), owner, queries=who, protocol=Protocol(subsets=(Subsets(2, 10),), bootstrap=5)
    )
    draws = Subsets(2, 10).draw(owner, texts)
    assert all(texts[part.texts].all() for part in draws)
    tables = [naive(scores[np.ix_(part.images, part.texts)]) for part in draws]
    assert found.metrics["subsets2x10_i2t_medr"] == np.mean([one["i2t_medr"] for one in tables])
    asked = np.flatnonzero(texts)
    for (part, _), drawn in zip(found.subsets["subsets2x10_"], draws, strict=True):
        assert asked[part.texts].tolist() == drawn.texts.tolist()


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (None, ()),
        ("none", ()),
        ("10x1000", (Subsets(10, 1000),)),
        ("10x1000, 10x10000", (Subsets(10, 1000), Subsets(10, 10000))),
        (["5x20"], (Subsets(5, 20),)),
    ],
)
def test_subsets_are_read_as_they_are_written(given: Any, expected: tuple[Subsets, ...]) -> None:
    assert read_subsets(given) == expected


@pytest.mark.parametrize("given", ["1000", "10x0", "0x5", "10×1000", "10x1,000", "a,b"])
def test_other_words_are_one_error(given: str) -> None:
    with pytest.raises(UsageError, match="subsets are draws x pairs, such as 10x1000"):
        read_subsets(given)


def test_a_split_that_is_too_small_is_one_error() -> None:
    scores, owner = split()
    with pytest.raises(UsageError, match="subsets 10x1000 draws 1,000 pairs, and only 40 images of the test split"):
        evaluate(MatrixScores(scores), owner, protocol=Protocol(subsets=(Subsets(10, 1000),)))
    with pytest.raises(UsageError, match="twice"):
        read_subsets("2x3,2x3")
    with pytest.raises(UsageError, match="subsets need instance retrieval"):
        Protocol(subsets=(Subsets(1, 2),), instance=False)
