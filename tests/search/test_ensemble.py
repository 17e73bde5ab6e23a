"""An ensemble scores by the mean of its members' matrices and says so; what does not belong together is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cmr_bench import cli
from cmr_bench.evaluation.protocol import evaluate
from cmr_bench.evaluation.ranks import MatrixScores
from cmr_bench.evaluation.scores import reorder_texts
from cmr_bench.results.record import Result, read_result, write_result
from cmr_bench.search.ensemble import MeanScores

TINY = [
    *("--data.n_train", "60", "--data.n_val", "20", "--data.n_test", "20", "--trainer.max_epochs", "1"),
    *("--trainer.accelerator", "cpu", "--trainer.progress", "false", "--trainer.bootstrap", "0"),
    *("--model.dim", "16", "--model.word_dim", "8"),
]


def finished(folder: Path, **changes: Any) -> Path:
    folder.mkdir(parents=True)
    facts: dict[str, Any] = {
        "method": "bfan",
        "data": "flickr8k",
        "metrics": {"rsum": 1.0},
        "fingerprint": "f",
        "split_sizes": {"test": [10, 50]},
        "content": {"train": "t", "val": "v", "test": "f"},
    }
    write_result(folder, Result(**(facts | changes)))
    return folder


def test_mean_of_matrices_whatever_their_order() -> None:
    rng = np.random.default_rng(0)
    one, two, three = (rng.normal(size=(7, 9)).astype(np.float32) for _ in range(3))
    found = MeanScores([MatrixScores(matrix) for matrix in (one, two, three)])
    other = MeanScores([MatrixScores(matrix) for matrix in (three, one, two)])
    rows, columns = slice(1, 6), slice(2, 9)
    tile = found.block(rows, columns).numpy()
    np.testing.assert_allclose(tile, np.mean([one, two, three], axis=0, dtype=np.float64)[rows, columns], rtol=1e-12)
    assert tile.tobytes() == other.block(rows, columns).numpy().tobytes()
    order = rng.permutation(9)
    np.testing.assert_array_equal(
        reorder_texts(found, order).block(slice(0, 7), slice(0, 9)).numpy(),
        found.block(slice(0, 7), slice(0, 9)).numpy()[:, order],
    )


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"data": "flickr30k"}, "the data set is flickr30k, not flickr8k"),
        ({"fingerprint": "other"}, "the test split is other, not f"),
        ({"content": {"train": "x", "val": "v", "test": "f"}}, "the train split is x, not t"),
        ({"split_sizes": {"test": [11, 50]}}, "the size of the splits"),
        ({"protocol": {"folds": 5}}, "the number of folds is 5, not None"),
        ({"protocol": {"subsets": ["2x5"]}}, "the list of subsets is ['2x5'], not None"),
    ],
)
def test_runs_that_do_not_belong_together_are_refused(
    changes: dict[str, Any], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one, two = finished(tmp_path / "one"), finished(tmp_path / "two", **changes)
    assert cli.main(["ensemble", str(one), str(two)]) == 2
    assert said in " ".join(capsys.readouterr().err.split())


def test_one_run_twice_or_not_finished_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one = finished(tmp_path / "one")
    assert cli.main(["ensemble", str(one)]) == 2
    assert "two runs at least" in capsys.readouterr().err
    assert cli.main(["ensemble", str(one), str(one)]) == 2
    assert "named twice" in capsys.readouterr().err
    assert cli.main(["ensemble", str(one), str(tmp_path / "none")]) == 1
    assert "has no result.json" in capsys.readouterr().err


@pytest.mark.slow
def test_an_ensemble_is_stored_like_a_run_and_flagged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for method, *words in (("vsepp",), ("scan", "--seed", "0")):
        assert cli.main(["run", "--model", method, *TINY, *words]) == 0
    members = sorted(Path("runs").glob("*/*/*"))
    matrices = []
    for folder in members:
        assert cli.main(["eval", "--run", str(folder), "--export", folder.parent.name]) == 0
        out = Path(folder.parent.name)
        if (out / "similarity.npy").is_file():
            matrices.append(np.load(out / "similarity.npy").astype(np.float64))
        else:
            sides = [np.load(out / f"{side}.npy").astype(np.float64) for side in ("images", "texts")]
            images, texts = (side / np.linalg.norm(side, axis=1, keepdims=True) for side in sides)
            matrices.append(images @ texts.T)
    owner, labels = np.load("scan/image_of_text.npy"), np.load("scan/labels.npy")
    expected = evaluate(MatrixScores(np.mean(matrices, axis=0)), owner, labels).metrics
    assert cli.main(["ensemble", *map(str, members), "--bootstrap", "0", "--device", "cpu"]) == 0
    (folder,) = Path("runs/synthetic/scan+vsepp").iterdir()
    result = read_result(folder / "result.json")
    assert result.metrics == pytest.approx(expected, abs=1e-6)
    assert result.flags == ["shortened", "ensemble"]
    assert set(result.members) == {f"{one.parent.name}/{one.name}" for one in members}
    assert json.loads((folder / "result.json").read_text())["schema"] == 1
    assert (folder / "ranks.npz").is_file()
    capsys.readouterr()
    assert cli.main(["leaderboard", "--format", "markdown"]) == 0
    shown = capsys.readouterr().out
    (line,) = (line for line in shown.splitlines() if line.startswith("| scan+vsepp"))
    assert line.count("<sup>e</sup>") == line.count("(dim=16") == 1
    assert cli.main(["dashboard"]) == 0
