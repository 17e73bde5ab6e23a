from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from cmr_bench.evaluation.metric import RetrievalMetric
from cmr_bench.evaluation.protocol import Protocol, evaluate
from cmr_bench.evaluation.ranks import EmbeddingScores
from cmr_bench.support.errors import DataError
from tests.support.processes import free_ports

N_IMAGES = 25
OWNER = np.random.default_rng(0).permutation(np.arange(101) % N_IMAGES)
LABELS = np.arange(N_IMAGES) % 3


def embeddings() -> tuple[torch.Tensor, torch.Tensor]:
    rng = torch.Generator().manual_seed(0)
    images = torch.randn(N_IMAGES, 8, generator=rng)
    return images, images[torch.from_numpy(OWNER)] + torch.randn(101, 8, generator=rng)


def metric() -> RetrievalMetric:
    return RetrievalMetric(N_IMAGES, OWNER, LABELS, protocol=Protocol(folds=5))


def expected() -> dict[str, float]:
    return evaluate(EmbeddingScores(*embeddings()), OWNER, LABELS, protocol=Protocol(folds=5)).metrics


def feed(target: RetrievalMetric, image_rows: torch.Tensor, text_rows: torch.Tensor) -> None:
    images, texts = embeddings()
    for rows in image_rows.split(4):
        target.update(image_rows=rows, images=images[rows])
    for rows in text_rows.split(7):
        target.update(text_rows=rows, texts=texts[rows])


def test_batches_in_any_order_with_repeats_score_as_the_whole() -> None:
    target = metric()
    rng = torch.Generator().manual_seed(1)
    feed(target, torch.randperm(N_IMAGES, generator=rng), torch.randperm(101, generator=rng))
    feed(target, torch.tensor([3, 0, 3]), torch.tensor([100, 100]))
    assert target.compute() == expected()
    target.reset()
    feed(target, torch.arange(N_IMAGES), torch.arange(101))
    assert pickle.loads(pickle.dumps(target)).compute() == expected()


def test_what_is_missing_is_named() -> None:
    target = metric()
    with (
        pytest.warns(UserWarning, match="before the"),
        pytest.raises(DataError, match="no image was handed in, the split has 25"),
    ):
        target.compute()
    feed(target, torch.arange(N_IMAGES - 2), torch.arange(101))
    with pytest.raises(DataError, match="2 of 25 images were never handed in, the first is row 23"):
        target.compute()
    with pytest.raises(DataError, match="one row number for each embedding"):
        target.update(image_rows=torch.arange(3), images=torch.ones(2, 8))
    target.update(image_rows=torch.tensor([25]), images=torch.ones(1, 8))
    with pytest.raises(DataError, match="image row 25 was handed in, but the split has 25"):
        target.compute()


def test_any_similarity_can_score() -> None:
    images, texts = embeddings()
    target = RetrievalMetric(N_IMAGES, OWNER, similarity=lambda a, b: -torch.cdist(a[:, 0], b[:, 0]))
    target.update(torch.arange(N_IMAGES), images[:, None], torch.arange(101), texts[:, None])
    found = target.evaluate()
    assert found.ranks is not None
    distances = torch.cdist(images, texts).numpy()
    nearest = distances.argmin(axis=1)
    assert found.metrics["i2t_r1"] == 100 * np.mean(OWNER[nearest] == np.arange(N_IMAGES))


def _process(rank: int, world: int, port: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=world)
    # What a distributed sampler does: deal the rows out in turn, repeat the first so that all get as many.
    shares = [np.resize(np.arange(n), -(-n // world) * world)[rank::world] for n in (N_IMAGES, 101)]
    target = metric()
    feed(target, torch.from_numpy(shares[0]), torch.from_numpy(shares[1]))
    Path(folder, f"{rank}.pickle").write_bytes(pickle.dumps(target.compute()))
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_processes_score_as_one(tmp_path: Path) -> None:
    (port,) = free_ports(1)
    mp.spawn(_process, args=(2, port, str(tmp_path)), nprocs=2)
    for rank in range(2):
        assert pickle.loads((tmp_path / f"{rank}.pickle").read_bytes()) == expected()
