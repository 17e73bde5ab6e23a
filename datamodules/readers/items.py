"""Images with their captions, split and categories, put together to splits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from cmr_bench.datamodules.split import SPLITS, Split
from cmr_bench.support.errors import DataError

_HELD_OUT = 0.1


@dataclass
class Item:
    """One image of an annotation file.

    Attributes:
        name: Its id.
        split: train, val or test; None where the file does not say.
        file: The photograph.
        captions: Its sentences, whitespace collapsed.
        text_ids: A name for every sentence.
        labels: Its categories; None where the file has none.
        where: Where it stands, for messages.
    """

    name: str
    split: str | None
    file: Path
    captions: list[str] = field(default_factory=list)
    text_ids: list[str] = field(default_factory=list)
    labels: tuple[str, ...] | None = None
    where: str = ""


def seeded_split(image_ids: Sequence[str], seed: int) -> dict[str, str]:
    """Share images out 80 / 10 / 10.

    Args:
        image_ids: The images; their order does not matter.
        seed: Seed of the draw.

    Returns:
        The split of every image.

    Raises:
        DataError: If there are fewer than three.
    """
    if len(image_ids) < len(SPLITS):
        raise DataError(f"{len(image_ids)} image(s) cannot be split into train, val and test; add a split column")
    names = sorted(image_ids)
    held_out = max(1, round(len(names) * _HELD_OUT))
    order = np.random.default_rng(seed).permutation(len(names))
    parts = np.split(order, [held_out, 2 * held_out])
    return {names[i]: part for part, rows in zip(("test", "val", "train"), parts, strict=True) for i in rows.tolist()}


def assemble(items: Sequence[Item], multi: bool = False) -> dict[str, Split]:
    """Put images together to splits, in their order.

    Args:
        items: The images, each with its split.
        multi: Whether an image can have several categories, even if none here has.

    Returns:
        The splits that have images.
    """
    labelled = [item.labels for item in items if item.labels is not None]
    multi = multi or any(len(labels) != 1 for labels in labelled)
    class_names = sorted({label for labels in labelled for label in labels})
    splits = {}
    for name in SPLITS:
        members = [item for item in items if item.split == name]
        if not members:
            continue
        splits[name] = Split(
            name=name,
            image_ids=[item.name for item in members],
            image_of_text=np.repeat(np.arange(len(members)), [len(item.captions) for item in members]),
            text_ids=[text_id for item in members for text_id in item.text_ids],
            captions=[caption for item in members for caption in item.captions],
            image_files=[item.file for item in members],
            labels=_label_array([item.labels or () for item in members], class_names, multi),
            class_names=class_names,
        )
    return splits


def drawn(items: Mapping[str, Item], seed: int | None) -> list[Item]:
    """Return the images, shared out to splits where a seed is given or the file does not say them."""
    if seed is None and any(item.split is not None for item in items.values()):
        return list(items.values())
    share = seeded_split(list(items), seed or 0)
    for name, item in items.items():
        item.split = share[name]
    return list(items.values())


def _label_array(
    labels: Sequence[tuple[str, ...]], class_names: Sequence[str], multi: bool
) -> npt.NDArray[np.int64] | None:
    if not class_names:
        return None
    index = {name: k for k, name in enumerate(class_names)}
    if not multi:
        return np.array([index[names[0]] for names in labels], dtype=np.int64)
    hot = np.zeros((len(labels), len(class_names)), dtype=np.int64)
    for row, names in enumerate(labels):
        hot[row, [index[name] for name in names]] = 1
    return hot
