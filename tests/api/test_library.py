"""The Python interface: what it returns is what the command line stores and shows."""

from __future__ import annotations

import inspect
import json
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

import cmr_bench
from cmr_bench.api.options import dotted_names, words_of
from cmr_bench.cli import COMMANDS, main
from cmr_bench.models.pairwise.vsepp import VSEPP
from cmr_bench.support.errors import CmrBenchError, DataError, UsageError
from tests.support.fresh import python

MOST_MODULES = 80


def test_importing_the_package_imports_next_to_nothing() -> None:
    code = (
        "import sys; before = set(sys.modules); import cmr_bench; new = set(sys.modules) - before\n"
        "assert not {'torch', 'numpy', 'lightning', 'yaml', 'rich'} & new\n"
        "print(len(new)); print(set(cmr_bench.__all__) <= set(dir(cmr_bench)))\n"
        "print(len(set(sys.modules) - before))\n"
    )
    first, listed, later = python(code).split()
    assert int(first) <= MOST_MODULES
    assert listed == "True"
    assert later == first


@pytest.mark.parametrize("name", sorted(set(cmr_bench.__all__) - {"__version__"}))
def test_every_public_name_is_typed_and_documented(name: str) -> None:
    found = getattr(cmr_bench, name)
    if name == "results":
        from cmr_bench.api.records import results as found
    doc = inspect.getdoc(found) or ""
    assert len(doc.splitlines()) > 1
    call = found.__init__ if isinstance(found, type) else found
    for parameter in inspect.signature(call).parameters.values():
        if parameter.name != "self":
            assert parameter.annotation is not inspect.Parameter.empty, parameter
            assert isinstance(found, type) or f"{parameter.name}:" in doc, parameter


def test_a_name_that_is_not_there() -> None:
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        _ = cmr_bench.trian


def test_results_is_a_function_and_a_package() -> None:
    from cmr_bench.results.record import Result

    assert callable(cmr_bench.results)
    assert cmr_bench.results.record.Result is Result


def test_data_come_with_splits_and_views(tmp_path: Path) -> None:
    data = cmr_bench.load_data("synthetic", n_train=30, n_val=10, n_test=10, min_count=1)
    test = data.splits["test"]
    assert len(test.images) == test.n_images == 10
    assert len(test.texts) == len(test.captions) == test.n_texts
    assert next(iter(data.train_dataloader())).texts.tokens is not None
    pixels = cmr_bench.load_data("synthetic", image_view="pixels", text_view="vector", n_train=30, n_val=10, n_test=10)
    assert pixels.splits["test"].images.spec.kind == "pixels"
    with pytest.raises(UsageError, match=r"unknown option '--data.n_trian' .* Did you mean '--data.n_train'"):
        cmr_bench.load_data("synthetic", n_trian=30)
    with pytest.raises(DataError, match="flickr8k not found"):
        cmr_bench.load_data("flickr8k", tmp_path)


def test_a_run_is_that_of_the_command(trained: cmr_bench.Run, tmp_path: Path) -> None:
    config = yaml.safe_load((trained.folder / "config.yaml").read_text())
    assert config["data"]["n_train"] == 60
    assert (config["model"]["dim"], config["model"]["lr"], config["seed"]) == (16, 1e-3, 3)
    assert trained.metrics == json.loads((trained.folder / "result.json").read_text())["metrics"]
    assert trained.intervals["i2t_r1"][0] <= trained.metrics["i2t_r1"]
    assert "rsum" in repr(trained)
    words = ["--config", str(trained.folder / "config.yaml"), "--runs", str(tmp_path / "again")]
    assert main(["run", *words]) == 0
    (again,) = cmr_bench.results(tmp_path / "again")
    assert again.metrics == trained.metrics


