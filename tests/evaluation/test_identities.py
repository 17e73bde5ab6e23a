"""Retrieval by identity: slow definitions over all orders of ties, and what must not change a number."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from cmr_bench.api.scoring import evaluate as evaluate_arrays
from cmr_bench.cli import main
from cmr_bench.evaluation.bootstrap import Resamples, interval
from cmr_bench.evaluation.identities import identity_scores
from cmr_bench.evaluation.metric import RetrievalMetric
from cmr_bench.evaluation.per_query import compare, per_query, read_per_query
from cmr_bench.evaluation.protocol import Evaluation, Protocol, evaluate
from cmr_bench.evaluation.queries import Queries
from cmr_bench.evaluation.rerank import Directed
from cmr_bench.evaluation.scores import EmbeddingScores, MatrixScores
from cmr_bench.evaluation.subsets import Subsets
from cmr_bench.support.errors import CmrBenchError, DataError

Matrix = NDArray[np.float64]
Index = NDArray[np.int64]


def people(seed: int, n_images: int = 24, levels: int = 0, n_people: int = 7) -> tuple[Matrix, Index, Index]:
    """Scores, with ties where they have levels, the image of every text, and whom the images show."""
    rng = np.random.default_rng(seed)
    owner = rng.permutation(np.concatenate([np.arange(n_images), rng.integers(n_images, size=n_images)]))
    shown = 100 + rng.integers(n_people, size=n_images)
    scores = rng.normal(size=(n_images, len(owner))) + (shown[:, None] == shown[owner])
    return np.round(scores * levels) if levels else scores, owner, shown


def over_all_orders(scores: Matrix, relevant: NDArray[np.bool_]) -> dict[str, float]:
    """Average the metrics of one query over the orders of its items that its scores allow."""
    found: dict[str, list[float]] = {}
    for order in itertools.permutations(range(len(scores))):
        if any(scores[a] < scores[b] for a, b in itertools.pairwise(order)):
            continue
        places = [place for place, item in enumerate(order, start=1) if relevant[item]]
        values = {f"r{k}": 100.0 * (places[0] <= k) for k in (1, 5, 10)}
        values["map"] = sum(number / place for number, place in enumerate(places, start=1)) / len(places)
        values["minp"] = len(places) / places[-1]
        for name, value in values.items():
            found.setdefault(name, []).append(value)
    return {name: float(np.mean(values)) for name, values in found.items()}


@given(st.integers(0, 10**6), st.integers(2, 4), st.integers(1, 3), st.integers(1, 3))
@settings(max_examples=25, deadline=None)
def test_equals_the_mean_over_all_orders_of_ties(seed: int, n_images: int, n_people: int, levels: int) -> None:
    rng = np.random.default_rng(seed)
    owner = np.concatenate([np.arange(n_images), rng.integers(n_images, size=6 - n_images)])
    shown = rng.integers(n_people, size=n_images)
    scores = rng.integers(0, levels, (n_images, len(owner))).astype(np.float64)
    found = evaluate(MatrixScores(scores), owner, identity=shown).metrics
    right = shown[:, None] == shown[owner]
    for way, table, mask in (("i2t", scores, right), ("t2i", scores.T, right.T)):
        each = [over_all_orders(row, own) for row, own in zip(table, mask, strict=True)]
        for name in each[0]:
            key = f"{way}_{name}" if name.startswith("r") else f"identity_{way}_{name}"
            assert found[key] == pytest.approx(np.mean([one[name] for one in each]), abs=1e-9)
    assert found["identity_map"] == pytest.approx((found["identity_i2t_map"] + found["identity_t2i_map"]) / 2)


def test_without_ties_it_is_the_naive_definition() -> None:
    scores, owner, shown = people(3)
    found = evaluate(MatrixScores(scores), owner, identity=shown)
    hits, precision, penalty, first = [], [], [], []
    for text in range(len(owner)):
        order = np.argsort(-scores[:, text])
        places = 1 + np.flatnonzero(shown[order] == shown[owner[text]])
        hits.append(100.0 * (places[0] <= 5))
        first.append(places[0])
        precision.append(np.mean(np.arange(1, len(places) + 1) / places))
        penalty.append(len(places) / places[-1])
    assert found.metrics["t2i_r5"] == pytest.approx(np.mean(hits))
    assert found.metrics["t2i_medr"] == np.median(first)
    assert found.metrics["identity_t2i_map"] == pytest.approx(np.mean(precision))
    assert found.metrics["identity_t2i_minp"] == pytest.approx(np.mean(penalty))
    assert found.tie_rate == 0
    assert found.metrics["t2i_r5"] > evaluate(MatrixScores(scores), owner).metrics["t2i_r5"]


PROTOCOLS: list[dict[str, Any]] = [
    {},
    {"folds": 4},
    {"folds": 3, "bootstrap": 40},
    {"subsets": (Subsets(3, 9),), "bootstrap": 20},
    {"postprocess": "csls", "folds": 2, "subsets": (Subsets(2, 11),)},
    {"postprocess": "mtfn_rr", "bootstrap": 10},
]


@pytest.mark.parametrize("protocol", PROTOCOLS, ids=str)
@pytest.mark.parametrize("levels", [0, 2], ids=["untied", "tied"])
def test_every_image_its_own_changes_no_bit(protocol: dict[str, Any], levels: int) -> None:
    scores, owner, _ = people(5, levels=levels)
    labels = np.arange(24) % 3
    plain = evaluate(MatrixScores(scores), owner, labels, protocol=Protocol(**protocol))
    own = evaluate(MatrixScores(scores), owner, labels, identity=np.arange(24), protocol=Protocol(**protocol))
    assert {name: own.metrics[name] for name in plain.metrics} == plain.metrics
    assert {name: own.intervals[name] for name in plain.intervals} == plain.intervals
    assert own.tie_rate == plain.tie_rate
    assert own.curves == plain.curves
    added = own.metrics.keys() - plain.metrics.keys()
    assert added == {f"identity_{way}{name}" for way in ("", "i2t_", "t2i_") for name in ("map", "minp")}


def test_every_image_its_own_changes_no_bit_of_embeddings() -> None:
    rng = np.random.default_rng(1)
    images, texts = rng.normal(size=(60, 9)), rng.normal(size=(150, 9))
    owner = rng.permutation(np.concatenate([np.arange(60), rng.integers(60, size=90)]))
    plain = evaluate(EmbeddingScores(images, texts), owner, protocol=Protocol(folds=5)).metrics
    own = evaluate(EmbeddingScores(images, texts), owner, identity=np.arange(60), protocol=Protocol(folds=5)).metrics
    assert {name: own[name] for name in plain} == plain


@given(st.integers(0, 10**6), st.integers(0, 3))
@settings(max_examples=20, deadline=None)
def test_neither_order_nor_names_nor_blocks_change_a_number(seed: int, levels: int) -> None:
    scores, owner, shown = people(seed, n_images=9, levels=levels, n_people=4)
    before = evaluate(MatrixScores(scores), owner, identity=shown).metrics
    rng = np.random.default_rng(seed)
    images, texts, names = rng.permutation(9), rng.permutation(len(owner)), rng.permutation(200)
    moved = MatrixScores(scores[np.ix_(images, texts)])
    after = evaluate(moved, np.argsort(images)[owner[texts]], identity=names[shown][images]).metrics
    assert after == pytest.approx(before, rel=1e-12)
    source = MatrixScores(scores)
    ranks, _ = identity_scores(Directed(source, source), owner, shown)
    for text in range(len(owner)):
        alone = MatrixScores(scores[:, [text]])
        # One text at a time; the other direction then has images without a match, which is allowed for.
        one, found = identity_scores(Directed(alone, alone), owner[[text]], shown)
        assert one.texts.rank[0] == ranks.texts.rank[text]
        assert found["t2i"].values["map"].shape == (1,)


def test_folds_are_the_mean_of_separate_evaluations() -> None:
    scores, owner, shown = people(2, levels=2)
    whole = evaluate(MatrixScores(scores), owner, identity=shown, protocol=Protocol(folds=4)).metrics
    each = []
    for fold in range(4):
        images, texts = np.arange(6 * fold, 6 * fold + 6), np.flatnonzero(owner // 6 == fold)
        part = MatrixScores(scores[np.ix_(images, texts)])
        each.append(evaluate(part, owner[texts] - 6 * fold, identity=shown[images]).metrics)
    for name in ("i2t_r1", "t2i_r5", "t2i_medr", "rsum"):
        assert whole[f"fold4_{name}"] == pytest.approx(np.mean([one[name] for one in each]), rel=1e-12)


def test_a_constant_scorer_is_at_chance() -> None:
    _, owner, shown = people(0, n_images=60, n_people=12)
    constant = evaluate(MatrixScores(np.zeros((60, 120))), owner, identity=shown).metrics
    rng = np.random.default_rng(0)
    random = [evaluate(MatrixScores(rng.random((60, 120))), owner, identity=shown).metrics for _ in range(60)]
    for name in ("t2i_r1", "i2t_r5", "identity_t2i_map", "identity_t2i_minp", "identity_i2t_minp"):
        assert constant[name] == pytest.approx(np.mean([one[name] for one in random]), rel=0.04)
    count = np.bincount(shown)[shown]
    assert constant["t2i_r1"] == pytest.approx(100 * np.mean(count[owner] / 60))


def test_images_without_a_text_are_found_and_do_not_ask() -> None:
    scores = np.array([[0.9, 0.1], [0.2, 0.8], [1.0, 0.3]])
    asking = Queries(np.array([True, True, False]), np.array([True, True]))
    found = evaluate(MatrixScores(scores), np.array([0, 1]), identity=np.array([5, 6, 5]), queries=asking)
    assert found.metrics["t2i_r1"] == 100
    assert found.metrics["identity_t2i_map"] == 1.0
    assert found.n_queries == (2, 2)
    assert found.identity is not None
    assert found.identity.tolist() == [5, 6]
    other = evaluate(MatrixScores(scores), np.array([0, 1]), queries=asking)
    assert other.metrics["t2i_r1"] == 50


def test_intervals_draw_persons() -> None:
    scores, owner, shown = people(4)
    found = evaluate(MatrixScores(scores), owner, identity=shown, protocol=Protocol(bootstrap=80, seed=3))
    assert found.ranks is not None
    number = np.unique(shown, return_inverse=True)[1]
    rng_weights = Resamples(int(number.max()) + 1, number[owner], 80, 3)
    hits = 100.0 * found.ranks.texts.hits(1)
    assert found.intervals["t2i_r1"] == pytest.approx(interval(rng_weights.mean_of_texts(hits), 0.95))
    precision = found.identities["t2i"].values["map"]
    assert found.intervals["identity_t2i_map"] == pytest.approx(interval(rng_weights.mean_of_texts(precision), 0.95))
    assert found.intervals.keys() == found.metrics.keys()


def test_words_say_that_identities_count() -> None:
    scores, owner, shown = people(4)
    found = evaluate(MatrixScores(scores), owner, identity=shown, protocol=Protocol(folds=2))
    assert found.definitions["t2i_r1"].startswith(
        "all of the query's identity matches; text query, all images: percent"
    )
    assert found.definitions["fold2_t2i_r1"].startswith("all of the query's identity matches; mean over 2 folds")
    assert found.definitions["identity_t2i_minp"].startswith("relevant is all of the query's identity; text query")
    assert found.units["identity_t2i_minp"] == "fraction"
    assert found.record()["identities"] == len(np.unique(shown))
    plain = evaluate(MatrixScores(scores), owner)
    assert "identity" not in " ".join(plain.definitions.values())
    assert "identities" not in plain.record()


def test_the_metric_scores_by_identity() -> None:
    rng = np.random.default_rng(0)
    images, texts = EmbeddingScores(rng.normal(size=(8, 4)), rng.normal(size=(8, 4))), np.arange(8)
    metric = RetrievalMetric(8, texts, identity=np.arange(8) // 2)
    metric.update(rows := images.images.new_tensor(range(8)).long(), images.images, rows, images.texts)
    assert metric.compute() == evaluate(images, texts, identity=np.arange(8) // 2).metrics


def scored(seed: int, shown: Index) -> Evaluation:
    scores, owner, _ = people(seed)
    owner = np.sort(owner)
    return evaluate(MatrixScores(scores), np.arange(48) // 2, identity=shown)


def test_outcomes_keep_identities_and_are_compared_by_them(tmp_path: Path) -> None:
    shown = 10 + np.arange(24) // 4
    owner = np.arange(48) // 2
    one, other = (per_query(scored(seed, shown), owner) for seed in (1, 2))
    (tmp_path / "ranks.npz").write_bytes(one.to_bytes())
    read = read_per_query(tmp_path / "ranks.npz")
    assert read.identity.tolist() == (np.arange(24) // 4).tolist()
    assert compare(read, other, 50) == compare(one, other, 50)
    found = compare(one, other, 50)["t2i_r1"]
    by_hand = Resamples(24, owner, 50, 0, shown)
    draws = [by_hand.mean_of_texts(run.columns()["t2i_r1"]) for run in (one, other)]
    assert (found.low, found.high) == pytest.approx(interval(draws[0] - draws[1], 0.95))
    with pytest.raises(CmrBenchError, match="different test splits"):
        compare(one, per_query(evaluate(MatrixScores(people(1)[0]), owner), owner))


def test_identities_of_another_kind_are_one_error() -> None:
    scores, owner, shown = people(0)
    with pytest.raises(DataError, match="identities are one for each of 24 images"):
        evaluate(MatrixScores(scores), owner, identity=shown[:-1])
    with pytest.raises(DataError, match="identities are whole numbers"):
        evaluate(MatrixScores(scores), owner, identity=shown + 0.5)


def test_the_command_and_the_library_take_names(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(0)
    images, texts = rng.normal(size=(6, 5)), rng.normal(size=(12, 5))
    owner, names = np.arange(12) // 2, np.array(["ann", "bob", "ann", "eve", "eve", "ann"])
    # A row for every caption, as one released program has it: each image still stands in the gallery once.
    for name, values in (("i", np.repeat(images, 2, axis=0)), ("t", texts), ("m", owner), ("p", np.repeat(names, 2))):
        np.save(tmp_path / f"{name}.npy", values)
    words = [f"--{option}={tmp_path / name}.npy" for option, name in (("images", "i"), ("texts", "t"))]
    words += [f"--image-of-text={tmp_path}/m.npy", f"--identities={tmp_path}/p.npy", f"--json={tmp_path}/out.json"]
    assert main(["eval", *words]) == 0
    assert "identity: mINP" in capsys.readouterr().out
    found = evaluate_arrays(images, texts, image_of_text=owner, identities=names.tolist(), bootstrap=0)
    shown = np.unique(names, return_inverse=True)[1]
    assert found.metrics == evaluate(EmbeddingScores(images, texts), owner, identity=shown).metrics
    import json

    stored = json.loads((tmp_path / "out.json").read_text())
    assert {name: stored[name] for name in found.metrics} == pytest.approx(found.metrics)
    assert stored["protocol"]["identities"] == 3
