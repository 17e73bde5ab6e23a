"""What of a run folder travels: the result, its configuration without anybody's folders, the weights as safetensors."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from cmr_bench.results.record import RESULT_FILE, WEIGHTS_FILE, Result, identity, read_result
from cmr_bench.support import foreign
from cmr_bench.support.errors import CmrBenchError, UsageError
from cmr_bench.support.files import write_atomic
from cmr_bench.support.places import without_folders

MANIFEST_FILE, INPUTS_FILE = "manifest.json", "inputs.safetensors"
WEIGHTS = (WEIGHTS_FILE, INPUTS_FILE)
# Photographs and captions of the example queries stay: they belong to the data set.
FILES = (RESULT_FILE, "config.yaml", "history.csv", "ranks.npz", MANIFEST_FILE, *WEIGHTS)
_SCHEMA = 1


def pack(run: Path, runs: Path, weights: bool = True) -> Path:
    """Copy what travels of a run into a folder of runs.

    Args:
        run: A finished run.
        runs: Folder of runs that gets ``<data>/<method>/<run id>``.
        weights: Take the weights along.

    Returns:
        The copy, with a manifest of checksums.

    Raises:
        UsageError: If it is no finished run.
        CmrBenchError: If something in it cannot be read, or leads out of it.
    """
    if not (run / RESULT_FILE).is_file():
        raise UsageError(f"{run} holds no {RESULT_FILE}: pass the folder of a finished run")
    foreign.check_folder(run)
    result = read_result(run / RESULT_FILE)
    copy = runs / result.data / (run.parent.name or "run") / run.resolve().name
    # As it was written: its checksum is that of the original.
    write_atomic(copy / RESULT_FILE, foreign.read_bytes(run / RESULT_FILE, foreign.RECORD_BYTES, within=run))
    if (run / "config.yaml").is_file():
        write_atomic(copy / "config.yaml", _travelling(foreign.read_yaml(run / "config.yaml", within=run)))
    for name in ("history.csv", "ranks.npz", *([INPUTS_FILE] if weights else [])):
        if (run / name).is_file():
            write_atomic(copy / name, foreign.checked(run / name, within=run).read_bytes())
    if weights:
        _pack_weights(run, copy)
    write_atomic(copy / MANIFEST_FILE, json.dumps(manifest(copy, result), indent=1) + "\n")
    return copy


def _pack_weights(run: Path, copy: Path) -> None:
    from cmr_bench.experiment.weights import to_safetensors

    if (run / "checkpoints" / "best.ckpt").is_file():
        to_safetensors(run / "checkpoints" / "best.ckpt", copy / WEIGHTS_FILE)
    elif (run / WEIGHTS_FILE).is_file():
        write_atomic(copy / WEIGHTS_FILE, foreign.checked(run / WEIGHTS_FILE, within=run).read_bytes())


def _travelling(config: Any) -> str:
    """Return a configuration without the folders of the machine that it ran on."""
    if not isinstance(config, dict):
        raise CmrBenchError("config.yaml holds no configuration")
    kept = without_folders(config)
    if isinstance(kept.get("data"), dict) and "root" in kept["data"]:
        kept["data"]["root"] = None
    return yaml.safe_dump(kept, sort_keys=False)


def manifest(folder: Path, result: Result) -> dict[str, Any]:
    """Return the checksums of what travels, and what data and code the result is of."""
    files = {name: _checksum(folder / name) for name in FILES if name != MANIFEST_FILE and (folder / name).is_file()}
    code = {"commit": result.commit, "version": result.versions.get("cmr-bench", ""), **result.code}
    return {"schema": _SCHEMA, "record": identity(result), "data": result.fingerprint, "code": code, "files": files}


def altered(folder: Path, result: Result) -> str:
    """Say in what a folder is not what its manifest says; empty where it is, or where it has none."""
    if not (folder / MANIFEST_FILE).is_file():
        return ""
    told = foreign.read_json(folder / MANIFEST_FILE, foreign.CONFIG_BYTES, within=folder)
    if not isinstance(told, Mapping) or not isinstance(told.get("files"), Mapping):
        return f"{folder / MANIFEST_FILE} is no manifest"
    if told.get("record") != identity(result) or told.get("data") != result.fingerprint:
        return f"{folder / RESULT_FILE} is not the result that {MANIFEST_FILE} beside it was written for"
    for name in FILES:
        said = told["files"].get(name)
        # Weights may have been left out; what is there has to be what it was.
        if said is not None and (folder / name).is_file() and said != _checksum(folder / name):
            return f"{folder / name} has changed since it was shared"
    return ""


def _checksum(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
