"""One small run for all tests of the library."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

import cmr_bench
from cmr_bench.datamodules.synthetic.module import Synthetic

SIZES = {"n_train": 60, "n_val": 20, "n_test": 20}


@pytest.fixture(scope="session")
def _cached(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CMR_BENCH_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory, _cached: None) -> cmr_bench.Run:
    """A run of vsepp on 60 synthetic images, by the library."""
    data = cmr_bench.load_data("synthetic", min_count=1, **SIZES)
    return cmr_bench.train(
        "vsepp", data, runs=tmp_path_factory.mktemp("runs"), seed=3, dim=16, max_epochs=1, bootstrap=20,
        progress=False, accelerator="cpu", **{"model.word_dim": 8, "lr": 1e-3},
    )  # fmt: skip


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The pictures of that run's test split, in its order."""
    folder = tmp_path_factory.mktemp("pictures")
    data = Synthetic(**SIZES)
    data.read()
    for row, pixels in enumerate(data.pictures["test"]):
        Image.fromarray(pixels).save(folder / f"{row:02d}.png")
    return sorted(folder.iterdir())
