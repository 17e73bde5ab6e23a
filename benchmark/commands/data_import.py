"""``cmr-bench data import``: write a data set of any layout that is read as Karpathy's JSON."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path

from cmr_bench import registry
from cmr_bench.support.errors import UsageError

_EPILOG = """\
LAYOUT is the data set that can read SRC: custom for tables and JSON files, or a name from `cmr-bench list`. Its options
are those of run (--data.image_column file). DEST gets dataset.json and images/.

examples:
  cmr-bench data import custom my_photos DEST --data.separator ';'
  cmr-bench data import pascal DATA DEST --photos link
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `cmr-bench data import`."""
    parser.epilog = _EPILOG
    parser.add_argument("layout", metavar="LAYOUT", help="data set that can read SRC, e.g. custom")
    parser.add_argument("source", metavar="SRC", type=Path, help="folder to read")
    parser.add_argument("dest", metavar="DEST", type=Path, help="folder to write")
    parser.add_argument(
        "--photos",
        choices=("copy", "link", "none"),
        default="copy",
        help="copy or hard-link the images, or write annotations only (default: %(default)s)",
    )


def run(args: argparse.Namespace) -> int:
    """Read, write, and say how to use what was written.

    Raises:
        UsageError: For an unknown layout or option.
        DataError: If the files cannot be read, or lack what the layout needs.
    """
    if not args.source.is_dir():
        raise UsageError(f"SRC {args.source} is no folder")
    from cmr_bench.experiment import recipe

    registry.trust(args.layout)
    module = recipe.data_module(args.layout, [f"--data.root={args.source}", *args.data_options])
    if getattr(module, "sentences", None) is False and not any("data.sentences" in one for one in args.data_options):
        module.sentences = True  # joined to documents, they could not be told apart again
    from cmr_bench.datamodules.acquire.writing import ANNOTATIONS, PHOTOS, write_karpathy

    written = write_karpathy(module.data_name, module.read(), args.dest, args.photos)
    print(
        f"written: {args.dest / ANNOTATIONS}, {written.n_images:,} images with {written.n_texts:,} captions, "
        f"{written.n_photos:,} image files"
    )
    if written.missing:
        print(f"{len(written.missing):,} images have no file, e.g. {written.missing[0]}")
    words = ["--data", "custom", "--data.root", str(args.dest), "--data.file", ANNOTATIONS, "--data.images", PHOTOS]
    words += ["--data.label_separator", written.separator] if written.separator else []
    print(f"use it with: cmr-bench run --model vsepp {shlex.join(words)}")
    return 0
