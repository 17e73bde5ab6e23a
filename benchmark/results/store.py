"""The folder of runs: where results are written and found."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cmr_bench.results.record import FAILURE_FILE, RESULT_FILE, Result, read_result, write_result
from cmr_bench.support import foreign
from cmr_bench.support.errors import CmrBenchError, one_line


def load_results(runs: Path) -> tuple[list[Result], list[str]]:
    """Read every result under a folder of runs.

    Returns:
        The results in the order of their folders, and one line for each file that could not be read and each run that
        failed.
    """
    results, problems = [], []
    for path in result_files(runs):
        try:
            results.append(read_result(path))
        except CmrBenchError as error:
            problems.append(str(error))
    return results, problems + failures(runs)


def failures(runs: Path) -> list[str]:
    """Report every run under a folder of runs that an alarm ended: its folder and the reason, one line each."""
    return [f"{folder} failed: {reason}" for folder, reason in failed_runs(runs)]


def failed_runs(runs: Path) -> list[tuple[Path, str]]:
    """Return the folder of every run that an alarm ended, and the reason in one line."""
    found = []
    for path in sorted(runs.glob(f"*/*/*/{FAILURE_FILE}")):
        try:
            reason = foreign.read_json(path, within=path.parent)["reason"]
        except (OSError, CmrBenchError, KeyError, TypeError):
            reason = "for a reason that cannot be read"
        found.append((path.parent, one_line(reason)))
    return found


def result_files(runs: Path) -> Iterator[Path]:
    """Yield the result files under ``runs`` (``<data>/<method>/<run id>/result.json``), sorted."""
    yield from sorted(runs.glob(f"*/*/*/{RESULT_FILE}"))


def new_run_folder(runs: Path, data: str, method: str, label: str) -> Path:
    """Make an empty folder ``runs/<data>/<method>/<time>-<label>``; two callers never get the same one."""
    stamp = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
    for attempt in range(1000):
        suffix = f"-{attempt}" if attempt else ""
        folder = runs / data / method / f"{stamp}-{label}{suffix}"
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            continue
        except OSError as error:
            raise CmrBenchError(f"cannot make the run folder {folder}: {error.strerror or error}") from error
        return folder
    raise CmrBenchError(f"cannot find a free run folder under {runs / data / method}")


def store_external(
    *,
    runs: Path,
    name: str,
    data: str,
    metrics: Mapping[str, float],
    units: Mapping[str, str],
    protocol: Mapping[str, Any],
    split_sizes: Mapping[str, Sequence[int]],
    fingerprint: str = "",
    intervals: Mapping[str, tuple[float, float]] | None = None,
    tie_rate: float = 0.0,
    flags: Sequence[str] = (),
    family: str = "",
    seed: int | None = None,
) -> Path:
    """Store scores that a user brought (`cmr-bench eval --name`) so that the leaderboard shows them.

    Args:
        runs: Folder of runs.
        name: Name of the method in the leaderboard.
        data: Name of the data set.
        metrics: Every metric, unrounded.
        units: Unit of each metric.
        protocol: What was scored, with definitions.
        split_sizes: Images and texts, ``{"test": [n_images, n_texts]}``.
        fingerprint: Fingerprint of what was scored.
        intervals: Bootstrap intervals.
        tie_rate: Fraction of queries whose match is tied.
        flags: What a reader must know of the scores.
        family: Family of the method, if one wants it listed there.
        seed: Seed, where there are several runs.

    Returns:
        The result file.
    """
    label = "".join(c if c.isalnum() or c in "._-" else "_" for c in name).strip(".") or "unnamed"
    folder = new_run_folder(runs, data, label, "eval")
    result = Result(
        method=name,
        data=data,
        metrics=dict(metrics),
        run_id=folder.name,
        family=family,
        fidelity="external",
        units=dict(units),
        intervals=dict(intervals or {}),
        split_sizes={key: list(value) for key, value in split_sizes.items()},
        fingerprint=fingerprint,
        protocol=dict(protocol),
        tie_rate=tie_rate,
        flags=list(flags),
        seed=seed,
    )
    return write_result(folder, result)


def stored_configuration(folder: Path) -> dict[str, Any] | None:
    """Return what ``config.yaml`` of a run folder holds; None where there is none or it cannot be read."""
    try:
        content = foreign.read_yaml(folder / "config.yaml", within=folder)
    except (OSError, CmrBenchError):
        return None
    return content if isinstance(content, dict) else None
