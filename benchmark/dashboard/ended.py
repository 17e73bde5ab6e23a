"""Runs without a result: those that an alarm ended, and those that are not finished."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from cmr_bench import registry
from cmr_bench.results.record import FAILURE_FILE, RESULT_FILE
from cmr_bench.results.store import failed_runs, stored_configuration
from cmr_bench.support import foreign
from cmr_bench.support.errors import CmrBenchError


@dataclass(frozen=True)
class Ended:
    """A run folder without a result.

    Attributes:
        data: Name of its folder of the data set.
        method: Name of its folder of the method.
        run_id: Name of the run folder.
        failed: Whether an alarm ended it; else it was interrupted, or is still going on.
        reason: Why it failed, or how far it came.
        command: What makes it go on; empty where nothing does.
        changed: When its folder was last written to, UTC.
    """

    data: str
    method: str
    run_id: str
    failed: bool
    reason: str
    command: str
    changed: str


def ended(runs: Path) -> list[Ended]:
    """List the runs without a result under a folder of runs, the latest first."""
    found = [*_failed(runs), *_unfinished(runs)]
    return sorted(found, key=lambda one: (one.changed, one.run_id), reverse=True)


def _failed(runs: Path) -> Iterator[Ended]:
    for folder, reason in failed_runs(runs):
        data, method, run_id = folder.parts[-3:]
        yield Ended(data, method, run_id, True, reason, "", _changed(folder))


def _unfinished(runs: Path) -> Iterator[Ended]:
    for path in sorted(runs.glob("*/*/*/config.yaml")):
        folder = path.parent
        if (folder / RESULT_FILE).exists() or (folder / FAILURE_FILE).exists():
            continue
        config = stored_configuration(folder)
        if config is None:
            reason, command = "its config.yaml cannot be read: start it again", ""
        else:
            reason = _progress(folder)
            command = registry.resume_command(folder, str(config.get("method")), str(config.get("dataset")))
        data, method, run_id = path.parts[-4:-1]
        yield Ended(data, method, run_id, False, reason, command, _changed(folder))


def _progress(folder: Path) -> str:
    if not (folder / "checkpoints" / "last.ckpt").is_file():
        return "no checkpoint yet: begins anew"
    try:
        lines = foreign.read_text(folder / "history.csv", foreign.RECORD_BYTES, within=folder, errors="replace")
    except (OSError, CmrBenchError):
        return "goes on from its last checkpoint"
    epochs = sum(bool(line.strip()) for line in lines.splitlines()[1:])
    return f"goes on after {epochs} epoch{'' if epochs == 1 else 's'}"


def _changed(folder: Path) -> str:
    try:
        latest = max(file.lstat().st_mtime for file in (folder, *folder.iterdir()))
    except OSError:
        return ""
    return datetime.fromtimestamp(latest, UTC).strftime("%Y-%m-%d %H:%M")
