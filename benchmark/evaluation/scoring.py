"""Scores that a user brings, from arrays to the evaluation; behind `cmr-bench eval` and ``cmr_bench.evaluate``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cmr_bench.evaluation.brought import (
    Brought,
    as_identities,
    as_labels,
    check_ids,
    check_way_round,
    collapsed,
    with_ids,
)
from cmr_bench.evaluation.judgments import Source, read_judgments
from cmr_bench.evaluation.protocol import Evaluation, Protocol, evaluate
from cmr_bench.evaluation.qrels import Qrels
from cmr_bench.evaluation.queries import Queries, queries
from cmr_bench.evaluation.ranks import links
from cmr_bench.evaluation.scores import EmbeddingScores, MatrixScores, ScoreSource
from cmr_bench.support.errors import DataError, UsageError


@dataclass(frozen=True)
class Scored:
    """An evaluation of what a user brought.

    Attributes:
        result: Everything measured.
        brought: What was scored, each image once.
        queries: Who asked; None where everybody did.
        judged: The judgments by direction.
        notes: One line for everything that was not taken as it is.
    """

    result: Evaluation
    brought: Brought
    queries: Queries | None
    judged: Mapping[str, Qrels]
    notes: tuple[str, ...]


def prepared(brought: Brought, linked: bool = True) -> Brought:
    """Return what was brought with labels as numbers, links as rows and each image once.

    Args:
        brought: What was brought.
        linked: Whether it says which image a text belongs to; else only its ids are checked.

    Raises:
        DataError: If ids, links or labels do not fit, or images and texts are swapped.
    """
    if brought.images.ndim != 2 or (brought.texts is not None and brought.texts.ndim != 2):
        return brought
    if brought.labels is not None:
        brought = replace(brought, labels=as_labels(brought.labels))
    if brought.identity is not None:
        brought = replace(brought, identity=as_identities(brought.identity))
    if not linked:
        return check_ids(brought)
    check_way_round(brought)
    return collapsed(with_ids(brought))


def score(
    brought: Brought,
    protocol: Protocol,
    *,
    normalize: bool = True,
    qrels: Sequence[Source] = (),
    chosen: Mapping[str, NDArray[np.bool_]] | None = None,
    name: str = "the matrix",
) -> Scored:
    """Score what was brought under a protocol.

    Args:
        brought: What :func:`prepared` returned.
        protocol: What is scored; without instance retrieval, the judgments alone.
        normalize: Compare embeddings by the cosine; else by the inner product.
        qrels: Judgments, for both directions or one for each.
        chosen: Items that ask, by ``images`` and ``texts``; everybody without.
        name: What to call a similarity matrix in an error.

    Raises:
        DataError: For malformed scores, links, labels or judgments.
        UsageError: For a protocol that does not fit them.
    """
    scores = _source(brought, normalize, protocol.postprocess, name)
    size = len(brought.images), brought.n_texts
    judged, told = read_judgments(qrels, (brought.image_ids, brought.text_ids), size) if qrels else ({}, [])
    who: Queries | None = Queries(np.ones(size[0], dtype=np.bool_), np.ones(size[1], dtype=np.bool_))
    if not protocol.instance:
        brought = replace(brought, image_of_text=judged["t2i"].first_items())
    else:
        who = queries(links(brought.image_of_text, *size, distractors=True), size[0], **(chosen or {}))
    result = evaluate(
        scores,
        brought.image_of_text,
        brought.labels,
        identity=brought.identity,
        protocol=protocol,
        queries=who,
        judged=judged,
    )
    return Scored(result, brought, who, judged, (*brought.notes, *_asking(result, who), *told))


def _source(brought: Brought, normalize: bool, postprocess: str | None, name: str) -> ScoreSource:
    if brought.texts is not None:
        return EmbeddingScores(brought.images, brought.texts, normalize=normalize)
    scores = MatrixScores(brought.images)
    if _check_scores(brought.images, name) and postprocess:
        raise UsageError(f"--postprocess needs every score, and {name} has -inf outside its shortlists")
    return scores


def _check_scores(similarity: NDArray[Any], name: str) -> bool:
    """Refuse NaN and +inf; tell whether there is -inf, which stands for what a short list leaves out."""
    short = False
    rows = max(1, 2**24 // max(1, similarity.shape[1]))
    for start in range(0, len(similarity), rows):
        part = similarity[start : start + rows]
        bad = np.argwhere(np.isnan(part) | np.isposinf(part))
        if len(bad):
            image, text = int(bad[0][0]) + start, int(bad[0][1])
            raise DataError(f"--similarity: {name} has {similarity[image, text]} for image {image} and text {text}")
        short = short or bool(np.isneginf(part).any())
    return short


def _asking(result: Evaluation, who: Queries | None) -> list[str]:
    if who is None or (who.images.all() and who.texts.all()):
        return []
    images, texts = result.n_queries
    return [
        f"{images:,} of {result.n_images:,} images and {texts:,} of {result.n_texts:,} texts are queries; the others, "
        "such as images without a text, are in the gallery only"
    ]
