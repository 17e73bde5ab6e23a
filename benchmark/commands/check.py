"""``cmr-bench check``: compare the scores of a suite with expected scores; a regression is exit code 1."""

from __future__ import annotations

import argparse
import importlib.resources
import sys
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console

from cmr_bench.regression.compare import Found, Report, collect, compare, notes_on
from cmr_bench.regression.expected import (
    FALSE_ALARMS,
    LEAST_SEEDS,
    expect,
    provenance,
    read_expected,
    toothless,
    write_expected,
)
from cmr_bench.suites import plan, pool
from cmr_bench.suites.plan import Job
from cmr_bench.suites.stored import Stored
from cmr_bench.support import environment
from cmr_bench.support.errors import CmrBenchError, UsageError
from cmr_bench.support.files import write_atomic
from cmr_bench.support.site import page

_HELP = """\
comparison:
  rsum (the sum of the six recalls) and mAP of each method are tested; the recalls are only reported. A new score may
  be t(1 - a/m, n - 1) * sd * sqrt(1 + 1/n) below the mean of the n recorded seeds (a one-sided prediction interval;
  a: --false-alarms, m: the number of tested scores), and always as much as one query changes it.
  A score as far above the mean is suspicious: a leak, or progress that should be recorded.

examples:
  cmr-bench check                                  the shipped suite `ci`: one method per family, two minutes
  cmr-bench check --stored --runs runs/ci          compare stored results, run nothing
  cmr-bench check --again                          repeat stored runs, e.g. after a code change
  cmr-bench check --suite mine.yaml --expected expected.yaml --record --seeds 5
  cmr-bench check --suite mine.yaml --expected expected.yaml --markdown summary.md --junit check.xml

exit codes: 0 as expected; 1 regression, failed run or results that cannot be compared; 2 usage error.
{page} shows how to check your own method in continuous integration.
"""


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
    problems = [f"{each.entry.title}: {each.problem}" for each in found if each.problem]
    if problems:
        raise CmrBenchError(f"nothing recorded: {'; '.join(problems)}")
    results = [result for each in found for result in each.results]
    created = datetime.now(UTC).isoformat(timespec="seconds")
    name = suite_name(args.suite)
    expected = expect(name, [each.results for each in found], args.false_alarms, provenance(results, created))
    force = " --force" if args.force else ""
    command = f"cmr-bench check --record --suite {args.suite} --seeds {args.seeds}{force}"
    write_expected(args.expected, expected, command)
    for line in toothless(expected, [each.results for each in found]):
        print(f"cmr-bench check: warning: {line}", file=sys.stderr)
    for row in expected.rows:
        scores = ", ".join(
            f"{metric} {score.mean:.4g} ± {score.sd:.2g} (allowed {score.tolerance:.2g})"
            for metric, score in row.metrics.items()
            if metric in row.judged
        )
        console.print(f"{row.title}: {scores}", highlight=False, soft_wrap=True)
    console.print(f"recorded {len(planned)} runs in {args.expected}", highlight=False, soft_wrap=True)
    return 0


