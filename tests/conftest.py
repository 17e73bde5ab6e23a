"""Fixtures shared by all tests."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import settings

import cmr_bench  # noqa: F401  (prepares torchvision before anything imports lightning)
from cmr_bench.support.errors import CmrBenchError
from tests.support import layouts, networks, runs
from tests.support.browser import browser as browser
from tests.support.host import host as host

# A busy machine is no failure.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")


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


@pytest.fixture(autouse=True)
def _no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Print as into a pipe, whatever the terminal that the tests were started from."""
    for name in ("COLUMNS", "LINES", "FORCE_COLOR", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def one_line() -> Callable[[Callable[[], Any]], Any]:
    """Call a function that may refuse its input: its result, or None after checking that the error is one line."""
    return _one_line


def _one_line(call: Callable[[], Any]) -> Any:
    try:
        return call()
    except CmrBenchError as error:
        message = str(error)
    assert len(message.splitlines()) == 1, message
    return None


@pytest.fixture
def own(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The command of a run of the made-up method, in its folder; a test module adds its ``OWN_OPTIONS``."""
    monkeypatch.chdir(tmp_path)
    return [*runs.own_command(tmp_path), *getattr(request.module, "OWN_OPTIONS", ())]


@pytest.fixture
def write_photo() -> Callable[..., Path]:
    """Write a small JPEG whose content depends on ``seed``: ``write_photo(path, seed)``."""
    return layouts.write_photo


@pytest.fixture(scope="session")
def write_bert() -> Callable[..., Path]:
    """Save a tiny BERT with random weights and a tokenizer of the words given: ``write_bert(folder, words)``."""
    return networks.write_bert


@pytest.fixture(scope="session")
def write_clip() -> Callable[..., Path]:
    """Save a tiny CLIP, or SigLIP, with random weights and a tokenizer: ``write_clip(folder, words, siglip=False)``."""
    return networks.write_clip


@pytest.fixture
def write_karpathy() -> Callable[..., Path]:
    """Write a caption data set in Karpathy's layout and return its folder."""
    return layouts.write_karpathy


@pytest.fixture
def write_precomputed() -> Callable[..., Path]:
    """Write a precomputed folder of the VSE++/SCAN lineage and return it."""
    return layouts.write_precomputed


@pytest.fixture
def write_table() -> Callable[..., Path]:
    """Write rows as ``.csv``, ``.tsv``, ``.jsonl`` or ``.parquet`` by the suffix: ``write_table(file, rows)``."""
    return layouts.write_table
