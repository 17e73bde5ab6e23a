"""``cmr-bench check``: the scores of a suite against those expected of it; a fall is exit code 1."""

from __future__ import annotations

import argparse
import importlib.resources
import json
import math
import os
import statistics
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from rich.console import Console

from cmr_bench import suite
from cmr_bench.errors import CmrBenchError, UsageError
from cmr_bench.expected import (
    FALSE_ALARMS,
    Expected,
    ExpectedRow,
    Score,
    expect,
    options_of,
    per_score,
    provenance,
    read_expected,
    row_title,
    test_size_of,
    tolerance,
    views_of,
    write_expected,
)
from cmr_bench.files import write_atomic
from cmr_bench.results import FAILURE_FILE, RESULT_FILE, Result, read_result
from cmr_bench.suite import Job

Verdict = Literal["as expected", "fell", "suspiciously better"]
SUMMARY_VARIABLE = "GITHUB_STEP_SUMMARY"

_HELP = """\
what is compared:
  rsum (the sum of the six recalls) and mAP of each method decide; the recalls are reported beside them. A new score may
  lie t(1 - a/m, n - 1) * sd * sqrt(1 + 1/n) below the mean of the n recorded seeds (a one-sided prediction interval;
  a: --false-alarms, m: the number of scores that decide), and at least as far as one query moves it.
  A score that much above the mean is suspicious: a leak, or progress that should be recorded.

examples:
  cmr-bench check                                  the shipped suite `ci`: a method of each family, two minutes
  cmr-bench check --stored --runs runs/ci          compare what was run before, run nothing
  cmr-bench check --again                          run anew what is stored: after a change of the code
  cmr-bench check --suite mine.yaml --expected expected.yaml --record --seeds 5
  cmr-bench check --suite mine.yaml --expected expected.yaml --markdown summary.md --junit check.xml

exit code: 0 as expected, 1 a fall, a failed run or results that cannot be compared, 2 wrong usage.
docs/check.md shows how to guard a method of your own in continuous integration.
"""


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
class Row:
    """A method on a data set: its comparisons, or why there are none.

    Attributes:
        method: Name of the method.
        data: Name of the data set.
        variant: Variant of the recipe, or empty.
        seeds: Seeds that were run.
        comparisons: One a metric, those that decide first; empty where ``problem`` is not.
        problem: Why the row cannot be compared, in one line; empty where it can.
    """

    method: str
    data: str
    variant: str
    seeds: tuple[int, ...] = ()
    comparisons: tuple[Comparison, ...] = ()
    problem: str = ""

    @property
    def title(self) -> str:
        """Method, variant and data set."""
        return row_title(self.method, self.data, self.variant)

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
        parts = [f"{len([one for row in self.rows for one in row.judged])} scores judged", f"{len(self.fell)} fell"]
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
        results: Results, one a seed.
        problem: Why some are missing, in one line; empty where none is.
    """

    job: Job
    results: list[Result] = field(default_factory=list)
    problem: str = ""


def collect(planned: Sequence[Job], runs: Path, failed: Mapping[str, str]) -> list[Found]:
    """Gather the newest stored result of every planned run, row by row.

    Args:
        planned: The runs of the suite.
        runs: Folder of runs.
        failed: Runs that have just failed, by title, with their last line: an older result does not stand in for them.
    """
    stored, rows = suite.Stored(runs), dict[str, Found]()
    for job in planned:
        row = rows.setdefault(replace(job.config, seed=0).to_yaml(), Found(job))
        if job.title in failed:
            row.problem = f"seed {job.config.seed} failed: {failed[job.title]}"
            continue
        folders = [folder for folder, content in stored.folders(job.config) if suite.same_run(content, job.config)]
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
            reason = json.loads((folder / FAILURE_FILE).read_text(encoding="utf-8"))["reason"]
        except (OSError, ValueError, LookupError, TypeError, RecursionError):
            continue
        return f"failed: {' '.join(str(reason).split())} ({folder})"
    return f"is not stored in {runs}"


def compare(expected: Expected, found: Sequence[Found]) -> list[Row]:
    """Compare every row of a suite with what is expected of it, and name those that only one side has."""
    rows, seen = [], list[ExpectedRow]()
    for each in found:
        config = each.job.config
        key = config.method, config.dataset, config.variant
        row = Row(*key, tuple(result.seed for result in each.results if result.seed is not None))
        there = [one for one in expected.rows if (one.method, one.data, one.variant) == key]
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
        Row(one.method, one.data, one.variant, problem="is expected, but the suite no longer runs it; record again")
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
        return f"options differ from the recorded ones: {', '.join(changed)}; record again if that is meant"
    if result.fingerprint != expected.fingerprint or test_size_of(result) != expected.test_size:
        sizes = ["{} images, {} texts".format(*size) for size in (expected.test_size, test_size_of(result))]
        return (
            f"another test split: {expected.fingerprint[:12]} ({sizes[0]}) recorded, {result.fingerprint[:12]} "
            f"({sizes[1]}) found; record again if that is meant"
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
            f"{n_stored} of the results were stored already (written {', '.join(filter(None, dates))}) and say nothing "
            "of the code since; --again runs them anew"
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


def expected_file(name: Path | None) -> Path:
    """Return the file of expected scores: the one named, else the shipped one."""
    if name is not None:
        return name
    return Path(str(importlib.resources.files("cmr_bench.experiments").joinpath("expected.yaml")))


def suite_name(suite: str) -> str:
    """Return the name of a suite, that of the file without folder and ending: the same from wherever it is read."""
    return Path(suite).name.removesuffix(".yaml").removesuffix(".yml")


def record(args: argparse.Namespace, planned: Sequence[Job], found: Sequence[Found], console: Console) -> int:
    """Write the expected scores of `cmr-bench check --record`."""
    problems = [
        f"{row_title(each.job.config.method, each.job.config.dataset, each.job.config.variant)}: {each.problem}"
        for each in found
        if each.problem
    ]
    if problems:
        raise CmrBenchError(f"nothing is recorded: {'; '.join(problems)}")
    results = [result for each in found for result in each.results]
    created = datetime.now(UTC).isoformat(timespec="seconds")
    name = suite_name(args.suite)
    expected = expect(name, [each.results for each in found], args.false_alarms, provenance(results, created))
    command = f"cmr-bench check --record --suite {args.suite} --seeds {args.seeds}"
    write_expected(args.expected, expected, command)
    for row in expected.rows:
        scores = ", ".join(
            f"{metric} {score.mean:.4g} ± {score.sd:.2g} (allowed {score.tolerance:.2g})"
            for metric, score in row.metrics.items()
            if metric in row.judged
        )
        console.print(f"{row_title(row.method, row.data, row.variant)}: {scores}", highlight=False, soft_wrap=True)
    console.print(f"recorded {len(planned)} runs in {args.expected}", highlight=False, soft_wrap=True)
    return 0


def _count(text: str) -> int:
    try:
        number = int(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"a number of seeds, not '{text}'") from error
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number}: at least one seed")
    return number


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `cmr-bench check`."""
    parser.epilog = _HELP
    parser.add_argument(
        "--suite", default="ci", metavar="NAME|FILE", help="a shipped suite or a YAML file (default: ci)"
    )
    parser.add_argument(
        "--expected", type=Path, metavar="FILE", help="expected scores (default: those shipped with the suite ci)"
    )
    parser.add_argument("--runs", type=Path, default=Path("runs"), metavar="DIR", help="where run folders go")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="runs at the same time (default: 1)")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--stored", action="store_true", help="read stored results only, run nothing")
    which.add_argument("--again", action="store_true", help="run everything, also what is stored")
    parser.add_argument(
        "--seed", type=int, metavar="S", help="seed to run in place of the suite's own; any is judged the same"
    )
    parser.add_argument("--record", action="store_true", help="write the expected scores in place of comparing")
    parser.add_argument(
        "--seeds", type=_count, default=5, metavar="N", help="with --record: seeds 0 to N - 1 (default: 5)"
    )
    parser.add_argument(
        "--false-alarms",
        type=float,
        default=FALSE_ALARMS,
        metavar="SHARE",
        help=f"with --record: share of checks of sound code that may fail by chance (default: {FALSE_ALARMS})",
    )
    parser.add_argument(
        "--fail-on-rise", action="store_true", help="fail on a suspiciously better score too, not only warn"
    )
    parser.add_argument(
        "--markdown", type=Path, metavar="FILE", help=f"report as Markdown (also added to ${SUMMARY_VARIABLE}, if set)"
    )
    parser.add_argument("--junit", type=Path, metavar="FILE", help="report as JUnit XML, a test case a score")
    parser.add_argument(
        "--set", action="append", default=[], metavar="OPTION=VALUE", help="option for every run, e.g. data.root=DIR"
    )


