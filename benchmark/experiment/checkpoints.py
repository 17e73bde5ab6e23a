"""Checkpoints on disk: whole or absent, loaded without executing anything, and for their own run only."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.io import TorchCheckpointIO

from cmr_bench.experiment.identity import PARTS, Difference, essence, other_options
from cmr_bench.experiment.recipe import RunConfig
from cmr_bench.experiment.weights import MARK, read_archive, read_safetensors
from cmr_bench.results.content import other_content
from cmr_bench.support import foreign
from cmr_bench.support.errors import CmrBenchError, brief, first_line
from cmr_bench.support.files import replacing
from cmr_bench.support.places import without_folders
from cmr_bench.version import __version__

FORMAT = 1


class Checkpoints(TorchCheckpointIO):
    """Reads and writes the checkpoints of one run.

    A checkpoint of another method, of other options that can change a number, or of other data is refused: the result
    claims one configuration for every epoch. What a checkpoint of an earlier version does not say is not compared.

    Args:
        config: The run.
        content: Checksums of what it reads, see ``Result.content``.
        advice: What to do about a checkpoint that is refused.
    """

    def __init__(
        self,
        config: RunConfig,
        content: Mapping[str, str] | None = None,
        advice: str = "delete it to train from the start",
    ) -> None:
        super().__init__()
        self.config, self.content, self.advice = config, dict(content or {}), advice
        chosen = essence(config.__dict__)
        self.mark: dict[str, Any] = {
            "format": FORMAT,
            "version": __version__,
            "method": config.method_label,
            "dataset": config.data_label,
            "seed": config.seed,
            **{part: chosen[part] for part in PARTS},
            "content": self.content,
        }

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write a checkpoint that says what it is; one that was there stays until the new one is whole."""
        with replacing(Path(path)) as file:
            try:
                torch.save({**checkpoint, MARK: self.mark}, file)
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
            if Path(path).suffix == ".safetensors":
                stored = read_safetensors(Path(path))
            else:
                stored = read_archive(Path(path), map_location or "cpu")
        except Exception as error:  # a damaged file can fail in any way
            line = brief(first_line(error))
            raise CmrBenchError(f"cannot read checkpoint {path} ({line}): {self.advice}") from error
        problem = self._problem(stored)
        if problem:
            raise CmrBenchError(f"{path} is not a checkpoint of this run: {problem}; {self.advice}")
        return dict(stored)

    def _problem(self, stored: Any) -> str:
        mark = stored.get(MARK) if isinstance(stored, dict) else None
        if not isinstance(mark, Mapping) or "state_dict" not in stored:
            return "it names no method, so it was written by another program or an older version"
        if mark.get("format") != FORMAT:
            return f"it has format {mark.get('format')} of cmr-bench {mark.get('version')}, this one reads {FORMAT}"
        for name in ("method", "dataset"):
            theirs = without_folders(mark.get(name, self.mark[name] if name == "dataset" else None))
            if theirs != self.mark[name]:
                return f"it is of {theirs}, not of {self.mark[name]}"
        if not isinstance(mark.get("model"), dict):
            return "it does not say which options it was trained with"
        said = [part for part in PARTS if isinstance(mark.get(part), dict)]
        options = other_options({**mark, "seed": self.config.seed}, self.config, said)
        if mark.get("seed", self.config.seed) != self.config.seed:
            options.append(Difference("seed", mark["seed"], self.config.seed))
        content = mark.get("content")
        parts = other_content(content, self.content) if isinstance(content, dict) else []
        return "; ".join(
            [
                *([f"it was trained with {', '.join(map(str, options))}"] if options else []),
                *([f"it was trained on another content of {', '.join(parts)}"] if parts else []),
            ]
        )


def read_mark(path: Path) -> Mapping[str, Any]:
    """Return what a checkpoint says of its run, without reading its weights; nothing where there is no checkpoint.

    Raises:
        CmrBenchError: If it cannot be read.
    """
    if not path.is_file():
        return {}
    try:
        foreign.check_zip(foreign.checked(path, within=path.parents[1]))
        mark = torch.load(path, map_location="cpu", weights_only=True, mmap=True).get(MARK)
    except Exception as error:  # a damaged file can fail in any way
        raise CmrBenchError(f"{path} cannot be read as a checkpoint ({brief(first_line(error))})") from error
    return mark if isinstance(mark, Mapping) else {}
