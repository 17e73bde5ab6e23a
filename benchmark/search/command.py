"""`cmr-bench search`: rank one's own photographs for a sentence, or sentences for a photograph, with a trained run."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cmr_bench.errors import DataError, UsageError

if TYPE_CHECKING:
    from cmr_bench.search.embed import Cache, Embedded
    from cmr_bench.search.trained import TrainedRun

_EPILOG = """\
examples:
  cmr-bench search runs/flickr8k/vsepp/20260101-120000-s0 "a dog in the snow" --images ~/Pictures
  cmr-bench search RUN "a dog in the snow" --images FOLDER --html found.html      a page with thumbnails
  cmr-bench search RUN --image photo.jpg --captions sentences.txt --json -        a sentence a line, best first
  cmr-bench search SCAN_RUN "a dog" --images FOLDER --shortlist VSEPP_RUN         cross attention in a large folder
  cmr-bench search RUN - --images FOLDER < questions.txt                          a query a line

RUN is the folder that `cmr-bench run` printed. Photographs go through what the run learned from: pixels, or the encoder
of its stored features, whose weights file is looked for where it was (--weights FILE if it has moved). Embeddings are
kept in the cache (CMR_BENCH_CACHE), so the second search of a folder is quick.
"""
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif", ".ppm")
_MANY = 2000


@dataclass
class Hit:
    """One answer: its rank from 1, its score, and the photograph or sentence."""

    rank: int
    score: float
    file: str | None = None
    caption: str | None = None


@dataclass
class Answer:
    """The answers to one query, a sentence or a photograph."""

    query: str
    hits: list[Hit] = field(default_factory=list)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `cmr-bench search`."""
    parser.epilog = _EPILOG
    parser.add_argument("run", type=Path, metavar="RUN", help="run folder: config.yaml and checkpoints/best.ckpt")
    parser.add_argument("query", nargs="?", metavar="SENTENCE", help="what to look for in quotes; - reads a line each")
    what = parser.add_argument_group("photographs for a sentence")
    what.add_argument("--images", type=Path, metavar="FOLDER", help="photographs, those in folders below it too")
    other = parser.add_argument_group("sentences for a photograph")
    other.add_argument("--image", type=Path, metavar="FILE", help="the photograph")
    other.add_argument("--captions", type=Path, metavar="FILE", help="sentences, one a line, UTF-8")
    parser.add_argument("--top", type=int, default=10, metavar="N", help="answers wanted (default: %(default)s)")
    parser.add_argument(
        "--html", type=Path, metavar="FILE", help="write a page with thumbnails that needs no other file"
    )
    parser.add_argument("--json", metavar="FILE", help="write the answers as JSON; - prints nothing else")
    parser.add_argument("--weights", type=Path, metavar="FILE", help="weights of the image encoder, where they moved")
    parser.add_argument("--shortlist", type=Path, metavar="RUN", help="score exactly only what this run finds first")
    parser.add_argument(
        "--shortlist-size", type=int, default=1000, metavar="N", help="length of the short list (default: %(default)s)"
    )
    parser.add_argument("--shortlist-weights", type=Path, metavar="FILE", help="as --weights, for that run")
    parser.add_argument("--device", default="auto", help="cpu, cuda, cuda:1, mps (default: a GPU if there is one)")
    parser.add_argument("--batch-size", type=int, default=32, metavar="N", help="items at once (default: %(default)s)")
    parser.add_argument(
        "--workers", type=int, default=min(8, os.cpu_count() or 1), metavar="N", help="threads that decode photographs"
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
    queries = [args.image] if args.query is None else _sentences(args.query)
    # Imported here, not above: `--help` must not wait for torch.
    from cmr_bench.datamodules.features_command import choose_device
    from cmr_bench.search.index import has_faiss

    device = choose_device(args.device)
    main = _Side(args, args.run, args.weights, device)
    short = None if args.shortlist is None else _Side(args, args.shortlist, args.shortlist_weights, device)
    items = main if short is None else short
    found = items.embed(files) if texts is None else items.embed_sentences(texts)
    if not found.rows:
        raise DataError(f"none of the {len(files)} photographs in {args.images} can be read: {found.skipped[0][1]}")
    names = [str(file) for file in files] if texts is None else texts
    answers = [
        Answer(
            str(query), [_hit(names[row], texts is None, at, score) for at, (score, row) in enumerate(best, start=1)]
        )
        for query, best in _ranked(args, main, short, found, files, texts, queries)
    ]
    notes = _notes(args, found, files, texts, main, has_faiss())
    _output(args, main.run, answers, found, names, notes)
    return 0


def _check(args: argparse.Namespace) -> None:
    if args.query is not None and not args.query.strip():
        raise UsageError("the sentence to look for is empty")
    if args.query is not None and (args.images is None or args.image is not None or args.captions is not None):
        raise UsageError(
            "a sentence is looked for among photographs: pass --images FOLDER, and no --image or --captions"
        )
    if args.query is None and (args.image is None or args.captions is None or args.images is not None):
        raise UsageError("pass a sentence in quotes and --images FOLDER, or --image FILE and --captions FILE")
    for option in ("top", "shortlist_size", "batch_size", "workers"):
        if getattr(args, option) < 1:
            raise UsageError(f"--{option.replace('_', '-')} must be at least 1")
    if args.shortlist is not None and args.shortlist_size < args.top:
        raise UsageError(f"--shortlist-size {args.shortlist_size} is less than --top {args.top}")


def find_photos(folder: Path) -> list[Path]:
    """Return the photographs in a folder and the folders below it, by path; hidden files are left out.

    Raises:
        DataError: If there is no folder, or no photograph in it.
    """
    if not folder.is_dir():
        raise DataError(f"--images {folder} is no folder" if folder.exists() else f"--images: no folder {folder}")
    found = [
        path
        for path in sorted(folder.rglob("*"))
        if path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and not path.is_dir()
    ]
    if not found:
        raise DataError(f"no photographs in {folder}: looked for {', '.join(SUFFIXES)} in it and below")
    return found


def read_captions(file: Path) -> list[str]:
    """Read sentences, one a line; blank lines are passed over.

    Raises:
        DataError: If the file is missing, not UTF-8 or holds no sentence.
    """
    try:
        content = file.read_bytes()
    except OSError as error:
        raise DataError(f"--captions: cannot read {file}: {error.strerror or error}") from error
    try:
        lines = content.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise DataError(f"--captions: {file}, line {line}, is not UTF-8; save the file as UTF-8") from error
    sentences = [" ".join(line.split()) for line in lines if line.strip()]
    if not sentences:
        raise DataError(f"--captions: {file} holds no sentence; write one a line")
    return sentences


def _sentences(query: str) -> list[str | Path]:
    if query != "-":
        return [query]
    lines = [line.strip() for line in sys.stdin if line.strip()]
    if not lines:
        raise UsageError("no sentence on standard input; write one a line")
    return list(lines)


class _Side:
    """A run with its cache, and how photographs are read for it."""

    def __init__(self, args: argparse.Namespace, folder: Path, weights: Path | None, device: str) -> None:
        from cmr_bench.search.embed import Cache
        from cmr_bench.search.trained import load_run

        self.run: TrainedRun = load_run(folder, device)
        self.cache: Cache = Cache(self.run.checksum)
        self.weights, self.batch_size, self.workers = weights, args.batch_size, args.workers

    def embed(self, files: Sequence[Path]) -> Embedded:
        from cmr_bench.search.embed import embed_photos

        return embed_photos(self.run, self.cache, files, self.weights, self.batch_size, self.workers)

    def embed_sentences(self, texts: Sequence[str]) -> Embedded:
        from cmr_bench.search.embed import embed_texts

        return embed_texts(self.run, self.cache, texts, self.batch_size)

    def embed_query(self, query: str | Path) -> Any:
        found = self.embed_sentences([query]) if isinstance(query, str) else self.embed([query])
        if not found.rows:
            raise DataError(f"--image: {found.skipped[0][1]}")
        return self.cache.read(found.keys)


def _ranked(
    args: argparse.Namespace,
    main: _Side,
    short: _Side | None,
    found: Embedded,
    files: Sequence[Path],
    texts: Sequence[str] | None,
    queries: Sequence[str | Path],
) -> Iterator[tuple[str | Path, list[tuple[float, int]]]]:
    """Yield every query with the scores and rows of its best answers."""
    from cmr_bench.search.index import Collection, has_faiss

    first = main if short is None else short
    faiss = has_faiss()
    whole = Collection(first.run, first.cache, found.keys, "images" if texts is None else "texts", faiss)
    if short is not None and not whole.is_dual:
        raise UsageError(f"--shortlist {args.shortlist}: {short.run.method} scores pairs, not vectors, and is as slow")
    for query in queries:
        count = args.top if short is None else args.shortlist_size
        scores, places = whole.best(first.embed_query(query), count)
        rows = [found.rows[place] for place in places.tolist()]
        if short is not None:
            part = (
                main.embed([files[row] for row in rows])
                if texts is None
                else main.embed_sentences([texts[row] for row in rows])
            )
            some = Collection(main.run, main.cache, part.keys, whole.side, faiss)
            scores, places = some.best(main.embed_query(query), args.top)
            rows = [rows[part.rows[place]] for place in places.tolist()]
        yield query, list(zip(scores.tolist(), rows, strict=True))


def _hit(name: str, photo: bool, rank: int, score: float) -> Hit:
    return Hit(rank, score, file=name) if photo else Hit(rank, score, caption=name)


def _notes(
    args: argparse.Namespace,
    found: Embedded,
    files: Sequence[Path],
    texts: Sequence[str] | None,
    main: _Side,
    faiss: bool,
) -> list[str]:
    from cmr_bench.search.index import Collection

    kind = "sentences" if texts is not None else "photographs"
    notes = [f"{len(found.rows):,} {kind}"]
    if found.skipped:
        notes.append(f"{len(found.skipped):,} could not be read")
    if args.shortlist is not None:
        notes.append(f"the first {args.shortlist_size:,} of {args.shortlist} scored exactly")
    elif len(found.rows) > _MANY:
        dual = Collection(main.run, main.cache, found.keys, "images" if texts is None else "texts", faiss).is_dual
        if not dual:
            notes.append("every pair scored; --shortlist RUN with a dual encoder is faster")
        elif not faiss:
            notes.append("searched by torch; pip install 'cmr-bench[search]' is faster")
    return notes


def _output(
    args: argparse.Namespace,
    run: TrainedRun,
    answers: Sequence[Answer],
    found: Embedded,
    names: Sequence[str],
    notes: Sequence[str],
) -> None:
    from cmr_bench.files import write_atomic

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


def printable(text: str) -> str:
    """Return text that UTF-8 can hold: a byte of a file name that is not UTF-8 becomes the replacement sign."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _show(args: argparse.Namespace, answers: Sequence[Answer], notes: Sequence[str]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    for answer in answers:
        table = Table(title=Text(printable(answer.query)), caption=Text(", ".join(notes)), title_justify="left")
        table.caption_justify = "left"
        table.add_column("", justify="right")
        table.add_column("score", justify="right", no_wrap=True)
        table.add_column("caption" if args.images is None else "file", overflow="fold")
        for hit in answer.hits:
            name = hit.caption or short_name(hit.file or "", args.images)
            table.add_row(str(hit.rank), f"{hit.score:.4f}", Text(printable(name)))
        console.print(table)


def short_name(file: str, folder: Path | None) -> str:
    """Return the path of a photograph below the folder that was searched."""
    return file if folder is None else os.path.relpath(file, folder)
