"""A made-up data set that every method can read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from cmr_bench.datamodules.module import RetrievalDataModule
from cmr_bench.datamodules.split import Split
from cmr_bench.datamodules.views import ArrayView, Rows, View, ViewKind, ViewSpec

WORDS = [
    "red",
    "green",
    "blue",
    "small",
    "large",
    "cat",
    "dog",
    "house",
    "tree",
    "boat",
    "sky",
    "road",
    "man",
    "woman",
    "ball",
]


class Pixels(View):
    """Small pictures whose colour tells the topic."""

    def __init__(self, colours: np.ndarray[Any, Any]) -> None:
        self.colours = torch.from_numpy(colours).float()
        self.spec = ViewSpec("pixels", (3, 32, 32), "made up")

    def __len__(self) -> int:
        return len(self.colours)

    def fetch(self, rows: Rows, epoch: int | None = None) -> dict[str, Tensor]:
        return {"pixels": self.colours[torch.from_numpy(rows)][:, :, None, None].expand(-1, -1, 32, 32).clone()}


class Toy(RetrievalDataModule):
    """Images and texts with a common hidden topic; images have one to three texts.

    Args:
        n_train: Images in the training split.
        n_classes: Categories; 0 gives a data set without labels.
        multi_label: Give every image one or two categories.
        seed: Seed of the content.
    """

    data_name = "toy"

    def __init__(
        self,
        n_train: int = 24,
        n_classes: int = 3,
        multi_label: bool = False,
        seed: int = 0,
        of_one: int = 0,
    ) -> None:
        super().__init__(batch_size=8, text_features="made-up", min_count=1, seed=seed)
        self.n_train, self.n_classes, self.multi_label, self.of_one = n_train, n_classes, multi_label, of_one
        if n_classes:
            self.selection = "map"

    def read(self) -> Mapping[str, Split]:
        random = np.random.default_rng(self.seed)
        mixing = random.normal(size=(2, 5, 12))
        self.content: dict[str, dict[str, Any]] = {}
        splits = {}
        for name, n in (("train", self.n_train), ("val", 12), ("test", 10)):
            classes = np.arange(n) % max(self.n_classes, 1)
            topic = random.normal(size=(n, 5))
            topic[np.arange(n), classes % 5] += 3
            owner = np.repeat(np.arange(n), 1 + np.arange(n) % 3)
            words = [[WORDS[(3 * classes[i] + k) % len(WORDS)] for k in range(1 + t % 4)] for t, i in enumerate(owner)]
            vectors = topic @ mixing[0] + 0.1 * random.normal(size=(n, 12))
            self.content[name] = {
                "vector": vectors,
                "regions": vectors[:, None] + 0.1 * random.normal(size=(n, 4, 12)),
                "pixels": 1 / (1 + np.exp(-topic[:, :3])),
                "texts": topic[owner] @ mixing[1] + 0.1 * random.normal(size=(len(owner), 12)),
            }
            labels = classes
            if self.multi_label:
                labels = np.eye(self.n_classes, dtype=np.int64)[classes]
                labels[::2, 0] = 1
            splits[name] = Split(
                name,
                [f"{name}{i}" for i in range(n)],
                owner,
                [f"{name}t{t}" for t in range(len(owner))],
                captions=[" ".join(line) for line in words],
                labels=labels if self.n_classes else None,
                class_names=[f"class {c}" for c in range(self.n_classes)],
                identity=7 + np.arange(n) // self.of_one if self.of_one else None,
            )
        return splits

    def missing_images(self, kind: ViewKind, split: Split) -> np.ndarray[Any, Any]:
        return np.zeros(split.n_images, dtype=bool)

    def image_view(self, kind: ViewKind, split: Split) -> View:
        content = self.content[split.name]
        if kind == "pixels":
            return Pixels(content["pixels"])
        mask = np.ones(content["regions"].shape[:2], dtype=bool)
        mask[::2, -1] = False
        return ArrayView(content[kind].astype(np.float32), "made up", mask=mask if kind == "regions" else None)

    def text_view(self, kind: ViewKind, split: Split, tokenizer: str | None = None) -> View:
        if kind == "vector":
            return ArrayView(self.content[split.name]["texts"].astype(np.float32), "made up")
        return super().text_view(kind, split, tokenizer)


@pytest.fixture
def toy() -> Callable[..., Toy]:
    """The class of the made-up data set."""
    return Toy


@pytest.fixture(scope="session")
def bert(tmp_path_factory: pytest.TempPathFactory, write_bert: Callable[..., Path]) -> Path:
    """A tiny BERT that knows the words of the made-up data."""
    return write_bert(tmp_path_factory.mktemp("bert"), WORDS)


@pytest.fixture(scope="session")
def clip(tmp_path_factory: pytest.TempPathFactory, write_clip: Callable[..., Path]) -> Path:
    """A tiny CLIP, which reads texts letter by letter."""
    return write_clip(tmp_path_factory.mktemp("clip"), WORDS)


@pytest.fixture(scope="session")
def siglip(tmp_path_factory: pytest.TempPathFactory, write_clip: Callable[..., Path]) -> Path:
    """A tiny SigLIP that knows the words of the made-up data."""
    return write_clip(tmp_path_factory.mktemp("siglip"), WORDS, siglip=True)
