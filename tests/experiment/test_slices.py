from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from cmr_bench.datamodules.synthetic.module import Synthetic
from cmr_bench.evaluation.options import EvaluationOptions
from cmr_bench.evaluation.protocol import evaluate
from cmr_bench.evaluation.ranks import MatrixScores
from cmr_bench.experiment.slices import caption_lengths, slices


def test_recalls_of_captions_with_a_rare_word() -> None:
    data: Any = Synthetic(n_train=4, n_val=4, n_test=4)
    data.splits = dict(data.read())
    owner = np.array([0, 1, 2, 3, 0])
    train = replace(data.splits["train"], captions=["red red blue"] * len(data.splits["train"].image_of_text))
    test = replace(
        data.splits["test"],
        image_of_text=owner,
        text_ids=[str(k) for k in range(5)],
        captions=["red", "green", "blue", "grey blue", "red green"],
    )
    data.splits |= {"train": train, "test": test}
    scores = np.zeros((4, 5))
    scores[owner, np.arange(5)] = [1, 1, 1, -1, -1]
    evaluation = evaluate(MatrixScores(scores), owner)
    data.evaluation = EvaluationOptions(few_shot_below=1)
    found = slices(data, evaluation)["few_shot"]
    assert (found["below"], found["n_texts"]) == (1, 3)
    # Of "green", "grey blue" and "red green" the first finds its image, the others rank it last.
    assert [found[f"t2i_r{k}"] for k in (1, 5, 10)] == pytest.approx([100 / 3, 100, 100])
    data.evaluation = EvaluationOptions(few_shot_below=0)
    assert slices(data, evaluation) == {}
    data.evaluation = EvaluationOptions(few_shot_below=5)
    data.splits["test"] = replace(test, captions=None)
    assert slices(data, evaluation) == {}


def test_lengths_of_captions_are_in_words_of_the_data_set() -> None:
    data: Any = Synthetic(n_train=4, n_val=4, n_test=4)
    data.splits = dict(data.read())
    test = data.splits["test"]
    data.splits["test"] = replace(test, captions=["Two dogs, running."] * len(test.image_of_text))
    assert set(caption_lengths(data).tolist()) == {3}
    data.word_split = "treebank"
    assert set(caption_lengths(data).tolist()) == {5}
    data.splits["test"] = replace(test, captions=None)
    assert caption_lengths(data).tolist() == []
