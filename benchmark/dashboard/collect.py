"""Reads run folders for the dashboard."""

from __future__ import annotations

import csv
import hashlib
import io
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cmr_bench.evaluation.per_query import RANKS_FILE, PerQuery, read_per_query
from cmr_bench.leaderboard.checks import checked_before, contradictions
from cmr_bench.results.examples import EXAMPLES_FILE
from cmr_bench.results.record import Result, read_result
from cmr_bench.results.store import failures, result_files
from cmr_bench.support import foreign
from cmr_bench.support.errors import CmrBenchError

DIRECTIONS = ("i2t", "t2i")


@dataclass(frozen=True)
class StoredRun:
    """One run with a result.

    Attributes:
        folder: The run folder.
        slug: A name that is safe in files and addresses, and no other run's.
        result: The result.
        config: Text of ``config.yaml``, empty where there is none.
        history: Columns of ``history.csv`` by name, None where an epoch has no value.
        examples: Content of ``examples.json``, empty where there is none.
        outcomes: Outcome of every query, where the run kept it.
    """

    folder: Path
    slug: str
    result: Result
    config: str
    history: dict[str, list[float | None]]
    examples: dict[str, list[dict[str, Any]]]
    outcomes: PerQuery | None


def collect(runs: Path) -> tuple[list[StoredRun], list[str]]:
    """Read every run with a result under a folder of runs.

    Returns:
        The runs in the order of their folders, and one line for each file that could not be read and each run that
        failed. A run of which only a side file cannot be read is among the runs.
    """
    found, problems, index = [], [], checked_before()
    for path in result_files(runs):
        known = index.get(path.parent)
        try:
            result = known or read_result(path)
        except CmrBenchError as error:
            problems.append(str(error))
            continue
        before = len(problems)
        run = _stored(path.parent, runs, result, problems)
        wrong = [] if known else contradictions(result, path.parent, run.outcomes)
        problems += wrong
        if not wrong:
            found.append(run)
            if not known and len(problems) == before:
                index.keep(path.parent, result)
    index.save()
    return found, problems + failures(runs)


def _stored(folder: Path, runs: Path, result: Result, problems: list[str]) -> StoredRun:
    outcomes = None
    if (folder / RANKS_FILE).exists():
        try:
            outcomes = read_per_query(folder / RANKS_FILE, result.tie_rate)
        except CmrBenchError as error:
            problems.append(str(error))
    return StoredRun(
        folder,
        slug(folder.relative_to(runs).parts),
        result,
        _text(folder / "config.yaml", foreign.CONFIG_BYTES, problems),
        _history(folder / "history.csv", problems),
        _examples(folder / EXAMPLES_FILE, problems),
        outcomes,
    )


def slug(parts: Iterable[str]) -> str:
    """Return a name of lower-case letters, digits and dashes for a path; a checksum keeps different paths apart."""
    path = "/".join(parts)
    plain = re.sub(r"[^a-z0-9]+", "-", path.lower()).strip("-")[:60]
    return f"{plain}-{hashlib.sha256(path.encode(errors='surrogatepass')).hexdigest()[:6]}"


def _text(path: Path, most: int, problems: list[str]) -> str:
    try:
        return foreign.read_text(path, most, within=path.parent, errors="replace")
    except FileNotFoundError:
        return ""
    except (OSError, CmrBenchError) as error:
        problems.append(str(error))
        return ""


def _history(path: Path, problems: list[str]) -> dict[str, list[float | None]]:
    rows = list(csv.DictReader(io.StringIO(_text(path, foreign.RECORD_BYTES, problems), newline="")))
    names = [name for name in (rows[0] if rows else {}) if name]
    return {name: [_number(row.get(name)) for row in rows] for name in names}


def _number(text: object) -> float | None:
    try:
        value = float(str(text))
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _examples(path: Path, problems: list[str]) -> dict[str, list[dict[str, Any]]]:
    try:
        record = foreign.read_json(path, within=path.parent)
        for way in DIRECTIONS:
            for entry in record[way]:
                match = entry["query"].get("match")
                for item in (entry["query"], *entry["answers"], *([match] if match is not None else [])):
                    item["id"] = str(item["id"])
    except FileNotFoundError:
        return {}
    except CmrBenchError as error:
        problems.append(str(error))
        return {}
    except (OSError, KeyError, TypeError, AttributeError):
        problems.append(f"{path} contains no readable examples")
        return {}
    return {way: record[way] for way in DIRECTIONS}
