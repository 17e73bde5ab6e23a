"""Runs that travel: through a folder and through a stand-in of the hub, byte for byte, once each, without harm."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import yaml

import cmr_bench
from cmr_bench.cli import main
from cmr_bench.exchange.merging import merge
from cmr_bench.exchange.packing import FILES, pack
from cmr_bench.exchange.places import repository
from cmr_bench.support.errors import CmrBenchError, UsageError
from tests.support.hub_server import Hub, running
from tests.support.runs import OLDEST_RESULT

TEXTS = ["a red circle", "a blue square"]


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    from huggingface_hub import constants, file_download, utils

    monkeypatch.setenv("HF_TOKEN", "secret")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True, raising=False)
    for name in [key for key in os.environ if key.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    # A session that was opened while the hub counted as out of reach stays so.
    for renew in ("reset_sessions", "close_session"):
        getattr(utils, renew, lambda: None)()
    with running() as server:
        template = server.address + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "ENDPOINT", server.address)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        # Where older versions of the library have taken it to.
        monkeypatch.setattr(file_download, "HUGGINGFACE_CO_URL_TEMPLATE", template, raising=False)
        yield server


def external(runs: Path, rsum: float = 300.0, run: str = "r1") -> Path:
    """A small finished run that holds a result only."""
    folder = runs / "toy" / "mine" / run
    folder.mkdir(parents=True)
    record = json.loads(OLDEST_RESULT.read_text()) | {"data": "toy", "method": "mine", "metrics": {"rsum": rsum}}
    (folder / "result.json").write_text(json.dumps(record | {"run_id": run, "intervals": {}, "units": {}}))
    return folder


def content(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file()}


def test_a_run_goes_to_the_hub_and_back_byte_for_byte(
    hub: Hub,
    trained: cmr_bench.Run,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["push", str(trained.folder), "--to", "hf://somebody/runs"]) == 0
    assert "added: synthetic/vsepp/" in capsys.readouterr().out
    assert main(["pull", "hf://somebody/runs"]) == 0
    (pulled,) = (tmp_path / "runs").glob("*/*/*")
    stored = hub.repositories["somebody/runs"]
    place = pulled.relative_to(tmp_path / "runs").as_posix()
    assert content(pulled) == {name.rpartition("/")[2]: value for name, value in stored.items() if place in name}
    assert (pulled / "result.json").read_bytes() == (trained.folder / "result.json").read_bytes()
    assert {"model.safetensors", "inputs.safetensors", "manifest.json"} <= {file.name for file in pulled.iterdir()}
    again = cmr_bench.load_run(pulled)
    assert np.array_equal(again.encode_texts(TEXTS), trained.encode_texts(TEXTS))
    capsys.readouterr()
    assert main(["leaderboard", "--runs", str(trained.folder.parents[2]), "runs", "--format", "csv"]) == 0
    assert capsys.readouterr().out.count("vsepp") == 1  # one result in two places
    before = dict(stored)
    assert main(["push", str(trained.folder), "--to", "hf://somebody/runs"]) == 0
    assert "there already" in capsys.readouterr().out
    assert stored == before


def test_python_pushes_and_pulls_as_the_commands_do(hub: Hub, trained: cmr_bench.Run, tmp_path: Path) -> None:
    first, again = (cmr_bench.push(trained.folder, to="hf://somebody/python", weights=False) for _ in range(2))
    assert [len(one.added) for one in (first, again)] == [1, 0]
    pulled = cmr_bench.pull("hf://somebody/python", tmp_path / "here")
    assert cmr_bench.load_run(pulled.added[0]).metrics == trained.metrics
    assert not list(tmp_path.rglob("*.safetensors"))
    assert cmr_bench.pull(tmp_path / "here", into=tmp_path / "there").added
    with pytest.raises(UsageError, match=r"^to hf://a/b/c: "):
        cmr_bench.push(trained.folder, to="hf://a/b/c")
    with pytest.raises(UsageError, match="pass runs/<data>"):
        cmr_bench.push(to=tmp_path)


def test_the_model_card_has_the_metrics_in_the_form_of_the_hub(hub: Hub, trained: cmr_bench.Run) -> None:
    from huggingface_hub import ModelCard

    assert main(["push", str(trained.folder), "--to", "hf://somebody/card", "--no-weights"]) == 0
    files = hub.repositories["somebody/card"]
    card = ModelCard(files["README.md"].decode())
    found = {one.metric_type: one.metric_value for one in card.data.eval_results}
    assert found["rsum"] == trained.metrics["rsum"]
    assert not any(name.endswith("safetensors") for name in files)
    assert main(["push", str(trained.folder), "--to", "hf://somebody/card"]) == 0  # with weights, later
    assert sum(name.endswith("model.safetensors") for name in files) == 1


def test_a_run_of_the_hub_is_opened_by_its_address(hub: Hub, trained: cmr_bench.Run, tmp_path: Path) -> None:
    assert main(["push", str(trained.folder), "--to", "hf://somebody/one"]) == 0
    run = cmr_bench.load_run("hf://somebody/one")
    assert run.metrics == trained.metrics
    assert np.array_equal(run.encode_texts(TEXTS), trained.encode_texts(TEXTS))
    assert main(["push", str(external(tmp_path)), "--to", "hf://somebody/one"]) == 0
    with pytest.raises(UsageError, match="holds 2 runs: name one, such as hf://somebody/one/"):
        cmr_bench.load_run("hf://somebody/one")
    assert cmr_bench.load_run(f"hf://somebody/one/synthetic/vsepp/{trained.folder.name}").metrics == trained.metrics


def test_what_the_hub_refuses_is_one_line(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HF_TOKEN", "wrong")
    assert main(["push", str(external(tmp_path)), "--to", "hf://somebody/x"]) == 1
    assert main(["pull", "hf://nobody/nothing", "--into", str(tmp_path / "runs")]) == 1
    assert main(["pull", "hf://nobody", "--into", str(tmp_path / "runs")]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 3
    assert repository("hf://a/b/c/d/e").below == "c/d/e"
    with pytest.raises(UsageError):
        repository("hf://a/../b")


def test_what_travels_names_no_folder_of_this_machine(trained: cmr_bench.Run, tmp_path: Path) -> None:
    run = tmp_path / "runs" / "synthetic" / "vsepp" / "r"
    shutil.copytree(trained.folder, run)
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["data"] |= {"root": "/home/somebody/data", "image_weights": "/home/somebody/w.pth"}
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    packed = pack(run, tmp_path / "packed")
    assert {file.name for file in packed.iterdir()} <= set(FILES)
    assert not any(b"somebody" in file.read_bytes() for file in packed.iterdir())


def test_merging_two_folders_loses_and_doubles_nothing(tmp_path: Path) -> None:
    mine, theirs, both = tmp_path / "mine", tmp_path / "theirs", tmp_path / "both"
    external(mine, 300.0, "a"), external(mine, 310.0, "b")
    external(theirs, 310.0, "b"), external(theirs, 320.0, "a"), external(theirs, 330.0, "c")
    for source in (mine, theirs, mine, theirs, both):
        assert not merge(source, both).problems
    found = sorted(result.metrics["rsum"] for result in cmr_bench.results(both))
    assert found == [300.0, 310.0, 320.0, 330.0]
    assert sorted(result.metrics["rsum"] for result in cmr_bench.results(mine, theirs, both)) == found
    other = tmp_path / "other"
    merge(theirs, other), merge(mine, other)
    assert sorted(result.metrics["rsum"] for result in cmr_bench.results(other)) == found


def test_a_strangers_folder_does_no_harm(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    theirs, into = tmp_path / "theirs", tmp_path / "runs"
    secret = tmp_path / "secret.txt"
    secret.write_text("mine")
    good = pack(external(tmp_path / "made", run="good"), theirs)
    (good / "evil.py").write_text("raise SystemExit")
    (good / "checkpoints").mkdir()
    (good / "checkpoints" / "best.ckpt").write_bytes(b"\x80\x04cos\nsystem\n.")
    for name in ("linked", "changed", "swapped", "broken"):
        pack(external(tmp_path / "made", 200.0 + len(name), name), theirs)
    (theirs / "toy/mine/linked/config.yaml").symlink_to(secret)
    changed = theirs / "toy/mine/changed/result.json"
    changed.write_text(changed.read_text().replace("207.0", "999.0"))
    (theirs / "toy/mine/swapped/manifest.json").write_text("[]")
    (theirs / "toy/mine/broken/result.json").write_text("{")
    external(theirs, 1.0, "x;rm -rf")
    assert main(["pull", str(theirs), "--into", str(into)]) == 1
    err = capsys.readouterr().err
    assert err.count("left out:") == 5
    assert [folder.name for folder in into.glob("*/*/*")] == ["good"]
    assert {file.name for file in (into / "toy/mine/good").iterdir()} == {"result.json", "manifest.json"}
    assert secret.read_text() == "mine"


def test_a_folder_without_a_result_is_not_pushed(tmp_path: Path, trained: cmr_bench.Run) -> None:
    with pytest.raises(UsageError, match=r"holds no result\.json"):
        pack(tmp_path, tmp_path / "out")
    copy = tmp_path / "runs" / "synthetic" / "vsepp" / "r"
    shutil.copytree(trained.folder, copy)
    (copy / "checkpoints" / "best.ckpt").write_bytes(b"no weights")
    with pytest.raises(CmrBenchError, match="cannot read the weights"):
        pack(copy, tmp_path / "out")


def test_weights_of_another_run_are_refused(trained: cmr_bench.Run, tmp_path: Path) -> None:
    packed = pack(trained.folder, tmp_path / "packed")
    config = yaml.safe_load((packed / "config.yaml").read_text())
    config["model"]["dim"] = 8
    (packed / "config.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(CmrBenchError, match=r"--model\.dim 16, not 8"):
        cmr_bench.load_run(packed).encode_texts(TEXTS)
    (packed / "model.safetensors").write_bytes(b"\x00" * 20)
    with pytest.raises(CmrBenchError, match="cannot read checkpoint"):
        cmr_bench.load_run(packed).encode_texts(TEXTS)
