"""How an epoch of MSCOCO's regions streams from one array on disk: ``python benchmarks/stream.py``.

A folder in the layout of VSE++ and SCAN is made up: 113,287 images of 36 x 2,048 float16, 17 GB, and five captions
each. The array is sparse, so that it takes no room; --filled writes it, for the speed of the disk. The suite's own
loader then reads batches in random order, with as many workers as asked for. Printed are batches a second, and the most
memory that all processes hold: of their own, and pages of the file, which the system takes back when it needs them.
"""

from __future__ import annotations

import argparse
import itertools
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from cmr_bench import load_data

CAPTIONS = 5


def write(folder: Path, images: int, regions: int, width: int, filled: bool) -> None:
    """Write train, dev and test arrays and their captions."""
    rng = np.random.default_rng(0)
    for prefix, n in (("train", images), ("dev", 8), ("test", 8)):
        file = folder / f"{prefix}_ims.npy"
        array = np.lib.format.open_memmap(file, mode="w+", dtype=np.float16, shape=(n, regions, width))
        if filled or prefix != "train":
            for start in range(0, n, 256):
                part = array[start : start + 256]
                part[:] = rng.standard_normal(part.shape, dtype=np.float32)
        array.flush()
        del array
        words = rng.integers(0, 8000, (n * CAPTIONS, 10))
        lines = "\n".join(" ".join(f"w{word}" for word in line) for line in words)
        (folder / f"{prefix}_caps.txt").write_text(lines + "\n", encoding="utf-8")


def held() -> tuple[int, int]:
    """Return the bytes that this process and its workers hold: of their own, and of files."""
    own = files = 0
    for pid in (os.getpid(), *(child.pid for child in multiprocessing.active_children())):
        try:
            lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        except OSError:
            continue
        sizes = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines if line.startswith("Rss")}
        own += sizes.get("RssAnon", 0)
        files += sizes.get("RssFile", 0) + sizes.get("RssShmem", 0)
    return own, files


def timed(batches: Iterator[object], count: int) -> tuple[float, float, int, int]:
    """Take ``count`` batches; return seconds to the first, batches a second after it, and the most memory held."""
    started = time.perf_counter()
    next(batches)
    first = time.perf_counter() - started
    most = held()
    started, taken = time.perf_counter(), 0
    for _ in itertools.islice(batches, count):
        taken += 1
        if taken % 20 == 0:
            own, files = held()
            most = max(most[0], own), max(most[1], files)
    return first, taken / (time.perf_counter() - started), *most


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=113_287)
    parser.add_argument("--regions", type=int, default=36)
    parser.add_argument("--width", type=int, default=2048)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--batches", type=int, default=300)
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 2])
    parser.add_argument("--filled", action="store_true", help="write the whole array")
    parser.add_argument("--folder", type=Path, help="where the array is made (default: the system's temporary folder)")
    args = parser.parse_args()
    if not sys.platform.startswith("linux"):
        parser.error("memory is read from /proc, which this system does not have")
    with tempfile.TemporaryDirectory(dir=args.folder) as root:
        place = Path(root) / "mscoco"
        place.mkdir()
        write(place, args.images, args.regions, args.width, args.filled)
        file = place / "train_ims.npy"
        size = file.stat()
        table = Table(
            title=f"{args.images:,} images x {args.regions} x {args.width} float16: {size.st_size / 1e9:.1f} GB, "
            f"{size.st_blocks * 512 / 1e9:.1f} GB of them on disk; batches of {args.batch_size}"
        )
        for title in (
            "workers",
            "set up s",
            "first batch s",
            "batches/s",
            "GB/s",
            "own memory MB",
            "pages of files MB",
        ):
            table.add_column(title, justify="right")
        for workers in args.workers:
            started = time.perf_counter()
            data = load_data("mscoco", root, image_view="regions", num_workers=workers, batch_size=args.batch_size)
            set_up = time.perf_counter() - started
            first, speed, own, files = timed(iter(data.train_dataloader()), args.batches)
            gigabytes = speed * args.batch_size * args.regions * args.width * 2 / 1e9
            figures = f"{set_up:.1f}", f"{first:.2f}", f"{speed:.1f}", f"{gigabytes:.2f}"
            table.add_row(str(workers), *figures, f"{own / 1e6:,.0f}", f"{files / 1e6:,.0f}")
        Console().print(table)


if __name__ == "__main__":
    main()
