"""Runs that travel, through a folder or the Hugging Face Hub."""

from __future__ import annotations

from pathlib import Path

from cmr_bench.api.options import arguments_named
from cmr_bench.exchange import places
from cmr_bench.exchange.merging import Merged
from cmr_bench.support.errors import UsageError


def push(*runs: str | Path, to: str | Path, weights: bool = True, private: bool = False) -> Merged:
    """Share finished runs: results, configurations, histories and weights, no photographs and no captions.

    The same as `cmr-bench push`. What is there already is not added again.

    Args:
        *runs: Folders of finished runs.
        to: ``hf://user/name``, after ``hf auth login``, or a folder of runs.
        weights: Share the weights too.
        private: Make a new repository private.

    Returns:
        The folders ``added`` there and those ``present`` already; of a repository, below it.

    Raises:
        UsageError: If no run is named, or something is no finished run.
        CmrBenchError: If a run cannot be read, the folder not written, or the hub refuses.
    """
    if not runs:
        raise UsageError("push needs a run: pass runs/<data>/<method>/<run id>")
    with arguments_named():
        return places.push([Path(run).expanduser() for run in runs], str(to), weights=weights, private=private)


def pull(source: str | Path, into: str | Path = "runs", *, weights: bool = True) -> Merged:
    """Bring shared runs into a folder of runs. Nothing in them is executed.

    The same as `cmr-bench pull`. A result that is here already is not added again.

    Args:
        source: ``hf://user/name``, perhaps with a folder behind it, or a folder of runs.
        into: Folder of runs.
        weights: Bring the weights too.

    Returns:
        The folders ``added`` and those ``present`` already; in ``problems``, a line for each run that was left out.

    Raises:
        CmrBenchError: If the source is not there.
    """
    with arguments_named():
        return places.pull(str(source), Path(into).expanduser(), weights=weights)
