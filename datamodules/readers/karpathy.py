"""Annotations in Karpathy's JSON layout."""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cmr_bench.datamodules.readers.cells import clean_caption, encodes, label_names, relative_path, short
from cmr_bench.datamodules.readers.columns import Columns
from cmr_bench.datamodules.readers.finder import PhotoFinder
from cmr_bench.datamodules.readers.items import Item, assemble
from cmr_bench.datamodules.readers.parts import Parts
from cmr_bench.datamodules.readers.paths import Paths
from cmr_bench.datamodules.readers.report import Report
from cmr_bench.datamodules.split import SPLITS, Split
from cmr_bench.support import foreign
from cmr_bench.support.errors import DataError, did_you_mean, one_line
from cmr_bench.support.memory import collecting_no_garbage

PARTS = ("train", "restval", "val", "test")
_GZIP_MAGIC = b"\x1f\x8b"


@dataclass(frozen=True)
class Photo:
    """One image of an annotation file.

    Attributes:
        part: Split as the file says it: train, restval, val, test or another name.
        name: File name of the photograph.
        path: Place of the photograph below the image folder.
        captions: Its sentences, whitespace collapsed.
        text_ids: A name for every sentence.
        labels: Its categories; None where they are not read.
    """

    part: str
    name: str
    path: str
    captions: tuple[str, ...]
    text_ids: tuple[str, ...]
    labels: tuple[str, ...] | None = None


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
        raise DataError(f"cannot read {file} as JSON: {one_line(error)}") from None


@dataclass(frozen=True)
class Fields:
    """What the entries of an image are called.

    Attributes:
        image: File name of the photograph.
        caption: Text of a sentence; where it is missing the sentence's ``tokens`` are joined.
        split: Split.
        label: Category; None reads none.
        separator: Text between the categories of an image that has several.
        paths: Makes paths of the file names; they are paths already where not given.
    """

    image: str = "filename"
    caption: str = "raw"
    split: str = "split"
    label: str | None = None
    separator: str | None = None
    paths: Paths | None = None


def own_fields(
    content: Any, file: Path, columns: Columns, separator: str | None = None, paths: Paths | None = None
) -> Fields:
    """Return what the entries of a document are called, where the user may have named them.

    Args:
        content: The document.
        file: Where it was read, for messages.
        columns: Names that the user gave; an entry ``label`` is read where there is one.
        separator: Text between the categories of an image that has several.
        paths: Makes paths of the file names.

    Raises:
        DataError: If no image, or for captions no sentence, has an entry of a name that was given.
    """
    images = content.get("images") if isinstance(content, dict) else None
    entries = [entry for entry in images if isinstance(entry, dict)] if isinstance(images, list) else []
    sentences = [
        sentence
        for entry in entries
        if isinstance(entry.get("sentences"), list)
        for sentence in entry["sentences"]
        if isinstance(sentence, dict)
    ]
    usual = {"image": Fields.image, "caption": Fields.caption, "split": Fields.split, "label": "label"}
    names: dict[str, str] = {}
    for what, default in usual.items():
        wanted = getattr(columns, what)
        among = sentences if what == "caption" else entries
        is_there = any(wanted in entry for entry in among)
        # configurations saved by earlier versions hold the names of a table's image and caption
        if wanted is None or (wanted in ("image", "caption") and wanted == what and not is_there):
            names[what] = default
        elif is_there:
            names[what] = wanted
        else:
            there = sorted({str(name) for entry in among[:1] for name in entry})
            kind = "sentences" if what == "caption" else "images"
            raise DataError(
                f"{file}: its {kind} have no '{wanted}', only {', '.join(there)}; pass --data.{what}_column NAME."
                f"{did_you_mean(wanted, there)}"
            )
    labelled = columns.label is not None or any("label" in entry for entry in entries)
    return Fields(
        names["image"], names["caption"], names["split"], names["label"] if labelled else None, separator, paths
    )


def read_photos(file: Path, report: Report | None = None, fields: Fields | None = None) -> list[Photo]:
    """Read the images and sentences of an annotation file, in its order.

    Args:
        file: The JSON file: an object with a list ``images``; every image has ``split``, ``filename``, ``sentences``
            (each with ``raw`` or ``tokens``, and ``sentid``) and maybe ``filepath``.
        report: Takes images and sentences that cannot be read; without it they are an error.
        fields: Other names of the entries.

    Raises:
        DataError: If something is missing or of the wrong kind; the message names the image.
    """
    with collecting_no_garbage():
        return photos_in(load_json(file), file, report, fields)


