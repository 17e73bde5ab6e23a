"""Which images of a split can be delivered, and what becomes of the others."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from cmr_bench.datamodules.split import Split, undelivered
from cmr_bench.datamodules.views import ViewKind
from cmr_bench.support.errors import DataError

if TYPE_CHECKING:
    from cmr_bench.datamodules.module import RetrievalDataModule


def deliverable(data: RetrievalDataModule, name: str, split: Split, kind: ViewKind) -> Split:
    """Return a split without the images that cannot be delivered, where those may be skipped."""
    absent = data.missing_images(kind, split)
    gone = np.flatnonzero(absent).tolist()
    if gone and not data.skip_missing:
        what, example = f"row in features '{data.image_features}'", split.image_ids[gone[0]]
        if kind == "pixels":
            what = "photo"
            example += "" if split.image_files is None else f" (looked for {split.image_files[gone[0]]})"
        raise undelivered(f"{data.data_name} {name}", len(gone), split.n_images, what, example)
    if kind == "pixels" and data.skip_invalid and split.image_files is not None:
        from cmr_bench.datamodules.images.photos import undecodable

        there = np.flatnonzero(~absent)
        broken = there[undecodable([split.image_files[row] for row in there.tolist()])]
        absent[broken] = True
        gone = np.flatnonzero(absent).tolist()
        if len(broken):
            first = split.image_files[int(broken[0])]
            data.report.note(f"{name}: {len(broken):,} image(s) that cannot be decoded are skipped, e.g. {first}")
    if gone:
        data.skipped[name] = [split.image_ids[row] for row in gone]
        split = split.keep_images(~absent)
    if split.n_images == 0 or split.n_texts == 0:
        raise DataError(f"{data.data_name} {name}: empty: {split.n_images} images and {split.n_texts} texts")
    return split


def checksums_of(
    data: RetrievalDataModule, image_view: ViewKind, text_view: ViewKind, tokenizer: str | None = None
) -> dict[str, str]:
    """Return checksums of all that a run reads: where data is the same, so is every one of them.

    Args:
        data: The data set.
        image_view: As for :meth:`RetrievalDataModule.load`, once the splits are read.
        text_view: As for :meth:`RetrievalDataModule.load`.
        tokenizer: As for :meth:`RetrievalDataModule.load`.

    Returns:
        The fingerprint of each split under its name, and under ``<split>.images`` and ``<split>.texts`` the
        checksum of what is read beside ids, captions and labels, where there is something.
    """
    found: dict[str, str] = {}
    for name, split in data.splits.items():
        images = split.images or data.image_view(image_view, split)
        parts = {name: split.fingerprint(), f"{name}.images": images.content()}
        # Words and subwords follow from the captions, and making them takes long.
        if text_view not in ("tokens", "subwords"):
            parts[f"{name}.texts"] = (split.texts or data.text_view(text_view, split, tokenizer)).content()
        found |= {part: value for part, value in parts.items() if value}
    return found


def unknown_words(splits: Mapping[str, Split]) -> dict[str, float]:
    """Return the fraction of the words of val and test that the vocabulary lacks; empty if no words are read."""
    from cmr_bench.datamodules.texts.words import TokenView

    views = {name: splits[name].texts for name in ("val", "test") if name in splits}
    return {name: view.unknown_share for name, view in views.items() if isinstance(view, TokenView)}


def foreign_words(splits: Mapping[str, Split], min_count: int) -> list[str]:
    """Report, one line per split, val and test texts with many unknown words."""
    from cmr_bench.datamodules.texts.words import MANY_UNKNOWN

    return [
        f"{100 * share:.0f} % of the words in {name} are unknown: they occur less than --data.min_count {min_count} "
        "times in the training captions"
        for name, share in unknown_words(splits).items()
        if share > MANY_UNKNOWN
    ]
