"""The same seed on the same machine gives the same result, for every method, however the data is loaded."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from cmr_bench import registry
from cmr_bench.cli import main
from cmr_bench.datamodules.module import RetrievalDataModule
from cmr_bench.datamodules.synthetic.module import Synthetic
from cmr_bench.experiment.recipe import option_names, option_parser

# What differs between two runs of one thing: when, where and how long.
CHANGING = {"run_id", "created", "cost"}
SMALL = {
    "dim": "8", "hidden": "8", "word_dim": "8", "bits": "8", "discriminator": "8", "dropout": "0.2", "lr": "2.0e-3",
    "cnn": "timm:test_efficientnet", "cnn_weights": "random", "mode": "linear_probe",
}  # fmt: skip
TINY = [
    *("--data", "synthetic", "--data.n_train", "60", "--data.n_val", "20", "--data.n_test", "20"),
    *("--data.batch_size", "32", "--data.max_words", "12", "--trainer.max_epochs", "2", "--trainer.bootstrap", "20"),
    *("--trainer.accelerator", "cpu", "--trainer.progress", "false"),
]


@pytest.fixture(scope="module")
def local(
    tmp_path_factory: pytest.TempPathFactory, write_bert: Callable[..., Path], write_clip: Callable[..., Path]
) -> dict[str, str]:
    words = ["a", "red", "circle", "there", "is", "small", "large", "on", "the"]
    bert = str(write_bert(tmp_path_factory.mktemp("bert"), words))
    return {
        "bert": bert,
        "word_vectors": bert,
        "backbone": str(write_clip(tmp_path_factory.mktemp("clip"), words)),
    }


def run(name: str, local: dict[str, str], runs: str, *words: str) -> dict[str, Any]:
    known = option_names(option_parser(name, "synthetic"))
    options = {key: value for key, value in {**SMALL, **local}.items() if f"model.{key}" in known}
    chosen = [word for key, value in options.items() for word in (f"--model.{key}", value)]
    assert main(["run", "--model", name, *TINY, *chosen, "--runs", runs, *words]) == 0
    (file,) = Path(runs).glob("*/*/*/result.json")
    return {key: value for key, value in json.loads(file.read_text()).items() if key not in CHANGING}


@pytest.mark.slow
@pytest.mark.parametrize("name", registry.METHODS)
def test_same_seed_same_result(
    name: str, local: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    first = run(name, local, "first")
    torch.manual_seed(7)  # whatever ran before
    second = run(name, local, "second")
    assert second == first


@pytest.mark.slow
def test_deterministic_algorithms_and_workers_change_nothing(
    local: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    plain = run("vsepp", local, "plain")
    workers = run("vsepp", local, "workers", "--data.num_workers", "2", "--trainer.deterministic", "true")
    assert workers == plain
    assert run("vsepp", local, "other", "--seed", "1")["metrics"] != plain["metrics"]


@pytest.fixture
def _algorithms() -> Iterator[None]:
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.usefixtures("_algorithms")
def test_the_deterministic_option_reaches_torch(
    local: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run("cca", local, "runs", "--trainer.deterministic", "true")
    assert torch.are_deterministic_algorithms_enabled()


def rows(data: RetrievalDataModule, epochs: int) -> list[tuple[list[int], list[int], float]]:
    loader = data.train_dataloader()
    found = []
    for epoch in range(epochs):
        loader.batch_sampler.set_epoch(epoch)  # type: ignore[union-attr]
        for batch in loader:
            assert batch.images.pixels is not None
            found.append((batch.images.rows.tolist(), batch.texts.rows.tolist(), float(batch.images.pixels.sum())))
    return found


def test_order_and_augmentation_do_not_depend_on_the_workers() -> None:
    found = []
    for workers in (0, 1, 3):
        data = Synthetic(n_train=40, n_val=4, n_test=4, batch_size=16, num_workers=workers, seed=5)
        data.load("pixels", "tokens")
        found.append(rows(data, 2))
    assert found[1] == found[0]
    assert found[2] == found[0]
    half = len(found[0]) // 2
    assert [batch[0] for batch in found[0][:half]] != [batch[0] for batch in found[0][half:]]
