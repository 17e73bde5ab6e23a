"""Counts, ids, captions and labels of the splits."""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping

import numpy as np

from cmr_bench.datamodules.doctor.findings import Finding, Level, report
from cmr_bench.datamodules.split import SPLITS, Split


def check_counts(splits: Mapping[str, Split], expected: Mapping[str, tuple[int, ...]]) -> Iterator[Finding]:
    """Compare the numbers of images and texts with the published ones.

    Args:
        splits: What was read.
        expected: Images, and maybe texts, of every split.
    """
    for name in SPLITS:
        split, published = splits.get(name), expected.get(name)
        if split is None:
            what = f", expected {_counts(*published)}" if published else ""
            yield Finding("error", f"{name}: no such split{what}; a run needs train, val and test", 1)
            continue
        per_image = np.bincount(split.image_of_text, minlength=split.n_images)
        spread = (
            f"{per_image.min()}" if per_image.min() == per_image.max() else f"{per_image.min()} to {per_image.max()}"
        )
        here = f"{name}: {_counts(split.n_images, split.n_texts)}, {spread} an image"
        if not published:
            yield Finding("info", here, split.n_images)
        elif split.n_images != published[0]:
            yield Finding("error", f"{here}; expected {_counts(*published)}", abs(split.n_images - published[0]))
        elif split.n_texts not in (published[1:] or (split.n_texts,)):
            yield Finding("warning", f"{here}; expected {_counts(*published)}", abs(split.n_texts - published[1]))
        else:
            yield Finding("info", f"{here}, as published", split.n_images)
        alone = np.flatnonzero(per_image == 0).tolist()
        yield from report("error", f"{name}: images without a text", (split.image_ids[i] for i in alone))


def _counts(images: int, texts: int | None = None) -> str:
    return f"{images:,} images" + ("" if texts is None else f" and {texts:,} texts")


def check_identities(splits: Mapping[str, Split], expected: Mapping[str, int]) -> Iterator[Finding]:
    """Count who is shown, compare that with the published numbers, and look for those that are in two splits.

    Args:
        splits: What was read.
        expected: Identities of every split.
    """
    there = {name: np.unique(split.identity) for name, split in splits.items() if split.identity is not None}
    for name, found in there.items():
        published, here = expected.get(name), f"{name}: {len(found):,} identities"
        if published not in (None, len(found)):
            yield Finding("error", f"{here}; expected {published:,}", abs(len(found) - (published or 0)))
        else:
            yield Finding("info", here if published is None else f"{here}, as published", len(found))
    for one, other in itertools.combinations(there, 2):
        shared = np.intersect1d(there[one], there[other]).tolist()
        yield from report("error", f"identities that are in {one} and in {other}", map(str, shared))


def check_ids(splits: Mapping[str, Split]) -> Iterator[Finding]:
    """Look for items that stand in two splits, and for ids that are not unique in one."""
    levels: dict[str, Level] = {"image": "error", "text": "warning"}
    for side, level in levels.items():
        where: dict[str, list[str]] = defaultdict(list)
        for name, split in splits.items():
            for item in split.image_ids if side == "image" else split.text_ids:
                where[item].append(name)
        several = {item: names for item, names in where.items() if len(names) > 1}
        across = [f"{item} ({', '.join(dict.fromkeys(n))})" for item, n in several.items() if len(set(n)) > 1]
        yield from report(level, f"{side}s that are in two splits", across)
        within = [item for item, names in several.items() if len(set(names)) < len(names)]
        yield from report(level, f"{side} ids that two {side}s of a split share", within)


def check_captions(splits: Mapping[str, Split]) -> Iterator[Finding]:
    """Look for captions that say the same of different images: no text encoder can tell them apart."""
    for name, split in splits.items():
        if split.captions is None:
            continue
        images_of: dict[str, Counter[int]] = defaultdict(Counter)
        for caption, image in zip(split.captions, split.image_of_text.tolist(), strict=True):
            images_of[" ".join(caption.split())][image] += 1
        yield from report("error", f"{name}: empty captions", (split.image_ids[i] for i in images_of.pop("", ())))
        shared = {caption: images for caption, images in images_of.items() if len(images) > 1}
        yield from report(
            "info",
            f"{name}: captions shared by different images",
            (f"'{caption}' ({len(images)} images)" for caption, images in shared.items()),
        )


def check_labels(splits: Mapping[str, Split]) -> Iterator[Finding]:
    """Look for categories that the training split lacks, and for labels that are no category."""
    for name, split in splits.items():
        if split.labels is None:
            continue
        if split.labels.ndim == 1:
            wrong = (split.labels < 0) | (split.labels >= max(len(split.class_names), 1))
            what = f"{name}: images whose label is none of the {len(split.class_names)} categories"
        else:
            wrong = split.labels.sum(axis=1) == 0
            what = f"{name}: images without a category"
        yield from report("error", what, (split.image_ids[i] for i in np.flatnonzero(wrong).tolist()))
    train = splits.get("train")
    if train is not None and train.labels is not None:
        kind = "categories, several an image" if train.labels.ndim == 2 else "categories"
        yield Finding("info", f"{len(train.class_names)} {kind}: mAP is computed", 0, tuple(train.class_names[:3]))
        counts = train.labels.sum(axis=0) if train.labels.ndim == 2 else np.bincount(np.maximum(train.labels, 0))
        unseen = [c for k, c in enumerate(train.class_names) if k >= len(counts) or counts[k] == 0]
        yield from report("warning", "categories without a training image", unseen)