def test_a_run_that_was_killed_resumes_to_the_same_weights(
    trained: cmr_bench.Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = cmr_bench.load_data("synthetic", min_count=1, n_train=60, n_val=20, n_test=20)
    words = {"dim": 16, "model.word_dim": 8, "max_epochs": 3, "bootstrap": 0, "progress": False, "accelerator": "cpu"}
    whole = cmr_bench.train("vsepp", data, runs=tmp_path / "whole", **words)

    def killed(method: VSEPP) -> None:
        if method.current_epoch == 1:
            raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(VSEPP, "on_train_epoch_start", killed)
        with pytest.raises((MemoryError, CmrBenchError)):
            cmr_bench.train("vsepp", data, runs=tmp_path / "killed", **words)
    (folder,) = (tmp_path / "killed").glob("*/*/*")
    assert cmr_bench.load_run(folder).result is None
    run = cmr_bench.resume(folder)
    assert run.folder == folder
    assert run.metrics == whole.metrics
    weights = [one.trained.module.state_dict() for one in (whole, run)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert [len((one.folder / "history.csv").read_text().splitlines()) for one in (whole, run)] == [4, 4]
    written = (folder / "result.json").stat().st_mtime_ns
    assert cmr_bench.resume(str(folder)).metrics == run.metrics
    assert (folder / "result.json").stat().st_mtime_ns == written
    with pytest.raises(UsageError, match=r"no config\.yaml"):
        cmr_bench.resume(tmp_path)


def test_code_of_a_folder_is_resumed_when_it_is_trusted(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("raise SystemExit")
    (tmp_path / "config.yaml").write_text(f"method: {tmp_path}/mine.py:Mine\ndataset: synthetic\n")
    with pytest.raises(UsageError, match="pass trust"):
        cmr_bench.resume(tmp_path)


def test_an_ensemble_is_that_of_the_command(trained: cmr_bench.Run, tmp_path: Path) -> None:
    other = shutil.copytree(trained.folder, tmp_path / "other")
    run = cmr_bench.ensemble(trained.folder, other, runs=tmp_path / "python", bootstrap=0)
    assert run.result is not None
    assert "ensemble" in run.result.flags
    assert run.metrics["rsum"] == pytest.approx(trained.metrics["rsum"], abs=1e-6)
    words = [str(trained.folder), str(other), "--runs", str(tmp_path / "command"), "--bootstrap", "0"]
    assert main(["ensemble", *words]) == 0
    assert cmr_bench.results(tmp_path / "command")[0].metrics == run.metrics
    assert cmr_bench.load_run(run.folder).metrics == run.metrics
    with pytest.raises(UsageError, match=r"no config\.yaml"):
        run.encode_texts(["a red circle"])
    with pytest.raises(UsageError, match="two runs at least"):
        cmr_bench.ensemble(trained.folder)


def test_every_command_has_its_counterpart_on_the_page_or_none() -> None:
    page = (Path(__file__).parents[2] / "docs" / "api.md").read_text(encoding="utf-8")
    table = re.findall(r"^\| (`.+?) \| (.+) \|$", page, flags=re.MULTILINE)
    left = {name.partition(" -")[0] for cell, _ in table for name in re.findall(r"`(.+?)`", cell)}
    assert left == set(COMMANDS)
    named = {name for _, cell in table for name in re.findall(r"(\w+)\(", cell)}
    assert named - {"search", "rows"} <= set(cmr_bench.__all__)
    for name in set(cmr_bench.__all__) - {"__version__"}:
        assert re.search(rf"^::: cmr_bench\.api\.\w+\.{name}$", page, flags=re.MULTILINE), name


def test_wrong_options_of_a_run() -> None:
    for options, message in (
        ({"margn": 0.1}, "unknown option 'margn' of vsepp on synthetic. Did you mean 'margin'"),
        ({"margin": "wide"}, "argument --model.margin: invalid float value: 'wide'"),
    ):
        with pytest.raises(UsageError, match=message):
            cmr_bench.train("vsepp", **options)
    with pytest.raises(UsageError, match="unknown method 'vsep'"):
        cmr_bench.train("vsep")
    local = type("Local", (VSEPP,), {"__module__": "nowhere"})
    with pytest.raises(UsageError, match=r"write it to FILE\.py"):
        cmr_bench.train(local)


def test_options_are_written_as_the_command_line_takes_them() -> None:
    given = {
        "model.lr": 1e-5,
        "model.lr2": 0.5,
        "data.x": True,
        "data.y": None,
        "data.z": [1, 2],
        "data.p": Path("a b"),
    }
    assert words_of(given)[1::2] == ["1.0e-05", "0.5", "true", "null", "[1, 2]", "a b"]
    with pytest.raises(UsageError, match=r"may be model\.lr or data\.lr: pass \*\*\{'model\.lr'"):
        dotted_names({"lr": 1}, ["model.lr", "data.lr"], "here")


def test_encoding_is_that_of_the_test(trained: cmr_bench.Run, pictures: list[Path]) -> None:
    data = cmr_bench.load_data("synthetic", min_count=1, n_train=60, n_val=20, n_test=20)
    split = data.splits["test"]
    run = cmr_bench.load_run(trained.folder, batch_size=7)
    images, texts = run.encode_images(pictures), run.encode_texts(split.captions)
    assert isinstance(images, torch.Tensor)
    assert images.shape == (20, 16)
    scores = run.similarity(images, texts)
    assert scores.shape == (20, split.n_texts)
    found = cmr_bench.evaluate(images, texts, image_of_text=split.image_of_text, bootstrap=0)
    for name in ("i2t_r1", "i2t_r5", "t2i_r1", "t2i_r10", "rsum"):
        assert found.metrics[name] == pytest.approx(trained.metrics[name], abs=1e-6)
    same = cmr_bench.evaluate(similarity=scores, image_of_text=split.image_of_text, bootstrap=0)
    assert same.metrics["rsum"] == pytest.approx(trained.metrics["rsum"], abs=1e-6)


def test_paths_pictures_and_arrays_are_one(trained: cmr_bench.Run, pictures: list[Path]) -> None:
    photo = Image.open(pictures[0])
    values = np.asarray(photo)
    encoded = trained.encode_images([pictures[0], str(pictures[0]), photo, values, values / 255.0])
    assert isinstance(encoded, torch.Tensor)
    assert torch.equal(encoded, encoded[:1].expand_as(encoded))
    for wrong, message in (
        (values[None], "height, width"),
        (values.astype(np.int64), "uint8"),
        ("none.png", "not found"),
    ):
        with pytest.raises(DataError, match=message):
            trained.encode_images([wrong])
    with pytest.raises(UsageError, match="pass a list"):
        trained.encode_texts("a red circle")


def test_search_ranks_as_similarity_does(trained: cmr_bench.Run, pictures: list[Path]) -> None:
    query = "a small red circle"
    scores = trained.similarity(pictures, [query])[:, 0]
    hits = trained.search(query, images=pictures[0].parent, top=5)
    assert [hit.rank for hit in hits] == [1, 2, 3, 4, 5]
    assert [hit.score for hit in hits] == pytest.approx(sorted(scores, reverse=True)[:5], abs=1e-5)
    texts = ["a red circle", "a blue square", "two green stars"]
    hits = trained.search(pictures[3], texts=texts, top=3)
    row = trained.similarity([pictures[3]], texts)[0]
    assert {hit.caption: hit.score for hit in hits} == pytest.approx(dict(zip(texts, row, strict=True)), abs=1e-5)
    with pytest.raises(UsageError, match="either images="):
        trained.search(query)


def test_a_folder_that_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no config\.yaml"):
        cmr_bench.load_run(tmp_path)


def test_evaluate_takes_labels_judgments_and_ids() -> None:
    vectors = np.eye(4)
    by_row = cmr_bench.evaluate(vectors, vectors, image_of_text=[0, 1, 2, 3], labels=list("aabb"), qrels={0: [0, 1]})
    assert by_row.metrics["t2i_r1"] == 100.0
    assert 0 < by_row.metrics["map"] < 1
    assert by_row.metrics["qrels_i2t_r1"] == 100.0
    assert "t2i_r1" in by_row.intervals
    ids = ["cat", "dog", "fox", "owl"]
    by_id = cmr_bench.evaluate(vectors, vectors[::-1], image_of_text=ids[::-1], image_ids=ids, bootstrap=0)
    assert by_id.metrics["rsum"] == 600.0
    judged = cmr_bench.evaluate(vectors, vectors, qrels=({0: [0]}, {1: {1: 1, 2: 0}}), bootstrap=0)
    assert judged.metrics["qrels_t2i_r1"] == 100.0


def test_evaluate_names_its_own_arguments() -> None:
    vectors = np.eye(3)
    with pytest.raises(UsageError, match="image_of_text="):
        cmr_bench.evaluate(vectors, vectors)
    with pytest.raises(UsageError, match="images and texts, or similarity="):
        cmr_bench.evaluate(vectors)
    with pytest.raises(DataError, match="image_of_text contains ids") as caught:
        cmr_bench.evaluate(vectors, vectors, image_of_text=["a", "b", "c"])
    assert "--" not in str(caught.value)


def test_results_are_records(trained: cmr_bench.Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = cmr_bench.results(trained.folder.parents[2])
    assert len(found) == 1
    assert found[0] == trained.result
    assert found.folders == [trained.folder]
    (row,) = found.rows()
    assert row["method"] == "vsepp"
    assert row["rsum"] == trained.metrics["rsum"]
    pandas = pytest.importorskip("pandas")
    frame = found.to_frame()
    assert isinstance(frame, pandas.DataFrame)
    assert frame.loc[0, "rsum"] == row["rsum"]
    assert len(found[:0].to_frame()) == 0
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(CmrBenchError, match="pip install pandas"):
        found.to_frame()
    with pytest.raises(UsageError, match="no folder"):
        cmr_bench.results(tmp_path / "nowhere")


def test_the_example_of_the_readme(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pictures: list[Path]) -> None:
    page = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    code = page.partition("```python\n")[2].partition("```")[0]
    monkeypatch.chdir(tmp_path)
    shutil.copytree(pictures[0].parent, "photos")
    small = ("max_epochs=5", "max_epochs=1, progress=False, accelerator='cpu', dim=16, **{'model.word_dim': 8}")
    sizes = ('load_data("synthetic"', 'load_data("synthetic", n_train=60, n_val=20, n_test=20')
    for old, new in (small, sizes):
        assert old in code
        code = code.replace(old, new)
    there: dict[str, object] = {}
    exec(compile(code, "README.md", "exec"), there)
    assert set(there["found"].metrics) >= {"rsum", "t2i_r1"}  # type: ignore[attr-defined]
    assert len(there["table"]) == 1  # type: ignore[arg-type]
