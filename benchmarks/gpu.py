"""What a GPU is worth: ranks, attention scores, training steps and several devices, each beside the CPU.

    python benchmarks/gpu.py                       on the first CUDA device, MSCOCO's sizes; some minutes
    python benchmarks/gpu.py --device cpu --small  what needs one device, once and small, without a GPU

Every part computes the same on both sides and says how far the results are apart; times are medians of rounds after one
that is not counted. Without a CUDA device the script says so and ends.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

import cmr_bench
from cmr_bench.datamodules.batches import ImageBatch, PairBatch, TextBatch
from cmr_bench.datamodules.views import DataSpec, ViewSpec
from cmr_bench.evaluation.protocol import evaluate
from cmr_bench.evaluation.scores import EmbeddingScores, ScoreSource
from cmr_bench.models.base import RetrievalModule
from cmr_bench.models.interaction.scan import SCAN
from cmr_bench.models.pairwise.vsepp import VSEPP
from cmr_bench.models.scoring import PairScores

_WORDS, _VOCABULARY = 12, 10_000


@dataclass(frozen=True)
class Sizes:
    """Sizes of everything that is measured: those of MSCOCO and of the papers, or small ones."""

    images: int = 5000
    dim: int = 1024
    scored_images: int = 500
    regions: int = 36
    features: int = 2048
    batch: int = 128
    rounds: int = 5
    epochs: int = 8
    pairs: int = 1000


SMALL = Sizes(20, 8, 6, 3, 6, 4, 1, 1, 64)


def seconds(compute: Callable[[], object], device: torch.device, rounds: int) -> float:
    """Median of the wall times of ``compute``, the device waited for."""
    taken = []
    for _ in range(rounds + 1):
        started = time.perf_counter()
        compute()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        taken.append(time.perf_counter() - started)
    return statistics.median(taken[1:])


def scored(
    source: Callable[[torch.device], ScoreSource], owner: Tensor, device: torch.device, rounds: int
) -> list[str]:
    """Time an evaluation on the CPU and on the device, and compare the metrics."""
    found = {}
    cells = []
    for place in (torch.device("cpu"), device):

        def once(place: torch.device = place) -> None:
            found[place] = evaluate(source(place), owner.numpy()).metrics

        cells.append(f"{seconds(once, place, rounds):.3f}")
    apart = max(abs(found[device][name] - value) for name, value in found[torch.device("cpu")].items())
    return [*cells, f"{apart:.2g}"]


def ranks(sizes: Sizes, device: torch.device) -> list[str]:
    """Ranks of noisy embeddings of a gallery with five captions an image."""
    generator = torch.Generator().manual_seed(0)
    owner = torch.arange(sizes.images).repeat_interleave(5)
    images = torch.randn(sizes.images, sizes.dim, generator=generator)
    texts = images[owner] + 3 * torch.randn(len(owner), sizes.dim, generator=generator)
    return scored(lambda place: EmbeddingScores(images, texts, device=place), owner, device, sizes.rounds)


def attention(sizes: Sizes, device: torch.device) -> list[str]:
    """SCAN's scores of encoded regions and words."""
    owner = torch.arange(sizes.scored_images).repeat_interleave(5)
    module = made(SCAN(dim=sizes.dim), sizes)
    batch = pairs(sizes, len(owner))
    with torch.inference_mode():
        module.eval()
        texts = module.encode_texts(batch.texts)
        images = tuple(part[: sizes.scored_images] for part in module.encode_images(batch.images))

    def source(place: torch.device) -> PairScores:
        return PairScores(module.to(place), images, texts)

    return scored(source, owner, device, 1)


def made(module: RetrievalModule, sizes: Sizes) -> RetrievalModule:
    """Build a method for arrays in the layout of VSE++ and SCAN."""
    shape = (sizes.regions, sizes.features) if module.image_view == "regions" else (sizes.features,)
    texts = ViewSpec("tokens", (_WORDS,), "made up", _VOCABULARY)
    module.build(DataSpec(ViewSpec(module.image_view, shape, "made up"), texts, 0, False, sizes.images, sizes.images))
    return module


