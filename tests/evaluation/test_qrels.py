"""Relevance judgments: metrics against slow definitions over all orders of ties, and every form of file."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from cmr_bench.cli import main
from cmr_bench.evaluation.judgments import read_judgments
from cmr_bench.evaluation.protocol import Protocol, evaluate
from cmr_bench.evaluation.qrels import Qrels, qrels
from cmr_bench.evaluation.queries import Queries
from cmr_bench.evaluation.scores import MatrixScores
from cmr_bench.support.errors import DataError

NO_IDS = (np.zeros(0, dtype=np.str_), np.zeros(0, dtype=np.str_))


def judged(relevant: NDArray[np.bool_]) -> dict[str, Qrels]:
    image, text = np.nonzero(relevant)
    n_images, n_texts = relevant.shape
    ones = np.ones(len(image))
    return {"i2t": qrels(image, text, ones, (n_images, n_texts)), "t2i": qrels(text, image, ones, (n_texts, n_images))}


def score(scores: NDArray[np.float64], relevant: NDArray[np.bool_], **protocol: Any) -> dict[str, float]:
    owner = np.zeros(scores.shape[1], dtype=np.int64)
    owner[: len(scores)] = np.arange(len(scores))
    return evaluate(MatrixScores(scores), owner, protocol=Protocol(**protocol), judged=judged(relevant)).metrics


def over_all_orders(scores: NDArray[np.float64], relevant: NDArray[np.bool_]) -> dict[str, float]:
    """Average every metric of one query over the orders of its items that its scores allow."""
    orders = [
        order
        for order in itertools.permutations(range(len(scores)))
        if all(scores[a] >= scores[b] for a, b in itertools.pairwise(order))
    ]
    found: dict[str, list[float]] = {}
    n_relevant = int(relevant.sum())
    for order in orders:
        hits = [bool(relevant[item]) for item in order]
        precisions = [sum(hits[: place + 1]) / (place + 1) for place, hit in enumerate(hits) if hit]
        early = [sum(hits[: place + 1]) / (place + 1) for place, hit in enumerate(hits[:n_relevant]) if hit]
        gain = sum(1 / math.log2(place + 2) for place, hit in enumerate(hits[:10]) if hit)
        ideal = sum(1 / math.log2(place + 2) for place in range(min(10, n_relevant)))
        values = {f"r{k}": 100.0 * any(hits[:k]) for k in (1, 5, 10)} | {
            "map": sum(precisions) / n_relevant,
            "map_at_r": sum(early) / n_relevant,
            "r_precision": sum(hits[:n_relevant]) / n_relevant,
            "ndcg_at_10": gain / ideal,
        }
        for name, value in values.items():
            found.setdefault(name, []).append(value)
    return {name: float(np.mean(values)) for name, values in found.items()}


@given(st.integers(0, 10**6), st.integers(1, 3), st.integers(3, 6), st.integers(1, 4))
@settings(max_examples=25, deadline=None)
def test_equals_the_mean_over_all_orders_of_ties(seed: int, n_images: int, n_texts: int, levels: int) -> None:
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, levels, (n_images, n_texts)).astype(np.float64)
    relevant = rng.random((n_images, n_texts)) < 0.4
    relevant[0, 0] = True
    found = score(scores, relevant, instance=True)
    for way, table, right in (("i2t", scores, relevant), ("t2i", scores.T, relevant.T)):
        each = [over_all_orders(row, mask) for row, mask in zip(table, right, strict=True) if mask.any()]
        for name in each[0]:
            assert found[f"qrels_{way}_{name}"] == pytest.approx(np.mean([one[name] for one in each]), abs=1e-9)


def test_the_pairs_as_judgments_give_the_recalls_of_the_pairs() -> None:
    rng = np.random.default_rng(0)
    scores, owner = rng.normal(size=(12, 36)), np.repeat(np.arange(12), 3)
    relevant = owner == np.arange(12)[:, None]
    found = evaluate(MatrixScores(scores), owner, protocol=Protocol(bootstrap=50), judged=judged(relevant))
    for way, k in itertools.product(("i2t", "t2i"), (1, 5, 10)):
        assert found.metrics[f"qrels_{way}_r{k}"] == pytest.approx(found.metrics[f"{way}_r{k}"], abs=1e-12)
        assert found.intervals[f"qrels_{way}_r{k}"] == pytest.approx(found.intervals[f"{way}_r{k}"])
    assert all(name in found.definitions and name in found.units for name in found.metrics)
    assert found.units["qrels_i2t_r1"] == "percent"


def test_queries_without_a_relevant_item_are_left_out_and_counted() -> None:
    scores = np.eye(3, 6)
    relevant = np.zeros((3, 6), dtype=bool)
    relevant[0, 0] = relevant[1, 1] = True
    found = evaluate(MatrixScores(scores), np.arange(6) % 3, judged=judged(relevant))
    assert found.excluded == {"qrels i2t": 1, "qrels t2i": 4}
    assert found.metrics["qrels_i2t_r1"] == found.metrics["qrels_t2i_r1"] == 100.0


PAIRS = {("a", "x"): 1, ("a", "y"): 2, ("b", "y"): 1, ("b", "z"): 0}


def write_json(path: Path) -> None:
    path.write_text(json.dumps({"a": {"x": 1, "y": 2}, "b": {"y": 1, "z": 0}}))


def write_csv(path: Path) -> None:
    lines = [f"{text},{image},{grade}" for (image, text), grade in PAIRS.items()]
    path.write_text("\ufefftext,image,grade\n" + "\n".join(lines) + "\n")


def write_npz(path: Path) -> None:
    image, text = zip(*PAIRS, strict=True)
    np.savez(path, image=np.array(image), text=np.array(text), grade=np.array(list(PAIRS.values())))


def write_trec(path: Path) -> None:
    path.write_text("".join(f"{image} 0 {text} {grade}\n" for (image, text), grade in PAIRS.items()))


def write_texts_first(path: Path) -> None:
    path.write_text("\n".join(f"{text}\t0\t{image}\t{grade}" for (image, text), grade in PAIRS.items()))


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("q.json", write_json),
        ("q.csv", write_csv),
        ("q.npz", write_npz),
        ("q.txt", write_trec),
        ("qrels.test", write_texts_first),
    ],
)
def test_every_form_says_the_same(name: str, write: Callable[[Path], None], tmp_path: Path) -> None:
    write(tmp_path / name)
    ids = (np.array(["b", "c", "a"]), np.array(["z", "y", "x"]))
    found, told = read_judgments([tmp_path / name], ids, (3, 3))
    mask = found["i2t"].relevant(slice(0, 3))
    assert mask.tolist() == [[False, True, False], [False] * 3, [False, True, True]]
    assert np.array_equal(found["t2i"].relevant(slice(0, 3)), mask.T)
    assert "3 relevant of 4 judged pairs; the 2 unjudged pairs of its 2 queries count as not relevant" in told[0]


def test_a_file_for_each_direction(tmp_path: Path) -> None:
    (tmp_path / "i2t.json").write_text('{"0": [0, 2]}')
    (tmp_path / "t2i.json").write_text('{"1": [1], "2": [0, 1]}')
    found, _ = read_judgments([tmp_path / "i2t.json", tmp_path / "t2i.json"], NO_IDS, (2, 3))
    assert found["i2t"].relevant(slice(0, 2)).tolist() == [[True, False, True], [False] * 3]
    assert found["t2i"].relevant(slice(1, 3)).tolist() == [[False, True], [True, True]]
    assert found["t2i"].first_items().tolist() == [0, 1, 0]


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("q.json", "[1]", "expected an object"),
        ("q.json", '{"0": 3}', "'0' needs a list of ids"),
        ("q.json", '{"0": [9]}', "text 9 is none of the 3 ids"),
        ("q.json", '{"0": {"1": 0}}', "no pair is judged relevant"),
        ("q.json", '{"0": {"1": "much"}}', "a grade is not a number"),
        ("q.csv", "image,caption\n0,0\n", "no column 'text'"),
        ("q.csv", "image,text\n0\n", "shorter than the first"),
        ("q.csv", "image,text,grade\n0,1,1\n0,1,0\n", "judged twice"),
        ("q.trec", "0 0 1\n", "line 1: TREC qrels have four columns"),
        ("q.trec", "\n", "judges no pair"),
        ("q.trec", "0 0 1 nan\n", "a grade is not a number"),
        ("q.npz", "no archive", "cannot be read"),
    ],
)
def test_malformed_files_are_one_line(name: str, content: str, told: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=told) as refused:
        read_judgments([tmp_path / name], NO_IDS, (2, 3))
    assert len(str(refused.value).splitlines()) == 1


@pytest.mark.parametrize("pairs", [True, False])
def test_the_command_scores_judgments_with_and_without_pairs(
    pairs: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.save(tmp_path / "S.npy", np.eye(3, 6))
    np.save(tmp_path / "M.npy", np.arange(6) % 3)
    (tmp_path / "q.csv").write_text("image,text\n0,0\n0,5\n1,1\n")
    words = ["eval", "--similarity", str(tmp_path / "S.npy"), "--qrels", str(tmp_path / "q.csv")]
    words += ["--image-of-text", str(tmp_path / "M.npy")] if pairs else []
    assert main([*words, "--json", str(tmp_path / "out.json"), "--bootstrap", "20"]) == 0
    assert "3 relevant of 3 judged pairs" in capsys.readouterr().out
    found = json.loads((tmp_path / "out.json").read_text())
    assert found["qrels_i2t_r1"] == 100.0
    assert ("i2t_r1" in found) == pairs
    if not pairs:
        assert main([*words, "--labels", "L.npy"]) == 2
        assert "--labels needs --image-of-text" in capsys.readouterr().err
    else:
        assert main([*words, "--name", "mine", "--data", "toy", "--runs", str(tmp_path / "runs")]) == 0
        assert main(["leaderboard", "--runs", str(tmp_path / "runs")]) == 0
        assert "mine" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["eccv", "cxc"])
def test_equals_the_package_of_eccv_caption_on_a_part_of_mscoco(name: str) -> None:
    _metrics = pytest.importorskip("eccv_caption._metrics")
    folder = Path(_metrics.__file__).parent / "data"
    truth = {
        way: {
            int(query): [int(item) for item in items]
            for query, items in json.loads((folder / f"{name}_{file}.json").read_text()).items()
        }
        for way, file in (("i2t", "image_to_caption"), ("t2i", "caption_to_image"))
    }
    # Whole judgments of a few queries of each direction, and what they judge.
    few = {way: dict(itertools.islice(queries.items(), 40)) for way, queries in truth.items()}
    images = sorted({*few["i2t"], *itertools.chain(*few["t2i"].values())})
    texts = sorted({*few["t2i"], *itertools.chain(*few["i2t"].values())})
    scores = np.random.default_rng(0).normal(size=(len(images), len(texts)))
    ids = {"i2t": (images, texts), "t2i": (texts, images)}
    judgments = {}
    for way, (queries, items) in ids.items():
        pairs = [(queries.index(query), items.index(item)) for query, found in few[way].items() for item in found]
        query, item = np.array(pairs).T
        judgments[way] = qrels(query, item, np.ones(len(pairs)), (len(queries), len(items)))
    owner = np.zeros(len(texts), dtype=np.int64)
    owner[: len(images)] = np.arange(min(len(images), len(texts)))
    everybody = Queries(np.ones(len(images), dtype=bool), np.ones(len(texts), dtype=bool))
    found = evaluate(
        MatrixScores(scores), owner, protocol=Protocol(instance=False), queries=everybody, judged=judgments
    ).metrics
    for way, table in (("i2t", scores), ("t2i", scores.T)):
        queries, items = ids[way]
        ranked = {query: [items[at] for at in np.argsort(-table[queries.index(query)])] for query in few[way]}
        expected = _metrics.compute_eccv_metrics(ranked, few[way])
        assert found[f"qrels_{way}_map_at_r"] == pytest.approx(expected["eccv_map_at_r"], abs=1e-12)
        assert found[f"qrels_{way}_r_precision"] == pytest.approx(expected["eccv_rprecision"], abs=1e-12)
        for k in (1, 5, 10):
            assert found[f"qrels_{way}_r{k}"] == pytest.approx(100 * _metrics.compute_r_at_k(ranked, few[way], k))


@given(st.integers(0, 10**6))
@settings(max_examples=20, deadline=None)
def test_relevant_items_outside_of_the_gallery_count_as_never_found(seed: int) -> None:
    rng = np.random.default_rng(seed)
    scores = rng.normal(size=(6, 12))
    # Two captions behind all others stand for captions that are not there.
    longer = np.hstack([scores, np.full((6, 2), -99.0)])
    relevant = np.hstack([rng.random((6, 12)) < 0.3, rng.random((6, 2)) < 0.5])
    relevant[0, 0] = relevant[1, 12] = True
    expected = score(longer, relevant)
    there = judged(relevant[:, :12])
    rows = np.flatnonzero(relevant[:, 12:].any(axis=1))
    there["i2t"] = replace(there["i2t"], lacking=(rows, relevant[rows, 12:].sum(axis=1)))
    owner = np.concatenate([np.arange(6), np.zeros(6, dtype=np.int64)])
    found = evaluate(MatrixScores(scores), owner, judged=there).metrics
    for name in ("map_at_r", "r_precision", "ndcg_at_10", "r1", "r5"):
        # nDCG and R@K look at the first few places, R-Precision and mAP@R at the first R, all of which are real ones.
        if relevant.sum(axis=1).max() <= 10:
            assert found[f"qrels_i2t_{name}"] == pytest.approx(expected[f"qrels_i2t_{name}"], abs=1e-12)


def test_a_gallery_of_five_captions_an_image_lacks_two_of_the_package() -> None:
    package = pytest.importorskip("eccv_caption")
    folder = Path(package.__file__).parent / "data"
    texts = np.load(folder / "coco_test_ids.npy").astype(np.int64).astype(np.str_)
    images = np.array([*json.loads((folder / "original_image_to_caption.json").read_text())], dtype=np.str_)
    found, told = read_judgments([Path("eccv")], (images, texts), (5000, 25000))
    assert found["i2t"].missing().sum() == 2
    assert "qrels i2t: 2 relevant captions are not in this gallery, and count as not found" in told
    more = np.concatenate([texts, ["144675", "467259"]])
    assert not read_judgments([Path("eccv")], (images, more), (5000, 25002))[0]["i2t"].missing().any()
    with pytest.raises(DataError, match="none of the 24999 ids"):
        read_judgments([Path("eccv")], (images, np.setdiff1d(texts, found_text(folder))), (5000, 24999))


def found_text(folder: Path) -> list[str]:
    """Return a caption that is judged and ranked."""
    return [str(json.loads((folder / "eccv_image_to_caption.json").read_text()).popitem()[1][0])]
