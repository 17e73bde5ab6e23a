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
    qrels: Judgments | tuple[Judgments, Judgments] | None = None,
    image_ids: Sequence[Any] | None = None,
    text_ids: Sequence[Any] | None = None,
    folds: int | None = None,
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
        qrels: Relevance judgments beyond the pairs, ``{id of the query: [ids of the items]}`` or a file; a pair of them
            is for image queries and for text queries. Ids are row numbers without ``image_ids`` and ``text_ids``.
        image_ids: Ids of the images, (n_images,).
        text_ids: Ids of the texts, (n_texts,).
        folds: Also report the mean over this many folds in file order (MSCOCO 1K: 5).
        bootstrap: Resamples for the 95 % intervals; 0 for none.
        postprocess: Correction of hubs or re-ranking; the result is flagged.
        normalize: Compare embeddings by the cosine; else by the inner product.
        seed: Seed of the resamples.

    Returns:
        ``metrics``, unrounded (recalls in percent, mAP in 0..1), ``intervals``, ``definitions``, ``tie_rate``, flags.

    Raises:
        UsageError: For arguments that do not go together.
        DataError: For arrays that do not fit together or hold what is no number.
    """
    if (images is None) != (texts is None) or (images is None) == (similarity is None):
        raise UsageError("evaluate takes images and texts, or similarity=")
    if image_of_text is None and qrels is None:
        raise UsageError("evaluate needs image_of_text=, the row of each text's image, or qrels=")
    brought = Brought(
        images=_array(similarity if images is None else images),
        texts=None if texts is None else _array(texts),
        image_of_text=_array([] if image_of_text is None else image_of_text),
        labels=None if labels is None else _array(labels),
        image_ids=_names(image_ids),
        text_ids=_names(text_ids),
    )
    linked = image_of_text is not None
    with arguments_named():
        protocol = Protocol(folds=folds, bootstrap=bootstrap, instance=linked, postprocess=postprocess, seed=seed)
        ready = prepared(brought, linked)
        return score(ready, protocol, normalize=normalize, qrels=_judgments(qrels), name="similarity").result


def _array(values: Any) -> NDArray[Any]:
    return as_numpy(values) if isinstance(values, Tensor) else np.asarray(values)


def _names(ids: Sequence[Any] | None) -> NDArray[np.str_]:
    return np.zeros(0, dtype=np.str_) if ids is None else np.array([str(one) for one in ids], dtype=np.str_)


def _judgments(qrels: Judgments | tuple[Judgments, Judgments] | None) -> list[Path | Mapping[Any, Any]]:
    if qrels is None:
        return []
    several = qrels if isinstance(qrels, tuple) else (qrels,)
    return [one if isinstance(one, Mapping) else Path(one).expanduser() for one in several]