def pairs(sizes: Sizes, n: int) -> PairBatch:
    """Random pairs with regions, their mean and words."""
    generator = torch.Generator().manual_seed(1)
    regions = torch.rand(n, sizes.regions, sizes.features, generator=generator)
    images = ImageBatch(torch.arange(n), vector=regions.mean(1), regions=regions)
    images.mask = torch.ones(n, sizes.regions, dtype=torch.bool)
    lengths = torch.randint(5, _WORDS + 1, (n,), generator=generator)
    tokens = torch.randint(1, _VOCABULARY, (n, _WORDS), generator=generator)
    tokens[torch.arange(_WORDS) >= lengths[:, None]] = 0
    return PairBatch(images, TextBatch(torch.arange(n), tokens=tokens, lengths=lengths))


def step(make: Callable[[], RetrievalModule], sizes: Sizes, device: torch.device, half: bool, compiled: bool) -> str:
    """Milliseconds of a training step: forward, backward and optimiser."""
    torch.manual_seed(0)
    module = made(make(), sizes).to(device).train()
    batch = module.transfer_batch_to_device(pairs(sizes, sizes.batch), device, 0)
    optimizer = module.make_optimizer()
    loss = torch.compile(module.loss, dynamic=True) if compiled else module.loss

    def once() -> None:
        optimizer.zero_grad()
        with torch.autocast(device.type, torch.bfloat16, enabled=half):
            value = loss(batch)["loss"]
        value.backward()
        optimizer.step()

    for _ in range(3):
        once()
    return f"{1000 * seconds(once, device, 4 * sizes.rounds):.1f}"


def devices(sizes: Sizes, count: int) -> list[str]:
    """Train on one GPU and on ``count``; return seconds of both and how far the metrics are apart."""
    found, taken = [], []
    with tempfile.TemporaryDirectory() as folder:
        for number in (1, count):
            with contextlib.redirect_stdout(io.StringIO()):
                run = cmr_bench.train(
                    "vsepp",
                    runs=Path(folder),
                    n_train=sizes.pairs,
                    max_epochs=sizes.epochs,
                    devices=number,
                    accelerator="gpu",
                    bootstrap=0,
                    progress=False,
                    strategy="auto" if number == 1 else "ddp",
                )
            assert run.result is not None
            found.append(run.result.metrics)
            taken.append(f"{run.result.cost['train_seconds']:.1f}")
    apart = max(abs(found[0][name] - value) for name, value in found[1].items() if name in ("rsum", "mr"))
    return [*taken, f"{apart:.2g}"]


def main() -> None:
    """Measure and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", help="device beside the CPU (default: %(default)s)")
    parser.add_argument("--small", action="store_true", help="small sizes, one round")
    args = parser.parse_args()
    device, sizes, console = torch.device(args.device), SMALL if args.small else Sizes(), Console()
    if device.type == "cuda" and not torch.cuda.is_available():
        console.print("no CUDA device: nothing is measured; --device cpu --small runs what needs one device")
        return
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    console.print(f"torch {torch.__version__}, NumPy {np.__version__}, {name}, {torch.get_num_threads()} CPU threads")
    table = Table(title="Seconds", title_justify="left")
    for head in ("work", "CPU", name, "metrics apart"):
        table.add_column(head, justify="left" if head == "work" else "right", overflow="fold")
    table.add_row(f"evaluate {sizes.images:,} x {5 * sizes.images:,}, {sizes.dim} dimensions", *ranks(sizes, device))
    table.add_row(f"SCAN scores {sizes.scored_images:,} x {5 * sizes.scored_images:,}", *attention(sizes, device))
    console.print(table)
    table = Table(title=f"Milliseconds a training step on {name}, batches of {sizes.batch}", title_justify="left")
    for head in ("method", "float32", "bf16", "bf16, compiled"):
        table.add_column(head, justify="left" if head == "method" else "right", overflow="fold")
    for method, make in (("vsepp", lambda: VSEPP(dim=sizes.dim)), ("scan", lambda: SCAN(dim=sizes.dim))):
        compiled = device.type == "cuda"
        cells = [step(make, sizes, device, half, False) for half in (False, True)]
        table.add_row(method, *cells, step(make, sizes, device, True, True) if compiled else "")
    console.print(table)
    several = torch.cuda.device_count() if device.type == "cuda" else 0
    if several > 1:
        one, all_, apart = devices(sizes, several)
        console.print(f"synthetic, seconds of training on 1 / {several} devices: {one} / {all_}, metrics apart {apart}")
    else:
        console.print("several devices: there are not, nothing is measured")


if __name__ == "__main__":
    main()
