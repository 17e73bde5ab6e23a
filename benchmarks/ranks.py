"""How fast retrieval is scored, beside the bare matrix product and other people's way, in one run.

    python benchmarks/ranks.py                   MSCOCO's size: 5,000 images, 25,000 texts, 1,024 dimensions
    python benchmarks/ranks.py --large           a slice of 100,000 x 500,000 x 256, extrapolated

Every row is timed once a round, one after the other, and the median of its rounds counts, so that a busy machine
disturbs all rows alike; CPU seconds stand beside. Rows start from embeddings of unit length, or from a ready similarity
matrix where their name says so. The floor is the faster of two bare matrix products, NumPy's and torch's. All rows must
find the same recalls.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from timing import in_turn
from torch import Tensor

from cmr_bench.evaluation.categories import category_scores
from cmr_bench.evaluation.protocol import Evaluation, Protocol, evaluate, instance_metrics
from cmr_bench.evaluation.ranks import EmbeddingScores, MatrixScores, Ranks, retrieval_ranks

Floats = NDArray[np.float32]
Rows = dict[str, Callable[[], object]]
PRODUCT = "bare product"
TIED = ", tied"


def embeddings(n_images: int, per_image: int, dim: int) -> tuple[Floats, Floats]:
    """Unit vectors, texts scattered around their image so that recalls land in the middle; no large temporaries."""
    rng = np.random.default_rng(0)
    images = rng.standard_normal((n_images, dim), dtype=np.float32)
    images /= np.linalg.norm(images, axis=1, keepdims=True)
    texts = rng.standard_normal((n_images * per_image, dim), dtype=np.float32)
    for image, own in enumerate(texts.reshape(n_images, per_image, dim)):
        own *= np.float32(8.0 / dim**0.5)
        own += images[image]
        own /= np.linalg.norm(own, axis=1, keepdims=True)
    return images, texts


def loops_over_embeddings(
    images: Floats, texts: Floats, per_image: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """One query at a time: score it against the gallery, sort, look up where its matches went."""
    i2t = np.empty(len(images))
    t2i = np.empty(len(texts))
    for image in range(len(images)):
        own = slice(image * per_image, (image + 1) * per_image)
        ranking = np.argsort(images[image] @ texts.T)[::-1]
        i2t[image] = min(np.flatnonzero(ranking == text)[0] for text in range(own.start, own.stop)) + 1
        for text, scores in zip(range(own.start, own.stop), texts[own] @ images.T, strict=True):
            t2i[text] = np.flatnonzero(np.argsort(scores)[::-1] == image)[0] + 1
    return i2t, t2i


def loops_over_matrix(similarity: Floats, per_image: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The same with the scores at hand: a sort for every row and for every column."""
    i2t = np.empty(similarity.shape[0])
    t2i = np.empty(similarity.shape[1])
    for image, scores in enumerate(similarity):
        ranking = np.argsort(scores)[::-1]
        i2t[image] = min(np.flatnonzero(ranking == image * per_image + k)[0] for k in range(per_image)) + 1
    for text, scores in enumerate(similarity.T):
        t2i[text] = np.flatnonzero(np.argsort(scores)[::-1] == text // per_image)[0] + 1
    return i2t, t2i


def recalls(i2t: NDArray[np.float64], t2i: NDArray[np.float64]) -> list[float]:
    """R@1/5/10 and MedR of both directions."""
    return [
        float(value)
        for ranks in (i2t, t2i)
        for value in (*(100 * np.mean(ranks <= k) for k in (1, 5, 10)), np.median(ranks))
    ]


def of_metrics(found: dict[str, float]) -> list[float]:
    return [found[f"{way}_{name}"] for way in ("i2t", "t2i") for name in ("r1", "r5", "r10", "medr")]


def of_ranks(ranks: Ranks, owner: NDArray[np.int64]) -> list[float]:
    return of_metrics(instance_metrics(ranks, owner))


def of_category(similarity: Floats, owner: NDArray[np.int64], labels: NDArray[np.int64]) -> list[float]:
    both = category_scores(MatrixScores(similarity), owner, labels)
    return [float(np.nanmean(one.values["map"])) for one in both]


def of_fico(both: tuple[dict[str, float], dict[str, float]]) -> list[float]:
    return [way[name] for way in both for name in ("R@1", "R@5", "R@10", "MedianR")]


def our_rows(args: argparse.Namespace, images: Floats, texts: Floats, similarity: Floats) -> Rows:
    """Ours, from the bare product up to everything that a run reports."""
    owner = np.arange(len(texts)) // args.per_image
    one, other = torch.from_numpy(images), torch.from_numpy(texts)
    source, matrix = EmbeddingScores(one, other, normalize=False), MatrixScores(similarity)
    coarse = MatrixScores(np.round(similarity, 1))
    bootstrap, folds = Protocol(bootstrap=1000), Protocol(bootstrap=1000, folds=5)

    def evaluated(protocol: Protocol) -> list[float]:
        found: Evaluation = evaluate(source, owner, protocol=protocol)
        return of_metrics(found.metrics)

    rows: Rows = {
        f"{PRODUCT}, torch": lambda: one @ other.T,
        f"{PRODUCT}, NumPy": lambda: images @ texts.T,
        "ours": lambda: of_ranks(retrieval_ranks(source, owner), owner),
        "ours, normalising first": lambda: of_ranks(retrieval_ranks(EmbeddingScores(one, other), owner), owner),
        "ours, and five folds": lambda: of_ranks(retrieval_ranks(source, owner, folds=5), owner),
        "ours from a matrix": lambda: of_ranks(retrieval_ranks(matrix, owner), owner),
        f"ours{TIED} from a matrix": lambda: of_ranks(retrieval_ranks(coarse, owner), owner),
        "evaluate()": lambda: evaluated(Protocol()),
        "evaluate(), 1,000 resamples": lambda: evaluated(bootstrap),
        "evaluate(), 1,000 resamples, five folds": lambda: evaluated(folds),
    }
    if args.category:
        labels = np.random.default_rng(1).integers(0, 20, args.images)
        rows["ours, category mAP"] = lambda: of_category(similarity, owner, labels)
    return rows


def other_rows(args: argparse.Namespace, images: Floats, texts: Floats, similarity: Floats) -> Rows:
    """What other programs do."""
    per_image = args.per_image
    rows: Rows = {
        "argsort loop": lambda: recalls(*loops_over_embeddings(images, texts, per_image)),
        "argsort loop from a matrix": lambda: recalls(*loops_over_matrix(similarity, per_image)),
    }
    try:
        from fico_itr.similarity import compute_similarity
        from fico_itr.tasks import category_retrieval, instance_retrieval
    except ImportError:
        print("fico-itr is not installed (pip install fico-itr): left out")
        return rows
    labels = np.random.default_rng(1).integers(0, 20, args.images)
    rows["fico-itr"] = lambda: of_fico(
        instance_retrieval(compute_similarity(images, texts), captions_per_image=per_image)
    )
    rows["fico-itr from a matrix"] = lambda: of_fico(instance_retrieval(similarity, captions_per_image=per_image))
    if args.category:
        rows["fico-itr, category mAP"] = lambda: list(
            category_retrieval(similarity, labels, captions_per_image=per_image)
        )
    return rows


def compare(args: argparse.Namespace) -> None:
    """Time every row and print the table."""
    images, texts = embeddings(args.images, args.per_image, args.dim)
    similarity = images @ texts.T
    rows = our_rows(args, images, texts, similarity)
    rows |= {} if args.ours_only else other_rows(args, images, texts, similarity)
    times, found = in_turn(rows, args.rounds, keep=lambda result: result if isinstance(result, list) else None)
    for name, values in found.items():
        ours = found["ours, category mAP" if name.endswith("mAP") else "ours"]
        # The other ways keep whole medians and break ties by chance; there is at most one tie in a few thousand.
        if values is not None and TIED not in name and not np.allclose(values, ours, atol=0.5, rtol=1e-4):
            raise SystemExit(f"{name} finds {values}, ours finds {ours}")
    show({name: each.wall for name, each in times.items()}, {name: each.cpu for name, each in times.items()}, args)


def show(wall: dict[str, float], cpu: dict[str, float], args: argparse.Namespace) -> None:
    size = f"{args.images:,} x {args.images * args.per_image:,} x {args.dim}"
    floor = min((name for name in wall if name.startswith(PRODUCT)), key=lambda name: wall[name])
    table = Table(
        title=f"{size} float32, {torch.get_num_threads()} threads, median of {args.rounds} rounds",
        caption=f"floor: {floor}",
    )
    for title in ("", "seconds", "CPU seconds", "of the floor", "times ours"):
        table.add_column(title, justify="left" if not title else "right")
    for name, seconds in wall.items():
        kind = next((kind for kind in (" from a matrix", ", category mAP") if name.endswith(kind)), "")
        ours = wall[f"ours{kind}"]
        figures = f"{seconds:.3f}", f"{cpu[name]:.3f}", f"{seconds / wall[floor]:.2f}", f"{seconds / ours:.1f}"
        table.add_row(name, *figures)
    Console().print(table)
    if args.json:
        args.json.write_text(json.dumps({"floor": floor, "seconds": wall, "cpu_seconds": cpu}, indent=2) + "\n")


def peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def measure_memory(args: argparse.Namespace) -> None:
    """In a fresh process: how far scoring raises the peak above what holding the inputs takes."""
    images, texts = embeddings(args.images, args.per_image, args.dim)
    before = peak_bytes()
    retrieval_ranks(
        EmbeddingScores(torch.from_numpy(images), torch.from_numpy(texts), normalize=True),
        np.arange(len(texts)) // args.per_image,
    )
    print(f"peak memory above the inputs: {(peak_bytes() - before) / 1e6:,.0f} MB (inputs {before / 1e6:,.0f} MB)")


class Slice(EmbeddingScores):
    """Embeddings that stop the scoring after some seconds and note the time and the pairs of its second pass."""

    seconds = 60.0
    second_pass = 0.0
    pairs = 0

    def block(self, images: slice, texts: slice) -> Tensor:
        """Score one block, unless time is up."""
        now = time.perf_counter()
        if self.seen and images.start == 0 and not self.second_pass:
            self.second_pass = now
        self.seen = self.seen or images.start > 0
        if self.second_pass:
            if now - self.second_pass > self.seconds:
                raise StopIteration
            self.pairs += (images.stop - images.start) * (texts.stop - texts.start)
        return super().block(images, texts)

    seen = False


def measure_slice(args: argparse.Namespace) -> None:
    """Score a slice of a large problem within bounded memory and extrapolate to all of it."""
    images, texts = embeddings(args.images, args.per_image, args.dim)
    before = peak_bytes()
    source = Slice(torch.from_numpy(images), torch.from_numpy(texts), normalize=False)
    source.seconds = args.large_seconds
    started = time.perf_counter()
    try:
        retrieval_ranks(source, np.arange(len(texts)) // args.per_image)
        rest = ", all of it"
    except StopIteration:
        total = len(images) * len(texts)
        took = time.perf_counter() - source.second_pass
        first = source.second_pass - started
        whole = first + took * total / source.pairs
        rest = f"; {100 * source.pairs / total:.1f} % of the pairs, extrapolated: {whole:,.0f} s for all of them"
    print(f"{len(images):,} x {len(texts):,} x {args.dim}: {time.perf_counter() - started:.0f} s{rest}")
    print(f"peak memory above the inputs: {(peak_bytes() - before) / 1e6:,.0f} MB (inputs {before / 1e6:,.0f} MB)")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, help="images (default: 5000, with --large 100000)")
    parser.add_argument("--per-image", type=int, default=5, help="texts of an image")
    parser.add_argument("--dim", type=int, help="dimensions (default: 1024, with --large 256)")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5, help="rounds, the same for every row")
    parser.add_argument("--ours-only", action="store_true", help="without the loops, which take minutes at full size")
    parser.add_argument("--category", action="store_true", help="also mAP over 20 random categories")
    parser.add_argument("--large", action="store_true", help="a slice of 100,000 x 500,000 x 256 instead")
    parser.add_argument("--large-seconds", type=float, default=60.0, help="length of the slice")
    parser.add_argument("--json", type=Path, help="write the seconds")
    parser.add_argument("--memory", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.images = args.images or (100_000 if args.large else 5_000)
    args.dim = args.dim or (256 if args.large else 1_024)
    torch.set_num_threads(args.threads)
    if args.memory:
        measure_memory(args)
    elif args.large:
        measure_slice(args)
    else:
        # A process of its own, before the loops: Linux hands the peak of a large parent on to its children.
        subprocess.run([sys.executable, __file__, "--memory", *sys.argv[1:]], check=True)
        compare(args)


if __name__ == "__main__":
    main()
