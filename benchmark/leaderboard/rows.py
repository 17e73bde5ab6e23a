"""Rows and sections of the leaderboard: results that may be compared, repetitions averaged."""

from __future__ import annotations

import json
import math
import re
import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from cmr_bench import registry
from cmr_bench.evaluation.definitions import by_mid_rank, in_words_of_today
from cmr_bench.results.content import by_content
from cmr_bench.results.record import Result

if TYPE_CHECKING:
    from cmr_bench.results.published import Published, PublishedRow
from cmr_bench.results.groups import GROUPS

_FOLD = re.compile(r"fold(\d+)_(.+)")


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
        superseded: Results not shown because a later one has the same seed.
        criterion: Criterion of model selection, rsum or map, where recorded.
        title: What a paper's table calls the row; empty for method and variant.
        published: What the paper reports for this row, where a measured row stands beside it.
        published_spread: Standard deviation over seeds that the paper reports.
        results: The results that a measured row comes from, one per seed.
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
        """Return whether the difference lies inside two standard deviations.

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
        left_out: Results not shown in a suite's table because they carry a flag.
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
    stored = {name: str(text) for name, text in found.items()} if isinstance(found, dict) else {}
    return in_words_of_today(stored, result.metrics, result.tie_rate)


def _test_size(result: Result) -> tuple[int, int]:
    images, texts, *_ = [*result.split_sizes.get("test", []), 0, 0]
    return images, texts


def _section(bucket: Sequence[Result], folds: int | None) -> Section:
    """Average the repetitions of each experiment, for the whole test split or for one number of folds."""
    alike: dict[str, list[tuple[Result, dict[str, float]]]] = defaultdict(list)
    for result in bucket:
        metrics = _metrics(result, folds)
        if metrics:
            alike[_experiment(result)].append((result, metrics))
    groups = [
        [runs[place] for place in places]
        for runs in alike.values()
        for places in by_content([result.content for result, _ in runs])
    ]
    fingerprints = {result.fingerprint for result in bucket if result.fidelity != "external"}
    fingerprint = fingerprints.pop() if len(fingerprints) == 1 else ""
    definitions = {name: text for result in bucket for name, text in _definitions(result).items()}
    section = Section(bucket[0].data, folds, *_test_size(bucket[0]), fingerprint, definitions)
    facts = []
    for group in groups:
        latest: dict[int | None, tuple[Result, dict[str, float]]] = {}
        for result, metrics in sorted(group, key=lambda pair: (pair[0].created, pair[0].run_id)):
            latest[result.seed] = (result, metrics)
        runs = [latest[seed] for seed in sorted(latest, key=lambda seed: (seed is None, seed or 0))]
        section.rows.append(replace(_row(runs), superseded=len(group) - len(runs)))
        facts.append(_facts(max((run for run, _ in runs), key=lambda run: len(run.content))))
    _set_apart(section.rows, facts)
    return section


def _metrics(result: Result, folds: int | None) -> dict[str, float]:
    if folds is None:
        return {name: value for name, value in result.metrics.items() if not _FOLD.fullmatch(name)}
    matches = ((_FOLD.fullmatch(name), value) for name, value in result.metrics.items())
    return {match[2]: value for match, value in matches if match and int(match[1]) == folds}


def _experiment(result: Result) -> str:
    """Return what repetitions of one experiment have in common beside what they read; the seed may differ."""
    same = (
        *(result.method, result.variant, result.family, result.fidelity, result.fingerprint, result.label_space),
        *(result.options, result.views, result.split_sizes, result.batch_size, result.skipped, sorted(result.flags)),
        result.invalid_rows,
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
    flags += ["mid_rank_recalls"] if by_mid_rank(_definitions(result)) else []
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
    facts |= {
        name: f"{name} {images:,}"
        for name, sizes in result.split_sizes.items()
        for images in sizes[:1]
        if name != "test"
    }
    for side, view in result.views.items():
        if isinstance(view, dict):
            facts[f"{side} view"] = f"{side} {view.get('kind')} {view.get('shape')}"
    facts["batch"] = f"batch {result.batch_size}" if result.batch_size else ""
    facts["fidelity"] = result.fidelity
    facts["labels"] = f"labels: {result.label_space}"
    facts["post"] = str(result.protocol.get("postprocess") or "")
    facts["folds"] = f"folds {result.protocol.get('folds')}"
    facts["skipped"] = f"{sum(result.skipped.values())} images skipped" if any(result.skipped.values()) else ""
    for part in ("train", "val"):
        facts[f"{part} content"] = f"{part} {result.content[part][:8]}" if part in result.content else ""
    for side in ("images", "texts", "model"):
        values = [value for part, value in result.content.items() if side in part.split(".")]
        facts[f"{side} content"] = f"{side} {sha256(' '.join(values).encode()).hexdigest()[:8]}" if values else ""
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
