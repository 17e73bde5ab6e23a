from __future__ import annotations

import numpy as np
import pytest

from cmr_bench.evaluation.definitions import by_mid_rank, in_words_of_today
from cmr_bench.evaluation.protocol import Protocol, evaluate
from cmr_bench.evaluation.ranks import MatrixScores

TODAY = evaluate(
    MatrixScores(np.random.default_rng(0).random((20, 40))),
    np.arange(40) // 2,
    np.arange(20) % 3,
    protocol=Protocol(folds=2),
).definitions
# As version 0.1.0 stored them.
IMAGES = "image query, all texts; an image ranks by its best text: "
TEXTS = "text query, all images: "
FOLDS = "mean over 2 folds of consecutive images, "
OLD = {
    "i2t_r1": f"{IMAGES}percent of queries with a match at rank 1",
    "t2i_r10": f"{TEXTS}percent of queries with a match at rank 10 or better",
    "t2i_medr": f"{TEXTS}median rank of the match, counted from 1",
    "fold2_i2t_meanr": f"{FOLDS}{IMAGES}mean rank of the match, counted from 1",
    "fold2_t2i_r5": f"{FOLDS}{TEXTS}percent of queries with a match at rank 5 or better",
    "mr": "mean of the six recalls",
}
RECALLS = ("i2t_r1", "t2i_r10", "fold2_t2i_r5")


def test_definitions_of_today_say_how_ties_count_and_stay() -> None:
    assert "expected over all orders of tied items" in TODAY["i2t_r1"]
    assert "half of the other items scored the same" in TODAY["t2i_medr"]
    for rate in (0.0, 0.5):
        assert in_words_of_today(TODAY, TODAY, rate) == TODAY
    assert not by_mid_rank(TODAY)


def test_old_words_mean_the_same_where_nothing_ties() -> None:
    found = in_words_of_today(OLD, OLD, 0.0)
    assert found == {name: TODAY[name] for name in OLD}
    assert not by_mid_rank(found)


def test_the_old_rule_keeps_its_words_where_something_ties() -> None:
    found = in_words_of_today(OLD, OLD, 0.01)
    for name in OLD:
        assert (found[name] == OLD[name] != TODAY[name]) if name in RECALLS else (found[name] == TODAY[name])
    assert by_mid_rank(found)


def test_tied_recalls_without_a_definition_are_taken_for_old_ones() -> None:
    found = in_words_of_today({}, ["t2i_r10", "map", "fold2_t2i_r5"], 0.2)
    assert found == {name: OLD[name] for name in ("t2i_r10", "fold2_t2i_r5")}
    assert in_words_of_today({}, ["t2i_r10"], 0.0) == {}
    one = {"i2t_r1": TODAY["i2t_r1"]}
    assert in_words_of_today(one, TODAY, 0.2) == one


@pytest.mark.parametrize("words", ["hits at 1", "percent of queries with a match at rank 1"])
def test_words_of_others_stay(words: str) -> None:
    assert in_words_of_today({"i2t_r1": words, "own": "of my own"}, ["i2t_r1", "own"], 0.0) == {
        "i2t_r1": words,
        "own": "of my own",
    }
