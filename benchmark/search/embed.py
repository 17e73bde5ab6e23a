"""Embeddings of photographs and sentences by a trained run, each computed once and kept in the user's cache.

One SQLite file a run, a row an item: a folder that has grown is embedded where it has grown, and a killed command goes
on where it stopped.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor

from cmr_bench.datamodules.images.photos import Photo
from cmr_bench.models.scoring import Encoded, assemble
from cmr_bench.search.trained import TrainedRun
from cmr_bench.support.checksums import readable_checksums
from cmr_bench.support.errors import DataError
from cmr_bench.support.places import cache_dir

Key = bytes
_AT_ONCE = 500  # keys a query; SQLite takes 999 in its oldest builds


@dataclass
class Embedded:
    """Items that a run has embedded.

    Attributes:
        rows: Row of each embedded item in what was given.
        keys: Key of each in the cache.
        skipped: Row and reason of every photograph that could not be read.
    """

    rows: list[int] = field(default_factory=list)
    keys: list[Key] = field(default_factory=list)
    skipped: list[tuple[int, str]] = field(default_factory=list)


class Cache:
    """Embeddings of one run by key: the checksum of the content of a photograph, or of a sentence.

    Args:
        checksum: Checksum of the run.
    """

    def __init__(self, checksum: str) -> None:
        folder = cache_dir("search")
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._open(str(folder / f"{checksum[:32]}.sqlite"))
        except (OSError, sqlite3.Error):
            # Without a place to keep them, embeddings live as long as the command.
            self._open(":memory:")

    def _open(self, name: str) -> None:
        self._rows = sqlite3.connect(name, timeout=60)
        self._rows.execute("PRAGMA journal_mode=WAL")
        self._rows.execute("CREATE TABLE IF NOT EXISTS items (key BLOB PRIMARY KEY, form TEXT, value BLOB)")

    def known(self, keys: Sequence[Key]) -> dict[Key, str]:
        """Return what is known of the keys: an empty text for an embedding, or why the item cannot be read."""
        found: dict[Key, str] = {}
        for part in _parts(keys):
            marks = ",".join("?" * len(part))
            query = (
                f"SELECT key, CASE form WHEN '' THEN CAST(value AS TEXT) ELSE '' END FROM items WHERE key IN ({marks})"
            )
            found.update(self._rows.execute(query, part))
        return found

    def write(self, keys: Sequence[Key], encoded: Encoded, broken: Sequence[tuple[Key, str]] = ()) -> None:
        """Keep a batch of embeddings, and the reasons why items of it could not be read."""
        rows: list[tuple[Key, str, bytes]] = [(key, "", reason.encode()) for key, reason in broken]
        parts = [part.float() if part.is_floating_point() else part for part in _tensors(encoded)]
        arrays = [part.cpu().contiguous().numpy() for part in parts]
        form = json.dumps([[str(array.dtype), array.shape[1:]] for array in arrays])
        rows += [(key, form, b"".join(array[at].tobytes() for array in arrays)) for at, key in enumerate(keys)]
        with self._rows:
            self._rows.executemany("INSERT OR REPLACE INTO items VALUES (?, ?, ?)", rows)

    def read(self, keys: Sequence[Key]) -> Encoded:
        """Return the embeddings of keys, in their order; where their lengths differ they are padded with zeros."""
        row_of: dict[Key, list[int]] = {}
        for row, key in enumerate(keys):
            row_of.setdefault(key, []).append(row)
        groups: dict[str, tuple[list[int], list[bytes]]] = {}
        for part in _parts(list(row_of)):
            marks = ",".join("?" * len(part))
            for key, form, value in self._rows.execute(
                f"SELECT key, form, value FROM items WHERE key IN ({marks})", part
            ):
                rows, values = groups.setdefault(form, ([], []))
                rows += row_of[key]
                values += [value] * len(row_of[key])
        pieces = [(torch.tensor(rows), _decode(form, values)) for form, (rows, values) in groups.items()]
        whole = assemble(pieces, len(keys), "items of the cache")
        return whole[0] if len(whole) == 1 else whole


def _parts(keys: Sequence[Key]) -> Iterator[Sequence[Key]]:
    for start in range(0, len(keys), _AT_ONCE):
        yield keys[start : start + _AT_ONCE]


def _tensors(encoded: Encoded) -> tuple[Tensor, ...]:
    return (encoded,) if isinstance(encoded, Tensor) else encoded


def _decode(form: str, values: Sequence[bytes]) -> tuple[Tensor, ...]:
    table = np.frombuffer(bytearray(b"".join(values)), dtype=np.uint8).reshape(len(values), -1)
    parts, start = [], 0
    for name, shape in json.loads(form):
        dtype = np.dtype(name)
        width = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        columns = np.ascontiguousarray(table[:, start : start + width])
        parts.append(torch.from_numpy(columns.view(dtype).reshape(len(values), *shape)))
        start += width
    return tuple(parts)


def embed_texts(run: TrainedRun, cache: Cache, texts: Sequence[str], batch_size: int = 64) -> Embedded:
    """Embed sentences that the cache does not hold yet."""
    keys = [hashlib.sha256(b"text\0" + text.encode("utf-8", "surrogatepass")).digest() for text in texts]
    known = cache.known(keys)
    wanted = list({key: text for key, text in zip(keys, texts, strict=True) if key not in known}.items())
    if not wanted:
        return Embedded(list(range(len(texts))), keys)
    with _progress("sentences", len(wanted)) as advance:
        for rows, encoded in encoded_texts(run, [text for _, text in wanted], batch_size):
            cache.write([wanted[row][0] for row in rows], encoded)
            advance(len(rows))
    return Embedded(list(range(len(texts))), keys)


def encoded_texts(run: TrainedRun, texts: Sequence[str], batch_size: int = 64) -> Iterator[tuple[list[int], Encoded]]:
    """Encode sentences, a batch at a time; yield their rows and encodings."""
    reader = run.text_reader()
    for start in range(0, len(texts), batch_size):
        part = texts[start : start + batch_size]
        yield list(range(start, start + len(part))), run.encode_texts(reader, part)


def embed_photos(
    run: TrainedRun,
    cache: Cache,
    files: Sequence[Path],
    weights: Path | None = None,
    batch_size: int = 32,
    workers: int = 2,
) -> Embedded:
    """Embed photographs that the cache does not hold yet; those that cannot be read are omitted with the reason.

    Args:
        run: The run.
        cache: Its embeddings.
        files: The photographs.
        weights: Weights file of the encoder of stored features, where it has moved.
        batch_size: Photographs encoded at once.
        workers: Threads that decode.
    """
    result = Embedded()
    keys: list[Key | None] = []
    for row, found in enumerate(readable_checksums(files)):
        keys.append(bytes.fromhex(found) if isinstance(found, str) else None)
        if isinstance(found, DataError):
            result.skipped.append((row, str(found)))
    known = cache.known([key for key in keys if key is not None])
    wanted = {key: file for key, file in zip(keys, files, strict=True) if key is not None and key not in known}
    if wanted:
        known |= _embed_new(run, cache, wanted, weights, batch_size, workers)
    for row, key in enumerate(keys):
        if key is None:
            continue
        if reason := known[key]:
            # The reason may name another file with the same content.
            told = reason if str(files[row]) in reason else f"cannot decode photo {files[row]}"
            result.skipped.append((row, told))
        else:
            result.rows.append(row)
            result.keys.append(key)
    result.skipped.sort()
    return result


def _embed_new(
    run: TrainedRun, cache: Cache, wanted: Mapping[Key, Path], weights: Path | None, batch_size: int, workers: int
) -> dict[Key, str]:
    found: dict[Key, str] = {}
    keys = list(wanted)
    with _progress("photographs", len(keys)) as done:
        for rows, encoded, broken in encoded_photos(run, [wanted[key] for key in keys], weights, batch_size, workers):
            unreadable = [(keys[row], reason) for row, reason in broken]
            cache.write([keys[row] for row in rows], encoded, unreadable)
            found.update({keys[row]: "" for row in rows})
            found.update(unreadable)
            done(len(rows) + len(broken))
    return found


def encoded_photos(
    run: TrainedRun, photos: Sequence[Photo], weights: Path | None = None, batch_size: int = 32, workers: int = 2
) -> Iterator[tuple[list[int], Encoded, list[tuple[int, str]]]]:
    """Encode photographs, a batch at a time, while the next ones are decoded.

    Args:
        run: The run.
        photos: Files or decoded pictures.
        weights: Weights file of the encoder of stored features, where it has moved.
        batch_size: Photographs encoded at once.
        workers: Threads that decode.

    Yields:
        Rows and encodings of those that could be read; rows and reasons of the others.
    """
    reader = run.photo_reader(weights)

    def decode(photo: Photo) -> Tensor | DataError:
        try:
            return reader.read(photo)
        except DataError as error:
            return error

    with ThreadPoolExecutor(workers, thread_name_prefix="decode") as pool:
        try:
            ahead = pool.map(decode, photos[:batch_size])
            for start in range(0, len(photos), batch_size):
                decoded = list(enumerate(ahead, start=start))
                ahead = pool.map(decode, photos[start + batch_size : start + 2 * batch_size])
                good = [(row, photo) for row, photo in decoded if isinstance(photo, Tensor)]
                stacked = torch.stack([photo for _, photo in good]) if good else None
                encoded: Encoded = () if stacked is None else run.encode_photos(reader, stacked)
                yield (
                    [row for row, _ in good],
                    encoded,
                    [(row, str(error)) for row, error in decoded if isinstance(error, DataError)],
                )
        finally:
            pool.shutdown(cancel_futures=True)


@contextlib.contextmanager
def _progress(what: str, total: int) -> Iterator[Callable[[int], Any]]:
    console = Console(stderr=True)
    columns = (TextColumn("embedding {task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    hidden = not console.is_terminal or not total
    with Progress(*columns, console=console, transient=True, disable=hidden) as bar:
        task = bar.add_task(what, total=total)
        yield lambda count: bar.advance(task, count)
