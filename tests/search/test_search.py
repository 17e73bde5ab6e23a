"""Search with trained runs: the scores of raw files are those that the run itself had for the same items."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file

from cmr_bench.cli import main
from cmr_bench.datamodules.split import Split
from cmr_bench.datamodules.synthetic.module import Synthetic
from cmr_bench.experiment import recipe
from cmr_bench.search import embed
from cmr_bench.search.trained import load_run

SMALL = ["--data.n_train", "60", "--data.n_val", "20", "--data.n_test", "20", "--data.min_count", "1"]
QUICK = ["--trainer.max_epochs", "1", "--trainer.progress", "false", "--trainer.bootstrap", "0",
         "--trainer.accelerator", "cpu", "--data.batch_size", "32"]  # fmt: skip
RUNS: dict[str, list[str]] = {
    "vsepp": ["--model.dim", "16", "--model.word_dim", "8"],
    "vsepp-pixels": ["--model.dim", "16", "--model.word_dim", "8", "--model.image_view", "pixels",
                     "--model.cnn", "timm:test_efficientnet", "--model.cnn_weights", "random"],
    "scan": ["--model.dim", "16", "--model.word_dim", "8"],
    "agnet": ["--model.hidden", "16"],
    "adv_subspace": ["--data.text_features", "doc2vec", "--data.text_dim", "16"],
    "cca": ["--data.text_features", "lsa", "--data.text_dim", "16"],
}  # fmt: skip


def trained(folder: Path, words: list[str]) -> Path:
    assert main(["run", *words, "--runs", str(folder)]) == 0
    (run,) = folder.glob("*/*/*")
    return run


@pytest.fixture(scope="session")
def cached(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CMR_BENCH_CACHE", str(folder))
        yield folder


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory, cached: Path) -> Callable[[str], Path]:
    """Train a small run of a name in ``RUNS`` when it is first asked for."""
    base, made = tmp_path_factory.mktemp("runs"), {}

    def get(name: str) -> Path:
        if name not in made:
            words = ["--model", name.partition("-")[0], *SMALL, *QUICK, *RUNS[name]]
            made[name] = trained(base / name, words)
        return made[name]

    return get


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pictures of the runs' test split as files named by their ids."""
    folder = tmp_path_factory.mktemp("photos")
    data = Synthetic(n_train=60, n_val=20, n_test=20)
    split = data.read()["test"]
    for name, pixels in zip(split.image_ids, data.pictures["test"], strict=True):
        Image.fromarray(pixels).save(folder / f"{name}.png")
    return folder


def own_scores(run: Path) -> tuple[torch.Tensor, Split]:
    """Score the run's test split through its data module, which search does not use."""
    saved = recipe.read_yaml(run / "config.yaml")
    config = recipe.resolve(saved["method"], saved["dataset"], config=saved)
    config.data["seed"] = config.seed
    module, data, _ = recipe.instantiate(config)
    module.build(data.load(module.image_view, module.text_view, module.tokenizer))
    module.load_state(torch.load(run / "checkpoints/best.ckpt", weights_only=True)["state_dict"])
    module.eval()
    with torch.no_grad():
        images, texts = (next(iter(loader)) for loader in data.test_dataloader())
        split = data.splits["test"]
        source = module.scores(module.encode_images(images), module.encode_texts(texts))
        return source.block(slice(0, split.n_images), slice(0, split.n_texts)), split


