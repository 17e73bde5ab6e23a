"""``cmr-bench leaderboard``: stored results side by side, repetitions averaged, published figures beside them."""

from __future__ import annotations

import argparse
import json
import math
import re
import statistics
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cmr_bench import registry
from cmr_bench.errors import CmrBenchError, UsageError, did_you_mean
from cmr_bench.results import Result, load_results

if TYPE_CHECKING:
    from cmr_bench.published import Published, PublishedRow

FORMATS = ("table", "markdown", "csv", "latex")
GROUPS: dict[str, tuple[str, ...]] = {
    "recall": (*(f"{way}_r{k}" for way in ("i2t", "t2i") for k in (1, 5, 10)), "mr", "rsum"),
    "map": ("i2t_map", "t2i_map", "map"),
    "rank": ("i2t_medr", "i2t_meanr", "t2i_medr", "t2i_meanr"),
}
LOWER_IS_BETTER = GROUPS["rank"]
_SORT_WORDS = ("method", "family", "seeds")
_FOLD = re.compile(r"fold(\d+)_(.+)")

_EXAMPLES = """\
metrics are names as in result.json (i2t_r1, map_at_r, ...) or groups: recall, map, rank, all.

examples:
  cmr-bench leaderboard --data flickr8k
  cmr-bench leaderboard --metrics recall map --sort i2t_r1
  cmr-bench leaderboard --data pascal --format latex --out table.tex
  cmr-bench leaderboard --suite adcsl_tables
"""


@dataclass
class Row:
    """One line of the leaderboard: a method measured over seeds, or one that a paper reports.

    Attributes:
        method: Name of the method.
        variant: Variant of its recipe, or empty.
        family: Family of the survey, or empty.
        features: What the images and texts were read as.
        source: Key of the publication; empty for a measured row.
        metrics: Mean over the seeds, of metrics that every seed has.
        spread: Standard deviation over the seeds, of the same metrics; empty for a single seed.
        seeds: The seeds; None stands for a result without one.
        n_seeds: Number of seeds; None where a publication does not say.
        flags: What a reader must know of the row.
        fidelity: paper, code, reconstruction or external.
        detail: What sets the row apart from others of the same name, features and flags.
        superseded: Results left out because a later one has the same seed.
        criterion: Criterion of model selection, rsum or map, where recorded.
        title: What a paper's table calls the row; empty for method and variant.
        published: What the paper reports for this row, where a measured row stands beside it.
        published_spread: Standard deviation over seeds that the paper reports.
        results: The results that a measured row comes from, one a seed.
    """

    method: str
    variant: str = ""
    family: str = ""
    features: str = ""
    source: str = ""
    metrics: dict[str, float] = field(default_factory=dict)
    spread: dict[str, float] = field(default_factory=dict)
    seeds: tuple[int | None, ...] = ()
    n_seeds: int | None = None
    flags: tuple[str, ...] = ()
    fidelity: str = ""
    detail: str = ""
    superseded: int = 0
    criterion: str = ""
    title: str = ""
    published: Mapping[str, float] = field(default_factory=dict)
    published_spread: Mapping[str, float] = field(default_factory=dict)
    results: tuple[Result, ...] = field(default=(), repr=False, compare=False)

    @property
    def measured(self) -> bool:
        """Whether the row comes from stored results."""
        return not self.source

    @property
    def label(self) -> str:
        """Title, or method and variant, and the detail in one text."""
        inner = ", ".join(part for part in ("" if self.title else self.variant, self.detail) if part)
        name = self.title or self.method
        return f"{name} ({inner})" if inner else name

    def difference(self, name: str) -> float | None:
        """Return measured minus published, or None where either is missing."""
        if name not in self.metrics or name not in self.published:
            return None
        return self.metrics[name] - self.published[name]

    def inside(self, name: str) -> bool | None:
        """Tell whether the difference lies inside two standard deviations.

        The variance over the measured seeds and, where the paper gives one, the published variance add up.

        Returns:
            None where there is no difference or only one seed to judge it by.
        """
        difference = self.difference(name)
        if difference is None or name not in self.spread:
            return None
        allowed = 2 * math.hypot(self.spread[name], self.published_spread.get(name, 0.0))
        return abs(difference) <= allowed or math.isclose(abs(difference), allowed)


