"""Weights of a run as safetensors: what travels, as nothing can be executed while it is read."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save

from cmr_bench.support import foreign
from cmr_bench.support.errors import CmrBenchError, brief
from cmr_bench.support.files import write_atomic
from cmr_bench.support.places import without_folders

MARK = "cmr_bench"


def to_safetensors(checkpoint: Path, file: Path) -> None:
    """Write the weights of a checkpoint, and what it says of its run, as safetensors.

    Args:
        checkpoint: A ``best.ckpt`` of this suite.
        file: Where the weights go.

    Raises:
        CmrBenchError: If the checkpoint cannot be read.
    """
    try:
        stored = read_archive(checkpoint)
        mark = without_folders(json.loads(json.dumps(stored[MARK], default=str)))
        # Parameters that share their memory are written once each.
        tensors = {name: value.detach().clone().contiguous() for name, value in stored["state_dict"].items()}
    except Exception as error:  # a damaged file can fail in any way
        raise CmrBenchError(f"cannot read the weights {checkpoint}: {brief(error)}") from error
    write_atomic(file, save(tensors, {MARK: json.dumps(mark), "format": "pt"}))


def read_safetensors(file: Path) -> dict[str, Any]:
    """Return what a checkpoint holds, ``state_dict`` and the mark of the run, from safetensors.

    Raises:
        DataError: If it is no plain file.
        Exception: Any, of the library, for a damaged file.
    """
    with safe_open(str(foreign.checked(file)), framework="pt") as stream:
        mark = foreign.parse_json((stream.metadata() or {}).get(MARK, "null"), file)
        return {"state_dict": {name: stream.get_tensor(name) for name in stream.keys()}, MARK: mark}  # noqa: SIM118


def read_archive(path: Path, map_location: Any = "cpu") -> Any:
    """Return what torch has saved in a file that may be anybody's: code in it is not executed.

    Raises:
        Exception: Any, of the libraries, for a damaged file.
    """
    foreign.check_zip(foreign.checked(path))
    with zipfile.ZipFile(path) as archive:
        # torch does not look at the checksums that it writes.
        damaged = archive.testzip()
    if damaged is not None:
        raise ValueError(f"{damaged} is damaged")
    return torch.load(path, map_location=map_location, weights_only=True)
