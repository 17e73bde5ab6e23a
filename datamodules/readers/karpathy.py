"""Annotations in Karpathy's JSON layout."""

from __future__ import annotations

import gc
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cmr_bench.datamodules.split import Split
from cmr_bench.support import foreign
from cmr_bench.support.errors import DataError

PARTS = {"train": "train", "restval": "train", "val": "val", "test": "test"}
_GZIP_MAGIC = b"\x1f\x8b"
_LONGEST_NAME = 255  # bytes in one part of a path, on every common file system


@dataclass(frozen=True)
class Photo:
    """One image of an annotation file.

    Attributes:
        part: Split as the file says it: train, restval, val or test.
        name: File name of the photograph.
        path: Place of the photograph below the image folder.
        captions: Its sentences, whitespace collapsed.
        text_ids: A name for every sentence.
    """

    part: str
    name: str
    path: str
    captions: tuple[str, ...]
    text_ids: tuple[str, ...]


def relative_path(text: object, where: str) -> str:
    """Return a path written in an annotation file, if it stays below the folder it is meant for.

    What lies in that folder is the user's own: a link there is followed, wherever it leads, as large photographs are
    often kept elsewhere.

    Args:
        text: The path as it was written.
        where: What to name in the error: the file and the entry.

    Returns:
        The path with ``/`` between its parts and without empty ones.

    Raises:
        DataError: If it is no text, is absolute, climbs with ``..`` or cannot be the name of a file.
    """
    if not isinstance(text, str):
        raise DataError(f"{where}: the path of the image is {_short(text)}, not text")
    # a file may be written on one system and read on another: a backslash and a drive count everywhere
    if text[:1] in ("/", "\\") or text[1:2] == ":" or ".." in text.replace("\\", "/").split("/"):
        raise DataError(f"{where}: path {_short(text)} leads out of the image folder; write it relative, without '..'")
    parts = [part for part in text.split("/") if part not in ("", ".")]
    unusable = not parts or not _encodes(text) or "\0" in text or text.splitlines() != [text]
    if unusable or any(len(part.encode()) > _LONGEST_NAME for part in parts):
        raise DataError(f"{where}: {_short(text)} cannot be the name of a file")
    return "/".join(parts)


def clean_caption(text: object, where: str, what: str = "caption") -> str:
    """Return a sentence with whitespace collapsed to single blanks.

    Args:
        text: The sentence as it was written.
        where: What to name in the error: the file and the entry.
        what: What the text is.

    Raises:
        DataError: If it is no text, is empty, or holds half a surrogate pair.
    """
    if not isinstance(text, str):
        raise DataError(f"{where}: a {what} is {_short(text)}, not text")
    clean = " ".join(text.split())
    if not clean:
        raise DataError(f"{where}: empty {what}; remove it from the file or write one")
    if not _encodes(clean):
        raise DataError(f"{where}: {what} {_short(text)} is not valid Unicode")
    return clean


def _encodes(text: str) -> bool:
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _short(value: object) -> str:
    text = ascii(value)
    return text if len(text) <= 60 else text[:57] + "..."


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    # a large file makes millions of small objects that all stay: searching them for garbage takes longer than reading
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


def load_json(file: Path) -> Any:
    """Read a JSON file, gzip-compressed or not, whatever its suffix.

    Raises:
        DataError: If it cannot be read or is not JSON.
    """
    try:
        content = foreign.checked(file).read_bytes()
        if content.startswith(_GZIP_MAGIC):
            content = foreign.gunzip(content, file)
        return foreign.parse_json(content, file)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"cannot read {file} as JSON: {' '.join(str(error).split())}") from None


def read_photos(file: Path) -> list[Photo]:
    """Read the images and sentences of an annotation file, in its order.

    Args:
        file: The JSON file: an object with a list ``images``; every image has ``split``, ``filename``, ``sentences``
            (each with ``raw`` or ``tokens``, and ``sentid``) and maybe ``filepath``.

    Raises:
        DataError: If something is missing or of the wrong kind; the message names the image.
    """
    with _no_garbage_collection():
        content = load_json(file)
        images = content.get("images") if isinstance(content, dict) else None
        if not isinstance(images, list) or not images:
            raise DataError(f"{file}: no list 'images' with entries; expected the layout of Karpathy's dataset_*.json")
        return [_photo(entry, f"{file}, image {number}") for number, entry in enumerate(images)]