@dataclass
class Section:
    """Rows that may be compared: scored on the same test split under the same protocol.

    Attributes:
        data: Name of the data set.
        folds: Number of folds that the metrics are means over; None for the whole test split.
        n_images: Images of the test split; 0 where unknown.
        n_texts: Texts of the test split; 0 where unknown.
        fingerprint: Content fingerprint of the test split, where all measured rows share one.
        definitions: Definition of every metric, as the results record it.
        rows: The rows, measured ones first.
        note: Why these rows stand apart from others of the data set.
        remark: What to bear in mind with the published rows.
        heading: What the table is called, where it is one of a suite.
        paper: Key of the publication whose figures stand beside the measured ones; empty where there are none.
        columns: Metrics and groups to show; None chooses by what the rows have.
        left_out: Results left out of a suite's table because they carry a flag.
    """

    data: str
    folds: int | None
    n_images: int
    n_texts: int
    fingerprint: str = ""
    definitions: Mapping[str, str] = field(default_factory=dict)
    rows: list[Row] = field(default_factory=list)
    note: str = ""
    remark: str = ""
    heading: str = ""
    paper: str = ""
    columns: tuple[str, ...] | None = None
    left_out: int = 0

    @property
    def title(self) -> str:
        """Heading, data set and protocol in words."""
        return f"{self.heading}. {self._protocol}" if self.heading else self._protocol

    @property
    def _protocol(self) -> str:
        if self.folds is None:
            images = f", {self.n_images:,} images" if self.n_images else ""
            texts = f" and {self.n_texts:,} texts" if self.n_texts else ""
            return f"{self.data}: whole test split{images}{texts}"
        each = f" of {self.n_images // self.folds:,} images" if self.n_images else ""
        return f"{self.data}: mean of {self.folds} folds{each}"

    def names(self) -> list[str]:
        """Every metric of any row, known ones first."""
        there = {name for row in self.rows for name in (*row.metrics, *row.published)}
        known = [name for group in GROUPS.values() for name in group if name in there]
        return known + sorted(there.difference(known))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``cmr-bench leaderboard``."""
    parser.epilog = _EXAMPLES
    parser.add_argument("--data", metavar="NAME", help="one data set; all that have results otherwise")
    parser.add_argument(
        "--suite", metavar="NAME|FILE", help="the tables of a suite: rows in its order, published beside measured"
    )
    parser.add_argument("--runs", type=Path, metavar="DIR", help="folder of results (default: runs)")
    parser.add_argument("--format", choices=FORMATS, default="table", help="default: table")
    parser.add_argument(
        "--metrics", nargs="+", metavar="NAME", help="columns (default: what the methods were selected by; csv: all)"
    )
    parser.add_argument("--family", metavar="NAME", help=f"one family: {', '.join(registry.FAMILIES)}, ...")
    parser.add_argument(
        "--published", action=argparse.BooleanOptionalAction, default=True, help="figures of papers (default: shown)"
    )
    parser.add_argument(
        "--sort", metavar="KEY", help="a metric, method, family or seeds (default: rsum or map, best first)"
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="OPTION=VALUE", help="with --suite: as given to `cmr-bench suite`"
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="write to a file")


def run(args: argparse.Namespace) -> int:
    """Print or write the leaderboard.

    Raises:
        UsageError: For names that do not exist.
        CmrBenchError: If there is no folder of results and nothing published to show.
    """
    from cmr_bench.published import load_published

    runs = args.runs or Path("runs")
    if args.runs is not None and not runs.is_dir():
        raise UsageError(f"--runs {runs} is no folder; results are looked for in DIR/<data>/<method>/<run>/result.json")
    published = load_published() if args.published else None
    if args.suite is not None:
        return _show(args, *_suite_tables(args, runs, published))
    if args.set:
        raise UsageError("--set belongs to --suite: it names the options that its runs were started with")
    results, problems = load_results(runs)
    _left_out(problems)
    _check_names(args, results, published)
    found = sections(results, published, data=args.data, family=args.family)
    if not found:
        return _nothing(args, runs, results, published)
    if not any(row.measured for section in found for row in section.rows):
        print(_no_results(args, runs, results), file=sys.stderr)
    wanted = _wanted(args, found)
    for section in found:
        section.rows = order(section.rows, [args.sort] if args.sort else _main_metrics(section, wanted))
    return _show(args, found, wanted)


def _left_out(problems: Iterable[str]) -> None:
    for problem in problems:
        print(f"cmr-bench leaderboard: left out: {problem}", file=sys.stderr)


def _suite_tables(
    args: argparse.Namespace, runs: Path, published: Published | None
) -> tuple[list[Section], list[str] | None]:
    """Return the tables of a suite and the metrics that the user asks for."""
    for option in ("sort", "family"):
        if getattr(args, option) is not None:
            raise UsageError(f"--{option} does not go with --suite: its tables have the suite's own rows and order")
    from cmr_bench import suite, suite_tables

    content = suite.read_suite(args.suite)
    planned = list(suite.jobs(content, None, [f"--{option.removeprefix('--')}" for option in args.set]))
    results, problems = suite.stored_results(planned, runs)
    _left_out(problems)
    if not results:
        print(f"No results of this suite in {runs}. Make them: cmr-bench suite {args.suite}", file=sys.stderr)
    tables = suite_tables.read_tables(content, args.suite)
    if args.data is not None:
        names = {table.data for table in tables}
        if args.data not in names:
            raise UsageError(f"--data {args.data}: the suite has no table of it.{did_you_mean(args.data, names)}")
        tables = [table for table in tables if table.data == args.data]
    found = suite_tables.table_sections(tables, results, published)
    return found, _wanted(args, found) if args.metrics is not None else None


def _show(args: argparse.Namespace, found: Sequence[Section], wanted: Sequence[str] | None) -> int:
    from cmr_bench import leaderboard_formats as formats

    if args.out is not None:
        from cmr_bench.files import write_atomic

        write_atomic(args.out, formats.render(args.format, found, wanted))
        print(f"written: {args.out}")
    elif args.format == "table":
        formats.show(found, wanted)
    else:
        print(formats.render(args.format, found, wanted), end="")
    return 0


def columns(section: Section, wanted: Sequence[str] | None) -> list[str]:
    """Choose the metrics to show.

    Args:
        section: The rows.
        wanted: Names of metrics and groups; None takes the section's own, else the group by which the methods were
            selected.

    Returns:
        Names of metrics that at least one row has, or that the section asks for.
    """
    there = section.names()
    if wanted is None and section.columns is not None:
        return list(dict.fromkeys(name for word in section.columns for name in GROUPS.get(word, (word,))))
    if wanted is None:
        wanted = ("map",) if "map" in there and (_by_map(section) or "i2t_r1" not in there) else ("recall",)
        if not any(name in there for name in GROUPS[wanted[0]]):
            wanted = ("all",)
    chosen: dict[str, None] = {}
    for name in wanted:
        chosen |= dict.fromkeys(there if name == "all" else GROUPS.get(name, (name,)))
    return [name for name in chosen if name in there]


def best(rows: Iterable[Row], names: Iterable[str]) -> dict[str, float]:
    """Return the best value of every metric among the measured rows, where there are at least two to compare.

    Rows whose weights were chosen on the test split take no part.
    """
    return best_of([row.metrics for row in rows if row.measured and "selected_on_test" not in row.flags], names)


def best_of(figures: Sequence[Mapping[str, float]], names: Iterable[str]) -> dict[str, float]:
    """Return the best value of every metric that at least two of the figures have."""
    found = {}
    for name in names:
        values = [metrics[name] for metrics in figures if name in metrics]
        if len(values) > 1:
            found[name] = min(values) if name in LOWER_IS_BETTER else max(values)
    return found


def order(rows: Iterable[Row], keys: Sequence[str]) -> list[Row]:
    """Sort rows by a metric (best first, blanks last), or by ``method``, ``family`` or ``seeds``.

    Measured rows come before published ones, except by method, where the same method stands together.

    Args:
        rows: The rows.
        keys: What to sort by; a later key decides among rows that are equal in, or lack, the earlier ones.

    Returns:
        The rows in order.
    """

    def rank(row: Row, key: str) -> tuple[bool, float]:
        if key == "seeds":
            return (row.n_seeds is None, -(row.n_seeds or 0))
        if key not in row.metrics:
            return (True, 0.0)
        return (False, row.metrics[key] if key in LOWER_IS_BETTER else -row.metrics[key])

    def place(row: Row) -> tuple[Any, ...]:
        words = {"method": (row.method,), "family": (not row.measured, row.family or "~")}
        first = next((words[key] for key in keys if key in words), (not row.measured,))
        ranks = [rank(row, key) for key in keys if key not in words]
        return (*first, not row.measured, ranks, row.method, row.source, row.variant, row.detail, row.features)

    return sorted(rows, key=place)


def sections(
    results: Iterable[Result], published: Published | None = None, *, data: str | None = None, family: str | None = None
) -> list[Section]:
    """Arrange results and published figures into sections of comparable rows.

    Args:
        results: Stored results.
        published: Figures of papers; None leaves them out.
        data: One data set; None takes all that have results.
        family: One family; None takes all.

    Returns:
        Sections by data set, the whole test split before folds, the test split of most results first.
    """
    chosen = [r for r in results if data in (None, r.data) and family in (None, r.family)]
    found: list[Section] = []
    for bucket in comparable(chosen):
        folds = {int(match[1]) for result in bucket for name in result.metrics if (match := _FOLD.fullmatch(name))}
        found += [section for n in (None, *sorted(folds)) if (section := _section(bucket, n)).rows]
    if published is not None:
        names = {data} if data is not None else {section.data for section in found}
        _add_published(found, published, names, family)
    place = {name: number for number, name in enumerate(registry.DATASETS)}
    found.sort(key=lambda section: (place.get(section.data, len(place)), section.data, section.folds or 0))
    explain(found)
    return found


def comparable(results: Sequence[Result]) -> list[list[Result]]:
    """Split results into lists of the same data set, test content and definitions of metrics, longest first."""
    buckets: list[tuple[list[Result], dict[str, str]]] = []
    # Scores from elsewhere come without ids of the items, so their fingerprint never equals that of a run.
    for result in sorted(results, key=lambda r: r.fidelity == "external"):
        definitions = _definitions(result)
        for members, known in buckets:
            if _same_test(members[0], result) and not _differing(known, definitions):
                members.append(result)
                known |= definitions
                break
        else:
            buckets.append(([result], definitions))
    return sorted((members for members, _ in buckets), key=len, reverse=True)


def _same_test(one: Result, other: Result) -> bool:
    if one.data != other.data or _test_size(one) != _test_size(other):
        return False
    return one.fingerprint == other.fingerprint or other.fidelity == "external"


def _differing(one: Mapping[str, str], other: Mapping[str, str]) -> list[str]:
    return [name for name in one if name in other and one[name] != other[name]]


def _definitions(result: Result) -> dict[str, str]:
    found = result.protocol.get("definitions")
    return {name: str(text) for name, text in found.items()} if isinstance(found, dict) else {}


def _test_size(result: Result) -> tuple[int, int]:
    images, texts, *_ = [*result.split_sizes.get("test", []), 0, 0]
    return images, texts


def _section(bucket: Sequence[Result], folds: int | None) -> Section:
    """Average the repetitions of each experiment, for the whole test split or for one number of folds."""
    groups: dict[str, list[tuple[Result, dict[str, float]]]] = defaultdict(list)
    for result in bucket:
        metrics = _metrics(result, folds)
        if metrics:
            groups[_experiment(result)].append((result, metrics))
    fingerprints = {result.fingerprint for result in bucket if result.fidelity != "external"}
    fingerprint = fingerprints.pop() if len(fingerprints) == 1 else ""
    definitions = {name: text for result in bucket for name, text in _definitions(result).items()}
    section = Section(bucket[0].data, folds, *_test_size(bucket[0]), fingerprint, definitions)
    facts = []
    for group in groups.values():
        latest: dict[int | None, tuple[Result, dict[str, float]]] = {}
        for result, metrics in sorted(group, key=lambda pair: (pair[0].created, pair[0].run_id)):
            latest[result.seed] = (result, metrics)
        runs = [latest[seed] for seed in sorted(latest, key=lambda seed: (seed is None, seed or 0))]
        section.rows.append(replace(_row(runs), superseded=len(group) - len(runs)))
        facts.append(_facts(runs[0][0]))
    _set_apart(section.rows, facts)
    return section


def _metrics(result: Result, folds: int | None) -> dict[str, float]:
    if folds is None:
        return {name: value for name, value in result.metrics.items() if not _FOLD.fullmatch(name)}
    matches = ((_FOLD.fullmatch(name), value) for name, value in result.metrics.items())
    return {match[2]: value for match, value in matches if match and int(match[1]) == folds}


def _experiment(result: Result) -> str:
    """Return what repetitions of one experiment have in common; the seed is all in which they may differ."""
    same = (
        *(result.method, result.variant, result.family, result.fidelity, result.fingerprint, result.label_space),
        *(result.options, result.views, result.split_sizes, result.batch_size, result.skipped, sorted(result.flags)),
        *(result.protocol.get("folds"), result.protocol.get("postprocess"), _definitions(result)),
    )
    return json.dumps(same, sort_keys=True, default=str)


def _row(runs: Sequence[tuple[Result, Mapping[str, float]]]) -> Row:
    result = runs[0][0]
    names = [name for name in runs[0][1] if all(name in metrics for _, metrics in runs)]
    values = {name: [metrics[name] for _, metrics in runs] for name in names}
    flags = [*result.flags]
    flags += ["external"] if result.fidelity == "external" else []
    flags += ["skipped"] if any(result.skipped.values()) else []
    return Row(
        method=result.method,
        variant=result.variant,
        family=result.family,
        features=_features(result),
        metrics={name: statistics.fmean(each) for name, each in values.items()},
        spread={name: statistics.stdev(each) for name, each in values.items()} if len(runs) > 1 else {},
        seeds=tuple(run.seed for run, _ in runs),
        n_seeds=len(runs),
        flags=tuple(dict.fromkeys(flags)),
        fidelity=result.fidelity,
        criterion=str(result.selection.get("criterion", "")),
        results=tuple(run for run, _ in runs),
    )


def _features(result: Result) -> str:
    parts = []
    for side in ("image", "text"):
        view = result.views.get(side)
        if isinstance(view, dict):
            parts.append(str(view.get("source") or view.get("kind") or "?"))
    return " + ".join(parts)


def _facts(result: Result) -> dict[str, str]:
    """Return what may set apart two rows of one method, in words."""
    facts = {name.partition(".")[2]: f"{name.partition('.')[2]}={value}" for name, value in result.options.items()}
    facts |= {name: f"{name} {images:,}" for name, (images, *_) in result.split_sizes.items() if name != "test"}
    for side, view in result.views.items():
        if isinstance(view, dict):
            facts[f"{side} view"] = f"{side} {view.get('kind')} {view.get('shape')}"
    facts["batch"] = f"batch {result.batch_size}" if result.batch_size else ""
    facts["fidelity"] = result.fidelity
    facts["labels"] = f"labels: {result.label_space}"
    facts["post"] = str(result.protocol.get("postprocess") or "")
    facts["folds"] = f"folds {result.protocol.get('folds')}"
    facts["skipped"] = f"{sum(result.skipped.values())} images left out" if any(result.skipped.values()) else ""
    facts["fingerprint"] = f"test {result.fingerprint[-8:]}" if result.fingerprint else ""
    return facts


def _set_apart(rows: Sequence[Row], facts: Sequence[Mapping[str, str]]) -> None:
    """Give rows of the same name and features a detail: the facts in which they differ."""
    alike: dict[tuple[Any, ...], list[int]] = defaultdict(list)
    for number, row in enumerate(rows):
        alike[row.method, row.variant, row.features].append(number)
    for numbers in alike.values():
        names = dict.fromkeys(name for number in numbers for name in facts[number])
        differing = [name for name in names if len({facts[number].get(name, "") for number in numbers}) > 1]
        for number in numbers:
            rows[number].detail = ", ".join(text for name in differing if (text := facts[number].get(name, "")))


def _add_published(found: list[Section], published: Published, names: set[str], family: str | None) -> None:
    groups: dict[tuple[str, int | None], list[Row]] = defaultdict(list)
    for entry in published.rows:
        if entry.data in names and family in (None, entry.family):
            groups[entry.data, entry.folds].append(_published_row(entry))
    for (data, folds), rows in groups.items():
        test = published.tests.get(data, {})
        fitting = (
            section
            for section in found
            if (section.data, section.folds) == (data, folds)
            and published.fits(data, section.n_images, section.n_texts)
        )
        section = next(fitting, None)
        if section is None:
            section = Section(data, folds, int(test.get("images", 0)), int(test.get("texts", 0)))
            found.append(section)
        section.rows += rows
        section.remark = str(test.get("remark", ""))


def _published_row(entry: PublishedRow) -> Row:
    return Row(
        method=entry.method,
        variant=entry.variant,
        family=entry.family,
        source=entry.source,
        metrics=dict(entry.metrics),
        spread=dict(entry.spread),
        n_seeds=entry.seeds,
        flags=entry.flags,
    )


def explain(found: Sequence[Section]) -> None:
    """Say of each section after the first of its data set and protocol why it stands apart."""
    first: dict[tuple[str, int | None], Section] = {}
    for section in found:
        other = first.setdefault((section.data, section.folds), section)
        if other is section:
            continue
        if (section.n_images, section.n_texts) != (other.n_images, other.n_texts):
            why = f"its test split has another size than {other.n_images:,} images and {other.n_texts:,} texts"
        elif section.fingerprint != other.fingerprint:
            one, two = (part.fingerprint[:8] or "unknown" for part in (section, other))
            why = f"its test split has the same size but another content (fingerprint {one}, above {two})"
        else:
            differing = _differing(section.definitions, other.definitions)
            why = f"it defines {', '.join(differing) or 'its metrics'} otherwise than above"
        section.note = f"Shown apart: {why}."


def _main_metrics(section: Section, wanted: Sequence[str] | None) -> list[str]:
    shown = columns(section, wanted)
    first = ("map", "rsum") if _by_map(section) else ("rsum", "map")
    return [*(name for name in first if name in shown), *(name for name in shown if name not in first)]


def _by_map(section: Section) -> bool:
    return any(row.criterion == "map" for row in section.rows)


def _wanted(args: argparse.Namespace, found: Sequence[Section]) -> list[str] | None:
    known = sorted({name for section in found for name in section.names()})
    if args.sort is not None and args.sort not in (*known, *_SORT_WORDS):
        raise UsageError(
            f"--sort {args.sort}: no such column.{did_you_mean(args.sort, (*known, *_SORT_WORDS))} "
            f"There are {', '.join((*_SORT_WORDS, *known))}"
        )
    if args.metrics is None:
        return ["all"] if args.format == "csv" else None
    wanted = [name for word in args.metrics for name in word.split(",") if name]
    groups = (*GROUPS, "all")
    for name in wanted:
        if name not in groups and name not in known:
            raise UsageError(
                f"--metrics {name}: no such metric.{did_you_mean(name, (*groups, *known))} "
                f"There are {', '.join((*groups, *known))}"
            )
    return wanted


def _check_names(args: argparse.Namespace, results: Sequence[Result], published: Published | None) -> None:
    rows = published.rows if published is not None else ()
    data = {*registry.DATASETS, *(r.data for r in results), *(r.data for r in rows)}
    if args.data is not None and args.data not in data:
        raise UsageError(f"--data {args.data}: no such data set.{did_you_mean(args.data, data)}")
    families = {*registry.FAMILIES, *(r.family for r in results)} - {""}
    if args.family is not None and args.family not in families:
        raise UsageError(
            f"--family {args.family}: no such family.{did_you_mean(args.family, families)} "
            f"There are {', '.join(sorted(families))}"
        )


def _no_results(args: argparse.Namespace, runs: Path, results: Sequence[Result]) -> str:
    of = "".join([f" of {args.data}" if args.data else "", f" of family {args.family}" if args.family else ""])
    data = f" --data {args.data}" if args.data else ""
    there = ", ".join(sorted({result.data for result in results}))
    others = f"; there are results of {there}" if there and of else ""
    return f"No results{of} in {runs}{others}. Make one: cmr-bench run --model vsepp{data}"


def _nothing(args: argparse.Namespace, runs: Path, results: Sequence[Result], published: Published | None) -> int:
    if not runs.is_dir():
        data = f" --data {args.data}" if args.data else ""
        raise CmrBenchError(
            f"no results: there is no folder '{runs}' here. "
            f"Make one: cmr-bench run --model vsepp{data}, or point to another with --runs DIR"
        )
    print(_no_results(args, runs, results))
    return 0
