"""Which runs of a suite are stored already."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from cmr_bench.experiment import recipe
from cmr_bench.experiment.recipe import RunConfig
from cmr_bench.results.record import RESULT_FILE, Result, read_result
from cmr_bench.results.store import stored_configuration
from cmr_bench.suites.plan import Job, essence
from cmr_bench.support.errors import CmrBenchError


def same_run(stored: Mapping[str, Any], config: RunConfig) -> bool:
    """Tell whether a stored configuration is the run that ``config`` asks for.

    What cannot change a number does not count: where the data lies, worker processes, devices, progress bars. An option
    that is younger than the stored run had its default there.
    """
    found, wanted = essence(stored), essence(config.__dict__)
    for part in ("model", "data", "trainer"):
        if any(name not in wanted[part] or wanted[part][name] != value for name, value in found[part].items()):
            return False
        for name in wanted[part].keys() - found[part].keys():
            found[part][name] = _default(config.method, config.dataset, f"{part}.{name}")
    return found == wanted


def _default(method: str, dataset: str, name: str) -> Any:
    return json.loads(json.dumps(_defaults(method, dataset).get(name), default=str))


@functools.cache
def _defaults(method: str, dataset: str) -> Any:
    return recipe.option_parser(method, dataset).get_defaults()


def _same_but_for_the_seed(stored: Mapping[str, Any], config: RunConfig) -> bool:
    seed = stored.get("seed")
    return isinstance(seed, int) and same_run(stored, replace(config, seed=seed))


class Stored:
    """The run folders of one folder of runs, each configuration read once.

    Args:
        runs: The folder of runs.
    """

    def __init__(self, runs: Path) -> None:
        self.runs = runs
        self._read: dict[Path, list[tuple[Path, dict[str, Any]]]] = {}

    def folders(self, config: RunConfig) -> list[tuple[Path, dict[str, Any]]]:
        """Return the run folders of a method on a data set, oldest first, with what their ``config.yaml`` holds."""
        place = self.runs / short_name(config.dataset) / short_name(config.method)
        if place not in self._read:
            self._read[place] = [
                (file.parent, content)
                for file in sorted(place.glob("*/config.yaml"))
                if (content := stored_configuration(file.parent)) is not None
            ]
        return self._read[place]

    def find(self, config: RunConfig) -> tuple[Path | None, bool]:
        """Look for a run of this configuration.

        Returns:
            Its folder, or None, and whether it is finished; a finished one is preferred.
        """
        unfinished = None
        for folder, content in self.folders(config):
            if same_run(content, config):
                if (folder / RESULT_FILE).is_file():
                    return folder, True
                unfinished = folder
        return unfinished, False


def short_name(name: str) -> str:
    """Return the name under which the runs of a method or data set are stored: the class name of ``FILE.py:Class``."""
    return name.rpartition(":")[2]


def stored_results(planned: Iterable[Job], runs: Path) -> tuple[list[Result], list[str]]:
    """Read the finished runs of a suite's configurations, whatever their seeds.

    Returns:
        The results, and one line for each file that could not be read.
    """
    stored = Stored(runs)
    folders = {
        folder: None
        for job in planned
        for folder, content in stored.folders(job.config)
        if (folder / RESULT_FILE).is_file() and _same_but_for_the_seed(content, job.config)
    }
    results, problems = [], []
    for folder in folders:
        try:
            results.append(read_result(folder / RESULT_FILE))
        except CmrBenchError as error:
            problems.append(str(error))
    return results, problems
