from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.special import logsumexp, softmax

from cmr_bench.evaluation import postprocess as module
from cmr_bench.evaluation.postprocess import csls, inverted_softmax
from cmr_bench.evaluation.protocol import Protocol, evaluate
from cmr_bench.evaluation.ranks import EmbeddingScores, MatrixScores, ScoreSource
from cmr_bench.evaluation.scores import reorder_texts
from cmr_bench.support.errors import UsageError

SIMILARITY = np.random.default_rng(0).random((23, 57))


def whole(scores: ScoreSource) -> np.ndarray:
    return scores.block(slice(0, scores.n_images), slice(0, scores.n_texts)).numpy()


@pytest.fixture(autouse=True, params=[(512, 4096), (7, 10)], ids=["one tile", "many tiles"])
def _tiles(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_IMAGE_BLOCK", request.param[0])
    monkeypatch.setattr(module, "_TEXT_BLOCK", request.param[1])


def test_csls_follows_its_definition() -> None:
    of_image = np.sort(SIMILARITY, axis=1)[:, -10:].mean(axis=1)
    of_text = np.sort(SIMILARITY, axis=0)[-10:].mean(axis=0)
    expected = 2 * SIMILARITY - of_image[:, None] - of_text
    np.testing.assert_allclose(whole(csls(MatrixScores(SIMILARITY))), expected, rtol=1e-12)
    every = 2 * SIMILARITY - SIMILARITY.mean(axis=1)[:, None] - SIMILARITY.mean(axis=0)
    np.testing.assert_allclose(whole(csls(MatrixScores(SIMILARITY), k=1000)), every, rtol=1e-10)


def test_inverted_softmax_ranks_by_the_probability_of_the_query() -> None:
    found = whole(inverted_softmax(MatrixScores(SIMILARITY), beta=9.0))
    lse = logsumexp(9 * SIMILARITY, axis=1)[:, None] + logsumexp(9 * SIMILARITY, axis=0)
    np.testing.assert_allclose(found, 9 * SIMILARITY - lse, rtol=1e-10)
    # i2t: texts of an image by p(image | text) over all images; t2i the other way round.
    np.testing.assert_array_equal(found.argsort(axis=1), softmax(9 * SIMILARITY, axis=0).argsort(axis=1))
    np.testing.assert_array_equal(found.argsort(axis=0), softmax(9 * SIMILARITY, axis=1).argsort(axis=0))


def test_texts_can_be_reordered() -> None:
    order = np.random.default_rng(1).permutation(57)
    for scores in (csls(MatrixScores(SIMILARITY)), inverted_softmax(MatrixScores(SIMILARITY))):
        np.testing.assert_array_equal(whole(reorder_texts(scores, order)), whole(scores)[:, order])


@pytest.mark.parametrize("name", ["csls", "inverted_softmax"])
def test_hubs_lose_their_hold_and_the_result_is_flagged(name: str) -> None:
    rng = np.random.default_rng(2)
    images = rng.standard_normal((100, 16))
    texts = images + rng.standard_normal((100, 16))
    images[:10] *= 0.1
    images[:10] += texts.mean(axis=0) * 6
    scores = EmbeddingScores(torch.from_numpy(images).float(), texts.astype(np.float32))
    plain = evaluate(scores, np.arange(100))
    corrected = evaluate(scores, np.arange(100), protocol=Protocol(postprocess=name))
    assert plain.flags == ()
    assert corrected.flags == ("transductive",)
    assert corrected.metrics["t2i_r1"] > plain.metrics["t2i_r1"]


def test_impossible_options() -> None:
    with pytest.raises(UsageError, match="at least one neighbour"):
        csls(MatrixScores(SIMILARITY), k=0)
    with pytest.raises(UsageError, match="positive inverse temperature"):
        inverted_softmax(MatrixScores(SIMILARITY), beta=0.0)
