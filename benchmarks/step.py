"""What a training step costs, and where it goes: ``python benchmarks/step.py [METHOD ...]``.

``run`` trains an epoch as `cmr-bench run` does. ``plain`` is a loop without framework over the same networks: batches
are loaded, the optimiser is torch's default Adam, texts go through torch's own recurrent network, and scan scores
caption by caption as the released program does.
``half`` is ``run`` with `--trainer.precision bf16-mixed`, which pays where the processor multiplies bfloat16.
``loading`` goes through the batches of the run, ``compute`` takes loss, gradient and optimiser of loaded batches; what
is left of the run is the ``framework``'s. All are timed in turn in every round; printed are medians in milliseconds a
step, of the clock and, in brackets, of the processor.

vsepp and scan read arrays in the layout of VSE++ and SCAN (2,048; 36 x 2,048) with captions of 6 to 20 words,
adv_subspace and dscmr vectors of Wikipedia's sizes.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import sys
import time
import warnings
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent))
from scan_similarity import caption_by_caption

import cmr_bench  # noqa: F401  (prepares torchvision)
from cmr_bench import registry
from cmr_bench.datamodules.batches import PairBatch
from cmr_bench.datamodules.module import RetrievalDataModule
from cmr_bench.datamodules.split import Split
from cmr_bench.datamodules.views import ArrayView, View, ViewKind
from cmr_bench.experiment.trainer import quiet
from cmr_bench.models.base import RetrievalModule
from cmr_bench.models.encoders.recurrence import read_by_network
from cmr_bench.support.errors import Notice

# Regions (0: a vector), their width, width of the texts (0: words), batch, categories, steps of an epoch.
LAYOUTS = {
    "vsepp": (0, 2048, 0, 128, 0, 8),
    "scan": (36, 2048, 0, 128, 0, 2),
    "adv_subspace": (0, 4096, 300, 64, 10, 34),
    "dscmr": (0, 4096, 300, 100, 10, 22),
}


class MadeUp(RetrievalDataModule):
    """Random features, and captions of random words."""

    data_name = "made_up"

    def __init__(self, layout: Sequence[int], shrink: int) -> None:
        self.regions, width, text, batch, self.n_classes, steps = layout
        self.width, self.text = max(8, width // shrink), text
        self.n_train = steps * batch if shrink == 1 else 16
        super().__init__(batch_size=min(batch, self.n_train), text_features="made-up", min_count=1)

    def read(self) -> Mapping[str, Split]:
        """Make the splits up."""
        random = np.random.default_rng(0)
        self.random, found = random, {}
        for name, n in (("train", self.n_train), ("val", 10), ("test", 10)):
            lines = [" ".join(f"w{w}" for w in random.integers(0, 8000, random.integers(6, 21))) for _ in range(n)]
            ids, texts = ([f"{name}{kind}{i}" for i in range(n)] for kind in "it")
            labels = random.integers(0, self.n_classes, n) if self.n_classes else None
            classes = [f"c{i}" for i in range(self.n_classes)]
            found[name] = Split(name, ids, np.arange(n), texts, captions=lines, labels=labels, class_names=classes)
        return found

    def missing_images(self, kind: ViewKind, split: Split) -> np.ndarray[Any, Any]:
        """Return that none is missing."""
        return np.zeros(split.n_images, dtype=bool)

    def image_view(self, kind: ViewKind, split: Split) -> View:
        """Return random features."""
        shape = (split.n_images, self.regions, self.width) if self.regions else (split.n_images, self.width)
        return ArrayView(self.random.random(shape, dtype=np.float32), "made up")

    def text_view(self, kind: ViewKind, split: Split, tokenizer: str | None = None) -> View:
        """Return random vectors, or the words."""
        if kind == "vector":
            return ArrayView(self.random.random((split.n_texts, self.text), dtype=np.float32), "made up")
        return super().text_view(kind, split, tokenizer)


def compute(module: RetrievalModule, optimizer: torch.optim.Optimizer, batches: list[PairBatch]) -> None:
    for batch in batches:
        optimizer.zero_grad()
        module.loss(batch)["loss"].backward()
        optimizer.step()


def epoch(trainer: Any, module: RetrievalModule, data: MadeUp) -> None:
    trainer.fit_loop.epoch_progress.reset()
    trainer.fit_loop.epoch_loop.batch_progress.reset()
    before = trainer.global_step
    trainer.fit(module, datamodule=data)
    assert trainer.global_step == before + len(data.train_dataloader())


def one_by_one(module: Any) -> Callable[[Any, Any], Tensor]:
    """Return the similarity of scan, one caption after the other."""

    def similarity(images: Any, texts: Any) -> Tensor:
        return caption_by_caption(images[0], texts[0], texts[1], module.how)

    return similarity


def plain(module: RetrievalModule, optimizer: torch.optim.Optimizer, batches: list[PairBatch]) -> None:
    with mock.patch("cmr_bench.models.encoders.text.read_packed", read_by_network):
        compute(module, optimizer, batches)


def measure(name: str, args: argparse.Namespace) -> dict[str, tuple[float, float]]:
    import lightning as L

    data = MadeUp(LAYOUTS[name], args.shrink)
    reads: Any = {
        "image_view": "regions" if data.regions else "vector",
        "text_view": "vector" if data.text else "tokens",
    }
    small: Any = {"dim": 16} if args.shrink > 1 else {}
    torch.manual_seed(0)
    module = registry.method(name)(**reads, **small)
    module.attach(data)
    module.prepare_training(data.splits["train"])
    halved = copy.deepcopy(module)
    fits = {}
    for what, trained, precision in (("run", module, "32-true"), ("half", halved, "bf16-mixed")):
        with quiet():
            trainer = L.Trainer(
                max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
                enable_model_summary=False, use_distributed_sampler=False, limit_val_batches=0, precision=precision,
            )  # fmt: skip
            trainer.fit(trained, datamodule=data)
        fits[what] = partial(epoch, trainer, trained, data)
    loaded = list(data.train_dataloader())
    others = {what: copy.deepcopy(module) for what in ("compute", "plain")}
    if name == "scan":
        others["plain"].similarity = one_by_one(others["plain"])
    optimizers: dict[str, Any] = {
        "compute": others["compute"].make_optimizer(),
        "plain": torch.optim.Adam(others["plain"].parameters(), lr=2e-4),
    }

    work: dict[str, Callable[[], object]] = {
        **fits,
        "plain": lambda: plain(others["plain"], optimizers["plain"], loaded),
        "compute": lambda: compute(others["compute"], optimizers["compute"], loaded),
        "loading": lambda: list(data.train_dataloader()),
    }
    times: dict[str, list[tuple[float, float]]] = defaultdict(list)
    with quiet():
        for _ in range(args.rounds):
            for what, job in work.items():
                started, used = time.perf_counter(), time.process_time()
                job()
                times[what].append((time.perf_counter() - started, time.process_time() - used))
    found = {
        what: tuple(1000 * statistics.median(values) / len(loaded) for values in zip(*each, strict=True))
        for what, each in times.items()
    }
    rest = tuple(found["run"][i] - found["compute"][i] - found["loading"][i] for i in (0, 1))
    return found | {"framework": rest}  # type: ignore[return-value]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("methods", nargs="*", default=list(LAYOUTS), metavar="METHOD")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--shrink", type=int, default=1, help="divide widths, for a trial")
    args = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", Notice)  # made-up captions share few words
    for name in args.methods or list(LAYOUTS):
        print(name, "  ".join(f"{what} {a:.1f} ({b:.1f})" for what, (a, b) in measure(name, args).items()), flush=True)


if __name__ == "__main__":
    main()
