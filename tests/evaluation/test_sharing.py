"""Scoring by several processes: the same bits as by one, each tile computed once, errors told everywhere."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from cmr_bench.evaluation.protocol import Evaluation, Protocol, evaluate
from cmr_bench.evaluation.ranks import EmbeddingScores, retrieval_ranks
from cmr_bench.evaluation.sharing import Sharing
from cmr_bench.evaluation.subsets import Subsets
from cmr_bench.support.errors import CmrBenchError, DataError


class Threads(Sharing):
    """Threads in the place of processes: the same deal, the same sums, one memory."""

    def __init__(self, rank: int, world: int, barrier: threading.Barrier, table: list[Any]) -> None:
        self.rank, self.world, self.barrier, self.table = rank, world, barrier, table

    def mine(self, piece: int) -> bool:
        return piece % self.world == self.rank

    def total(self, compute: Callable[[], tuple[NDArray[Any], ...]]) -> tuple[NDArray[Any], ...]:
        try:
            self.table[self.rank] = compute()
        except Exception as error:
            self.table[self.rank] = error
        self.barrier.wait()
        everything = list(self.table)
        self.barrier.wait()
        for part in everything:
            if isinstance(part, Exception):
                raise part
        return tuple(np.sum([part[n] for part in everything], axis=0) for n in range(len(everything[0])))


class Counting(EmbeddingScores):
    """Embeddings that remember how many scores were asked for."""

    asked = 0

    def block(self, images: slice, texts: slice) -> Tensor:
        tile = super().block(images, texts)
        self.asked += tile.numel()
        return tile


def together(world: int, work: Callable[[int, Sharing], Any]) -> list[Any]:
    barrier, table, results = threading.Barrier(world, timeout=60), [None] * world, [None] * world

    def one(rank: int) -> None:
        try:
            results[rank] = work(rank, Threads(rank, world, barrier, table))
        except CmrBenchError as error:
            results[rank] = error  # type: ignore[call-overload]

    threads = [threading.Thread(target=one, args=(rank,)) for rank in range(world)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def sides(n_images: int, n_texts: int, seed: int = 0) -> tuple[Tensor, Tensor, NDArray[np.int64], NDArray[np.int64]]:
    rng = np.random.default_rng(seed)
    images, texts = (torch.from_numpy(rng.normal(size=(n, 7)).astype(np.float32)) for n in (n_images, n_texts))
    owner = np.concatenate([np.arange(n_images), rng.integers(n_images, size=n_texts - n_images)])
    return images, texts, rng.permutation(owner), rng.integers(4, size=n_images)


def same(one: Evaluation, other: Evaluation) -> None:
    assert one.metrics == other.metrics
    assert one.intervals == other.intervals
    assert one.curves == other.curves
    assert one.tie_rate == other.tie_rate
    assert one.ranks is not None
    assert other.ranks is not None
    for mine, theirs in ((one.ranks.images, other.ranks.images), (one.ranks.texts, other.ranks.texts)):
        for name in ("better", "tied", "matching"):
            np.testing.assert_array_equal(getattr(mine, name), getattr(theirs, name))
        assert mine.hits(5).tobytes() == theirs.hits(5).tobytes()


@pytest.mark.parametrize("world", [2, 3, 5])
@pytest.mark.parametrize("postprocess", [None, "csls"])
@pytest.mark.parametrize("ties", [False, True], ids=["untied", "tied"])
def test_metrics_have_the_same_bits(world: int, postprocess: str | None, ties: bool) -> None:
    images, texts, owner, labels = sides(30, 71)
    if ties:
        images, texts = images.sign(), texts.sign()
    protocol = Protocol(folds=3, bootstrap=20, postprocess=postprocess)
    alone = evaluate(EmbeddingScores(images, texts), owner, labels, protocol=protocol)
    assert (alone.tie_rate > 0.5) == (ties and postprocess is None)
    for found in together(
        world,
        lambda rank, sharing: evaluate(
            EmbeddingScores(images, texts), owner, labels, protocol=protocol, sharing=sharing
        ),
    ):
        same(alone, found)


@pytest.mark.parametrize("world", [2, 3])
@pytest.mark.parametrize("postprocess", [None, "csls"])
@pytest.mark.parametrize("identity", [None, np.arange(30) // 4], ids=["images", "identities"])
def test_subsets_and_identities_have_the_same_bits(world: int, postprocess: str | None, identity: Any) -> None:
    images, texts, owner, _ = sides(30, 71)
    protocol = Protocol(folds=3, subsets=(Subsets(2, 11), Subsets(3, 30)), bootstrap=20, postprocess=postprocess)
    alone = evaluate(EmbeddingScores(images, texts), owner, identity=identity, protocol=protocol)
    for found in together(
        world,
        lambda rank, sharing: evaluate(
            EmbeddingScores(images, texts), owner, identity=identity, protocol=protocol, sharing=sharing
        ),
    ):
        same(alone, found)


@pytest.mark.parametrize("world", [2, 3])
def test_tiles_are_spread_and_computed_once(world: int) -> None:
    images, texts, owner, _ = sides(40, 90)
    owner.sort()
    sources = [Counting(images, texts) for _ in range(world)]
    alone = retrieval_ranks(EmbeddingScores(images, texts), owner, image_block=8, text_block=16)
    for found in together(
        world,
        lambda rank, sharing: retrieval_ranks(sources[rank], owner, image_block=8, text_block=16, sharing=sharing),
    ):
        np.testing.assert_array_equal(found.i2t, alone.i2t)
        np.testing.assert_array_equal(found.t2i, alone.t2i)
        np.testing.assert_array_equal(found.texts.tied, alone.texts.tied)
    assert sum(source.asked for source in sources) == 40 * 90
    assert max(source.asked for source in sources) < 1.5 * 40 * 90 / world


def test_more_processes_than_tiles() -> None:
    images, texts, owner, labels = sides(3, 4)
    alone = evaluate(EmbeddingScores(images, texts), owner, labels)
    for found in together(
        4, lambda rank, sharing: evaluate(EmbeddingScores(images, texts), owner, labels, sharing=sharing)
    ):
        same(alone, found)


def test_float64_scores_keep_their_precision_where_a_process_has_no_tile() -> None:
    images, texts, owner, labels = sides(6, 9)
    images, texts = images.double(), texts.double()
    alone = evaluate(EmbeddingScores(images, texts), owner, labels)
    for found in together(
        2, lambda rank, sharing: evaluate(EmbeddingScores(images, texts), owner, labels, sharing=sharing)
    ):
        same(alone, found)


def test_a_failure_in_one_process_stops_all() -> None:
    images, texts, owner, _ = sides(20, 40)
    owner.sort()

    class Broken(EmbeddingScores):
        def block(self, images: slice, texts: slice) -> Tensor:
            tile = super().block(images, texts).clone()
            tile[0, 0] = torch.nan
            return tile

    def work(rank: int, sharing: Sharing) -> Any:
        source = Broken(images, texts) if rank == 1 else EmbeddingScores(images, texts)
        return retrieval_ranks(source, owner, image_block=8, text_block=16, sharing=sharing)

    for found in together(2, work):
        assert isinstance(found, DataError)
        assert "NaN" in str(found)
