"""Evaluation of embeddings or scores from anywhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from cmr_bench.api.options import arguments_named
from cmr_bench.evaluation.brought import Brought
from cmr_bench.evaluation.protocol import Evaluation, Protocol
from cmr_bench.evaluation.scores import ArrayLike, as_numpy
from cmr_bench.evaluation.scoring import prepared, score
from cmr_bench.evaluation.subsets import read_subsets
from cmr_bench.support.errors import UsageError

Judgments = str | Path | Mapping[Any, Any]
Postprocess = Literal["csls", "inverted_softmax", "mtfn_rr", "mtfn_rr_groups"]


def evaluate(
    images: ArrayLike | None = None,
    texts: ArrayLike | None = None,
    *,
    similarity: ArrayLike | None = None,
    image_of_text: ArrayLike | Sequence[Any] | None = None,
    labels: ArrayLike | Sequence[Any] | None = None,
    identities: ArrayLike | Sequence[Any] | None = None,
    qrels: Judgments | tuple[Judgments, Judgments] | None = None,
    image_ids: Sequence[Any] | None = None,
    text_ids: Sequence[Any] | None = None,
    folds: int | None = None,
    subsets: str | Sequence[str] | None = None,
    bootstrap: int = 1000,
    postprocess: Postprocess | None = None,
    normalize: bool = True,
    seed: int = 0,
) -> Evaluation:
    """Evaluate embeddings or a similarity matrix from any source by the protocols of the suite.

    Args:
        images: Image embeddings (n_images, dim).
        texts: Text embeddings (n_texts, dim).
        similarity: In place of both, scores (n_images, n_texts), higher is closer.
        image_of_text: Row, or with ``image_ids`` id, of the image of each text, (n_texts,).
        labels: Categories of the images, numbers or names (n_images,), or multi-hot (n_images, n_classes); adds mAP.
        identities: Whom or what each image shows, numbers or names (n_images,): all of one matches. Adds mAP and mINP.
        qrels: Relevance judgments beyond the pairs, ``{id of the query: [ids of the items]}`` or a file; two of them
            are for image and for text queries. Without ``image_ids`` and ``text_ids`` ids are row numbers.
        image_ids: Ids of the images, (n_images,).
        text_ids: Ids of the texts, (n_texts,).
        folds: Also report the mean over this many folds in file order (MSCOCO 1K: 5).
        subsets: Also report the mean over draws of random pairs (Recipe1M: ``10x1000,10x10000``).
        bootstrap: Resamples for the 95 % intervals; 0 for none.
        postprocess: Correction of hubs or re-ranking; the result is flagged.
        normalize: Compare embeddings by the cosine; else by the inner product.
        seed: Seed of the resamples.

    Returns:
        ``metrics``, unrounded (recalls in percent, mAP in 0..1), ``intervals``, ``definitions``, ``tie_rate``, flags.

    Raises:
        UsageError, DataError: For arguments that do not go together, for arrays that do not fit or hold no numbers.
    """
    _check_given((images, texts, similarity), image_of_text is not None or qrels is not None)
    brought = Brought(
        images=_array(similarity if images is None else images),
        texts=_array_or_none(texts),
        image_of_text=_array([] if image_of_text is None else image_of_text),
        labels=_array_or_none(labels),
        identity=_array_or_none(identities),
        image_ids=_names(image_ids),
        text_ids=_names(text_ids),
    )
    with arguments_named():
        drawn, linked = read_subsets(subsets), image_of_text is not None
        protocol = Protocol(folds, drawn, bootstrap, instance=linked, postprocess=postprocess, seed=seed)
        ready, judged = prepared(brought, linked), _judgments(qrels)
        return score(ready, protocol, normalize=normalize, qrels=judged, name="similarity").result


def _check_given(scored: tuple[Any, Any, Any], truth: bool) -> None:
    images, texts, similarity = (given is not None for given in scored)
    if images != texts or images == similarity:
        raise UsageError("evaluate takes images and texts, or similarity=")
    if not truth:
        raise UsageError("evaluate needs image_of_text=, the row of each text's image, or qrels=")


def _array(values: Any) -> NDArray[Any]:
    return as_numpy(values) if isinstance(values, Tensor) else np.asarray(values)


def _array_or_none(values: Any) -> NDArray[Any] | None:
    return None if values is None else _array(values)


def _names(ids: Sequence[Any] | None) -> NDArray[np.str_]:
    return np.zeros(0, dtype=np.str_) if ids is None else np.array([str(one) for one in ids], dtype=np.str_)


def _judgments(qrels: Judgments | tuple[Judgments, Judgments] | None) -> list[Path | Mapping[Any, Any]]:
    if qrels is None:
        return []
    several = qrels if isinstance(qrels, tuple) else (qrels,)
    return [one if isinstance(one, Mapping) else Path(one).expanduser() for one in several]
