"""``cmr-bench data get``: download a data set where its host and licence allow it."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from cmr_bench.datamodules.acquire.sources import SOURCES
from cmr_bench.support import environment
from cmr_bench.support.download import Progress
from cmr_bench.support.errors import DataError, UsageError, did_you_mean
from cmr_bench.support.places import data_root

_EPILOG = """\
Checksums are verified; where the host publishes none, against that of the first download (downloads.json). The same
command resumes an interrupted download.

examples:
  cmr-bench data get flickr8k --root DATA            captions and splits; says whom to ask for the images
  cmr-bench data get mscoco --root DATA --only photos
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `cmr-bench data get`."""
    parser.epilog = _EPILOG
    parser.add_argument("data", metavar="DATA", help=f"name of a data set: {', '.join(SOURCES)}")
    parser.add_argument(
        "--root", metavar="DIR", help="folder that contains one folder per data set (default: $CMR_BENCH_DATA)"
    )
    parser.add_argument("--only", choices=("annotations", "photos"), help="download only this part")
    parser.add_argument("--keep-archives", action="store_true", help="keep the archives after unpacking")


def run(args: argparse.Namespace) -> int:
    """Download what can be had, and say whom to ask for the rest.

    Raises:
        UsageError: For an unknown data set, or without a folder to write to.
        DataError: If nothing of it can be downloaded.
    """
    from cmr_bench.datamodules.acquire.getting import get

    if args.data not in SOURCES:
        raise UsageError(f"no source of '{args.data}' is known.{did_you_mean(args.data, SOURCES)}")
    source = SOURCES[args.data]
    chosen = [archive for archive in source.archives if args.only in (None, archive.part)]
    if not chosen:
        raise DataError(f"{args.data} cannot be downloaded: {source.ask}")
    root = data_root(args.root)
    if root is None:
        raise UsageError(f"pass --root DIR or set {environment.DATA}: the data set goes to DIR/{args.data}")
    folder: Path = root / args.data
    for archive in chosen:
        size = f", {archive.size / 1e6:,.0f} MB" if archive.size else ""
        print(f"{archive.url}{size}\n  terms: {archive.terms}")
        with _bar() as progress:
            count, sha256 = get(archive, folder, args.keep_archives, progress)
        done = f"{count:,} files unpacked" if count else "there already"
        print(f"  {done}; sha256 {sha256}{'' if archive.checksum else ' (the host publishes none to compare it with)'}")
    print(f"written: {folder}")
    if source.ask and args.only != "annotations":
        print(f"not downloaded: {source.ask}")
    print(f"look at it with: cmr-bench data check {args.data} --root {root}")
    return 0


@contextmanager
def _bar() -> Iterator[Callable[[str], Progress]]:
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn, TransferSpeedColumn
    from rich.progress import Progress as Bars

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Bars(
        *columns, TimeRemainingColumn(), console=console, disable=not console.is_terminal, transient=True
    ) as bars:

        def begin(name: str) -> Progress:
            task = bars.add_task(name, total=None)
            return lambda done, total: bars.update(task, completed=done, total=total)

        yield begin
