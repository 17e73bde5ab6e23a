"""``cmr-bench eval`` on scores as other programs leave them."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from cmr_bench import cli
from cmr_bench.results.record import read_result

Arrays = dict[str, NDArray[Any]]
CAPTIONS = 3


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Arrays:
    """Twelve images with three texts each, written as ``I``, ``T``, ``S`` and ``M``."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(5)
    owner = np.repeat(np.arange(12), CAPTIONS)
    images = rng.standard_normal((12, 6)).astype(np.float32)
    texts = images[owner] + 1.5 * rng.standard_normal((len(owner), 6)).astype(np.float32)
    arrays = {"I": images, "T": texts, "S": images @ texts.T, "M": owner, "L": rng.integers(0, 3, 12)}
    for name, values in arrays.items():
        np.save(f"{name}.npy", values)
    return arrays


def scored(*words: object) -> dict[str, Any]:
    assert cli.main(["eval", *map(str, words), "--json", "out.json"]) == 0
    found: dict[str, Any] = json.loads(Path("out.json").read_text())
    return found


def refused(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    capsys.readouterr()
    assert cli.main(["eval", *map(str, words)]) in (1, 2)
    (line,) = capsys.readouterr().err.splitlines()
    return line


@pytest.mark.parametrize("links", ["numbered", "first row", "own row", "texts in another order"])
@pytest.mark.parametrize("kind", ["embeddings", "matrix"])
def test_rows_repeated_for_their_texts_are_taken_once(
    kind: str, links: str, files: Arrays, capsys: pytest.CaptureFixture[str]
) -> None:
    owner = files["M"]
    repeated, texts, order = files["I"][owner], files["T"], np.arange(len(owner))
    if links == "texts in another order":
        order = np.random.default_rng(0).permutation(len(owner))
        repeated, texts = repeated[order], texts[order]
    given = {
        "numbered": owner,
        "first row": owner * CAPTIONS,
        "own row": np.arange(len(owner)),
        "texts in another order": owner[order],
    }[links]
    np.save("I3.npy", repeated)
    np.save("T3.npy", texts)
    np.save("S3.npy", repeated @ texts.T)
    np.save("M3.npy", given)
    np.save("L3.npy", files["L"][owner][order])
    words = ["--images", "I3.npy", "--texts", "T3.npy"] if kind == "embeddings" else ["--similarity", "S3.npy"]
    found = scored(*words, "--image-of-text", "M3.npy", "--labels", "L3.npy")
    assert "36 image rows repeat those of 12 images" in " ".join(capsys.readouterr().out.split())
    plain = ["--images", "I.npy", "--texts", "T.npy"] if kind == "embeddings" else ["--similarity", "S.npy"]
    expected = scored(*plain, "--image-of-text", "M.npy", "--labels", "L.npy")
    assert found["n_images"] == 12
    for name in expected["units"]:
        assert found[name] == pytest.approx(expected[name], abs=1e-9)


def test_rows_that_differ_are_not_taken_together(files: Arrays, capsys: pytest.CaptureFixture[str]) -> None:
    repeated = files["I"][files["M"]]
    repeated[4, 0] += 1e-6
    np.save("I3.npy", repeated)
    error = refused(capsys, "--images", "I3.npy", "--texts", "T.npy", "--image-of-text", "M.npy")
    assert "such rows differ" in error


def test_a_collapsed_model_stays_at_chance(files: Arrays) -> None:
    np.save("I1.npy", np.ones((36, 4)))
    np.save("T1.npy", np.ones((36, 4)))
    np.save("M1.npy", np.arange(36))
    found = scored("--images", "I1.npy", "--texts", "T1.npy", "--image-of-text", "M1.npy")
    assert found["n_images"] == 36
    assert found["t2i_r1"] == pytest.approx(100 / 36)


def test_images_without_a_text_are_found_and_ask_nothing(files: Arrays, capsys: pytest.CaptureFixture[str]) -> None:
    more = np.random.default_rng(2).normal(size=(5, 36)) * files["S"].std()
    np.save("S5.npy", np.concatenate([more[:2], files["S"], more[2:]]))
    np.save("M5.npy", files["M"] + 2)
    found = scored("--similarity", "S5.npy", "--image-of-text", "M5.npy", "--bootstrap", "20")
    assert "12 of 17 images and 36 of 36 texts are queries" in " ".join(capsys.readouterr().out.split())
    expected = scored("--similarity", "S.npy", "--image-of-text", "M.npy", "--bootstrap", "20")
    assert found["queries"] == {"i2t": 12, "t2i": 36}
    for name in ("i2t_r1", "i2t_r10", "i2t_medr", "i2t_meanr"):
        assert found[name] == expected[name]
    best = np.max(more, axis=0)
    own = files["S"][files["M"], np.arange(36)]
    taken = (files["S"].argmax(axis=0) == files["M"]) & (best > own)
    assert found["t2i_r1"] == pytest.approx(expected["t2i_r1"] - 100 * taken.mean())
    assert taken.any()


def test_minus_infinity_is_an_order_like_any_other(files: Arrays, capsys: pytest.CaptureFixture[str]) -> None:
    short, low = files["S"].copy(), files["S"].copy()
    for row, top in zip(range(12), np.argsort(-files["S"], axis=1)[:, :7], strict=True):
        rest = np.setdiff1d(np.arange(36), top)
        short[row, rest], low[row, rest] = -np.inf, -1000.0
    np.save("short.npy", short)
    np.save("low.npy", low)
    one, other = (
        scored("--similarity", f"{name}.npy", "--image-of-text", "M.npy", "--labels", "L.npy")
        for name in ("short", "low")
    )
    assert one == other
    assert one["tie_rate"] > 0
    words = ("--similarity", "short.npy", "--image-of-text", "M.npy", "--postprocess", "csls")
    assert "has -inf outside its shortlists" in refused(capsys, *words)
    for bad in (np.nan, np.inf):
        short[2, 3] = bad
        np.save("bad.npy", short)
        told = refused(capsys, "--similarity", "bad.npy", "--image-of-text", "M.npy")
        assert f"has {bad} for image 2 and text 3" in told


@pytest.mark.parametrize("kind", ["numbers", "texts", "text file"])
def test_links_by_id(kind: str, files: Arrays) -> None:
    names = np.random.default_rng(3).permutation(900)[:12] + 100
    ids: NDArray[Any] = names if kind != "texts" else np.array([f"{name}.jpg" for name in names])
    np.save("links.npy", ids[files["M"]])
    where = "ids.txt" if kind == "text file" else "ids.npy"
    if kind == "text file":
        Path(where).write_text("".join(f"{one}\n" for one in ids))
    else:
        np.save(where, ids)
    found = scored("--similarity", "S.npy", "--image-of-text", "links.npy", "--image-ids", where)
    assert found == scored("--similarity", "S.npy", "--image-of-text", "M.npy")


def test_ids_that_are_wrong(files: Arrays, capsys: pytest.CaptureFixture[str]) -> None:
    np.save("links.npy", files["M"] + 500)
    words = ["--similarity", "S.npy", "--image-of-text", "links.npy"]
    assert "if these are ids, pass the ids of the rows: --image-ids FILE" in refused(capsys, *words)
    Path("ids.txt").write_text("".join(f"{500 + one}\n" for one in range(11)))
    assert "--image-ids has 11 ids for 12 images" in refused(capsys, *words, "--image-ids", "ids.txt")
    Path("ids.txt").write_text("".join(f"{501 + one}\n" for one in range(12)))
    assert "image 500 is none of the 12 ids (3 are not)" in refused(capsys, *words, "--image-ids", "ids.txt")
    Path("ids.txt").write_text("".join(f"{500 + one // 2}\n" for one in range(12)))
    assert "500 stands for two images" in refused(capsys, *words, "--image-ids", "ids.txt")
    np.save("names.npy", np.array(["a", "b"])[files["M"] % 2])
    assert "--image-ids FILE" in refused(capsys, "--similarity", "S.npy", "--image-of-text", "names.npy")


@pytest.mark.parametrize("kind", ["names", "bytes", "column"])
def test_labels_as_names_and_as_a_column(kind: str, files: Arrays) -> None:
    names = np.array(["sky", "sea", "land"])
    labels: NDArray[Any] = {
        "names": names[files["L"]],
        "bytes": names[files["L"]].astype("S"),
        "column": files["L"][:, None].astype(float),
    }[kind]
    np.save("labels.npy", labels)
    words = ["--similarity", "S.npy", "--image-of-text", "M.npy", "--labels"]
    found, expected = scored(*words, "labels.npy"), scored(*words, "L.npy")
    assert found == expected


def test_an_empty_label_is_no_category(files: Arrays, capsys: pytest.CaptureFixture[str]) -> None:
    np.save("labels.npy", np.where(np.arange(12) % 6 == 4, "", "sky"))
    told = refused(capsys, "--similarity", "S.npy", "--image-of-text", "M.npy", "--labels", "labels.npy")
    assert "the label of image 4 is empty (2 are)" in told


def test_queries_as_a_subset(files: Arrays, capsys: pytest.CaptureFixture[str]) -> None:
    Path("some.txt").write_text("3\n7\n8\n")
    words = ["--similarity", "S.npy", "--image-of-text", "M.npy"]
    found = scored(*words, "--queries", "some.txt")
    hits = [files["M"][files["S"][image].argmax()] == image for image in (3, 7, 8)]
    assert found["i2t_r1"] == pytest.approx(100 * np.mean(hits))
    texts = np.flatnonzero(np.isin(files["M"], (3, 7, 8)))
    hits = [files["S"][:, text].argmax() == files["M"][text] for text in texts]
    assert found["t2i_r1"] == pytest.approx(100 * np.mean(hits))
    assert (found["n_images"], found["queries"]) == (12, {"i2t": 3, "t2i": 9})
    Path("names.txt").write_text("".join(f"t{text}\n" for text in range(36)))
    Path("few.txt").write_text("t9\nt35\n")
    few = scored(*words, "--text-ids", "names.txt", "--text-queries", "few.txt")
    assert few["queries"] == {"i2t": 12, "t2i": 2}
    Path("none.txt").write_text("12\n")
    assert "--queries: image 12 is none of the 12 ids" in refused(capsys, *words, "--queries", "none.txt")


def test_a_subset_is_no_whole_test_split_to_the_leaderboard(files: Arrays) -> None:
    Path("some.txt").write_text("3\n7\n8\n")
    words = ["--similarity", "S.npy", "--image-of-text", "M.npy", "--name", "x", "--data", "y"]
    scored(*words)
    scored(*words, "--queries", "some.txt")
    results = [read_result(file) for file in sorted(Path("runs").rglob("result.json"))]
    assert len({result.fingerprint for result in results}) == 2


def test_a_transposed_matrix_is_named_as_such(files: Arrays, capsys: pytest.CaptureFixture[str]) -> None:
    np.save("ST.npy", files["S"].T)
    told = refused(capsys, "--similarity", "ST.npy", "--image-of-text", "M.npy")
    assert "36 rows and 12 columns" in told
    assert "texts x images" in told
    told = refused(capsys, "--images", "T.npy", "--texts", "I.npy", "--image-of-text", "M.npy")
    assert "are swapped" in told


def test_the_report_is_written_where_the_table_cannot_be_shown(files: Arrays, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: object, **kwargs: object) -> None:
        raise UnicodeEncodeError("ascii", "–", 0, 1, "ordinal not in range")

    monkeypatch.setattr("rich.console.Console.print", broken)
    words = ["--similarity", "S.npy", "--image-of-text", "M.npy", "--name", "x", "--data", "y", "--json", "out.json"]
    assert cli.main(["eval", *words]) == 1
    assert json.loads(Path("out.json").read_text())["n_images"] == 12
    assert len(list(Path("runs").rglob("result.json"))) == 1


@pytest.mark.parametrize("method", ["vsepp", "scan", "mtfn_rr"])
def test_exported_files_give_the_scores_of_the_run(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    small = ["--data.n_train", "60", "--data.n_val", "20", "--data.n_test", "20", "--trainer.max_epochs", "1"]
    small += ["--trainer.accelerator", "cpu", "--trainer.progress", "false", "--trainer.bootstrap", "0"]
    small += ["--model.dim", "16"] + (["--model.hidden", "16"] if method == "mtfn_rr" else [])
    assert cli.main(["run", "--model", method, *small]) == 0
    (folder,) = Path("runs").glob("*/*/*")
    capsys.readouterr()
    assert cli.main(["eval", "--run", str(folder), "--export", "my files"]) == 0
    command = capsys.readouterr().out.strip().splitlines()[-1].removeprefix("score it with: ")
    program, eval_, *words = shlex.split(command)
    assert [program, eval_] == ["cmr-bench", "eval"]
    found, stored = scored(*words), read_result(folder / "result.json")
    assert {name: found[name] for name in stored.metrics} == pytest.approx(stored.metrics, abs=1e-9)
    ids = Path("my files/image_ids.txt").read_text().splitlines()
    assert len(ids) == found["n_images"]
    assert len(Path("my files/text_ids.txt").read_text().splitlines()) == found["n_texts"]
    assert Path("my files/similarity.npy").is_file() == (method == "scan")


def test_export_goes_with_a_run_alone(files: Arrays, capsys: pytest.CaptureFixture[str]) -> None:
    assert "--run RUN and --export DIR need each other" in refused(capsys, "--run", "x")
    assert "need each other" in refused(capsys, "--export", "x")
    assert "need each other" in refused(capsys, "--run", "x", "--export", "y", "--similarity", "S.npy")
    assert "no run in x" in refused(capsys, "--run", "x", "--export", "y")
