"""Stored scores against those expected of them."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Literal

from cmr_bench.experiment.identity import same_run
from cmr_bench.regression.expected import (
    FALSE_ALARMS,
    Entry,
    Expected,
    ExpectedRow,
    Score,
    options_of,
    per_score,
    test_size_of,
    tolerance,
    views_of,
)
from cmr_bench.results.record import FAILURE_FILE, RESULT_FILE, Result, read_result
from cmr_bench.suites.plan import Job
from cmr_bench.suites.stored import Stored
from cmr_bench.support import foreign
from cmr_bench.support.errors import CmrBenchError, one_line

Verdict = Literal["as expected", "fell", "suspiciously better"]


@dataclass(frozen=True)
class Comparison:
    """One metric of one row against what is expected of it.

    Attributes:
        name: Metric.
        expected: Mean, deviation and number of the recorded seeds.
        found: Score found, the mean where several seeds were run.
        allowed: How far it may lie from the mean.
        judged: Whether it decides.
    """

    name: str
    expected: Score
    found: float
    allowed: float
    judged: bool

    @property
    def difference(self) -> float:
        """Found minus expected."""
        return self.found - self.expected.mean

    @property
    def verdict(self) -> Verdict:
        """Whether the score lies inside of what is allowed, below or above; what only rounding moves out is inside."""
        outside = abs(self.difference) > self.allowed
        if not outside or math.isclose(abs(self.difference), self.allowed, rel_tol=1e-9):
            return "as expected"
        return "fell" if self.difference < 0 else "suspiciously better"


@dataclass(frozen=True)
class Row(Entry):
    """What was found of an entry: its comparisons, or why there are none.

    Attributes:
        seeds: Seeds that were run.
        comparisons: One a metric, those that decide first; empty where ``problem`` is not.
        problem: Why the row cannot be compared, in one line; empty where it can.
    """

    seeds: tuple[int, ...] = ()
    comparisons: tuple[Comparison, ...] = ()
    problem: str = ""

    @property
    def judged(self) -> list[Comparison]:
        """The comparisons that decide."""
        return [one for one in self.comparisons if one.judged]

    def have(self, verdict: Verdict) -> list[Comparison]:
        """Return the comparisons that decide and came out so."""
        return [one for one in self.judged if one.verdict == verdict]


@dataclass(frozen=True)
class Report:
    """A whole check.

    Attributes:
        suite: Name of the suite.
        rows: Its rows.
        notes: What to bear in mind, a line each.
        false_alarms: Rate of false alarms of the whole check.
        n_judged: Number of scores that share it.
        fail_on_rise: Whether a suspiciously better score fails the check.
    """

    suite: str
    rows: tuple[Row, ...]
    notes: tuple[str, ...] = ()
    false_alarms: float = FALSE_ALARMS
    n_judged: int = 0
    fail_on_rise: bool = False

    @property
    def fell(self) -> list[Comparison]:
        """Scores that fell."""
        return [one for row in self.rows for one in row.have("fell")]

    @property
    def rose(self) -> list[Comparison]:
        """Scores that are suspiciously better."""
        return [one for row in self.rows for one in row.have("suspiciously better")]

    @property
    def problems(self) -> list[str]:
        """Rows that could not be compared, a line each."""
        return [f"{row.title}: {row.problem}" for row in self.rows if row.problem]

    @property
    def passed(self) -> bool:
        """Whether the check passes."""
        return not (self.fell or self.problems or (self.fail_on_rise and self.rose))

    @property
    def summary(self) -> str:
        """The outcome in one line."""
        parts = [f"{len([one for row in self.rows for one in row.judged])} scores tested", f"{len(self.fell)} fell"]
        if self.rose:
            parts.append(f"{len(self.rose)} suspiciously better")
        if self.problems:
            parts.append(f"{len(self.problems)} of {len(self.rows)} methods not compared")
        return f"{'passed' if self.passed else 'FAILED'}: suite {self.suite}, {', '.join(parts)}"


@dataclass
class Found:
    """What there is of one row of the suite.

    Attributes:
        job: Its configuration, with any of its seeds.
        results: Results, one per seed.
        problem: Why some are missing, in one line; empty where none is.
    """

    job: Job
    results: list[Result] = field(default_factory=list)
    problem: str = ""

    @property
    def entry(self) -> Entry:
        """The method on the data set that it is of."""
        config = self.job.config
        return Entry(config.method_label, config.data_label, config.variant, draw=self.job.draw)


def collect(planned: Sequence[Job], runs: Path, failed: Mapping[str, str]) -> list[Found]:
    """Gather the newest stored result of every planned run, row by row.

    Args:
        planned: The runs of the suite.
        runs: Folder of runs.
        failed: Runs that have just failed, by title, with their last line: an older result does not stand in for them.
    """
    stored, rows = Stored(runs), dict[str, Found]()
    for job in planned:
        row = rows.setdefault(replace(job.config, seed=0).to_yaml(), Found(job))
        if job.title in failed:
            row.problem = f"seed {job.config.seed} failed: {failed[job.title]}"
            continue
        folders = [folder for folder, content in stored.folders(job.config) if same_run(content, job.config)]
        finished = [folder for folder in folders if (folder / RESULT_FILE).is_file()]
        try:
            if finished:
                row.results.append(read_result(finished[-1] / RESULT_FILE))
            else:
                row.problem = f"seed {job.config.seed} {_why_missing(folders, runs)}"
        except CmrBenchError as error:
            row.problem = str(error)
    return list(rows.values())


def _why_missing(folders: Sequence[Path], runs: Path) -> str:
    for folder in reversed(folders):
        try:
            reason = foreign.read_json(folder / FAILURE_FILE, within=folder)["reason"]
        except (OSError, CmrBenchError, LookupError, TypeError):
            continue
        return f"failed: {one_line(reason)} ({folder})"
    return f"is not stored in {runs}"


def compare(expected: Expected, found: Sequence[Found]) -> list[Row]:
    """Compare every row of a suite with what is expected of it, and name those that only one side has."""
    rows, seen = [], list[ExpectedRow]()
    for each in found:
        seeds = tuple(result.seed for result in each.results if result.seed is not None)
        row = Row(**asdict(each.entry), seeds=seeds)
        there = [one for one in expected.rows if one.same(row)]
        match = next((one for one in there if each.results and one.options == options_of(each.results[0])), None)
        match = match or next((one for one in there if one not in seen), None)
        if match is not None:
            seen.append(match)
        if each.problem or not each.results:
            rows.append(replace(row, problem=each.problem or "no result"))
        elif match is None:
            rows.append(replace(row, problem="is not among the expected scores; record them again"))
        elif problem := next(filter(None, (mismatch(match, result) for result in each.results)), ""):
            rows.append(replace(row, problem=problem))
        else:
            rows.append(replace(row, comparisons=_comparisons(expected, match, each.results)))
    rows += [
        Row(
            *(one.method, one.data, one.variant),
            draw=one.draw,
            problem="is expected, but the suite no longer runs it; record again",
        )
        for one in expected.rows
        if one not in seen
    ]
    return rows


def mismatch(expected: ExpectedRow, result: Result) -> str:
    """Tell in one line why a result is no repetition of what was recorded; an empty string where it is one."""
    options = options_of(result)
    if options != expected.options:
        changed = [
            f"{name} {_shown(expected.options, name)} -> {_shown(options, name)}"
            for name in sorted({*options, *expected.options})
            if _shown(options, name) != _shown(expected.options, name)
        ]
        return f"options differ from the recorded ones: {', '.join(changed)}; record again if intended"
    if result.fingerprint != expected.fingerprint or test_size_of(result) != expected.test_size:
        sizes = ["{} images, {} texts".format(*size) for size in (expected.test_size, test_size_of(result))]
        return (
            f"another test split: {expected.fingerprint[:12]} ({sizes[0]}) recorded, {result.fingerprint[:12]} "
            f"({sizes[1]}) found; record again if intended"
        )
    if views_of(result) != dict(expected.views):
        return f"features differ: {_words(expected.views)} recorded, {_words(views_of(result))} found"
    lost = [name for name in expected.metrics if name not in result.metrics]
    return f"the result has no {', '.join(lost)}, which is expected" if lost else ""


def _shown(options: Mapping[str, object], name: str) -> str:
    return json.dumps(options[name]) if name in options else "default"


def _words(views: Mapping[str, str]) -> str:
    return ", ".join(f"{side} {source}" for side, source in views.items())


def _comparisons(expected: Expected, row: ExpectedRow, results: Sequence[Result]) -> tuple[Comparison, ...]:
    rate = per_score(expected.false_alarms, expected.n_judged)
    names = [*row.judged, *(name for name in row.metrics if name not in row.judged)]
    return tuple(
        Comparison(
            name,
            score := row.metrics[name],
            statistics.fmean(result.metrics[name] for result in results),
            score.tolerance
            if len(results) == 1
            else tolerance(name, score.sd, score.n, rate, row.test_size, len(results)),
            name in row.judged,
        )
        for name in names
    )


def notes_on(expected: Expected, results: Sequence[Result], n_stored: int) -> list[str]:
    """Tell what a reader of the report should bear in mind.

    Args:
        expected: The expected scores.
        results: The results that were compared.
        n_stored: How many of them were stored before.
    """
    notes = []
    if n_stored:
        dates = sorted({result.created[:10] for result in results})
        notes.append(
            f"{n_stored} of the results were stored before (on {', '.join(filter(None, dates))}) and do not reflect "
            "later code changes; repeat them with --again"
        )
    recorded = expected.recorded.get("versions")
    changed = {
        f"{name} {was} -> {version}"
        for result in results
        for name, version in result.versions.items()
        if name != "cmr-bench" and (was := (recorded or {}).get(name)) not in (None, version)
    }
    device = str(expected.recorded.get("device", ""))
    devices = sorted({result.device for result in results if result.device} - set(device.split(", ")))
    if changed or devices:
        what = ", ".join([*sorted(changed), *(f"{device} -> {one}" for one in devices)])
        notes.append(
            f"recorded with other versions or on another device ({what}): the last digits of floating-point sums move "
            "every trained score a little, as another seed does"
        )
    return notes
