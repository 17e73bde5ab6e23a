"""All judgments of MSCOCO's 5,000 test images that eccv_caption holds, beside the package's own functions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cmr_bench.api.scoring import evaluate


@pytest.mark.slow
def test_equals_the_package_on_all_of_mscocos_test_split(monkeypatch: pytest.MonkeyPatch) -> None:
    package = pytest.importorskip("eccv_caption")
    monkeypatch.setattr("eccv_caption._metrics.tqdm", lambda values, **options: values)
    official: Any = package.Metrics()
    texts = official.coco_ids.astype(int).tolist()
    image_of = {text: images[0] for text, images in official.coco_gts["t2i"].items()}
    images = list(dict.fromkeys(image_of[text] for text in texts))
    assert (len(images), len(texts)) == (5000, 25000)
    place = {image: row for row, image in enumerate(images)}
    owner = np.array([place[image_of[text]] for text in texts])
    rng = np.random.default_rng(0)
    image_vectors = rng.normal(size=(5000, 24))
    # In float64 nothing ties, so that the order of equal scores is nobody's choice.
    scores = image_vectors @ (image_vectors[owner] + 1.6 * rng.normal(size=(25000, 24))).T
    given = {
        "image_of_text": [image_of[text] for text in texts],
        "image_ids": images,
        "text_ids": texts,
        "bootstrap": 0,
    }
    found = {name: evaluate(similarity=scores, qrels=Path(name), folds=5, **given) for name in ("eccv", "cxc")}
    assert found["eccv"].tie_rate == 0
    ids = {"i2t": (images, np.array(texts), scores), "t2i": (texts, np.array(images), scores.T)}
    whole = {way: ranked(*each) for way, each in ids.items()}
    expected = official.compute_all_metrics(
        whole["i2t"],
        whole["t2i"],
        ("coco_5k_recalls", "cxc_recalls", "eccv_map_at_r", "eccv_rprecision", "eccv_r1"),
    )
    for way in ("i2t", "t2i"):
        for k in (1, 5, 10):
            assert found["cxc"].metrics[f"{way}_r{k}"] == pytest.approx(100 * expected[f"coco_5k_r{k}"][way])
            assert found["cxc"].metrics[f"qrels_{way}_r{k}"] == pytest.approx(100 * expected[f"cxc_r{k}"][way])
        ours = found["eccv"].metrics
        assert ours[f"qrels_{way}_r1"] == pytest.approx(100 * expected["eccv_r1"][way])
        assert ours[f"qrels_{way}_map_at_r"] == pytest.approx(expected["eccv_map_at_r"][way], abs=1e-12)
        assert ours[f"qrels_{way}_r_precision"] == pytest.approx(expected["eccv_rprecision"][way], abs=1e-12)
        assert 5 < ours[f"{way}_r1"] < 95

    # Of the folds, the package looks at the items of the query's own only.
    folds: dict[str, dict[int, list[int]]] = {way: {} for way in ids}
    for fold in range(5):
        rows, columns = slice(1000 * fold, 1000 * fold + 1000), slice(5000 * fold, 5000 * fold + 5000)
        part = scores[rows, columns]
        folds["i2t"] |= ranked(images[rows], np.array(texts[columns]), part, 10)
        folds["t2i"] |= ranked(texts[columns], np.array(images[rows]), part.T, 10)
    for k in (1, 5, 10):
        recalls = official.coco_1k_recalls(folds, "all", K=k)
        for way in ids:
            assert found["eccv"].metrics[f"fold5_{way}_r{k}"] == pytest.approx(100 * recalls[way])


def ranked(queries: list[int], items: Any, scores: Any, most: int = 500) -> dict[int, list[int]]:
    """Return the ids of the best items of every query, more than any has relevant ones."""
    found = {}
    for start in range(0, len(queries), 1000):
        part = -scores[start : start + 1000]
        best = np.argpartition(part, most, axis=1)[:, :most]
        order = np.take_along_axis(best, np.argsort(np.take_along_axis(part, best, axis=1), axis=1), axis=1)
        found |= dict(zip(queries[start : start + 1000], items[order].tolist(), strict=True))
    return found
