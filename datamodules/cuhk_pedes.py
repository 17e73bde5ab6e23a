"""CUHK-PEDES: photographs of people from surveillance cameras, most with two sentences."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from cmr_bench.data_sets import DATASETS
from cmr_bench.datamodules.module import RetrievalDataModule, locate
from cmr_bench.datamodules.readers.cells import clean_caption, relative_path, short
from cmr_bench.datamodules.readers.entries import read_entries
from cmr_bench.datamodules.readers.finder import PhotoFinder
from cmr_bench.datamodules.readers.items import Item, assemble
from cmr_bench.datamodules.readers.parts import Parts
from cmr_bench.datamodules.readers.report import Report
from cmr_bench.datamodules.split import Split
from cmr_bench.support.errors import DataError
from cmr_bench.support.places import path_text

ANNOTATIONS = "reid_raw.json"


class CUHKPedes(RetrievalDataModule):
    """CUHK-PEDES (Li et al., CVPR 2017): people and what they wear; every photograph of the person is a match.

    Args:
        images: Image folder, absolute or relative to the data folder; null is imgs.
    """

    data_name = "cuhk_pedes"
    expected: ClassVar[Mapping[str, tuple[int, ...]]] = {
        "train": (34_054, 68_126),
        "val": (3_078, 6_158),
        "test": (3_074, 6_156),
    }
    expected_identities: ClassVar[Mapping[str, int]] = {"train": 11_003, "val": 1_000, "test": 1_000}

    def __init__(self, images: str | Path | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.images = path_text(images)

    def folder(self) -> Path:
        """Folder of the annotations and photographs."""
        return locate(self.root, self.data_name, [ANNOTATIONS], DATASETS["cuhk_pedes"].layout)

    def read(self) -> Mapping[str, Split]:
        """Read the splits and whom every photograph shows."""
        folder, parts = self.folder(), Parts()
        self.report = Report(self.skip_invalid)
        file, finder = folder / ANNOTATIONS, PhotoFinder(folder / Path(self.images or "imgs").expanduser())
        items: dict[str, Item] = {}
        persons: dict[str, int] = {}
        for number, entry in enumerate(read_entries(file)):
            try:
                item, person = read_photo(entry, f"{file}, image {number}", parts, finder)
                if item.name in items:
                    raise DataError(f"{item.where}: stands in the file already; keep one entry each")
                items[item.name], persons[item.name] = item, person
            except DataError as problem:
                self.report.invalid(problem)
        self.report.close()
        used = [item for item in items.values() if item.split is not None]
        parts.require_some(len(used), str(file))
        for line in (*parts.lines(str(file)), *finder.lines()):
            self.report.note(line)
        splits = assemble(used)
        for split in splits.values():
            split.identity = np.array([persons[name] for name in split.image_ids], dtype=np.int64)
        return splits


def read_photo(entry: Mapping[str, Any], where: str, parts: Parts, finder: PhotoFinder) -> tuple[Item, int]:
    """Read the entry of one photograph.

    Args:
        entry: Its ``file_path``, ``captions``, ``split`` and ``id``, the number of the person.
        where: What to name in an error.
        parts: Which split is which.
        finder: Finds the photograph.

    Returns:
        The photograph, and the number of the person.

    Raises:
        DataError: If something is missing or of the wrong kind.
    """
    absent = [key for key in ("file_path", "captions", "split", "id") if key not in entry]
    if absent:
        raise DataError(f"{where}: no '{absent[0]}'; {ANNOTATIONS} has it, caption_all.json may not")
    name = relative_path(entry["file_path"], where)
    where = f"{where} ({name})"
    captions, person = entry["captions"], entry["id"]
    if not isinstance(entry["split"], str):
        raise DataError(f"{where}: split {short(entry['split'])} is none of train, val, test")
    if isinstance(person, bool) or not isinstance(person, int) or not 0 <= person < 2**63:
        raise DataError(f"{where}: id {short(person)} is not the number of a person")
    if not isinstance(captions, list) or not captions:
        raise DataError(f"{where}: no list 'captions' with entries, so the image has no caption")
    texts = [clean_caption(text, f"{where}, caption {k}") for k, text in enumerate(captions)]
    text_ids = [f"{name}#{k}" for k in range(len(texts))]
    return Item(name, parts.split_of(entry["split"]), finder.find(name), texts, text_ids, where=where), person
