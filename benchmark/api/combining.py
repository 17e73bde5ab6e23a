"""Several runs as one."""

from __future__ import annotations

from pathlib import Path

from cmr_bench.api.options import arguments_named
from cmr_bench.api.runs import Run
from cmr_bench.api.scoring import Postprocess
from cmr_bench.search import ensemble as combined
from cmr_bench.support.devices import choose_device


def ensemble(
    *members: str | Path,
    runs: str | Path = "runs",
    postprocess: Postprocess | None = None,
    bootstrap: int = 1000,
    device: str = "auto",
    trust: bool = False,
) -> Run:
    """Evaluate the mean of the scores of several runs on their common test split, and store it.

    The same as `cmr-bench ensemble`. The result has the flag ``ensemble`` and names its members; it has no weights of
    its own, so that it cannot encode or search.

    Args:
        *members: Folders of finished runs with their weights, two at least.
        runs: Folder of runs, in which the result gets a folder of its own.
        postprocess: Correction of hubs or re-ranking of the mean; the result is flagged.
        bootstrap: Resamples for the 95 % intervals; 0 for none.
        device: cpu, cuda, cuda:1, mps, or auto for a GPU if there is one.
        trust: Run the code of a class outside of the suite that a folder names.

    Raises:
        UsageError: If there are fewer than two runs, one comes twice, or they are of different data or splits.
        DataError: If a run is not finished, has no weights, or its data set is not there as it was.
    """
    folders = [Path(member).expanduser() for member in members]
    with arguments_named():
        _, folder = combined.ensemble(
            folders, Path(runs).expanduser(), postprocess, bootstrap, choose_device(device), trust
        )
    return Run(folder)
