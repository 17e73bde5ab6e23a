"""How high R@K can be where texts or photographs are the same: no encoder can tell equal items apart."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from cmr_bench.datamodules.doctor.findings import Finding
from cmr_bench.datamodules.split import Split

KS = (1, 5, 10)
Twins = Mapping[str, Sequence[Sequence[str]]]
NO_TWINS: Twins = MappingProxyType({})


def check_ceilings(splits: Mapping[str, Split], twins: Twins) -> Iterator[Finding]:
    """Say which recalls validation and test cannot exceed; nothing where all of an identity matches.

    Args:
        splits: What was read.
        twins: By split the groups of images whose photographs are the same.
    """
    for name in ("val", "test"):
        split = splits.get(name)
        if split is None or split.captions is None or split.identity is not None:
            continue
        row = {image: k for k, image in enumerate(split.image_ids)}
        photo_of = np.arange(split.n_images)
        for group in twins.get(name, ()):
            rows = [row[image] for image in group if image in row]
            photo_of[rows] = rows[0]
        best = ceilings([" ".join(text.split()) for text in split.captions], split.image_of_text, photo_of)
        lost = [
            f"{direction} R@1/5/10 cannot exceed {' / '.join(f'{100 * best[direction, k]:.2f}' for k in KS)} %"
            for direction in ("i2t", "t2i")
            if best[direction, 1] < 1
        ]
        if lost:
            what = "captions" if not twins.get(name) else "captions and photographs"
            yield Finding("info", f"{name}: some {what} are the same, so that {' and '.join(lost)}")


def ceilings(
    texts: Sequence[str], image_of_text: npt.NDArray[np.int64], photo_of: npt.NDArray[np.int64]
) -> dict[tuple[str, int], float]:
    """Return the highest R@K that a scorer of contents can reach, ties counted by their expectation.

    Equal queries rank all items alike, and equal items tie. Text to image: the best ranking for a text puts the
    photographs with the most of its copies per image first. Image to text: a caption that is only this image's is found
    first; where each of its captions is others' too, the draw among the tied decides; of n images with one photograph,
    K places serve K at most.

    Args:
        texts: The texts, (n_texts,).
        image_of_text: Row of the image that each text belongs to, (n_texts,).
        photo_of: A number for the photograph of each image, the same for equal photographs, (n_images,).

    Returns:
        Share of the queries, 0..1, by direction (``i2t``, ``t2i``) and K.
    """
    copies = Counter(texts)
    images_with = Counter(photo_of.tolist())
    per_text: dict[str, Counter[int]] = defaultdict(Counter)
    per_image: list[Counter[str]] = [Counter() for _ in range(len(photo_of))]
    for text, image in zip(texts, image_of_text.tolist(), strict=True):
        per_text[text][int(photo_of[image])] += 1
        per_image[image][text] += 1
    sharing: dict[int, list[int]] = defaultdict(list)
    for image, own in enumerate(per_image):
        if own:
            sharing[int(photo_of[image])].append(image)
    n_described = sum(map(len, sharing.values()))
    best: dict[tuple[str, int], float] = {}
    for k in KS:
        hits = sum(_texts_found(photos, images_with, k) for photos in per_text.values())
        best["t2i", k] = hits / len(texts) if texts else 1.0
        chances = (sum(_image_finds(per_image[image], copies, k) for image in group) for group in sharing.values())
        best["i2t", k] = sum(min(float(k), chance) for chance in chances) / max(1, n_described)
    return best


def _texts_found(photos: Mapping[int, int], images_with: Mapping[int, int], k: int) -> float:
    """Expected number of the copies of one text whose image is among the first ``k``."""
    left, hits = float(k), 0.0
    for photo, count in sorted(photos.items(), key=lambda item: -item[1] / images_with[item[0]]):
        size = images_with[photo]
        hits += count * min(left, size) / size
        left -= min(left, size)
    return hits


def _image_finds(own: Mapping[str, int], copies: Mapping[str, int], k: int) -> float:
    """Chance that one of an image's captions is among the first ``k`` texts, in the best ranking for it."""
    if any(copies[text] <= k or copies[text] == count for text, count in own.items()):
        return 1.0
    return max(1 - math.comb(copies[text] - count, k) / math.comb(copies[text], k) for text, count in own.items())
