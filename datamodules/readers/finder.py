"""Where the photographs that an annotation file names lie on this disk."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from cmr_bench.support.files import is_leftover

PHOTO_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif", ".ppm", ".pgm")
_COCO_2014 = re.compile(r"COCO_(?:train|val)2014_(\d{12})")
_COCO_2017 = ("train2017", "val2017")


@dataclass
class _Listing:
    """The files of one folder."""

    names: frozenset[str]

    @cached_property
    def by_stem(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = defaultdict(list)
        for name in sorted(self.names):
            if name.lower().endswith(PHOTO_SUFFIXES) and not is_leftover(Path(name)):
                found[without_suffix(name)].append(name)
        return found


def without_suffix(name: str) -> str:
    """Return the name of a photograph without its suffix, whatever its case; a name without one as it is."""
    stem, dot, suffix = name.rpartition(".")
    return stem if dot and f".{suffix.lower()}" in PHOTO_SUFFIXES else name


class PhotoFinder:
    """Finds photographs by the paths in an annotation file.

    A photograph lies at its path below the image folder, or at its bare name where the folder in the path does not
    exist. One that is not there is looked for with another suffix, where just one file has the same stem, and under the
    names that MSCOCO gave the same photographs in 2017.

    Args:
        images: The image folder.
    """

    def __init__(self, images: Path) -> None:
        self.images = images
        self._listings: dict[str, _Listing | None] = {}
        self._other_suffix: list[str] = []
        self._renamed: list[str] = []

    def find(self, path: str) -> Path:
        """Return where a photograph lies; where it should lie if it is nowhere.

        Args:
            path: Its path below the image folder, with ``/`` between its parts.
        """
        folder, _, name = path.rpartition("/")
        for sub in (folder, "") if self._listing(folder) is None else (folder,):
            listing = self._listing(sub)
            if listing is None:
                continue
            if name in listing.names:
                return self.images / sub / name
            twins = listing.by_stem.get(without_suffix(name), [])
            if len(twins) == 1:
                self._other_suffix.append(f"{name} is {twins[0]}")
                return self.images / sub / twins[0]
        match = _COCO_2014.match(name)
        if match is not None:
            for sub in ("", *_COCO_2017):
                there = self._listing(sub)
                if there is not None and f"{match[1]}.jpg" in there.names:
                    self._renamed.append(f"{name} is {match[1]}.jpg")
                    return self.images / sub / f"{match[1]}.jpg"
        return self.images / path

    def lines(self) -> list[str]:
        """Say which images were found under another name."""
        said = ((self._other_suffix, "have another suffix on disk"), (self._renamed, "have MSCOCO's names of 2017"))
        return [f"{len(names):,} image file(s) {what} ({names[0]})" for names, what in said if names]

    def _listing(self, folder: str) -> _Listing | None:
        if folder not in self._listings:
            try:
                with os.scandir(self.images / folder) as entries:
                    self._listings[folder] = _Listing(frozenset(entry.name for entry in entries))
            except OSError:
                self._listings[folder] = None
        return self._listings[folder]
