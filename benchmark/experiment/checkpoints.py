"""Checkpoints on disk: whole or absent, loaded without executing anything, and for their own run only."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.io import TorchCheckpointIO

from cmr_bench.experiment.recipe import RunConfig
from cmr_bench.support.errors import CmrBenchError, first_line
from cmr_bench.support.files import replacing
from cmr_bench.version import __version__

FORMAT = 1
_MARK = "cmr_bench"


class Checkpoints(TorchCheckpointIO):
    """Reads and writes the checkpoints of one run.

    Args:
        config: The run; a checkpoint of another method or other options of it is refused.
    """

    def __init__(self, config: RunConfig) -> None:
        super().__init__()
        self.mark: dict[str, Any] = {
            "format": FORMAT,
            "version": __version__,
            "method": config.method,
            "model": dict(config.model),
        }

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write a checkpoint that says what it is; one that was there stays until the new one is whole."""
        with replacing(Path(path)) as file:
            try:
                torch.save({**checkpoint, _MARK: self.mark}, file)
            except RuntimeError as error:
                # torch reports a write that fails as an error of its own, and the system's as the context of it.
                cause = error.__context__
                raise (cause if isinstance(cause, OSError) else error) from None

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        """Read a checkpoint of this run.

        Raises:
            CmrBenchError: If it cannot be read, holds code, or belongs to another run or version.
        """
        try:
            with zipfile.ZipFile(path) as archive:
                # torch does not look at the checksums that it writes.
                damaged = archive.testzip()
            if damaged is not None:
                raise ValueError(f"{damaged} is damaged")
            stored = torch.load(path, map_location=map_location or "cpu", weights_only=True)
        except Exception as error:  # a damaged file can fail in any way
            line = first_line(error)[:200]
            raise CmrBenchError(
                f"{path} cannot be read as a checkpoint ({line}): delete it to train from the start"
            ) from error
        problem = self._problem(stored)
        if problem:
            raise CmrBenchError(f"{path} is no checkpoint of this run: {problem}; delete it to train from the start")
        return dict(stored)

    def _problem(self, stored: Any) -> str:
        mark = stored.get(_MARK) if isinstance(stored, dict) else None
        if not isinstance(mark, Mapping) or "state_dict" not in stored:
            return "it does not say which method it is of, so another program or an older version wrote it"
        if mark.get("format") != FORMAT:
            return f"it has format {mark.get('format')} of cmr-bench {mark.get('version')}, this one reads {FORMAT}"
        if mark.get("method") != self.mark["method"]:
            return f"it is of {mark.get('method')}, not of {self.mark['method']}"
        theirs, ours = mark.get("model"), self.mark["model"]
        if not isinstance(theirs, dict):
            return "it does not say which options it was trained with"
        other = sorted(str(name) for name in {*theirs, *ours} if theirs.get(name) != ours.get(name))
        return f"it was trained with another --model.{', --model.'.join(other)}" if other else ""
