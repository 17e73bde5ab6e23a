"""``cmr-bench search``: rank images for a caption, or captions for an image, with a trained run."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from cmr_bench.support.errors import DataError, UsageError

if TYPE_CHECKING:
    from cmr_bench.search.embed import Embedded
    from cmr_bench.search.trained import TrainedRun
from cmr_bench.search.answers import (
    DECODERS,
    Answer,
    Side,
    find_photos,
    hit_of,
    notes_on,
    printable,
    queries_of,
    ranked_items,
    read_captions,
    short_name,
)

_EPILOG = """\
examples:
  cmr-bench search runs/flickr8k/vsepp/20260101-120000-s0 "a dog in the snow" --images ~/Pictures
  cmr-bench search RUN "a dog in the snow" --images FOLDER --html found.html      an HTML page with thumbnails
  cmr-bench search RUN --image photo.jpg --captions sentences.txt --json -        one caption per line, best first
  cmr-bench search SCAN_RUN "a dog" --images FOLDER --shortlist VSEPP_RUN        cross attention on a large folder
  cmr-bench search RUN - --images FOLDER < questions.txt                          one query per line

RUN is the folder that `cmr-bench run` printed. Images are encoded as in training: from pixels, or by the encoder of
its stored features, whose weights file is expected at its old path (--weights FILE if it has moved). Embeddings are
cached (CMR_BENCH_CACHE), so the second search of a folder is fast.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `cmr-bench search`."""
    parser.epilog = _EPILOG
    parser.add_argument("run", type=Path, metavar="RUN", help="run folder, with config.yaml and checkpoints/best.ckpt")
    parser.add_argument(
        "query", nargs="?", metavar="QUERY", help="query in quotes; - reads one query per line from stdin"
    )
    what = parser.add_argument_group("images for a caption")
    what.add_argument("--images", type=Path, metavar="FOLDER", help="image folder, searched recursively")
    other = parser.add_argument_group("captions for an image")
    other.add_argument("--image", type=Path, metavar="FILE", help="query image")
    other.add_argument("--captions", type=Path, metavar="FILE", help="captions, one per line, UTF-8")
    parser.add_argument("--top", type=int, default=10, metavar="N", help="number of answers (default: %(default)s)")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write a self-contained HTML page with thumbnails")
    parser.add_argument("--json", metavar="FILE", help="write the answers as JSON; - writes to stdout")
    parser.add_argument(
        "--weights", type=Path, metavar="FILE", help="weights file of the image encoder, if it has moved"
    )
    parser.add_argument("--trust", action="store_true", help="run the code of a FILE.py:Class that a run folder names")
    parser.add_argument("--shortlist", type=Path, metavar="RUN", help="rank only the top candidates of this faster run")
    parser.add_argument(
        "--shortlist-size", type=int, default=1000, metavar="N", help="number of candidates (default: %(default)s)"
    )
    parser.add_argument("--shortlist-weights", type=Path, metavar="FILE", help="--weights of the shortlist run")
    parser.add_argument("--device", default="auto", help="cpu, cuda, cuda:1, mps (default: a GPU if available)")
    parser.add_argument("--batch-size", type=int, default=32, metavar="N", help="batch size (default: %(default)s)")
    parser.add_argument(
        "--workers",
        type=int,
        default=DECODERS,
        metavar="N",
        help="number of image decoding threads (default: %(default)s)",
    )


def run(args: argparse.Namespace) -> int:
    """Rank, print, and write what is asked for.

    Raises:
        UsageError: For options that do not go together.
        DataError: For files that are missing or unreadable, and runs whose inputs raw files do not give.
    """
    _check(args)
    texts = None if args.captions is None else read_captions(args.captions)
    files = [] if args.images is None else find_photos(args.images)
    queries = [args.image] if args.query is None else queries_of(args.query)
    # Imported here, not above: `--help` must not wait for torch.
    from cmr_bench.search.index import has_faiss
    from cmr_bench.search.trained import load_run
    from cmr_bench.support.devices import choose_device

    device = choose_device(args.device)
    shared = (args.batch_size, args.workers)
    main = Side(load_run(args.run, device, args.trust), args.weights, *shared)
    short = None
    if args.shortlist is not None:
        short = Side(load_run(args.shortlist, device, args.trust), args.shortlist_weights, *shared)
    items = main if short is None else short
    found = items.embed(files) if texts is None else items.embed_sentences(texts)
    if not found.rows:
        raise DataError(f"none of the {len(files)} photographs in {args.images} can be read: {found.skipped[0][1]}")
    names = [str(file) for file in files] if texts is None else texts
    answers = [
        Answer(
            str(query), [hit_of(names[row], texts is None, at, score) for at, (score, row) in enumerate(best, start=1)]
        )
        for query, best in ranked_items(args, main, short, found, files, texts, queries)
    ]
    notes = notes_on(args, found, files, texts, main, has_faiss())
    _output(args, main.run, answers, found, names, notes)
    return 0


def _check(args: argparse.Namespace) -> None:
    if args.query is not None and not args.query.strip():
        raise UsageError("the query is empty")
    if args.query is not None and (args.images is None or args.image is not None or args.captions is not None):
        raise UsageError("a text query needs --images FOLDER, without --image and --captions")
    if args.query is None and (args.image is None or args.captions is None or args.images is not None):
        raise UsageError("pass a query in quotes with --images FOLDER, or --image FILE with --captions FILE")
    for option in ("top", "shortlist_size", "batch_size", "workers"):
        if getattr(args, option) < 1:
            raise UsageError(f"--{option.replace('_', '-')} must be at least 1")
    if args.shortlist is not None and args.shortlist_size < args.top:
        raise UsageError(f"--shortlist-size {args.shortlist_size} is smaller than --top {args.top}")


def _output(
    args: argparse.Namespace,
    run: TrainedRun,
    answers: Sequence[Answer],
    found: Embedded,
    names: Sequence[str],
    notes: Sequence[str],
) -> None:
    from cmr_bench.support.files import write_atomic

    record = {
        "schema": 1,
        "run": str(run.folder),
        "method": run.method,
        "data": run.dataset,
        "images": None if args.images is None else str(args.images),
        "captions": None if args.captions is None else str(args.captions),
        "searched": len(found.rows),
        "skipped": [{"file": names[row], "reason": reason} for row, reason in found.skipped],
        "answers": [
            {
                "query": answer.query,
                "hits": [{k: v for k, v in asdict(hit).items() if v is not None} for hit in answer.hits],
            }
            for answer in answers
        ],
    }
    content = printable(json.dumps(record, indent=1, ensure_ascii=False, allow_nan=False)) + "\n"
    if args.html is not None:
        from cmr_bench.search.page import page

        title = f"{run.method} on {run.dataset}"
        write_atomic(args.html, page(title, answers, args.image, args.images, ", ".join(notes)))
    if args.json == "-":
        print(content, end="")
        return
    _show(args, answers, notes)
    if args.json is not None:
        write_atomic(Path(args.json), content)
        print(f"written: {args.json}")
    if args.html is not None:
        print(f"written: {args.html}")


def _show(args: argparse.Namespace, answers: Sequence[Answer], notes: Sequence[str]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    for answer in answers:
        remarks = Text(printable(", ".join(notes)))
        table = Table(title=Text(printable(answer.query)), caption=remarks, title_justify="left")
        table.caption_justify = "left"
        table.add_column("", justify="right")
        table.add_column("score", justify="right", no_wrap=True)
        table.add_column("caption" if args.images is None else "file", overflow="fold")
        for hit in answer.hits:
            name = hit.caption or short_name(hit.file or "", args.images)
            table.add_row(str(hit.rank), f"{hit.score:.4f}", Text(printable(name)))
        console.print(table)
