from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cmr_bench.datamodules.module import RetrievalDataModule
from cmr_bench.datamodules.split import Split
from cmr_bench.evaluation.ranks import MatrixScores, retrieval_ranks
from cmr_bench.experiment.examples import examples, store_examples
from cmr_bench.results.examples import image_ids, thumbnail_name


def split(n: int = 40, labels: np.ndarray | None = None, files: list[Path] | None = None) -> Split:
    ids = [f"folder/../<b>{row}" for row in range(n)]
    texts = [f"t{row}" for row in range(2 * n)]
    owner = np.arange(2 * n) // 2
    return Split("test", ids, owner, texts, [f"caption {t}" for t in texts], files, labels)


def test_queries_come_with_their_rank_and_answers_with_what_is_right() -> None:
    part = split(labels=np.arange(40) % 2)
    scores = MatrixScores(np.random.default_rng(0).random((40, 80)))
    found = examples(scores, part, retrieval_ranks(scores, part.image_of_text))
    for way in ("i2t", "t2i"):
        for entry in found[way]:
            at = [place for place, answer in enumerate(entry["answers"], 1) if answer["match"]]
            assert (entry["query"]["rank"] in at) if at else entry["query"]["rank"] > 5
            assert all(answer["related"] for answer in entry["answers"] if answer["match"])
    assert [entry["query"]["match"]["caption"] for entry in found["i2t"][:2]] == ["caption t0", "caption t2"]
    assert found["t2i"][-1]["query"]["match"] == {"id": part.image_ids[-1]}
    first = found["i2t"][0]["answers"]
    assert [answer["related"] for answer in first] == [int(a["id"][1:]) // 2 % 2 == 0 for a in first]


def test_every_method_gets_the_same_queries() -> None:
    part = split()
    rng = np.random.default_rng(0)
    one, other = (examples(MatrixScores(rng.random((40, 80))), part) for _ in range(2))
    for way in ("i2t", "t2i"):
        assert [entry["query"] for entry in one[way]] == [entry["query"] for entry in other[way]]


def test_multi_hot_items_are_related_by_any_class() -> None:
    labels = np.zeros((40, 3), dtype=np.int64)
    labels[:, 0] = 1
    labels[1:] = [0, 1, 1]
    found = examples(MatrixScores(np.random.default_rng(0).random((40, 80))), split(labels=labels))
    answers = found["i2t"][1]["answers"]
    assert [answer["related"] for answer in answers] == [answer["id"] not in ("t0", "t1") for answer in answers]


def test_thumbnails_are_small_and_cannot_leave_their_folder(tmp_path: Path) -> None:
    files = [tmp_path / "photos" / f"{row}.png" for row in range(40)]
    files[0].parent.mkdir()
    for row, file in enumerate(files[:-1]):
        Image.new("RGB", (640, 320), (row, 0, 0)).save(file)
    part = split(files=files)
    found = examples(MatrixScores(np.random.default_rng(0).random((40, 80))), part)
    store_examples(tmp_path / "run", found, RetrievalDataModule(), part)
    names = {file.name for file in (tmp_path / "run" / "examples").iterdir()}
    there = [name for name in image_ids(found) if name != part.image_ids[-1]]
    assert names == {thumbnail_name(name) for name in there}
    with Image.open(tmp_path / "run" / "examples" / thumbnail_name(part.image_ids[0])) as photo:
        assert photo.size == (144, 72)
    assert json.loads((tmp_path / "run" / "examples.json").read_text()) == found


@pytest.mark.parametrize("odd", ["a/b", "..", "\ud800", "<script>", ""])
def test_any_id_makes_a_plain_name(odd: str) -> None:
    assert thumbnail_name(odd).removesuffix(".jpg").isalnum()
