"""Fixtures shared by all tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

import cmr_bench  # noqa: F401  (prepares torchvision before anything imports lightning)


@pytest.fixture
def data_root() -> Path:
    """The folder with real data sets; the test is skipped where none is named."""
    root = os.environ.get("CMR_BENCH_DATA")
    if not root:
        pytest.skip("CMR_BENCH_DATA is not set: no real data to read")
    return Path(root)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CMR_BENCH_CACHE", str(tmp_path / "cache"))


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    torch.set_num_threads(1)