def photos_in(content: Any, file: Path, report: Report | None = None, fields: Fields | None = None) -> list[Photo]:
    """Read the images and sentences of a document as :func:`read_photos` does."""
    images = content.get("images") if isinstance(content, dict) else None
    if not isinstance(images, list) or not images:
        raise DataError(f"{file}: no list 'images' with entries; expected the layout of Karpathy's dataset_*.json")
    problems, fields = report or Report(), fields or Fields()
    photos = []
    with collecting_no_garbage():
        for number, entry in enumerate(images):
            try:
                photos.append(_photo(entry, f"{file}, image {number}", problems, fields))
            except DataError as problem:
                problems.invalid(problem)
    if report is None:
        problems.close()
    return [photo for photo in photos if photo.captions]


def _photo(entry: object, where: str, report: Report, fields: Fields) -> Photo:
    if not isinstance(entry, dict):
        raise DataError(f"{where}: {short(entry)} is not an object")
    for key in (fields.image, fields.split, "sentences", *([fields.label] if fields.label else [])):
        if key not in entry:
            raise DataError(f"{where}: no '{key}'")
    name = (relative_path if fields.paths is None else fields.paths.relative)(entry[fields.image], where)
    where = f"{where} ({name})"
    folder = entry.get("filepath") or ""
    path = f"{relative_path(folder, where)}/{name}" if folder else name
    part = entry[fields.split]
    if not isinstance(part, str) or not encodes(part):
        raise DataError(f"{where}: split {short(part)} is none of {', '.join(PARTS)}")
    labels = None if fields.label is None else label_names(entry[fields.label], fields.separator, where)
    sentences = entry["sentences"]
    if not isinstance(sentences, list) or not sentences:
        raise DataError(f"{where}: no list 'sentences' with entries, so the image has no caption")
    pairs = []
    for k, sentence in enumerate(sentences):
        try:
            pairs.append(_sentence(sentence, k, name, where, fields.caption))
        except DataError as problem:
            report.invalid(problem)
    captions, text_ids = zip(*pairs, strict=True) if pairs else ((), ())
    return Photo(part, name, path, captions, text_ids, labels)


def _sentence(entry: object, number: int, image: str, where: str, caption: str) -> tuple[str, str]:
    if not isinstance(entry, dict):
        raise DataError(f"{where}, sentence {number}: {short(entry)} is not an object")
    raw, tokens = entry.get(caption), entry.get("tokens")
    if raw is None and isinstance(tokens, list) and all(isinstance(token, str) for token in tokens):
        raw = " ".join(tokens)
    text_id = entry.get("sentid", f"{image}#{number}")
    if not isinstance(text_id, int | str) or not encodes(str(text_id)):
        raise DataError(f"{where}, sentence {number}: sentid {short(text_id)} is neither a number nor text")
    return clean_caption(raw, f"{where}, sentence {number}"), str(text_id)


def make_splits(
    photos: Sequence[Photo],
    images: Path | PhotoFinder,
    source: str,
    parts: Parts | None = None,
    report: Report | None = None,
    multi: bool = False,
) -> dict[str, Split]:
    """Sort the images of an annotation file into splits.

    Args:
        photos: The images in file order.
        images: Folder of the photographs, or what finds them.
        source: What to name in an error.
        parts: Which names of splits are train, val and test; the usual ones where not given.
        report: Takes remarks.
        multi: Whether an image can have several categories, even if none here has.

    Returns:
        The splits that have images.
    """
    parts, report = parts or Parts(), report or Report()
    used = [(photo, split) for photo in photos if (split := parts.split_of(photo.part)) is not None]
    parts.require_some(len(used), source)
    repeated = Counter((split, photo.name) for photo, split in used)
    by_path = any(count > 1 for count in repeated.values())
    finder = PhotoFinder(images) if isinstance(images, Path) else images
    items = []
    for photo, split in used:
        # file names are the ids; only where two folders share a name, the folder is needed to tell them apart
        name = photo.path if by_path else photo.name
        items.append(
            Item(name, split, finder.find(photo.path), list(photo.captions), list(photo.text_ids), photo.labels)
        )
    for name in SPLITS:
        ids = Counter(item.name for item in items if item.split == name)
        twice = [image for image, count in ids.items() if count > 1]
        if twice:
            raise DataError(
                f"{source}: {len(twice)} image(s) stand twice in the {name} split, e.g. {twice[0]}; keep one entry each"
            )
    for line in (*parts.lines(source), *finder.lines()):
        report.note(line)
    return assemble(items, multi)
