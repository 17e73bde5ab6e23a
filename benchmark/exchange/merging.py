"""Folders of runs put together: nothing is lost, nothing counts twice."""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from cmr_bench.exchange.packing import FILES, MANIFEST_FILE, WEIGHTS, altered, manifest
from cmr_bench.results.record import RESULT_FILE, identity, read_result
from cmr_bench.results.store import result_files
from cmr_bench.support import foreign
from cmr_bench.support.errors import CmrBenchError
from cmr_bench.support.files import replacing, write_atomic

_NAME = re.compile(r"[\w][\w.+ -]{0,127}")


@dataclass
class Merged:
    """What came of a merge.

    Attributes:
        added: Folders of results that were not there.
        present: Folders, here, of results that were there already.
        completed: Those of them that got files that they lacked, such as weights.
        problems: One line for each result that was left out, with the reason.
    """

    added: list[Path] = field(default_factory=list)
    present: list[Path] = field(default_factory=list)
    completed: list[Path] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    @property
    def folders(self) -> list[Path]:
        """All run folders that what was merged is in now."""
        return [*self.added, *self.present]


def merge(source: Path, into: Path, weights: bool = True) -> Merged:
    """Copy the runs of a folder into another, each result once.

    Two results are one where their records are the same, wherever they lie. A result whose place is taken by another
    one goes beside it. Only plain files of known names are copied, nothing that leads out of the folder is followed,
    and nothing is executed.

    Args:
        source: Folder of runs, perhaps somebody else's.
        into: Folder of runs.
        weights: Copy the weights too.
    """
    merged = Merged()
    there = {}
    for file in result_files(into):
        try:
            there[identity(read_result(file))] = file.parent
        except CmrBenchError:
            continue
    for file in result_files(source):
        run = file.parent
        place = run.relative_to(source)
        try:
            if not all(_NAME.fullmatch(part) for part in place.parts):
                raise CmrBenchError(f"{run}: a name in it is none of a run")
            foreign.check_folder(run)
            result = read_result(file)
            if problem := altered(run, result):
                raise CmrBenchError(problem)
            key = identity(result)
            if key in there:
                if _complete(run, there[key], weights):
                    merged.completed.append(there[key])
                merged.present.append(there[key])
                continue
            target = into / place
            if target.exists():
                target = target.with_name(f"{target.name}-{key[:8]}")
            _copy(run, target, weights)
            there[key] = target
            merged.added.append(target)
        except CmrBenchError as error:
            merged.problems.append(str(error))
    return merged


def _wanted(run: Path, weights: bool) -> list[str]:
    return [name for name in FILES if (weights or name not in WEIGHTS) and (run / name).is_file()]


def _copy(run: Path, target: Path, weights: bool) -> None:
    """Copy a run under a name of its own; the result comes last, so that half a copy is no result."""
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=".", suffix=".tmp", dir=target.parent))
    try:
        for name in _wanted(run, weights):
            shutil.copyfile(foreign.checked(run / name, within=run), partial / name)
        partial.chmod(0o755)
        partial.rename(target)
    except OSError as error:
        raise CmrBenchError(f"cannot copy {run} to {target}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _complete(run: Path, there: Path, weights: bool) -> bool:
    """Add files that the same run lacks here; what is here stays as it is. Return whether there were any."""
    lacking = []
    for name in _wanted(run, weights):
        trained_here = name in WEIGHTS and (there / "checkpoints" / "best.ckpt").is_file()
        if not trained_here and not (there / name).exists() and name != MANIFEST_FILE:
            lacking.append(name)
    for name in lacking:
        with foreign.checked(run / name, within=run).open("rb") as stream, replacing(there / name) as copy:
            shutil.copyfileobj(stream, copy)
    if lacking and (there / MANIFEST_FILE).is_file():
        told = manifest(there, read_result(there / RESULT_FILE))
        write_atomic(there / MANIFEST_FILE, json.dumps(told, indent=1) + "\n")
    return bool(lacking)