def _photo(entry: object, where: str) -> Photo:
    if not isinstance(entry, dict):
        raise DataError(f"{where}: {_short(entry)} is not an object")
    for key in ("filename", "split", "sentences"):
        if key not in entry:
            raise DataError(f"{where}: no '{key}'")
    name = relative_path(entry["filename"], where)
    where = f"{where} ({name})"
    folder = entry.get("filepath") or ""
    path = f"{relative_path(folder, where)}/{name}" if folder else name
    part = entry["split"]
    if not isinstance(part, str) or part not in PARTS:
        raise DataError(f"{where}: split {_short(part)} is none of {', '.join(PARTS)}")
    sentences = entry["sentences"]
    if not isinstance(sentences, list) or not sentences:
        raise DataError(f"{where}: no list 'sentences' with entries, so the image has no caption")
    pairs = [_sentence(sentence, k, name, where) for k, sentence in enumerate(sentences)]
    captions, text_ids = zip(*pairs, strict=True)
    return Photo(part, name, path, captions, text_ids)


def _sentence(entry: object, number: int, image: str, where: str) -> tuple[str, str]:
    if not isinstance(entry, dict):
        raise DataError(f"{where}, sentence {number}: {_short(entry)} is not an object")
    raw, tokens = entry.get("raw"), entry.get("tokens")
    if raw is None and isinstance(tokens, list) and all(isinstance(token, str) for token in tokens):
        raw = " ".join(tokens)
    text_id = entry.get("sentid", f"{image}#{number}")
    if not isinstance(text_id, int | str) or not _encodes(str(text_id)):
        raise DataError(f"{where}, sentence {number}: sentid {_short(text_id)} is neither a number nor text")
    return clean_caption(raw, f"{where}, sentence {number}"), str(text_id)


def make_splits(photos: Sequence[Photo], images: Path, source: str, restval: bool = True) -> dict[str, Split]:
    """Sort the images of an annotation file into splits.

    Args:
        photos: The images in file order.
        images: Folder of the photographs; an image lies at its ``filepath/filename`` there, or at ``filename`` where
            the folder ``filepath`` does not exist.
        source: What to name in an error.
        restval: Whether the part ``restval`` belongs to the training split; it is omitted otherwise.

    Returns:
        The splits that have images.
    """
    used = [photo for photo in photos if restval or photo.part != "restval"]
    repeated = Counter((PARTS[photo.part], photo.name) for photo in used)
    by_path = any(count > 1 for count in repeated.values())
    there = {folder: (images / folder).is_dir() for folder in {_parent(photo.path) for photo in used}}
    splits = {}
    for name in dict.fromkeys(PARTS.values()):
        members = [photo for photo in used if PARTS[photo.part] == name]
        if not members:
            continue
        # file names are the ids; only where two folders share a name, the folder is needed to tell them apart
        image_ids = [photo.path if by_path else photo.name for photo in members]
        twice = [image for image, count in Counter(image_ids).items() if count > 1]
        if twice:
            raise DataError(
                f"{source}: {len(twice)} image(s) stand twice in the {name} split, e.g. {twice[0]}; keep one entry each"
            )
        splits[name] = Split(
            name=name,
            image_ids=image_ids,
            image_of_text=np.repeat(np.arange(len(members)), [len(photo.captions) for photo in members]),
            text_ids=[text_id for photo in members for text_id in photo.text_ids],
            captions=[caption for photo in members for caption in photo.captions],
            image_files=[images / (p.path if there[_parent(p.path)] else p.path.rpartition("/")[2]) for p in members],
        )
    return splits


def _parent(path: str) -> str:
    return path.rpartition("/")[0]
