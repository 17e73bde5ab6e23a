"""Which runs of a suite are stored already."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from cmr_bench.experiment.identity import content_of, essence, same_run
from cmr_bench.experiment.recipe import RunConfig
from cmr_bench.results.content import other_content
from cmr_bench.results.record import RESULT_FILE, read_result
from cmr_bench.results.store import stored_configuration
from cmr_bench.suites.plan import Job
from cmr_bench.support.errors import CmrBenchError


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
        self._content: dict[str, dict[str, str]] = {}

    def folders(self, config: RunConfig) -> list[tuple[Path, dict[str, Any]]]:
        """Return the run folders of a method on a data set, oldest first, with what their ``config.yaml`` holds."""
        place = self.runs / short_name(config.data_label) / short_name(config.method)
        if place not in self._read:
            self._read[place] = [
                (file.parent, content)
                for file in sorted(place.glob("*/config.yaml"))
                if (content := stored_configuration(file.parent)) is not None
            ]
        return self._read[place]

    def find(self, config: RunConfig, since: float = 0.0) -> tuple[Path | None, bool]:
        """Look for a run of this configuration, on the data as it is now.

        Args:
            config: The configuration.
            since: Pass over the runs that were finished before this time, in seconds since 1970.

        Returns:
            Its folder, or None, and whether it is finished; a finished one is preferred.
        """
        unfinished = None
        for folder, content in self.folders(config):
            if same_run(content, config):
                finished = (folder / RESULT_FILE).is_file()
                if finished and since and (folder / RESULT_FILE).stat().st_mtime < since:
                    continue
                if other_content(_content(folder, finished), self._now(config)):
                    continue
                if finished:
                    return folder, True
                unfinished = folder
        return unfinished, False

    def _now(self, config: RunConfig) -> dict[str, str]:
        """Return what the run would read now; nothing where that cannot be told, as without the data set."""
        part = essence(config.__dict__)
        key = json.dumps([config.method, config.dataset, part["model"], part["data"], config.data.get("root")])
        if key not in self._content:
            try:
                self._content[key] = content_of(config)
            except CmrBenchError:
                self._content[key] = {}
        return self._content[key]


def _content(folder: Path, finished: bool) -> Mapping[str, str]:
    """Return what a stored run was made from, as far as it says."""
    try:
        if finished:
            return read_result(folder / RESULT_FILE).content
        # Reading a checkpoint imports torch, which a name that is wrong need not wait for.
        from cmr_bench.experiment.checkpoints import read_mark

        content = read_mark(folder / "checkpoints" / "last.ckpt").get("content")
        return content if isinstance(content, dict) else {}
    except CmrBenchError:
        return {}


def short_name(name: str) -> str:
    """Return the name under which the runs of a method or data set are stored: the class name of ``FILE.py:Class``."""
    return name.rpartition(":")[2]


def finished_folders(planned: Iterable[Job], runs: Path) -> list[Path]:
    """Return the folders of the finished runs of a suite's configurations, whatever their seeds."""
    stored = Stored(runs)
    folders = {
        folder: None
        for job in planned
        for folder, content in stored.folders(job.config)
        if (folder / RESULT_FILE).is_file() and _same_but_for_the_seed(content, job.config)
    }
    return list(folders)
