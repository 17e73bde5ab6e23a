"""Results that were read and checked before, kept so that thousands of them need not be opened again."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import stat
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cmr_bench.results.record import RESULT_FILE, Result
from cmr_bench.support import foreign
from cmr_bench.support.errors import CmrBenchError
from cmr_bench.support.files import write_atomic
from cmr_bench.support.memory import collecting_no_garbage
from cmr_bench.support.places import cache_dir

# A file that changed so short a time ago may change again without another time or size: it is not kept yet.
_SETTLED_NS = 2_000_000_000
# No data set can have this name.
_FOLDER = ".results"


class ResultIndex:
    """Sound results of run folders, valid as long as no file that they were checked against has changed.

    An entry holds the times of change, size and number of every such file; a result whose files have others is not
    known. An index that is damaged or cannot be written is as good as none; of two processes the later one's stays.

    Args:
        files: Names of the files in a run folder that a check reads.
        code: What stands for the code of the check; an index of other code is not read.
    """

    def __init__(self, files: Sequence[str], code: str) -> None:
        self._files, self._code = (RESULT_FILE, *files), code
        self._tables: dict[Path, dict[str, Any]] = {}
        self._stamps: dict[Path, list[list[int] | None]] = {}
        self._changed: set[Path] = set()

    def get(self, folder: Path) -> Result | None:
        """Return the result of a run folder; None where it is not known, or something there has changed."""
        stamps = self._stamped(folder)
        if stamps is None:
            return None
        self._stamps[folder] = stamps
        entry = self._table(folder).get(_name(folder))
        if entry is None or entry[0] != stamps:
            return None
        result = Result(**entry[1])
        result.intervals = {name: (low, high) for name, (low, high) in result.intervals.items()}
        return result

    def keep(self, folder: Path, result: Result) -> None:
        """Keep a sound result that was read after :meth:`get` did not know it."""
        stamps = self._stamps.get(folder)
        if stamps is None or any(max(one[:2]) > time.time_ns() - _SETTLED_NS for one in stamps if one is not None):
            return
        self._table(folder)[_name(folder)] = [stamps, vars(result)]
        self._changed.add(folder.parents[2])

    def save(self) -> None:
        """Write what is new, without the runs that are gone."""
        for runs in self._changed:
            there = {name: entry for name, entry in self._tables[runs].items() if (runs / name / RESULT_FILE).exists()}
            with contextlib.suppress(CmrBenchError, ValueError):
                write_atomic(_file(runs), json.dumps({"code": self._code, "runs": there}, separators=(",", ":")))
        self._changed.clear()

    def _stamped(self, folder: Path) -> list[list[int] | None] | None:
        """Return what tells a change of the files; None where one is a link or no file, and its target tells more."""
        found: list[list[int] | None] = []
        for name in self._files:
            try:
                one = os.lstat(f"{folder}/{name}")
            except OSError:
                found.append(None)
                continue
            if not stat.S_ISREG(one.st_mode):
                return None
            found.append([one.st_mtime_ns, one.st_ctime_ns, one.st_size, one.st_ino])
        return found

    def _table(self, folder: Path) -> dict[str, Any]:
        runs = folder.parents[2]
        if runs not in self._tables:
            self._tables[runs] = self._read(_file(runs))
        return self._tables[runs]

    def _read(self, file: Path) -> dict[str, Any]:
        try:
            with collecting_no_garbage():
                content = json.loads(foreign.read_bytes(file, foreign.ANNOTATION_BYTES))
            if content["code"] != self._code:
                return {}
            for stamps, values in content["runs"].values():
                if not isinstance(stamps, list) or not isinstance(values["intervals"], dict):
                    return {}
            return dict(content["runs"])
        except (OSError, CmrBenchError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return {}


def _name(folder: Path) -> str:
    return "/".join(folder.parts[-3:])


def _file(runs: Path) -> Path:
    place = hashlib.sha256(os.fsencode(runs.resolve())).hexdigest()[:16]
    return cache_dir(_FOLDER) / f"{place}.json"
