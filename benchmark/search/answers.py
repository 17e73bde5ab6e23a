"""Queries, the items that they are ranked against, and the answers."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cmr_bench.support.errors import DataError, UsageError
from cmr_bench.support.files import is_leftover

if TYPE_CHECKING:
    from cmr_bench.search.embed import Embedded
    from cmr_bench.search.trained import TrainedRun


SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif", ".ppm")
_MANY = 2000
DECODERS = min(8, os.cpu_count() or 1)


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


def find_photos(folder: Path) -> list[Path]:
    """Return the photographs in a folder and the folders below it, by path; hidden files are omitted.

    Raises:
        DataError: If there is no folder, or no photograph in it.
    """
    if not folder.is_dir():
        raise DataError(f"--images {folder}: not a folder" if folder.exists() else f"--images {folder}: no such folder")
    found = [
        path
        for path in sorted(folder.rglob("*"))
        if path.suffix.lower() in SUFFIXES
        and not path.name.startswith(".")
        and not is_leftover(path.relative_to(folder))
        and not path.is_dir()
    ]
    if not found:
        raise DataError(f"no images in {folder}: looked for {', '.join(SUFFIXES)} recursively")
    return found


def read_captions(file: Path) -> list[str]:
    """Read sentences, one per line; blank lines are skipped.

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
        raise DataError(f"--captions: {file} contains no caption; write one per line")
    return sentences


def queries_of(query: str) -> list[str | Path]:
    """Return the queries: the sentence, or with ``-`` one for each line of standard input."""
    if query != "-":
        return [query]
    lines = [line.strip() for line in sys.stdin if line.strip()]
    if not lines:
        raise UsageError("no query on standard input; write one per line")
    return list(lines)


class Side:
    """A run with its cache, and how photographs are read for it.

    Args:
        run: The run.
        weights: Weights file of the encoder of stored features, where it has moved.
        batch_size: Items encoded at once.
        workers: Threads that decode photographs.
    """

    def __init__(
        self, run: TrainedRun, weights: Path | None = None, batch_size: int = 32, workers: int = DECODERS
    ) -> None:
        from cmr_bench.search.embed import Cache

        self.run, self.cache = run, Cache(run.checksum)
        self.weights, self.batch_size, self.workers = weights, batch_size, workers

    def embed(self, files: Sequence[Path]) -> Embedded:
        """Embed photographs."""
        from cmr_bench.search.embed import embed_photos

        return embed_photos(self.run, self.cache, files, self.weights, self.batch_size, self.workers)

    def embed_sentences(self, texts: Sequence[str]) -> Embedded:
        """Embed sentences."""
        from cmr_bench.search.embed import embed_texts

        return embed_texts(self.run, self.cache, texts, self.batch_size)

    def embed_query(self, query: str | Path) -> Any:
        """Embed one query, a sentence or a photograph."""
        found = self.embed_sentences([query]) if isinstance(query, str) else self.embed([query])
        if not found.rows:
            raise DataError(f"--image: {found.skipped[0][1]}")
        return self.cache.read(found.keys)


def ranked_items(
    args: argparse.Namespace,
    main: Side,
    short: Side | None,
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
        raise UsageError(
            f"--shortlist {args.shortlist}: {short.run.method} scores pairs, so it is no faster; pass a dual encoder"
        )
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


def hit_of(name: str, photo: bool, rank: int, score: float) -> Hit:
    """Return one answer by its rank, the photograph's file or the sentence."""
    return Hit(rank, score, file=name) if photo else Hit(rank, score, caption=name)


def notes_on(
    args: argparse.Namespace,
    found: Embedded,
    files: Sequence[Path],
    texts: Sequence[str] | None,
    main: Side,
    faiss: bool,
) -> list[str]:
    """Return short notes on what was searched."""
    from cmr_bench.search.index import Collection

    kind = "sentences" if texts is not None else "photographs"
    notes = [f"{len(found.rows):,} {kind}"]
    if found.skipped:
        rows = [row for row, _ in found.skipped[:3]]
        names = [short_name(str(files[row]), args.images) if texts is None else repr(texts[row][:40]) for row in rows]
        more = ", ..." if len(found.skipped) > len(names) else ""
        notes.append(f"{len(found.skipped):,} could not be read ({', '.join(names)}{more})")
    if args.shortlist is not None:
        notes.append(f"top {args.shortlist_size:,} of {args.shortlist} re-ranked")
    elif len(found.rows) > _MANY:
        dual = Collection(main.run, main.cache, found.keys, "images" if texts is None else "texts", faiss).is_dual
        if not dual:
            notes.append("every pair scored; --shortlist RUN with a dual encoder is faster")
        elif not faiss:
            notes.append("searched by torch; pip install 'cmr-bench[search]' is faster")
    return notes


def printable(text: str) -> str:
    """Return text that UTF-8 can hold: a byte of a file name that is not UTF-8 becomes the replacement sign."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def short_name(file: str, folder: Path | None) -> str:
    """Return the path of a photograph below the folder that was searched."""
    return file if folder is None else os.path.relpath(file, folder)
