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

For vsepp and scan a second line has the seconds of a validation, of 1,000 images with 5,000 captions and of 200 with
1,000. The plain one encodes an image again for each of its captions, scores as above and sorts, as the released
programs do.
"""

from __future__ import annotations

import argparse
import copy
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
import torch
from scan_similarity import caption_by_caption
from timing import Seconds, in_turn
from torch import Tensor

import cmr_bench  # noqa: F401  (prepares torchvision)
from cmr_bench import registry
from cmr_bench.datamodules.batches import BatchRows, Fetch, PairBatch
from cmr_bench.datamodules.module import RetrievalDataModule
from cmr_bench.datamodules.split import Split
from cmr_bench.datamodules.views import ArrayView, View, ViewKind
from cmr_bench.experiment.trainer import quiet
from cmr_bench.models.base import RetrievalModule
from cmr_bench.models.encoders.recurrence import read_by_network
from cmr_bench.support.errors import Notice


class Layout(NamedTuple):
    """Sizes of a data set.

    Attributes:
        width: Width of the features of an image.
        regions: Regions of an image; 0 for a vector.
        text: Width of the texts; 0 for words.
        batch: Pairs a step.
        steps: Steps of an epoch.
        n_classes: Categories.
        n_val: Images of a validation that is timed, with five captions each.
    """

    width: int
    regions: int = 0
    text: int = 0
    batch: int = 128
    steps: int = 8
    n_classes: int = 0
    n_val: int = 0


LAYOUTS = {
    "vsepp": Layout(2048, n_val=1000),
    "scan": Layout(2048, regions=36, steps=2, n_val=200),
    "adv_subspace": Layout(4096, text=300, batch=64, steps=34, n_classes=10),
    "dscmr": Layout(4096, text=300, batch=100, steps=22, n_classes=10),
}


class MadeUp(RetrievalDataModule):
    """Random features, and captions of random words."""

    data_name = "made_up"

    def __init__(self, layout: Layout, shrink: int) -> None:
        self.layout, self.width = layout, max(8, layout.width // shrink)
        self.n_train = layout.steps * layout.batch if shrink == 1 else 16
        self.n_val = min(layout.n_val, 1000 // shrink)
        super().__init__(batch_size=min(layout.batch, self.n_train), text_features="made-up", min_count=1)

    def read(self) -> Mapping[str, Split]:
        """Make the splits up."""
        random = np.random.default_rng(0)
        self.random, found = random, {}
        n_classes = self.layout.n_classes
        for name, n, each in (
            ("train", self.n_train, 1),
            ("val", self.n_val or 10, 5 if self.n_val else 1),
            ("test", 10, 1),
        ):
            lines = [
                " ".join(f"w{w}" for w in random.integers(0, 8000, random.integers(6, 21))) for _ in range(n * each)
            ]
            ids, texts = [f"{name}i{i}" for i in range(n)], [f"{name}t{i}" for i in range(n * each)]
            labels = random.integers(0, n_classes, n) if n_classes else None
            found[name] = Split(
                name,
                ids,
                np.repeat(np.arange(n), each),
                texts,
                captions=lines,
                labels=labels,
                class_names=[f"c{i}" for i in range(n_classes)],
            )
        return found

    def missing_images(self, kind: ViewKind, split: Split) -> np.ndarray[Any, Any]:
        """Return that none is missing."""
        return np.zeros(split.n_images, dtype=bool)

    def image_view(self, kind: ViewKind, split: Split) -> View:
        """Return random features."""
        regions = self.layout.regions
        shape = (split.n_images, regions, self.width) if regions else (split.n_images, self.width)
        return ArrayView(self.random.random(shape, dtype=np.float32), "made up")

    def text_view(self, kind: ViewKind, split: Split, tokenizer: str | None = None) -> View:
        """Return random vectors, or the words."""
        if kind == "vector":
            return ArrayView(self.random.random((split.n_texts, self.layout.text), dtype=np.float32), "made up")
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


def plain_validation(module: RetrievalModule, split: Split) -> dict[str, float]:
    """Score a split as the released programs do, and return R@1 of both directions in percent."""
    fetch, size, n = Fetch(split, "pairs"), split.n_texts // split.n_images, split.n_texts
    images: list[Any] = []
    texts: list[Any] = []
    module.eval()
    with torch.no_grad():
        for start in range(0, n, 128):
            batch: Any = fetch(BatchRows(range(start, min(start + 128, n))))
            first = [row for row in range(len(batch)) if (start + row) % size == 0]
            encoded = module.encode_images(batch.images)
            images.append(encoded[first] if isinstance(encoded, Tensor) else tuple(part[first] for part in encoded))
            texts.append(module.encode_texts(batch.texts))
        scores = torch.cat([torch.cat([module.similarity(i, t) for t in texts], dim=1) for i in images]).numpy()
    by_image, by_text = ([np.argsort(row)[::-1] for row in queries] for queries in (scores, scores.T))
    i2t = [min(np.where(order == size * i + k)[0][0] for k in range(size)) for i, order in enumerate(by_image)]
    t2i = [np.where(order == text // size)[0][0] for text, order in enumerate(by_text)]
    return {f"{way}_r1": 100 * float(np.mean(np.equal(at, 0))) for way, at in (("i2t", i2t), ("t2i", t2i))}


def make_trainer(**options: Any) -> Any:
    import lightning as L

    with quiet():
        return L.Trainer(
            max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
            enable_model_summary=False, use_distributed_sampler=False, **options,
        )  # fmt: skip


def made(name: str, data: MadeUp, small: bool) -> RetrievalModule:
    options: Any = {
        "image_view": "regions" if data.layout.regions else "vector",
        "text_view": "vector" if data.layout.text else "tokens",
    }
    if small:
        options["dim"] = 16
    torch.manual_seed(0)
    module = registry.method(name)(**options)
    module.attach(data)
    module.prepare_training(data.splits["train"])
    return module


def measure(name: str, args: argparse.Namespace) -> None:
    data = MadeUp(LAYOUTS[name], args.shrink)
    module = made(name, data, args.shrink > 1)
    slow: Any = copy.deepcopy(module)
    if name == "scan":
        slow.similarity = one_by_one(slow)
    print(name, described(steps(module, slow, data, args.rounds), "ms", 1000), flush=True)
    if data.n_val:
        print(name, "validation", described(validations(module, slow, data, args.rounds), "s", 1), flush=True)


def described(times: Mapping[str, Seconds], unit: str, factor: int) -> str:
    values = ((what, a * factor, b * factor) for what, (a, b) in times.items())
    return "  ".join([unit, *(f"{what} {a:.1f} ({b:.1f})" for what, a, b in values)])


def steps(module: RetrievalModule, slow: RetrievalModule, data: MadeUp, rounds: int) -> dict[str, Seconds]:
    """Time a training step in all its ways."""
    fits = {}
    for what, trained, precision in (("run", module, "32-true"), ("half", copy.deepcopy(module), "bf16-mixed")):
        with quiet():
            trainer = make_trainer(precision=precision, limit_val_batches=0)
            trainer.fit(trained, datamodule=data)
        fits[what] = partial(epoch, trainer, trained, data)
    loaded, fast = list(data.train_dataloader()), copy.deepcopy(module)
    work: dict[str, Callable[[], object]] = {
        **fits,
        "plain": partial(plain, slow, torch.optim.Adam(slow.parameters(), lr=2e-4), loaded),
        "compute": partial(compute, fast, fast.make_optimizer(), loaded),
        "loading": lambda: list(data.train_dataloader()),
    }
    with quiet():
        times, _ = in_turn(work, rounds)
    found = {what: Seconds(wall / len(loaded), cpu / len(loaded)) for what, (wall, cpu) in times.items()}
    run, *parts = found["run"], found["compute"], found["loading"]
    left = Seconds(run.wall - sum(part.wall for part in parts), run.cpu - sum(part.cpu for part in parts))
    return found | {"framework": left}


def validations(module: RetrievalModule, slow: RetrievalModule, data: MadeUp, rounds: int) -> dict[str, Seconds]:
    """Time a validation in both ways, which have to agree."""
    slow.load_state_dict(module.state_dict())
    trainer = make_trainer()
    work: dict[str, Callable[[], dict[str, float]]] = {
        "run": lambda: trainer.validate(module, datamodule=data, verbose=False)[0],
        "plain": lambda: plain_validation(slow, data.splits["val"]),
    }
    with quiet():
        times, found = in_turn(work, rounds)
    for what, value in found["plain"].items():
        assert abs(found["run"][f"val/{what}"] - value) <= 100 / data.n_val, what
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("methods", nargs="*", default=list(LAYOUTS), metavar="METHOD")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--shrink", type=int, default=1, help="divide widths, for a trial")
    args = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", Notice)  # made-up captions share few words
    for name in args.methods or list(LAYOUTS):
        measure(name, args)


if __name__ == "__main__":
    main()
