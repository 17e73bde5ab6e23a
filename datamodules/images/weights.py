"""Weights files of image encoders: read, matched, checksummed."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cmr_bench.support import foreign
from cmr_bench.support.errors import DataError, first_line


def read_weights(file: Path) -> dict[str, Tensor]:
    """Read a file of named tensors, safetensors or PyTorch's, without running code from it.

    Raises:
        DataError: If the file is something else.
    """
    try:
        if file.suffix == ".safetensors":
            from safetensors.torch import load_file

            state: Any = load_file(file)
        else:
            if zipfile.is_zipfile(foreign.checked(file)):
                foreign.check_zip(file)
            state = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # each format has its own errors, and what matters is the same for all
        raise DataError(
            f"cannot read weights {file}: {first_line(error)}; give safetensors or a PyTorch state dict"
        ) from error
    for key in ("state_dict", "model_state_dict", "model"):
        if isinstance(state, Mapping) and isinstance(state.get(key), Mapping):
            state = state[key]
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise DataError(f"weights {file} hold no state dict of named tensors")
    return {str(key).removeprefix("module."): value for key, value in state.items()}


def load_weights(net: nn.Module, file: Path, encoder: str) -> None:
    """Load a weights file into a network whose classifier has been taken off.

    Half-precision tensors are converted; tensors of the file that the cut network has no place for are omitted; the
    counters of batch normalisation may be absent.

    Raises:
        DataError: If a tensor is missing or has another shape.
    """
    state, own = read_weights(file), net.state_dict()
    absent = [key for key in own if key not in state and not key.endswith(("num_batches_tracked", "position_ids"))]
    other = [key for key in own if key in state and state[key].shape != own[key].shape]
    if absent or other:
        problems = []
        if absent:
            problems.append(f"{len(absent)} of {len(own)} tensors missing, e.g. {absent[0]}")
        if other:
            shapes = f"{tuple(state[other[0]].shape)} where {tuple(own[other[0]].shape)} is needed"
            problems.append(f"{len(other)} of another shape, e.g. {other[0]} {shapes}")
        raise DataError(f"weights {file} do not fit {encoder}: {'; '.join(problems)}")
    net.load_state_dict({key: state[key].to(own[key].dtype) for key in own if key in state}, strict=False)


def file_sha256(file: Path) -> str:
    """Return the checksum of a file."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def tensors_sha256(net: nn.Module) -> str:
    """Return a checksum of a network's weights that does not depend on the file that they came from."""
    digest = hashlib.sha256()
    for key, value in sorted(net.state_dict().items()):
        digest.update(key.encode() + b"\0")
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()