def search(capsys: pytest.CaptureFixture[str], *words: object) -> Any:
    capsys.readouterr()
    assert main(["search", *map(str, words), "--json", "-", "--device", "cpu"]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize(
    "name", [name if name == "scan" else pytest.param(name, marks=pytest.mark.slow) for name in RUNS]
)
def test_scores_of_raw_files_are_those_of_the_run(
    name: str, runs: Callable[[str], Path], photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = runs(name)
    shutil.rmtree(tmp_path / "cache", ignore_errors=True)  # the data set's fits are not needed: all is in the run
    scores, split = own_scores(run)
    shutil.rmtree(tmp_path / "cache", ignore_errors=True)
    assert split.captions is not None
    # Tied scores, which Hamming codes have many of, may come in any order; the sorted scores may not differ.
    queries = tmp_path / "queries.txt"
    for row in (0, len(split.captions) - 1):
        found = search(capsys, run, split.captions[row], "--images", photos, "--top", 20)
        assert found["searched"] == 20
        hits = found["answers"][0]["hits"]
        assert [hit["rank"] for hit in hits] == list(range(1, 21))
        of_id = dict(zip(split.image_ids, scores[:, row].tolist(), strict=True))
        assert [hit["score"] for hit in hits] == sorted((hit["score"] for hit in hits), reverse=True)
        for hit in hits:
            assert hit["score"] == pytest.approx(of_id[Path(hit["file"]).stem], abs=1e-4)
    queries.write_text("\n\n".join(split.captions))
    for row in (0, 19):
        photo = photos / f"{split.image_ids[row]}.png"
        found = search(capsys, run, "--image", photo, "--captions", queries, "--top", 1000)
        hits = found["answers"][0]["hits"]
        assert len(hits) == len(split.captions)
        expected = {}
        for caption, score in zip(split.captions, scores[row].tolist(), strict=True):
            expected.setdefault(" ".join(caption.split()), score)
        for hit in hits:
            assert hit["score"] == pytest.approx(expected[hit["caption"]], abs=1e-4)


@pytest.mark.slow
def test_answers_are_those_that_the_run_stored(
    runs: Callable[[str], Path], photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = runs("scan")
    for example in json.loads((run / "examples.json").read_text())["t2i"][:5]:
        found = search(capsys, run, example["query"]["caption"], "--images", photos, "--top", 5)
        hits = found["answers"][0]["hits"]
        assert [Path(hit["file"]).stem for hit in hits] == [answer["id"] for answer in example["answers"]]
        np.testing.assert_allclose(
            [hit["score"] for hit in hits], [answer["score"] for answer in example["answers"]], atol=1e-4
        )


@pytest.mark.slow
def test_short_list_is_scored_by_the_other_run(
    runs: Callable[[str], Path], photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    query = ("a red circle", "--images", photos)
    exact = search(capsys, runs("scan"), *query, "--top", 20)["answers"][0]["hits"]
    first = search(capsys, runs("vsepp"), *query, "--top", 7)["answers"][0]["hits"]
    found = search(capsys, runs("scan"), *query, "--top", 7, "--shortlist", runs("vsepp"), "--shortlist-size", 7)
    chosen = {hit["file"] for hit in first}
    expected = [(hit["file"], hit["score"]) for hit in exact if hit["file"] in chosen]
    hits = found["answers"][0]["hits"]
    assert [hit["file"] for hit in hits] == [file for file, _ in expected]
    np.testing.assert_allclose([hit["score"] for hit in hits], [score for _, score in expected], atol=1e-5)
    captions = photos.parent / "lines.txt"
    captions.write_text("a red circle\na blue square\na green star\n")
    photo = next(photos.glob("*.png"))
    found = search(capsys, runs("scan"), "--image", photo, "--captions", captions, "--top", 2,
                   "--shortlist", runs("vsepp"), "--shortlist-size", 2)  # fmt: skip
    assert len(found["answers"][0]["hits"]) == 2
    assert main(["search", str(runs("vsepp")), "x", "--images", str(photos), "--shortlist", str(runs("scan"))]) == 2
    assert "scores pairs" in capsys.readouterr().err


def test_second_search_embeds_only_what_is_new(
    runs: Callable[[str], Path],
    photos: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = tmp_path / "mine"
    shutil.copytree(photos, folder)
    first = search(capsys, runs("vsepp"), "a red circle", "--images", folder, "--top", 20)
    seen: list[int] = []
    encode = embed.TrainedRun.encode_photos
    monkeypatch.setattr(embed.TrainedRun, "encode_photos", lambda *args: seen.append(len(args[-1])) or encode(*args))
    assert search(capsys, runs("vsepp"), "a red circle", "--images", folder, "--top", 20) == first
    assert seen == []
    names = sorted(folder.iterdir())
    shutil.copy(names[0], folder / "zz.png")
    Image.new("RGB", (64, 64), (255, 0, 0)).save(names[1])
    after = search(capsys, runs("vsepp"), "a red circle", "--images", folder, "--top", 21)
    assert seen == [1]  # the copy has the embedding of its original
    scores = {hit["file"]: hit["score"] for hit in after["answers"][0]["hits"]}
    assert scores[str(names[0])] == pytest.approx(scores[str(folder / "zz.png")], abs=1e-6)
    before = {hit["file"]: hit["score"] for hit in first["answers"][0]["hits"]}
    assert abs(scores[str(names[1])] - before[str(names[1])]) > 1e-4


@pytest.mark.slow
def test_run_without_stored_inputs_takes_them_from_its_data(
    runs: Callable[[str], Path], photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    query = ("a red circle", "--images", photos)
    expected = search(capsys, runs("adv_subspace"), *query)["answers"]
    copy = tmp_path / "copy"
    shutil.copytree(runs("adv_subspace"), copy)
    (copy / "inputs.safetensors").unlink()
    again = search(capsys, copy, *query)["answers"]
    assert (copy / "inputs.safetensors").is_file()
    for one, other in zip(expected[0]["hits"], again[0]["hits"], strict=True):
        assert one["file"] == other["file"]
        assert one["score"] == pytest.approx(other["score"], abs=1e-4)
    (copy / "inputs.safetensors").write_bytes(b"not a file of tensors")
    assert main(["search", str(copy), *map(str, query)]) == 1
    assert "cannot read" in capsys.readouterr().err


@pytest.fixture(scope="session")
def stored_features(tmp_path_factory: pytest.TempPathFactory, cached: Path) -> tuple[Path, Path, Path]:
    """A run on features that a small network made of photographs: the run, its weights file, the photographs."""
    import timm

    base = tmp_path_factory.mktemp("custom")
    rng = np.random.default_rng(0)
    lines = ["image,caption,split"]
    for row in range(40):
        coarse = rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)
        (base / "photos").mkdir(exist_ok=True)
        Image.fromarray(coarse).resize((50, 40)).save(base / "photos" / f"{row}.jpg", quality=90)
        split = "test" if row >= 28 else "val" if row >= 16 else "train"
        lines += [f"photos/{row}.jpg,picture number {row} of {k},{split}" for k in range(2)]
    (base / "table.csv").write_text("\n".join(lines) + "\n")
    torch.manual_seed(11)
    weights = base / "tiny.safetensors"
    state = timm.create_model("test_efficientnet").state_dict()
    save_file({key: value.contiguous() for key, value in state.items()}, weights)
    words = ["--data.root", str(base), "--encoder", "timm:test_efficientnet", "--weights", str(weights)]
    assert main(["data", "features", "custom", *words, "--size", "32", "--device", "cpu", "--layer", "grid"]) == 0
    run = trained(base / "runs", [
        "--model", "scan", "--data", "custom", "--data.root", str(base), "--data.min_count", "1", *QUICK,
        "--data.image_features", "test_efficientnet-grid-32", "--model.dim", "16", "--model.word_dim", "8",
    ])  # fmt: skip
    return run, weights, base / "photos"


@pytest.mark.slow
def test_features_are_made_again_by_their_encoder(
    stored_features: tuple[Path, Path, Path],
    cached: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run, weights, photos = stored_features
    with monkeypatch.context() as patch:
        patch.setenv("CMR_BENCH_CACHE", str(cached))
        scores, split = own_scores(run)
    assert split.captions is not None
    found = search(capsys, run, split.captions[0], "--images", photos, "--top", 40)
    of_id = {Path(name).name: score for name, score in zip(split.image_ids, scores[:, 0].tolist(), strict=True)}
    compared = [(hit["score"], of_id[Path(hit["file"]).name]) for hit in found["answers"][0]["hits"]
                if Path(hit["file"]).name in of_id]  # fmt: skip
    assert len(compared) == 12
    np.testing.assert_allclose(*np.array(compared).T, atol=1e-4)
    moved = tmp_path / "moved.safetensors"
    shutil.move(weights, moved)
    monkeypatch.setenv("CMR_BENCH_CACHE", str(tmp_path / "other"))
    try:
        words = ["search", str(run), "x", "--images", str(photos), "--device", "cpu"]
        assert main(words) == 1
        assert "pass --weights FILE" in capsys.readouterr().err
        assert main([*words, "--weights", str(moved)]) == 0
        from cmr_bench.datamodules.images.weights import read_weights

        other = tmp_path / "other.safetensors"
        save_file({key: value + 1 for key, value in read_weights(moved).items()}, other)
        monkeypatch.setenv("CMR_BENCH_CACHE", str(tmp_path / "third"))
        assert main([*words, "--weights", str(other)]) == 1
        error = capsys.readouterr().err
        assert "checksum" in error
        assert len(error.strip().splitlines()) == 1
    finally:
        shutil.move(moved, weights)


def test_broken_photographs_are_counted_and_left_out(
    runs: Callable[[str], Path], photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "mine"
    (folder / "below").mkdir(parents=True)
    names = sorted(photos.iterdir())
    shutil.copy(names[0], folder / "below" / "good.PNG")
    (folder / "cut.png").write_bytes(names[1].read_bytes()[:300])
    (folder / "text.jpg").write_text("no photograph")
    (folder / "gone.png").symlink_to(folder / "nowhere.png")
    (folder / "._good.png").write_bytes(b"\0\5\x16\7")
    (folder / "notes.txt").write_text("not looked at")
    for _ in range(2):  # the second time from the cache
        found = search(capsys, runs("vsepp"), "a red circle", "--images", folder)
        assert [Path(hit["file"]).name for hit in found["answers"][0]["hits"]] == ["good.PNG"]
        assert [Path(entry["file"]).name for entry in found["skipped"]] == ["cut.png", "gone.png", "text.jpg"]
        assert all(entry["reason"] for entry in found["skipped"])
    assert main(["search", str(runs("vsepp")), "a red circle", "--images", str(folder)]) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "3 could not be read (cut.png, gone.png, text.jpg)" in told
    (folder / "below" / "good.PNG").unlink()
    assert main(["search", str(runs("vsepp")), "a red circle", "--images", str(folder)]) == 1
    assert "none of the 3 photographs" in capsys.readouterr().err


def test_page_holds_its_pictures_and_text_stays_text(
    runs: Callable[[str], Path], photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, page = tmp_path / "mine", tmp_path / "page.html"
    folder.mkdir()
    evil = "<script>alert(1)</script>"
    names = sorted(photos.iterdir())
    shutil.copy(names[0], folder / "<b onclick='x'>&amp;.png")
    shutil.copy(names[1], folder / "plain.png")
    assert main(["search", str(runs("vsepp")), evil, "--images", str(folder), "--html", str(page)]) == 0
    html = page.read_text()
    assert html.count("data:image/jpeg;base64,") == 2
    assert "<script" not in html
    assert "<b " not in html
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in html
    assert "http" not in html
    lines = tmp_path / "lines.txt"
    lines.write_text(f"{evil}\n[bold]a dog[/bold]\n")
    words = ["--image", str(names[0]), "--captions", str(lines), "--html", str(page)]
    assert main(["search", str(runs("vsepp")), *words]) == 0
    html = page.read_text()
    assert html.count("data:image/jpeg;base64,") == 1
    assert "<script" not in html
    assert "[bold]a dog[/bold]" in capsys.readouterr().out


def test_queries_from_standard_input(
    runs: Callable[[str], Path], photos: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import io

    monkeypatch.setattr("sys.stdin", io.StringIO("a red circle\n\na blue square\n"))
    found = search(capsys, runs("vsepp"), "-", "--images", photos)
    assert [answer["query"] for answer in found["answers"]] == ["a red circle", "a blue square"]
    alone = search(capsys, runs("vsepp"), "a blue square", "--images", photos)
    assert found["answers"][1] == alone["answers"][0]


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (["nowhere", "x", "--images", "photos"], 2, "no run in nowhere: it is not there"),
        (["photos", "x", "--images", "photos"], 2, "has no config.yaml"),
        (["RUN", "x"], 2, "a text query needs --images FOLDER"),
        (["RUN", "  ", "--images", "photos"], 2, "is empty"),
        (["RUN", "--images", "photos"], 2, "pass a query in quotes"),
        (["RUN", "a", "dog", "--images", "photos"], 2, "unknown option 'dog'"),
        (["RUN", "x", "--image", "p.png", "--captions", "c.txt"], 2, "a text query needs --images FOLDER"),
        (["RUN", "x", "--images", "photos", "--top", "0"], 2, "--top must be at least 1"),
        (["RUN", "x", "--images", "photos", "--shortlist", "RUN", "--shortlist-size", "3"], 2, "smaller than --top"),
        (["RUN", "x", "--images", "none"], 1, "--images none: no such folder"),
        (["RUN", "x", "--images", "empty"], 1, "no images in empty"),
        (["RUN", "x", "--images", "lines.txt"], 1, "lines.txt: not a folder"),
        (["RUN", "x", "--images", "photos", "--weights", "w.pth"], 1, "needs no encoder weights"),
        (["RUN", "x", "--images", "photos", "--device", "cuda:77"], 2, "cannot be used here"),
        (["RUN", "--image", "none.png", "--captions", "lines.txt"], 1, "none.png"),
        (["RUN", "--image", "lines.txt", "--captions", "lines.txt"], 1, "cannot decode image lines.txt"),
        (["RUN", "--image", "photos/p.png", "--captions", "none.txt"], 1, "cannot read none.txt"),
        (["RUN", "--image", "photos/p.png", "--captions", "blank.txt"], 1, "contains no caption"),
        (["RUN", "--image", "photos/p.png", "--captions", "latin.txt"], 1, "line 2, is not UTF-8"),
    ],
)
def test_wrong_use_is_one_line(
    words: list[str],
    code: int,
    told: str,
    runs: Callable[[str], Path],
    photos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = str(runs("vsepp"))
    capsys.readouterr()
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    shutil.copy(next(photos.glob("*.png")), tmp_path / "photos" / "p.png")
    (tmp_path / "empty").mkdir()
    (tmp_path / "lines.txt").write_text("one\n")
    (tmp_path / "blank.txt").write_text("\n  \n")
    (tmp_path / "latin.txt").write_bytes("ein Hund\neine Kätzchen\n".encode("latin-1"))
    assert main(["search", *(run if word == "RUN" else word for word in words)]) == code
    error = capsys.readouterr().err
    assert told in " ".join(error.split())
    assert len(error.strip().splitlines()) == 1


def test_runs_without_weights_or_raw_inputs(
    runs: Callable[[str], Path], photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(runs("vsepp"), copy)
    capsys.readouterr()
    words = ["search", str(copy), "x", "--images", str(photos)]
    weights = copy / "checkpoints" / "best.ckpt"
    weights.write_bytes(weights.read_bytes()[:1000])
    assert main(words) == 1
    assert "cannot read checkpoint" in capsys.readouterr().err
    weights.unlink()
    assert main(words) == 1
    assert f"cmr-bench run --resume {copy}" in capsys.readouterr().err
    (copy / "failed.json").write_text(json.dumps({"schema": 1, "reason": "the loss is nan"}))
    assert main(words) == 1
    assert "failed in training (the loss is nan)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("option", "--data.max_words 64, not 5"),
        ("inputs.safetensors", "another content of train"),
        ("checkpoints/best.ckpt", "--data.content_seed 5, not 0"),
    ],
)
def test_weights_are_read_as_a_run_reads_them(
    change: str,
    told: str,
    runs: Callable[[str], Path],
    photos: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Weights of another configuration, or words of another data set, would answer with nonsense."""
    copy = shutil.copytree(runs("vsepp"), tmp_path / "copy")
    if change == "option":
        config = (copy / "config.yaml").read_text()
        (copy / "config.yaml").write_text(config.replace("max_words: 64", "max_words: 5"))
    else:
        other = trained(tmp_path / "other", ["--model", "vsepp", *SMALL, *QUICK, "--data.content_seed", "5"])
        shutil.copy(other / change, copy / change)
    capsys.readouterr()
    assert main(["search", str(copy), "x", "--images", str(photos)]) == 1
    error = capsys.readouterr().err
    assert told in error
    assert "train the run again" in error
    assert len(error.strip().splitlines()) == 1


def test_a_photograph_replaced_with_its_size_and_time_kept_is_embedded_again(
    runs: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    for name, colour in (("a", (255, 0, 0)), ("b", (0, 0, 255))):
        Image.new("RGB", (64, 64), colour).save(folder / f"{name}.bmp")
        os.utime(folder / f"{name}.bmp", (1e9, 1e9))
    words = (runs("vsepp"), "a red circle", "--images", folder)
    first = {hit["file"]: hit["score"] for hit in search(capsys, *words)["answers"][0]["hits"]}
    content = [(folder / name).read_bytes() for name in ("a.bmp", "b.bmp")]
    for name, swapped in zip(("a.bmp", "b.bmp"), content[::-1], strict=True):
        (folder / name).write_bytes(swapped)
        os.utime(folder / name, (1e9, 1e9))
    after = {hit["file"]: hit["score"] for hit in search(capsys, *words)["answers"][0]["hits"]}
    one, two = (str(folder / name) for name in ("a.bmp", "b.bmp"))
    assert (after[one], after[two]) == pytest.approx((first[two], first[one]), abs=1e-6)
    assert abs(first[one] - first[two]) > 1e-4


def test_arrays_that_come_with_a_data_set_cannot_be_made(
    runs: Callable[[str], Path], photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from cmr_bench.datamodules import raw

    copy = tmp_path / "copy"
    shutil.copytree(runs("vsepp"), copy)
    inputs = raw.load(copy)
    assert inputs is not None
    raw.save(copy, raw.Inputs(inputs.spec, None, inputs.text))
    capsys.readouterr()
    assert main(["search", str(copy), "x", "--images", str(photos)]) == 1
    error = capsys.readouterr().err
    assert "which photographs do not give" in error
    assert len(error.strip().splitlines()) == 1


@pytest.mark.slow
def test_network_for_pixels_comes_from_the_checkpoint(tmp_path: Path, cached: Path) -> None:
    weights = tmp_path / "weights.pth"
    torch.save(timm.create_model("test_efficientnet").state_dict(), weights)
    words = [str(weights) if word == "random" else word for word in RUNS["vsepp-pixels"]]
    run = trained(tmp_path / "runs", ["--model", "vsepp", *SMALL, *QUICK, *words])
    expected = load_run(run).module.state_dict()
    weights.unlink()
    found = load_run(run).module.state_dict()
    assert all(torch.equal(found[key], expected[key]) for key in expected)
