"""Labels that leak into the features."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping

import numpy as np
import numpy.typing as npt

from cmr_bench.datamodules.doctor.findings import Finding
from cmr_bench.datamodules.module import RetrievalDataModule
from cmr_bench.datamodules.split import Split
from cmr_bench.support.errors import CmrBenchError

LEAK_ACCURACY = 0.97
LEAK_MARGIN = 0.10  # how far below its siblings stay: features of one content reach similar accuracy
LEAK_ITEMS = 3000  # enough to tell .97 from .7, and seconds on one core
_LEAK_FOLDS = 3


def check_leaks(datamodule: RetrievalDataModule, splits: Mapping[str, Split]) -> Iterator[Finding]:
    """Check for texts or features that leak the category.

    A linear classifier is cross-validated on the training split for each array, and on tf-idf of the raw texts. An
    array on which it is nearly always right, while it is not on the others, was made from the labels.
    """
    train = splits.get("train")
    if train is None or train.labels is None or train.labels.ndim != 1:
        return
    accuracy: dict[str, dict[str, float]] = {"image": {}, "text": {}}
    first_text = np.full(train.n_images, -1, dtype=np.int64)
    first_text[train.image_of_text[::-1]] = np.arange(train.n_texts)[::-1]
    rows = _leak_sample(np.where(first_text >= 0, train.labels, -1))
    if rows is None:
        return
    for side in ("text", "image"):
        try:
            arrays = datamodule.text_arrays() if side == "text" else datamodule.image_arrays()
        except CmrBenchError:
            continue  # check_features has told it
        labels = train.text_labels if side == "text" else train.labels
        assert labels is not None
        of_item = first_text[rows] if side == "text" else rows
        for name, views in arrays.items():
            view = views.get("train")
            if view is None or view.array.ndim != 2 or len(view) != len(labels):
                continue
            values = np.asarray(view.array[of_item if view.rows is None else view.rows[of_item]], dtype=np.float64)
            if np.isfinite(values).all():
                accuracy[side][name] = linear_accuracy(values, train.labels[rows])
    documents = [""] * train.n_images
    for caption, image in zip(train.captions or (), train.image_of_text.tolist(), strict=train.captions is not None):
        documents[image] += caption + " "
    if all(documents[i].strip() for i in rows.tolist()):
        accuracy["text"]["raw texts"] = linear_accuracy([documents[i] for i in rows.tolist()], train.labels[rows])
    for side, scores in accuracy.items():
        siblings = {name: score for name, score in scores.items() if score < LEAK_ACCURACY}
        other = accuracy["image" if side == "text" else "text"]
        best = max((siblings or other or {"": 1.0}).values())
        for name, score in scores.items():
            if score >= LEAK_ACCURACY and best <= LEAK_ACCURACY - LEAK_MARGIN:
                yield Finding(
                    "warning",
                    f"{side} features '{name}' leak the category: a linear classifier reaches {score:.3f} where "
                    f"the others reach {best:.3f}; were they computed from the labels?",
                    1,
                    tuple(f"{n} {s:.3f}" for n, s in sorted({**(siblings or other), name: score}.items())),
                )


def _leak_sample(labels: npt.NDArray[np.int64]) -> npt.NDArray[np.int64] | None:
    """Rows to classify: categories (from 0) with enough members, at most LEAK_ITEMS; None where nothing can be said."""
    names, counts = np.unique(labels[labels >= 0], return_counts=True)
    rows = np.flatnonzero(np.isin(labels, names[counts >= 2 * _LEAK_FOLDS]))
    if len(np.unique(labels[rows])) < 2:
        return None
    if len(rows) > LEAK_ITEMS:
        rows = np.sort(np.random.default_rng(0).choice(rows, LEAK_ITEMS, replace=False))
        names, counts = np.unique(labels[rows], return_counts=True)
        rows = rows[np.isin(labels[rows], names[counts >= _LEAK_FOLDS])]
    return rows


def linear_accuracy(items: npt.NDArray[np.float64] | list[str], labels: npt.NDArray[np.int64]) -> float:
    """Cross-validated accuracy of logistic regression.

    Args:
        items: Vectors (n, d), standardised first, or texts, turned into tf-idf.
        labels: Category of each (n,).
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold, cross_val_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from threadpoolctl import threadpool_limits

    if isinstance(items, list):
        words = TfidfVectorizer(token_pattern=r"\S+", max_features=5000, sublinear_tf=True)
        classifier = make_pipeline(words, LogisticRegression(C=10, max_iter=200))
    else:
        classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=200))
    folds = StratifiedKFold(_LEAK_FOLDS, shuffle=True, random_state=0)
    # matrices this small lose more to threads than they gain
    with warnings.catch_warnings(), threadpool_limits(1):
        warnings.simplefilter("ignore", ConvergenceWarning)
        return float(np.mean(cross_val_score(classifier, items, labels, cv=folds)))