def _count(text: str) -> int:
    try:
        number = int(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"expected an integer, not '{text}'") from error
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number}: must be at least 1")
    return number


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `cmr-bench check`."""
    parser.epilog = _HELP.replace("{page}", page("check"))
    parser.add_argument(
        "--suite", default="ci", metavar="NAME|FILE", help="name of a shipped suite, or a YAML file (default: ci)"
    )
    parser.add_argument(
        "--expected", type=Path, metavar="FILE", help="expected scores (default: those shipped for the suite ci)"
    )
    parser.add_argument(
        "--runs", type=Path, default=Path("runs"), metavar="DIR", help="folder for runs (default: %(default)s)"
    )
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="number of parallel runs (default: 1)")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--stored", action="store_true", help="compare stored results only, run nothing")
    which.add_argument("--again", action="store_true", help="repeat stored runs too")
    parser.add_argument(
        "--seed",
        type=int,
        metavar="S",
        help="random seed of the runs, instead of the suite's; the test is the same for any seed",
    )
    parser.add_argument("--record", action="store_true", help="record the expected scores instead of comparing")
    parser.add_argument(
        "--seeds", type=_count, default=5, metavar="N", help="with --record: seeds 0 to N - 1 (default: 5)"
    )
    parser.add_argument(
        "--force", action="store_true", help=f"with --record: record fewer than {LEAST_SEEDS} seeds all the same"
    )
    parser.add_argument(
        "--false-alarms",
        type=float,
        default=FALSE_ALARMS,
        metavar="RATE",
        help=f"with --record: false-alarm rate of the whole check on unchanged code (default: {FALSE_ALARMS})",
    )
    parser.add_argument(
        "--fail-on-rise", action="store_true", help="also fail, instead of warn, on a suspiciously better score"
    )
    parser.add_argument(
        "--markdown",
        type=Path,
        metavar="FILE",
        help=f"write a Markdown report (also appended to ${environment.JOB_SUMMARY}, if set)",
    )
    parser.add_argument("--junit", type=Path, metavar="FILE", help="write a JUnit XML report, one test case per score")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="OPTION=VALUE",
        help="set an option of every run, e.g. data.root=DIR",
    )


def run(args: argparse.Namespace) -> int:
    """Run `cmr-bench check`."""
    from cmr_bench.regression import formats as check_formats

    _refuse(args)
    console = Console()
    args.expected = expected_file(args.expected)
    expected = None if args.record else read_expected(args.expected)
    if expected is not None and expected.suite != suite_name(args.suite):
        raise UsageError(
            f"{args.expected} contains the scores of the suite '{expected.suite}', not of '{suite_name(args.suite)}': "
            "pass its own file as --expected, or record it with --record"
        )
    seeds = list(range(args.seeds)) if args.record else None if args.seed is None else [args.seed]
    overrides = ["--trainer.progress=false", *(f"--{option.removeprefix('--')}" for option in args.set)]
    planned = list(plan.jobs(plan.read_suite(args.suite), seeds, overrides))
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
        raise UsageError(f"--jobs {args.jobs}: must be at least 1")
    if not 0 < args.false_alarms < 1:
        raise UsageError(f"--false-alarms {args.false_alarms}: must be between 0 and 1")
    if args.record and args.expected is None:
        raise UsageError("--record needs --expected FILE, the file to write")
    if args.record and args.seeds < 2:
        raise UsageError("--seeds 1: at least 2 are needed to estimate the spread, better 5")
    if args.record and args.seeds < LEAST_SEEDS and not args.force:
        raise UsageError(
            f"--seeds {args.seeds}: the tolerance of so few seeds lets a broken method pass; record at least "
            f"{LEAST_SEEDS}, better 5, or pass --force"
        )
    if args.force and not args.record:
        raise UsageError("--force needs --record")
    if args.expected is None and args.suite != "ci":
        raise UsageError(f"no expected scores are shipped for '{args.suite}': pass --expected FILE")


def _run_missing(args: argparse.Namespace, planned: Sequence[Job], console: Console) -> tuple[int, dict[str, str]]:
    """Run what is not stored; return how many were stored, and the failed runs with their last lines."""
    stored = Stored(args.runs)
    there = [(None, False) if args.again else stored.find(job.config) for job in planned]
    n_stored = sum(done for _, done in there)
    if args.stored:
        return n_stored, {}
    todo = [(job, folder) for job, (folder, done) in zip(planned, there, strict=True) if not done]
    return n_stored, pool.run_suite(todo, args.runs, args.jobs, "csv", console, args.again) if todo else {}


def _write(args: argparse.Namespace, report: Report) -> None:
    from cmr_bench.regression import formats as check_formats

    if args.junit is not None:
        write_atomic(args.junit, check_formats.junit(report))
    summary = environment.value(environment.JOB_SUMMARY)
    if args.markdown is not None or summary:
        text = check_formats.markdown(report)
        if args.markdown is not None:
            write_atomic(args.markdown, text)
        if summary:
            try:
                with Path(summary).open("a", encoding="utf-8") as file:
                    file.write(text)
            except OSError as error:
                raise CmrBenchError(f"cannot write {summary} (${environment.JOB_SUMMARY}): {error.strerror}") from error


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
                f"expected {one.expected.mean:.4g}; look for a leak, or record again if the method improved"
            )
