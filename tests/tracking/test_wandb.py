"""Runs on W&B: what an offline run holds, read back from its file."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import yaml

from cmr_bench.cli import main
from cmr_bench.results.record import read_result
from cmr_bench.support.errors import CmrBenchError
from cmr_bench.tracking.runs import refused, run_id
from cmr_bench.tracking.upload import upload

_BLOCK = 32768


@pytest.fixture(autouse=True)
def _own_service(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every process start its own wandb service; a child of this one would wait for the one here to end."""
    for name in [name for name in os.environ if "WANDB_SERVICE" in name]:
        monkeypatch.delenv(name)


def records(file: Path) -> Iterator[Any]:
    """Read the records of an offline run: a LevelDB log of protocol buffers after a header of seven bytes."""
    from wandb.proto import wandb_internal_pb2

    content, at, whole = file.read_bytes(), 7, b""
    assert content.startswith(b":W&B")
    while at + 7 <= len(content):
        left = _BLOCK - at % _BLOCK
        if left < 7:
            at += left
            continue
        _, length, kind = struct.unpack("<IHB", content[at : at + 7])
        whole += content[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # a whole record, or the last part of one
            record = wandb_internal_pb2.Record()
            record.ParseFromString(whole)
            yield record
            whole = b""


def all_records(file: Path) -> list[Any]:
    """Return the records when the last is there: a process of wandb's writes them, a moment after the run at times."""
    from google.protobuf.message import DecodeError

    until = time.monotonic() + 5
    while time.monotonic() < until:
        # What is half written has no header or ends within a record.
        with suppress(AssertionError, DecodeError):
            found = list(records(file))
            if any(record.WhichOneof("record_type") == "exit" for record in found):
                return found
        time.sleep(0.05)
    return list(records(file))


def offline(folder: Path) -> dict[str, Any]:
    """Gather what the offline runs of a run folder hold, in the order of their making."""
    found: dict[str, Any] = {
        "ids": set(),
        "tags": set(),
        "config": {},
        "history": [],
        "summary": {},
        "exits": [],
        "pictures": {},
    }
    for file in sorted(folder.glob("wandb/offline-run-*/*.wandb")):
        for record in all_records(file):
            kind = record.WhichOneof("record_type")
            if kind == "run":
                found["ids"].add(record.run.run_id)
                found["tags"] |= set(record.run.tags)
                found["group"], found["project"] = record.run.run_group, record.run.project
            if kind in ("run", "config"):
                update = record.run.config.update if kind == "run" else record.config.update
                found["config"] |= {item.key: json.loads(item.value_json) for item in update if item.key}
            if kind == "history":
                row = {item.key or "/".join(item.nested_key): item.value_json for item in record.history.item}
                found["history"].append({key: json.loads(value) for key, value in row.items()})
            if kind == "summary":
                for item in record.summary.update:
                    found["summary"][item.key or "/".join(item.nested_key)] = json.loads(item.value_json)
            if kind == "artifact" or record.request.WhichOneof("request_type") == "log_artifact":
                artifact = record.artifact if kind == "artifact" else record.request.log_artifact.artifact
                paths = {entry.path for entry in artifact.manifest.contents if "media/images" in entry.path}
                found["pictures"].setdefault("i2t" if "i2t" in artifact.name else "t2i", set()).update(paths)
            if kind == "exit":
                found["exits"].append(record.exit.exit_code)
    return found


def only_run(root: Path) -> Path:
    (folder,) = root.glob("runs*/*/*/*")
    return folder


@pytest.fixture
def synthetic(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "offline")
    for name in ("WANDB_PROJECT", "WANDB_ENTITY", "WANDB_RUN_GROUP"):
        monkeypatch.delenv(name, raising=False)
    small = ["--data.n_train", "40", "--data.n_val", "12", "--data.n_test", "12", "--data.min_count", "1"]
    return [
        "run", "--model", "adv_subspace", *small, "--trainer.max_epochs", "2", "--trainer.progress", "false",
        "--trainer.bootstrap", "0", "--trainer.accelerator", "cpu", "--data.batch_size", "32",
    ]  # fmt: skip


@pytest.mark.slow
def test_offline_run_holds_config_curves_summary_and_examples(
    synthetic: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WANDB_RUN_GROUP", "four_families")
    assert main([*synthetic, "--logger", "wandb"]) == 0
    told = capsys.readouterr()
    assert "wandb" not in told.out + told.err
    folder = only_run(tmp_path)
    result, found = read_result(folder / "result.json"), offline(folder)
    assert found["ids"] == {run_id(folder)} == {f"synthetic-adv_subspace-{folder.name}"}
    assert found["tags"] == {"adversarial", "synthetic"}
    assert found["group"] == "four_families"
    assert found["project"] == "cmr-bench"
    saved = yaml.safe_load((folder / "config.yaml").read_text())
    for part in ("method", "dataset", "model", "trainer", "seed"):
        assert found["config"][part] == saved[part]
    assert {key: found["summary"][key] for key in result.metrics} == result.metrics
    assert found["exits"] == [0]
    curves = [row for row in found["history"] if "train/loss" in row]
    assert [row["epoch"] for row in curves] == [0, 1]
    assert sum("val/rsum" in row for row in found["history"]) >= 2
    assert sum("lr" in row for row in found["history"]) == 2
    tables = {way: found["summary"][f"examples/{way}/path"] for way in ("i2t", "t2i")}
    files = folder / "wandb"
    examples_of = json.loads((folder / "examples.json").read_text())
    for way, table in tables.items():
        (path,) = files.glob(f"offline-run-*/files/{table}")
        content = json.loads(path.read_text())
        examples = examples_of[way]
        assert len(content["data"]) == len(examples)
        words = content["data"][0][2 if way == "i2t" else 0]
        answer = examples[0]["answers"][0] if way == "i2t" else examples[0]["query"]
        assert answer["caption"] in words
    # The pictures themselves travel in the artifact of each table.
    assert {name: len(paths) for name, paths in found["pictures"].items()} == {
        "i2t": len({example["query"]["id"] for example in examples_of["i2t"]}),
        "t2i": len({answer["id"] for example in examples_of["t2i"] for answer in example["answers"]}),
    }
    # What is there already is not uploaded.
    assert upload([folder]) == ([], [folder])


@pytest.mark.slow
def test_resumed_run_stays_one(own: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = [sys.executable, "-m", "cmr_bench.cli"]
    options = ["--data.batch_size", "32", "--trainer.max_epochs", "4", "--model.stop_at", "2", "--logger", "wandb"]
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("STOP", "1")
    done = subprocess.run([*program, *own, *options], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    folder = only_run(tmp_path)
    monkeypatch.delenv("STOP")
    again = [*program, "run", "--resume", str(folder), "--trust", "--logger", "wandb"]
    done = subprocess.run(again, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "wandb" not in done.stdout + done.stderr
    found = offline(folder)
    assert found["ids"] == {run_id(folder)}
    assert found["exits"] == [1, 0]
    assert {row["epoch"] for row in found["history"] if "train/loss" in row} == {0, 1, 2, 3}


@pytest.mark.slow
def test_stored_results_are_uploaded_once(
    synthetic: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(synthetic) == 0
    folder = only_run(tmp_path)
    unfinished = tmp_path / "runs" / "synthetic" / "adv_subspace" / "unfinished"
    unfinished.mkdir()
    assert upload([folder, unfinished], project="mine") == ([folder], [])
    result, found = read_result(folder / "result.json"), offline(folder)
    assert found["project"] == "mine"
    assert found["ids"] == {f"synthetic-adv_subspace-{folder.name}"}
    assert {key: found["summary"][key] for key in result.metrics} == result.metrics
    assert [row["epoch"] for row in found["history"] if "train/loss" in row] == [0, 1]
    assert found["config"]["method"] == "adv_subspace"
    assert found["tags"] == {"adversarial", "synthetic"}
    assert found["summary"]["examples/t2i/nrows"] > 0
    assert main(["dashboard", "--wandb", "--project", "mine"]) == 0
    assert "0 runs uploaded, 1 were on W&B already" in capsys.readouterr().out
    assert upload([folder], project="other")[0] == [folder]
    assert offline(folder)["ids"] == found["ids"]


@pytest.mark.slow
@pytest.mark.parametrize("address", ["", "http://127.0.0.1:9"])
def test_no_account_and_no_network_are_one_line(
    address: str, synthetic: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WANDB_MODE")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    if address:
        monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
        monkeypatch.setenv("WANDB_BASE_URL", address)
    words = [sys.executable, "-m", "cmr_bench.cli", *synthetic, "--logger", "wandb"]
    done = subprocess.run(
        words, cwd=tmp_path, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL, timeout=120
    )
    assert done.returncode == 1
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    assert len(lines) == 1, done.stderr
    assert "WANDB_MODE=offline" in lines[0]
    assert "wandb login" in lines[0]


def test_refusal_is_one_line_that_says_what_to_do() -> None:
    error = refused(ValueError("No API key configured.\nUse a key."))
    assert isinstance(error, CmrBenchError)
    assert str(error).startswith("W&B did not start the run (No API key configured): log in by `wandb login`")


def test_id_of_a_run_takes_what_wandb_takes(tmp_path: Path) -> None:
    folder = tmp_path / "my data" / "me:thod" / "2026-s0"
    assert run_id(folder) == "my-data-me-thod-2026-s0"
    folder.mkdir(parents=True)
    (folder / "wandb.json").write_text('{"id": "abc"}')
    assert run_id(folder) == "abc"
    (folder / "wandb.json").write_text("damaged")
    assert run_id(folder) == "my-data-me-thod-2026-s0"


def test_project_goes_with_the_upload(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["dashboard", "--runs", str(tmp_path), "--project", "mine"]) == 2
    assert "need --wandb" in capsys.readouterr().err