def run(args: argparse.Namespace) -> int:
    """Run `cmr-bench check`."""
    from cmr_bench import check_formats

    _refuse(args)
    console = Console()
    args.expected = expected_file(args.expected)
    expected = None if args.record else read_expected(args.expected)
    if expected is not None and expected.suite != suite_name(args.suite):
        raise UsageError(
            f"{args.expected} holds the scores of the suite '{expected.suite}', not of '{suite_name(args.suite)}': "
            "pass the --expected that belongs to it, or record it"
        )
    seeds = list(range(args.seeds)) if args.record else None if args.seed is None else [args.seed]
    overrides = ["--trainer.progress=false", *(f"--{option.removeprefix('--')}" for option in args.set)]
    planned = list(suite.jobs(suite.read_suite(args.suite), seeds, overrides))
    n_stored, failed = _run_missing(args, planned, console)
    found = collect(planned, args.runs, failed)
    if expected is None:
        return record(args, planned, found, console)
    results = [result for each in found for result in each.results]
    report = Report(
        suite_name(args.suite),
        tuple(compare(expected, found)),
        tuple(notes_on(expected, results, n_stored)),
        expected.false_alarms,
        expected.n_judged,
        args.fail_on_rise,
    )
    check_formats.show(report, console)
    _write(args, report)
    for line in _complaints(report):
        print(f"cmr-bench check: {line}", file=sys.stderr)
    return 0 if report.passed else 1


