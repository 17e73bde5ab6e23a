from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from cmr_bench.evaluation.metrics import RECALLS
from cmr_bench.evaluation.protocol import Protocol, evaluate
from cmr_bench.evaluation.ranks import EmbeddingScores, MatrixScores
from cmr_bench.support.errors import DataError, UsageError


def split(
    n_images: int = 40, seed: int = 0, noise: float = 1.5
) -> tuple[EmbeddingScores, NDArray[np.int64], NDArray[np.int64]]:
    rng = np.random.default_rng(seed)
    owner = np.repeat(np.arange(n_images), rng.integers(1, 5, n_images))
    images = rng.standard_normal((n_images, 16))
    texts = images[owner] + noise * rng.standard_normal((len(owner), 16))
    return EmbeddingScores(images, texts), owner, rng.integers(0, 4, n_images)


def test_every_metric_has_a_unit_and_a_definition_in_its_range() -> None:
    scores, owner, labels = split()
    result = evaluate(scores, owner, labels, protocol=Protocol(folds=5, bootstrap=20))
    assert set(result.units) == set(result.definitions) == set(result.metrics) == set(result.intervals)
    for key, value in result.metrics.items():
        low, high = {
            "percent": (0, 100),
            "fraction": (0, 1),
            "rank": (1, max(scores.n_texts, scores.n_images)),
            "sum of percent": (0, 600),
        }[result.units[key]]
        assert low <= value <= high
        assert result.intervals[key][0] <= result.intervals[key][1]
    assert result.units["fold5_i2t_r1"] == "percent"
    assert result.definitions["fold5_t2i_r5"].startswith("mean over 5 folds of consecutive images, text query")
    assert result.definitions["map"].startswith("mean of both directions")


def test_sums_are_made_of_the_recalls_beside_them() -> None:
    scores, owner, _ = split()
    found = evaluate(scores, owner, protocol=Protocol(folds=5)).metrics
    for prefix in ("", "fold5_"):
        assert found[f"{prefix}rsum"] == pytest.approx(sum(found[prefix + key] for key in RECALLS), abs=1e-12)
        assert found[f"{prefix}mr"] == pytest.approx(found[f"{prefix}rsum"] / 6, abs=1e-12)


@pytest.mark.parametrize("ties", [False, True], ids=["untied", "tied"])
def test_folds_are_the_mean_of_separate_evaluations(ties: bool) -> None:
    scores, owner, labels = split()
    if ties:
        scores = EmbeddingScores(scores.images.sign(), scores.texts.sign(), normalize=False)
    folds = []
    for fold in range(5):
        texts = np.flatnonzero(owner // 8 == fold)
        part = EmbeddingScores(scores.images[fold * 8 : fold * 8 + 8], scores.texts[texts], normalize=False)
        folds.append(evaluate(part, owner[texts] - fold * 8).metrics)
    result = evaluate(scores, owner, labels, protocol=Protocol(folds=5))
    whole = result.metrics
    assert (result.tie_rate > 0.1) == ties
    for key in folds[0]:
        assert whole[f"fold5_{key}"] == pytest.approx(np.mean([fold[key] for fold in folds]))
    assert evaluate(scores, owner).metrics.items() <= whole.items()
    assert whole["fold5_i2t_r1"] > whole["i2t_r1"]


def test_metrics_do_not_depend_on_the_order_of_the_items() -> None:
    scores, owner, labels = split()
    rng = np.random.default_rng(5)
    new_images, new_texts = rng.permutation(len(labels)), rng.permutation(len(owner))
    moved = EmbeddingScores(scores.images[new_images], scores.texts[new_texts], normalize=False)
    before = evaluate(scores, owner, labels).metrics
    after = evaluate(moved, np.argsort(new_images)[owner[new_texts]], labels[new_images]).metrics
    assert after == pytest.approx(before, rel=1e-12)


def test_a_constant_scorer_is_at_chance() -> None:
    _, owner, labels = split(n_images=200)
    result = evaluate(MatrixScores(np.full((200, len(owner)), 0.5)), owner, labels)
    assert result.tie_rate == 1.0
    assert [result.metrics[f"t2i_r{k}"] for k in (1, 5, 10)] == pytest.approx([0.5, 2.5, 5.0], abs=1e-12)
    assert result.metrics["t2i_medr"] == 100.5
    shuffled = [
        evaluate(MatrixScores(np.random.default_rng(seed).random((200, len(owner)))), owner, labels).metrics
        for seed in range(5)
    ]
    assert result.metrics["map"] == pytest.approx(np.mean([one["map"] for one in shuffled]), abs=0.005)
    assert result.metrics["rsum"] == pytest.approx(np.mean([one["rsum"] for one in shuffled]), abs=4)
    assert result.curves["i2t_precision"][-1] == pytest.approx(result.curves["i2t_precision"][0])


def test_kinds_of_retrieval_can_be_chosen() -> None:
    scores, owner, labels = split()
    both = evaluate(scores, owner, labels)
    instance = evaluate(scores, owner, labels, protocol=Protocol(category=False))
    category = evaluate(scores, owner, labels, protocol=Protocol(instance=False))
    assert both.metrics == instance.metrics | category.metrics
    assert not set(instance.metrics) & set(category.metrics)
    assert category.ranks is None
    assert instance.curves == {}
    assert both.curves.keys() == {"recall", "i2t_precision", "t2i_precision"}
    assert both.curves["recall"][0] == 0.0
    assert evaluate(scores, owner).metrics == instance.metrics
    with pytest.raises(DataError, match="category retrieval needs labels"):
        evaluate(scores, owner, protocol=Protocol(category=True))
    with pytest.raises(UsageError, match="nothing to score"):
        evaluate(scores, owner, protocol=Protocol(instance=False))


def test_impossible_protocols_are_usage_errors() -> None:
    for options, message in [
        ({"folds": 0}, "folds must be 1 or more"),
        ({"bootstrap": -1}, "number of resamples"),
        ({"confidence": 1.0}, "between 0 and 1"),
        ({"instance": False, "category": False}, "nothing to score"),
    ]:
        with pytest.raises(UsageError, match=message):
            Protocol(**options)
    scores, owner, _ = split()
    with pytest.raises(UsageError, match="40 images do not divide into 7"):
        evaluate(scores, owner, protocol=Protocol(folds=7))
    with pytest.raises(UsageError, match="Did you mean 'csls'"):
        evaluate(scores, owner, protocol=Protocol(postprocess="csl"))


def test_coco_has_images_with_six_captions() -> None:
    # MSCOCO's test split in the large: 25,010 captions of 5,000 images.
    rng = np.random.default_rng(0)
    owner = np.sort(np.concatenate([np.repeat(np.arange(500), 5), rng.integers(0, 500, 10)]))
    images = rng.standard_normal((500, 24)).astype(np.float32)
    texts = images[owner] + rng.standard_normal((2510, 24)).astype(np.float32)
    found = evaluate(EmbeddingScores(images, texts), owner, protocol=Protocol(folds=5)).metrics
    assert found["i2t_r1"] > found["t2i_r1"]
    assert found["fold5_rsum"] > found["rsum"]
