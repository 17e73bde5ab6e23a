"""JSON files that are not Karpathy's: lists of BLIP and LAVIS, COCO's captions, captions by image."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from cmr_bench.datamodules.readers.cells import short
from cmr_bench.datamodules.readers.report import Report
from cmr_bench.support.errors import DataError

_LISTS = ("annotations", "data", "samples")


def is_karpathy(content: object) -> bool:
    """Whether a JSON document has the layout of Karpathy's files: images with sentences inside."""
    if not isinstance(content, dict) or "images" not in content:
        return False
    images = content["images"]
    if not isinstance(images, list) or not images:
        return True
    return "annotations" not in content or (isinstance(images[0], dict) and "sentences" in images[0])


def document_rows(file: Path, content: Any, report: Report) -> Iterator[tuple[str, dict[str, Any]]]:
    """Read a JSON document as a table, a row at a time.

    Args:
        file: Where it was read.
        content: A list of objects with the columns as keys (BLIP, LAVIS, ALBEF), an object with such a list under
            ``annotations``, ``data`` or ``samples``, COCO's ``images`` and ``annotations``, or captions by image.
        report: Takes remarks and rows that cannot be read.

    Yields:
        What to name in an error, and the row by column.

    Raises:
        DataError: If it is none of these.
    """
    if isinstance(content, dict) and isinstance(content.get("images"), list):
        yield from _coco_rows(file, content, report)
        return
    if isinstance(content, dict):
        inner = next((content[name] for name in _LISTS if isinstance(content.get(name), list)), None)
        if inner is None and content and all(_is_captions(value) for value in content.values()):
            for name, captions in content.items():
                yield f"{file}, image {short(name)}", {"image": name, "caption": captions}
            return
        content = inner
    if not isinstance(content, list):
        raise DataError(
            f"{file}: no list 'images' with entries as in Karpathy's dataset_*.json and in COCO's captions_*.json, and "
            "no list of objects with image and caption as BLIP and LAVIS have it"
        )
    for number, entry in enumerate(content):
        where = f"{file}, entry {number}"
        if isinstance(entry, dict):
            yield where, entry
        else:
            report.invalid(f"{where}: {short(entry)} is not an object with the columns as keys")


def _is_captions(value: object) -> bool:
    return isinstance(value, str) or (
        isinstance(value, list) and bool(value) and all(isinstance(caption, str) for caption in value)
    )


def _coco_rows(file: Path, content: Mapping[str, Any], report: Report) -> Iterator[tuple[str, dict[str, Any]]]:
    """A row an image: its entries, ``image`` for its file name, and its captions in the order of the annotations."""
    annotations = content.get("annotations")
    if not isinstance(annotations, list):
        raise DataError(f"{file}: images, and no list 'annotations' with their captions")
    captions: dict[Any, list[object]] = defaultdict(list)
    for number, entry in enumerate(annotations):
        image = entry.get("image_id") if isinstance(entry, dict) else None
        if not isinstance(image, int | str) or "caption" not in entry:
            report.invalid(f"{file}, annotation {number}: expected an object with image_id and caption")
            continue
        captions[image].append(entry["caption"])
    bare = 0
    for number, entry in enumerate(content["images"]):
        where = f"{file}, image {number}"
        if not isinstance(entry, dict) or not isinstance(entry.get("id"), int | str):
            report.invalid(f"{where}: expected an object with id and file_name")
            continue
        texts = captions.pop(entry["id"], [])
        bare += not texts
        if texts:
            yield where, {**entry, "image": entry.get("file_name", entry["id"]), "caption": texts}
    if bare:
        report.note(f"{file.name}: {bare:,} image(s) without a caption skipped")
    if captions:
        report.invalid(
            f"{file}: captions of {len(captions):,} image(s) that are not listed, e.g. {next(iter(captions))}"
        )