def _refuse(args: argparse.Namespace) -> None:
    if args.jobs < 1:
        raise UsageError(f"--jobs {args.jobs}: at least one run at a time")
    if not 0 < args.false_alarms < 1:
        raise UsageError(f"--false-alarms {args.false_alarms} is no share between 0 and 1")
    if args.record and args.expected is None:
        raise UsageError("--record writes the expected scores: say where by --expected FILE")
    if args.record and args.seeds < 2:
        raise UsageError("--seeds 1 says nothing of the spread; record at least 2, better 5")
    if args.expected is None and args.suite != "ci":
        raise UsageError(
            f"the scores expected of '{args.suite}' are not shipped: say where they are by --expected FILE"
        )


def _run_missing(args: argparse.Namespace, planned: Sequence[Job], console: Console) -> tuple[int, dict[str, str]]:
    """Run what is not stored; return how many were stored, and the failed runs with their last lines."""
    stored = suite.Stored(args.runs)
    there = [(None, False) if args.again else stored.find(job.config) for job in planned]
    n_stored = sum(done for _, done in there)
    if args.stored:
        return n_stored, {}
    todo = [(job, folder) for job, (folder, done) in zip(planned, there, strict=True) if not done]
    return n_stored, suite.run_suite(todo, args.runs, args.jobs, "csv", console) if todo else {}


def _write(args: argparse.Namespace, report: Report) -> None:
    from cmr_bench import check_formats

    if args.junit is not None:
        write_atomic(args.junit, check_formats.junit(report))
    summary = os.environ.get(SUMMARY_VARIABLE)
    if args.markdown is not None or summary:
        text = check_formats.markdown(report)
        if args.markdown is not None:
            write_atomic(args.markdown, text)
        if summary:
            try:
                with Path(summary).open("a", encoding="utf-8") as file:
                    file.write(text)
            except OSError as error:
                raise CmrBenchError(f"cannot write {summary} (${SUMMARY_VARIABLE}): {error.strerror}") from error


def _complaints(report: Report) -> Iterator[str]:
    yield from report.problems
    for row in report.rows:
        for one in row.have("fell"):
            yield (
                f"{row.title}: {one.name} fell to {one.found:.4g}, {-one.difference:.3g} below the expected "
                f"{one.expected.mean:.4g}; {one.allowed:.3g} is allowed"
            )
        for one in row.have("suspiciously better"):
            yield (
                f"{row.title}: {one.name} is suspiciously better: {one.found:.4g}, {one.difference:.3g} above the "
                f"expected {one.expected.mean:.4g}; look for a leak, or record again if the method has improved"
            )
