"""Writes splits as one annotation file in Karpathy's layout, with the photographs beside it."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from cmr_bench.datamodules.readers.cells import relative_path
from cmr_bench.datamodules.split import SPLITS, Split
from cmr_bench.datamodules.texts.splitting import tokenize
from cmr_bench.support.errors import CmrBenchError, DataError
from cmr_bench.support.files import write_atomic

ANNOTATIONS, PHOTOS = "dataset.json", "images"
_SEPARATORS = (";", "|", " / ", "\t")


@dataclass(frozen=True)
class Written:
    """What was written.

    Attributes:
        n_images: Images.
        n_texts: Sentences.
        n_photos: Photographs that lie beside the annotations now.
        missing: Ids of images without a photograph.
        separator: Text between the categories of an image that has several; empty where none has.
    """

    n_images: int
    n_texts: int
    n_photos: int
    missing: tuple[str, ...]
    separator: str = ""


def write_karpathy(
    name: str, splits: Mapping[str, Split], folder: Path, photos: Literal["copy", "link", "none"] = "copy"
) -> Written:
    """Write every image, sentence, id, split and category of a data set.

    Ids of images become names of files and stay what they are. Sentences are grouped by image, so that their order in a
    split may change.

    Args:
        name: Name of the data set, for the file.
        splits: What was read.
        folder: Folder for ``dataset.json`` and ``images/``.
        photos: Copy the photographs, link to them (hard links, copies on another file system), or leave them.

    Raises:
        DataError: If there are no sentences, or an id that cannot be the name of a file.
        CmrBenchError: If the folder holds a data set already, or cannot be written.
    """
    target = folder / ANNOTATIONS
    if target.exists():
        raise CmrBenchError(f"{target} is there already: name another folder, or remove it")
    ordered = {
        part: splits[part] for part in (*SPLITS, *(part for part in splits if part not in SPLITS)) if part in splits
    }
    bare = [part for part, split in ordered.items() if split.captions is None]
    if bare:
        raise DataError(f"{name} has no raw text in its {bare[0]} split: there are no sentences to write")
    across = Counter(image for split in ordered.values() for image in set(split.image_ids))
    by_folder = any(count > 1 for count in across.values())
    separator = _separator(ordered)
    entries: list[dict[str, Any]] = []
    missing: list[str] = []
    n_photos = n_texts = 0
    for part, split in ordered.items():
        assert split.captions is not None
        own = _texts_of(split)
        for row, image in enumerate(split.image_ids):
            path = relative_path(image, f"{name}, {part}")
            if path != image:
                raise DataError(f"{name}, {part}: {image!a} cannot be the name of a file as it is")
            entry: dict[str, Any] = {"filename": image, "imgid": len(entries), "split": part}
            entry |= {"filepath": part} if by_folder else {}
            entry |= _label(split, row, separator)
            entry["sentences"] = [_sentence(split, text, len(entries)) for text in own[row]]
            entry["sentids"] = [sentence["sentid"] for sentence in entry["sentences"]]
            n_texts += len(own[row])
            entries.append(entry)
            source = None if split.image_files is None else split.image_files[row]
            place = folder / PHOTOS / (f"{part}/{image}" if by_folder else image)
            if source is not None and photos != "none" and _bring(source, place, photos == "link"):
                n_photos += 1
            elif source is None or not source.is_file():
                missing.append(image)
    write_atomic(target, json.dumps({"images": entries, "dataset": name}, ensure_ascii=False) + "\n")
    return Written(len(entries), n_texts, n_photos, tuple(missing), separator)


def _texts_of(split: Split) -> list[list[int]]:
    own: list[list[int]] = [[] for _ in range(split.n_images)]
    for text, image in enumerate(split.image_of_text.tolist()):
        own[image].append(text)
    return own


def _sentence(split: Split, text: int, image: int) -> dict[str, Any]:
    assert split.captions is not None
    name, raw = str(split.text_ids[text]), split.captions[text]
    plain = name.isascii() and name.isdigit() and str(int(name)) == name
    return {"raw": raw, "tokens": tokenize(raw), "imgid": image, "sentid": int(name) if plain else name}


def _separator(splits: Mapping[str, Split]) -> str:
    """Return a text that stands in no name of a category, where an image can have several; else nothing."""
    if not any(split.labels is not None and split.labels.ndim == 2 for split in splits.values()):
        return ""
    names = [name for split in splits.values() for name in split.class_names]
    found = next((one for one in _SEPARATORS if not any(one in name for name in names)), None)
    if found is None:
        raise DataError("names of categories hold every separator that could stand between them")
    return found


def _label(split: Split, row: int, separator: str) -> dict[str, Any]:
    if split.labels is None:
        return {}
    value = split.labels[row]
    if split.labels.ndim == 1:
        return {"label": split.class_names[int(value)] if split.class_names else str(int(value))}
    names = split.class_names or [str(number) for number in range(len(value))]
    present = [name for name, there in zip(names, value, strict=True) if there]
    # An empty list is no category; an empty text would be a label that is missing.
    return {"label": separator.join(present) if present else []}


def _bring(source: Path, place: Path, link: bool) -> bool:
    if not source.is_file():
        return False
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        if link and not source.is_symlink():
            with contextlib.suppress(OSError):
                os.link(source, place)
                return True
        shutil.copyfile(source, place)
    except OSError as error:
        raise CmrBenchError(f"cannot write {place}: {error.strerror or error}") from error
    return True
