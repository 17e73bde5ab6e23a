"""A made-up data set and method, as a user would write them in a file of their own."""

import os
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from cmr_bench.datamodules.module import RetrievalDataModule
from cmr_bench.datamodules.split import SPLITS, Split
from cmr_bench.datamodules.views import ArrayView
from cmr_bench.models.base import RetrievalModule


class Toy(RetrievalDataModule):
    """Random images and noisy linear maps of them.

    Args:
        n: Training images.
        of_one: Consecutive images that show the same; 0 for images that are their own.
    """

    data_name = "toy"

    def __init__(self, n: int = 60, of_one: int = 0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.n, self.of_one = n, of_one

    def read(self):
        rng = np.random.default_rng(0)
        mix = rng.normal(size=(16, 12))
        splits, self.arrays = {}, {}
        for name in SPLITS:
            n = self.n if name == "train" else 20
            images, owner = rng.normal(size=(n, 16)), np.repeat(np.arange(n), 2)
            self.arrays[name] = images, images[owner] @ mix + rng.normal(size=(2 * n, 12))
            splits[name] = Split(name, [f"{name}{i}" for i in range(n)], owner, [f"t{i}" for i in range(2 * n)])
            splits[name].identity = np.arange(n) // self.of_one if self.of_one else None
        return splits

    def missing_images(self, kind, split):
        return np.zeros(split.n_images, dtype=bool)

    def image_view(self, kind, split):
        return ArrayView(self.arrays[split.name][0], "toy")

    def text_view(self, kind, split, tokenizer=None):
        return ArrayView(self.arrays[split.name][1], "toy")


class Linear(RetrievalModule):
    """Two linear maps.

    Args:
        dim: Width of the common space.
        stop_at: Epoch in which an interrupt is simulated; negative never.
    """

    def __init__(self, dim: int = 8, stop_at: int = -1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.dim, self.stop_at = dim, stop_at

    def build(self, spec):
        super().build(spec)
        self.image = torch.nn.Linear(spec.image.shape[0], self.dim)
        self.text = torch.nn.Linear(spec.text.shape[0], self.dim)

    def encode_images(self, images):
        return self.image(images.vector)

    def encode_texts(self, texts):
        return self.text(texts.vector)

    def loss(self, batch):
        if self.current_epoch == self.stop_at and "STOP" in os.environ and self.trainer.global_step % 4 == 2:
            raise KeyboardInterrupt
        images = F.dropout(self.encode_images(batch.images), 0.2, self.training)
        scores = self.similarity(images, self.encode_texts(batch.texts))
        return {"loss": F.cross_entropy(scores * 10, torch.arange(len(scores)))}
