from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from cmr_bench import cli
from cmr_bench.results.store import load_results

Arrays = dict[str, NDArray[Any]]


@pytest.fixture
def arrays() -> Arrays:
    rng = np.random.default_rng(0)
    image_of_text = np.repeat(np.arange(20), rng.integers(1, 5, 20))
    images = rng.standard_normal((20, 8)).astype(np.float32)
    texts = images[image_of_text] + rng.standard_normal((len(image_of_text), 8)).astype(np.float32)
    return {
        "I": images,
        "T": texts,
        "S": images @ texts.T,
        "M": image_of_text,
        "L": rng.integers(0, 3, 20),
    }


@pytest.fixture
def files(arrays: Arrays, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name, values in arrays.items():
        np.save(tmp_path / f"{name}.npy", values)
    return tmp_path


def run_eval(line: str) -> int:
    return cli.main(["eval", *line.split()])


def test_embeddings_are_scored_and_reported(files: Path, arrays: Arrays, capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        run_eval("--images I.npy --texts T.npy --image-of-text M.npy --labels L.npy --folds 5 --json out/o.json") == 0
    )
    report = json.loads((files / "out" / "o.json").read_text())
    for key in ("i2t_r1", "i2t_r5", "i2t_r10", "t2i_r1", "t2i_r5", "t2i_r10", "i2t_medr", "t2i_medr", "mr", "rsum"):
        assert isinstance(report[key], float)
        assert isinstance(report[f"fold5_{key}"], float)
    assert report["map"] == (report["i2t_map"] + report["t2i_map"]) / 2
    recalls = [report[f"{way}_r{k}"] for way in ("i2t", "t2i") for k in (1, 5, 10)]
    assert report["rsum"] == pytest.approx(sum(recalls), abs=1e-12)
    assert report["mr"] == pytest.approx(np.mean(recalls), abs=1e-12)

    cosine = (arrays["I"] / np.linalg.norm(arrays["I"], axis=1)[:, None]) @ arrays["T"].T
    cosine /= np.linalg.norm(arrays["T"], axis=1)
    hits = [arrays["M"][row.argmax()] == image for image, row in enumerate(cosine)]
    assert report["i2t_r1"] == 100 * sum(hits) / 20
    hits = [column.argmax() == arrays["M"][text] for text, column in enumerate(cosine.T)]
    assert report["t2i_r1"] == 100 * sum(hits) / len(hits)
    assert report["units"]["i2t_r1"] == "percent"
    assert "whole ranking" in report["protocol"]["definitions"]["i2t_map"]
    out = capsys.readouterr().out
    assert f"{report['rsum']:.1f}" in out
    assert "20 images" in out


def test_a_similarity_matrix_gives_what_its_embeddings_give(files: Path) -> None:
    assert run_eval("--images I.npy --texts T.npy --no-normalize --image-of-text M.npy --json a.json") == 0
    assert run_eval("--similarity S.npy --image-of-text M.npy --json b.json") == 0
    first, second = (json.loads((files / name).read_text()) for name in ("a.json", "b.json"))
    assert first == second


def test_intervals_and_flags_reach_the_leaderboard(files: Path) -> None:
    line = "--similarity S.npy --image-of-text M.npy --bootstrap 50 --postprocess csls --flag ensemble"
    assert run_eval(f"{line} --name mine --data flickr8k --json o.json") == 0
    (stored,), problems = load_results(files / "runs")
    report = json.loads((files / "o.json").read_text())
    assert not problems
    assert (stored.method, stored.data, stored.flags) == ("mine", "flickr8k", ["transductive", "ensemble"])
    assert stored.metrics == {key: report[key] for key in stored.metrics}
    low, high = stored.intervals["rsum"]
    assert low <= stored.metrics["rsum"] <= high
    assert stored.split_sizes == {"test": [20, 55]}
    assert stored.fingerprint.startswith("links:")


@pytest.mark.parametrize(
    ("line", "code", "message"),
    [
        ("--images I.npy --image-of-text M.npy", 2, "--images and --texts must be passed together"),
        ("--image-of-text M.npy", 2, "pass either --images and --texts, or --similarity"),
        ("--images I.npy --texts T.npy --similarity S.npy --image-of-text M.npy", 2, "pass either"),
        ("--similarity S.npy", 2, "--image-of-text"),
        ("--similarity S.npy --image-of-text M.npy --name x", 2, "--data"),
        ("--similarity S.npy --image-of-text M.npy --data x", 2, "--name"),
        ("--similarity S.npy --image-of-text M.npy --name x --data ../x", 2, "short name of a data set"),
        ("--similarity S.npy --image-of-text M.npy --folds 3", 2, "20 images do not divide into 3 equal folds"),
        ("--similarity S.npy --image-of-text M.npy --folds 0", 2, "folds must be 1 or more"),
        ("--similarity S.npy --image-of-text M.npy --bootstrap -1", 2, "number of resamples"),
        ("--similarity S.npy --image-of-text M.npy --postprocess magic", 2, "inverted_softmax"),
        ("--similarity S.npy --image-of-text M.npy --no-normalize", 2, "a similarity matrix is never normalised"),
        ("--similarity none.npy --image-of-text M.npy", 1, "--similarity: no file none.npy"),
        ("--similarity T.npy --image-of-text M.npy", 1, "image_of_text needs one entry for each of 8 texts"),
        ("--similarity M.npy --image-of-text M.npy", 1, "has 2 axes"),
        ("--images I.npy --texts S.npy --image-of-text M.npy", 1, "one common space"),
        ("--similarity S.npy --image-of-text L.npy", 1, "--image-of-text is for 20 texts: the matrix is texts x"),
        ("--similarity S.npy --image-of-text bad/long.npy", 1, "one entry for each of 55 texts"),
        ("--similarity S.npy --image-of-text M.npy --labels M.npy", 1, "labels are (20,) or multi-hot"),
        ("--similarity bad/objects.npy --image-of-text M.npy", 1, "not a NumPy array of numbers"),
        ("--similarity bad/text.npy --image-of-text M.npy", 1, "not a NumPy array of numbers"),
        ("--similarity bad/archive.npz --image-of-text M.npy", 1, "not a NumPy array of numbers"),
        ("--similarity bad/words.npy --image-of-text M.npy", 1, "not numbers"),
        ("--similarity bad/short.npy --image-of-text M.npy", 1, "not a NumPy array of numbers"),
        ("--similarity bad/inf.npy --image-of-text M.npy", 1, "has inf for image 3 and text 4"),
        ("--images bad/nan.npy --texts T.npy --image-of-text M.npy", 1, "embedding of image 7 is not finite"),
        (
            "--similarity S.npy --image-of-text bad/outside.npy",
            1,
            "belongs to image 20, but images are numbered 0 to 19",
        ),
        ("--similarity S.npy --image-of-text M.npy --labels bad/twos.npy", 1, "multi-hot: only 0 and 1"),
        ("--similarity S.npy --image-of-text M.npy --labels bad/nanlabels.npy", 1, "labels are whole numbers"),
        ("--similarity S.npy --image-of-text M.npy --labels bad/nolabels.npy", 1, "no query shares a label"),
        ("--similarity S.npy --image-of-text M.npy --json I.npy/o.json", 1, "cannot write"),
    ],
)
def test_bad_input_is_one_line(
    line: str, code: int, message: str, files: Path, arrays: Arrays, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = files / "bad"
    bad.mkdir()
    np.save(bad / "objects.npy", np.array([[{}]], dtype=object), allow_pickle=True)
    (bad / "text.npy").write_text("0 1 2\n")
    np.savez(bad / "archive.npz", S=arrays["S"])
    np.save(bad / "words.npy", np.array([["a"]]))
    (bad / "short.npy").write_bytes((files / "S.npy").read_bytes()[:-10])
    wrong = arrays["S"].copy()
    wrong[3, 4] = np.inf
    np.save(bad / "inf.npy", wrong)
    wrong = arrays["I"].copy()
    wrong[7, 0] = np.nan
    np.save(bad / "nan.npy", wrong)
    np.save(bad / "long.npy", np.append(arrays["M"], 0))
    np.save(bad / "outside.npy", arrays["M"] + 1)
    np.save(bad / "twos.npy", np.full((20, 3), 2))
    np.save(bad / "nanlabels.npy", np.full(20, np.nan))
    np.save(bad / "nolabels.npy", np.zeros((20, 3)))
    assert run_eval(line) == code
    err = capsys.readouterr().err
    assert message in err
    assert len(err.strip().splitlines()) == 1


def test_a_failed_run_leaves_nothing_behind(files: Path) -> None:
    before = sorted(files.rglob("*"))
    assert run_eval("--similarity S.npy --image-of-text M.npy --folds 3 --json o.json --name x --data y") == 2
    assert sorted(files.rglob("*")) == before


def test_a_constant_scorer_is_reported_at_chance(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.save(tmp_path / "S.npy", np.full((20, 100), 0.5, dtype=np.float32))
    np.save(tmp_path / "M.npy", np.arange(100) // 5)
    assert run_eval(f"--similarity {tmp_path}/S.npy --image-of-text {tmp_path}/M.npy --json {tmp_path}/o.json") == 0
    report = json.loads((tmp_path / "o.json").read_text())
    assert [report[f"t2i_r{k}"] for k in (1, 5, 10)] == pytest.approx([5, 25, 50], abs=1e-12)
    missed = [math.comb(95, k) / math.comb(100, k) for k in (1, 5, 10)]
    assert [report[f"i2t_r{k}"] for k in (1, 5, 10)] == pytest.approx([100 * (1 - each) for each in missed], abs=1e-12)
    assert "100 % of queries tied" in capsys.readouterr().out
    assert "orders of tied items" in report["protocol"]["ties"]
