"""Example queries: the best answers to a few of each direction, and thumbnails of the images among them."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from cmr_bench.support.errors import DataError
from cmr_bench.support.files import write_atomic

if TYPE_CHECKING:
    from cmr_bench.datamodules.module import RetrievalDataModule
    from cmr_bench.datamodules.split import Split
    from cmr_bench.evaluation.ranks import Ranks, ScoreSource
from cmr_bench.results.examples import EXAMPLES_FILE, THUMBNAILS, image_ids, thumbnail_name

_QUERIES = 24
_TOP = 5
_SIDE = 144


def examples(scores: ScoreSource, split: Split, ranks: Ranks | None = None) -> dict[str, Any]:
    """Collect the best five answers to a few queries of each direction, spread over the split.

    The rows of the queries depend on the split alone, so that methods can be laid side by side.

    Args:
        scores: The scores of the split.
        split: What was scored.
        ranks: Rank of the match of every query, where instance retrieval was scored.

    Returns:
        ``i2t`` and ``t2i``: lists of a query with its id, its ``match`` (the image, or the image's first text) and the
        ``rank`` of that, and its answers with score and whether they match; captions where there are any; where there
        are labels, whether an answer is ``related``, which means that it shares one with the query.
    """
    texts = [{"id": str(i)} | ({"caption": split.captions[n]} if split.captions is not None else {})
             for n, i in enumerate(split.text_ids)]  # fmt: skip
    images = [{"id": str(i)} for i in split.image_ids]
    owner, of_image = split.image_of_text, split.identities
    found: dict[str, Any] = {"i2t": [], "t2i": []}
    for row in _sample(split.n_images):
        line = scores.block(slice(row, row + 1), slice(0, split.n_texts))[0]
        best = line.topk(min(_TOP, split.n_texts))
        answers = [texts[t] | {"score": float(s), "match": bool(of_image[owner[t]] == of_image[row])}
                   | _related(split, row, int(owner[t]))
                   for s, t in zip(best.values.tolist(), best.indices.tolist(), strict=True)]  # fmt: skip
        own = texts[int(np.flatnonzero(owner == row)[0])]
        found["i2t"].append({"query": images[row] | _rank(ranks, "i2t", row) | {"match": own}, "answers": answers})
    for row in _sample(split.n_texts):
        column = scores.block(slice(0, split.n_images), slice(row, row + 1))[:, 0]
        best = column.topk(min(_TOP, split.n_images))
        answers = [images[i] | {"score": float(s), "match": bool(of_image[owner[row]] == of_image[i])}
                   | _related(split, int(owner[row]), i)
                   for s, i in zip(best.values.tolist(), best.indices.tolist(), strict=True)]  # fmt: skip
        own = images[int(owner[row])]
        found["t2i"].append({"query": texts[row] | _rank(ranks, "t2i", row) | {"match": own}, "answers": answers})
    return found


def _sample(n_items: int) -> list[int]:
    rows: list[int] = np.unique(np.linspace(0, n_items - 1, _QUERIES).astype(int)).tolist()
    return rows


def _rank(ranks: Ranks | None, way: Literal["i2t", "t2i"], row: int) -> dict[str, float]:
    return {} if ranks is None else {"rank": float(getattr(ranks, way)[row])}


def _related(split: Split, one: int, other: int) -> dict[str, bool]:
    if split.labels is None:
        return {}
    a, b = split.labels[one], split.labels[other]
    return {"related": bool(a == b) if split.labels.ndim == 1 else bool((a & b).any())}


def store_examples(folder: Path, found: dict[str, Any], data: RetrievalDataModule, split: Split) -> None:
    """Write ``examples.json``, and thumbnails of the images in it where the data has photographs."""
    write_atomic(folder / EXAMPLES_FILE, json.dumps(found, indent=1, ensure_ascii=False) + "\n")
    _store_thumbnails(folder / THUMBNAILS, image_ids(found), data, split)


def _store_thumbnails(folder: Path, ids: Iterable[str], data: RetrievalDataModule, split: Split) -> None:
    row_of = {str(name): row for row, name in enumerate(split.image_ids)}
    for name in ids:
        try:
            photo = data.photo(split, row_of[name], _SIDE)
        except DataError:
            # Methods that read stored features run without the photographs.
            continue
        if photo is None:
            return
        photo.thumbnail((_SIDE, _SIDE))
        content = io.BytesIO()
        photo.save(content, "JPEG", quality=80)
        # One flush to disk for each of a hundred files takes longer than all else; a lost thumbnail is no loss.
        folder.mkdir(exist_ok=True)
        (folder / thumbnail_name(name)).write_bytes(content.getvalue())
