"""Photographs: missing, corrupt, duplicate."""

from __future__ import annotations

import hashlib
import io
import os
import re
import warnings
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from cmr_bench.datamodules.doctor.features import store_folders
from cmr_bench.datamodules.doctor.findings import Finding, report
from cmr_bench.datamodules.images.photos import read_photo
from cmr_bench.datamodules.module import RetrievalDataModule
from cmr_bench.datamodules.split import Split
from cmr_bench.support.errors import DataError, brief


def check_files(datamodule: RetrievalDataModule, splits: Mapping[str, Split]) -> Iterator[Finding]:
    """Look for photographs that are named and not there."""
    photographed = {name: split for name, split in splits.items() if split.image_files is not None}
    if not photographed:
        yield Finding("info", "no images here, features only")
        return
    absent: dict[str, list[str]] = {}
    places: dict[str, Path] = {}
    for name, split in photographed.items():
        try:
            gone = datamodule.missing_images("pixels", split)
        except DataError as error:
            others = bool(datamodule.image_arrays()) or bool(store_folders(datamodule))
            yield Finding("warning" if others else "error", str(error), sum(s.n_images for s in photographed.values()))
            return
        absent[name] = [split.image_ids[i] for i in np.flatnonzero(gone).tolist()]
        if absent[name] and split.image_files is not None:
            places[name] = split.image_files[int(np.flatnonzero(gone)[0])]
    for name, missing in absent.items():
        where = f" (looked for {places[name]})" if name in places else ""
        yield from report(
            "error", f"{name}: missing photographs{where}; add them, or run with --data.skip_missing true", missing
        )


@dataclass(frozen=True)
class _Photo:
    """A photograph that was read: the checksum of its bytes and why it cannot be decoded, if so."""

    name: str
    split: str
    checksum: str
    problem: str | None


def _read(item: tuple[str, str, Path]) -> _Photo:
    name, split, file = item
    try:
        content = file.read_bytes()
    except OSError as error:
        return _Photo(name, split, "", error.strerror or str(error))
    checksum = hashlib.sha256(content).hexdigest()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with Image.open(io.BytesIO(content)) as photo:
                photo.verify()
            read_photo(file)
        except DataError as error:
            return _Photo(name, split, checksum, str(error.__cause__ or error))
        except Exception as error:  # Pillow's plugins raise anything on damaged files
            problem = re.sub(r" <_io\.BytesIO[^>]*>", "", str(error)) or type(error).__name__
            return _Photo(name, split, checksum, problem)
    return _Photo(name, split, checksum, None)


def check_photos(
    splits: Mapping[str, Split], progress: bool = False
) -> tuple[Mapping[str, Sequence[Sequence[str]]], list[Finding]]:
    """Decode every photograph that is there, and compare their contents.

    Args:
        splits: What was read.
        progress: Show a progress bar on the terminal.

    Returns:
        By split the groups of images whose photographs are the same, and what was found.
    """
    items = [
        (image, name, file)
        for name, split in splits.items()
        for image, file in zip(split.image_ids, split.image_files or (), strict=bool(split.image_files))
        if file.is_file()
    ]
    if not items:
        return {}, []
    bar = Progress(
        TextColumn("decoding photographs"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        disable=not progress,
        transient=True,
    )
    with bar, ThreadPoolExecutor(os.cpu_count()) as pool:
        photos = list(bar.track(pool.map(_read, items), total=len(items)))
    found: list[Finding] = []
    for name in splits:
        broken = [f"{p.name}: {brief(p.problem)}" for p in photos if p.problem and p.split == name]
        found += report(
            "error",
            f"{name}: photographs that cannot be decoded; replace them, or pass --data.skip_invalid true to skip them",
            broken,
        )
    same: dict[str, list[_Photo]] = defaultdict(list)
    for photo in photos:
        if photo.checksum:
            same[photo.checksum].append(photo)
    twins = [group for group in same.values() if len(group) > 1]
    across = [group for group in twins if len({photo.split for photo in group}) > 1]
    within = [group for group in twins if len({photo.split for photo in group}) == 1]
    found += report("warning", "the same photograph in two splits", map(_group, across))
    found += report("info", "the same photograph under two names in one split", map(_group, within))
    groups = {
        name: [ids for group in twins if len(ids := [p.name for p in group if p.split == name]) > 1] for name in splits
    }
    return groups, found


def _group(photos: Sequence[_Photo]) -> str:
    return " = ".join(f"{photo.split}/{photo.name}" for photo in photos[:4]) + (" …" if len(photos) > 4 else "")
