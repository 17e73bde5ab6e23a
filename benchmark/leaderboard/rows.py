"""Rows and sections of the leaderboard: results that may be compared, repetitions averaged."""

from __future__ import annotations

import hashlib
import json
import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from cmr_bench import registry
from cmr_bench.evaluation.definitions import by_mid_rank, in_words_of_today
from cmr_bench.leaderboard.entries import Row as Row
from cmr_bench.leaderboard.entries import Section as Section
from cmr_bench.leaderboard.naming import SPLIT_SEED, difference, facts_of, flags_of, set_apart, split_seed_of, unseen_of
from cmr_bench.results.content import by_content
from cmr_bench.results.groups import PART
from cmr_bench.results.record import Result, short_commit

if TYPE_CHECKING:
    from cmr_bench.results.published import Published, PublishedRow

Measured = tuple[Result, dict[str, float]]


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
        Sections by data set, seen classes before unseen ones, the whole test split before folds and draws of pairs, the
        test split of most results first.
    """
    chosen = [r for r in results if data in (None, r.data) and family in (None, r.family)]
    found: list[Section] = []
    for bucket in [*comparable([r for r in chosen if split_seed_of(r) is None]), *_drawn(chosen)]:
        parts = {match[1] for result in bucket for name in result.metrics if (match := PART.fullmatch(name))}
        found += [section for part in ("", *sorted(parts)) for section in _sections(bucket, part) if section.rows]
    if published is not None:
        names = {data} if data is not None else {section.data for section in found}
        _add_published(found, published, names, family)
    place = {name: number for number, name in enumerate(registry.DATASETS)}
    found.sort(
        key=lambda section: (
            *(place.get(section.data, len(place)), section.data, bool(section.unseen)),
            *(section.folds or 0, _numbers(section.subsets), bool(section.draws)),
        )
    )
    explain(found)
    return found


def comparable(results: Sequence[Result]) -> list[list[Result]]:
    """Split results into lists of the same data set, test content and definitions of metrics, longest first."""
    buckets: list[tuple[list[Result], dict[str, str]]] = []
    # Scores from elsewhere come without ids of the items, so their fingerprint never equals that of a run.
    for result in sorted(results, key=lambda r: r.fidelity == "external"):
        definitions = definitions_of(result)
        for members, known in buckets:
            if _same_test(members[0], result) and not _differing(known, definitions):
                members.append(result)
                known |= definitions
                break
        else:
            buckets.append(([result], definitions))
    return sorted((members for members, _ in buckets), key=len, reverse=True)


def _numbers(subsets: str) -> tuple[int, ...]:
    return tuple(int(number) for number in subsets.split("x")[::-1] if number)


def _same_test(one: Result, other: Result) -> bool:
    if one.data != other.data or _test_size(one) != _test_size(other) or bool(unseen_of(one)) != bool(unseen_of(other)):
        return False
    return one.fingerprint == other.fingerprint or other.fidelity == "external"


def _differing(one: Mapping[str, str], other: Mapping[str, str]) -> list[str]:
    return [name for name in one if name in other and one[name] != other[name]]


def definitions_of(result: Result) -> dict[str, str]:
    """Return the definition of every metric that a result records."""
    found = result.protocol.get("definitions")
    stored = {name: str(text) for name, text in found.items()} if isinstance(found, dict) else {}
    return in_words_of_today(stored, result.metrics, result.tie_rate)


def _test_size(result: Result) -> tuple[int, int]:
    images, texts, *_ = [*result.split_sizes.get("test", []), 0, 0]
    return images, texts


@dataclass
class _Draws:
    """Results on draws of one data set that agree on the content of every draw and on what the metrics mean."""

    definitions: dict[str, str]
    tests: dict[int, str] = field(default_factory=dict)
    results: list[Result] = field(default_factory=list)


def _drawn(results: Sequence[Result]) -> list[list[Result]]:
    """Split the results on drawn test splits into lists of the same data set, draws and definitions of metrics."""
    buckets: list[_Draws] = []
    for result in results:
        seed, definitions = split_seed_of(result), definitions_of(result)
        if seed is None:
            continue
        for bucket in buckets:
            first = bucket.results[0]
            same = (first.data, _test_size(first)) == (result.data, _test_size(result))
            same = same and unseen_of(first) == unseen_of(result)
            same = same and bucket.tests.get(seed, result.fingerprint) == result.fingerprint
            if same and not _differing(bucket.definitions, definitions):
                bucket.tests[seed] = result.fingerprint
                bucket.results.append(result)
                bucket.definitions |= definitions
                break
        else:
            buckets.append(_Draws(dict(definitions), {seed: result.fingerprint}, [result]))
    return sorted((bucket.results for bucket in buckets), key=len, reverse=True)


def _sections(bucket: Sequence[Result], part: str) -> list[Section]:
    """Average the repetitions of each experiment, for the whole test split or for parts of it, such as ``fold5``.

    Rows over different draws of the test split do not share a section: what they differ in may be the draws.
    """
    groups: dict[str, list[Measured]] = defaultdict(list)
    for result in bucket:
        metrics = _metrics(result, part)
        if metrics:
            groups[_experiment(result)].append((result, metrics))
    by_draws: dict[tuple[int, ...], list[tuple[Row, Result]]] = defaultdict(list)
    for group in (part for alike in groups.values() for part in _of_one_content(alike)):
        row = _averaged(group)
        by_draws[row.draws].append((row, max(sorted(row.results, key=_age), key=lambda result: len(result.content))))
    found = []
    for draws, rows in sorted(by_draws.items(), key=lambda pair: -len(pair[0])):
        results = [result for row, _ in rows for result in row.results]
        folds = int(part.removeprefix("fold")) if part.startswith("fold") else None
        section = Section(bucket[0].data, folds, *_test_size(bucket[0]), _fingerprint(results), draws=draws)
        section.subsets = part.removeprefix("subsets") if part.startswith("subsets") else ""
        section.unseen = unseen_of(results[0])
        section.definitions = {name: text for result in results for name, text in definitions_of(result).items()}
        names = [(row.method, row.variant, row.features, row.detail) for row, _ in rows]
        words = set_apart(
            names, [facts_of(first) for _, first in rows], [min(map(_age, row.results)) for row, _ in rows]
        )
        for (row, _), apart in zip(rows, words, strict=True):
            row.detail = ", ".join(part for part in (row.detail, apart) if part)
        section.rows = [row for row, _ in rows]
        section.warnings = _twins(section.rows)
        found.append(section)
    return found


def _of_one_content(runs: Sequence[Measured]) -> list[list[Measured]]:
    """Split repetitions by what they read; of drawn splits each reads its own, so these are split draw by draw."""
    by_draw: dict[int | None, list[Measured]] = defaultdict(list)
    for result, metrics in runs:
        by_draw[split_seed_of(result)].append((result, metrics))
    found: dict[int, list[Measured]] = defaultdict(list)
    for each in by_draw.values():
        for number, places in enumerate(by_content([result.content for result, _ in each])):
            found[number] += [each[place] for place in places]
    return list(found.values())


def _age(result: Result) -> str:
    return f"{result.created} {result.run_id}"


def _fingerprint(results: Sequence[Result]) -> str:
    """Return the fingerprint of the test split, one for all its draws; empty where the results do not share it."""
    drawn = {(split_seed_of(result), result.fingerprint) for result in results if result.fidelity != "external"}
    if any(seed is not None for seed, _ in drawn):
        return hashlib.sha256(json.dumps(sorted(drawn, key=str)).encode()).hexdigest()
    return drawn.pop()[1] if len(drawn) == 1 else ""


def _averaged(group: Sequence[Measured]) -> Row:
    """Average the repetitions of one experiment: the latest of each seed and draw, no result twice."""
    latest: dict[tuple[int | None, int | None], Measured] = {}
    for result, metrics in sorted(group, key=lambda pair: _age(pair[0])):
        latest[split_seed_of(result), result.seed] = (result, metrics)
    known: dict[str, tuple[int | None, int | None]] = {}
    for place in sorted(latest, key=lambda place: (_age(latest[place][0]), str(place))):
        known.setdefault(_figures(latest[place][0]), place)
    kept = sorted(known.values(), key=lambda place: [(part is None, part or 0) for part in place])
    row = _row([latest[place] for place in kept])
    return replace(row, superseded=len(group) - len(latest), copies=len(latest) - len(kept))


def _figures(result: Result) -> str:
    """Return what two runs never have in common: every figure to the last digit, and the seconds they took."""
    return json.dumps([result.metrics, result.cost, result.selection.get("value")], sort_keys=True, default=str)


def _twins(rows: Sequence[Row]) -> list[str]:
    """Warn of results of different rows that are one result by their figures and the seconds they took."""
    twins: dict[str, list[str]] = defaultdict(list)
    for row in rows:
        for result in row.results:
            if result.cost:
                twins[_figures(result)].append(f"{row.label} ({result.run_id})")
    return [
        f"{' and '.join(names)} have the same figures and took the same seconds: one result under several names"
        for names in twins.values()
        if len(names) > 1
    ]


def _mixture(results: Sequence[Result]) -> list[str]:
    """Say in what results that are averaged differ beside their seed."""
    found = []
    for name in dict.fromkeys(name for result in results for name in result.versions):
        versions = dict.fromkeys(result.versions.get(name, "unknown") for result in results)
        found += [f"{name} {' and '.join(versions)}"] if len(versions) > 1 else []
    commits = dict.fromkeys(short_commit(result.commit) or "unknown" for result in results)
    found += [f"commits {' and '.join(commits)}"] if len(commits) > 1 else []
    devices = dict.fromkeys(result.device or "unknown" for result in results)
    found += [f"devices {' and '.join(devices)}"] if len(devices) > 1 else []
    trained = [result for result in results if result.selection.get("epoch") is not None]
    figures = [json.dumps([result.fingerprint, result.metrics], sort_keys=True) for result in trained]
    if len(set(figures)) < len(figures):
        found.append("seeds that have every figure in common, to the last digit")
    return found


def _metrics(result: Result, part: str) -> dict[str, float]:
    if not part:
        return {name: value for name, value in result.metrics.items() if not PART.fullmatch(name)}
    matches = ((PART.fullmatch(name), value) for name, value in result.metrics.items())
    return {match[2]: value for match, value in matches if match and match[1] == part}


def _experiment(result: Result) -> str:
    """Return what repetitions of one experiment have in common beside what they read; seed and draw may differ."""
    drawn = split_seed_of(result) is not None
    options = {name: value for name, value in result.options.items() if not (drawn and name == SPLIT_SEED)}
    same = (
        *(result.method, result.variant, result.family, result.fidelity, result.label_space, drawn),
        *(options, result.views, result.split_sizes, result.batch_size, result.skipped, sorted(flags_of(result))),
        *(result.invalid_rows, "" if drawn else result.fingerprint, difference(result)),
        *(result.protocol.get("folds"), result.protocol.get("subsets"), result.protocol.get("postprocess")),
        definitions_of(result),
    )
    return json.dumps(same, sort_keys=True, default=str)


def _row(runs: Sequence[Measured]) -> Row:
    results = [run for run, _ in runs]
    first = results[0]
    names = [name for name in runs[0][1] if all(name in metrics for _, metrics in runs)]
    values = {name: [metrics[name] for _, metrics in runs] for name in names}
    places = [split_seed_of(result) for result in results]
    draws = tuple(sorted({place for place in places if place is not None}))
    return Row(
        method=first.method,
        variant=first.variant,
        family=first.family,
        features=_features(first),
        metrics={name: _mean(each, places) for name, each in values.items()},
        spread={name: statistics.stdev(each) for name, each in values.items()} if len(runs) > 1 else {},
        seeds=tuple(result.seed for result in results),
        n_seeds=len({result.seed for result in results}),
        draws=draws,
        flags=(
            *flags_of(first),
            *(["mid_rank_recalls"] if by_mid_rank(definitions_of(first)) else []),
            *(["draws"] if draws else []),
        ),
        fidelity=first.fidelity,
        detail=difference(first),
        deviations=tuple(dict.fromkeys(line for result in results for line in result.deviations)),
        mixture=tuple(_mixture(results)),
        criterion=str(first.selection.get("criterion", "")),
        results=tuple(results),
    )


def _mean(values: Sequence[float], places: Sequence[int | None]) -> float:
    """Return the mean, of each draw first, so that a draw with more seeds weighs no more."""
    by_draw: dict[int | None, list[float]] = defaultdict(list)
    for value, place in zip(values, places, strict=True):
        by_draw[place].append(value)
    return statistics.fmean(statistics.fmean(each) for each in by_draw.values())


def _features(result: Result) -> str:
    parts = []
    for side in ("image", "text"):
        view = result.views.get(side)
        if isinstance(view, dict):
            parts.append(str(view.get("source") or view.get("kind") or "?"))
    return " + ".join(parts)


def _add_published(found: list[Section], published: Published, names: set[str], family: str | None) -> None:
    groups: dict[tuple[str, int | None, str], list[Row]] = defaultdict(list)
    for entry in published.rows:
        if entry.data in names and family in (None, entry.family):
            groups[entry.data, entry.folds, entry.subsets].append(_published_row(entry))
    for (data, folds, subsets), rows in groups.items():
        test = published.tests.get(data, {})
        fitting = (
            section
            for section in found
            if (section.data, section.folds, section.subsets, section.draws) == (data, folds, subsets, ())
            and not section.unseen
            and published.fits(data, section.n_images, section.n_texts)
        )
        section = next(fitting, None)
        if section is None:
            sizes = int(test.get("images", 0)), int(test.get("texts", 0))
            section = Section(data, folds, *sizes, subsets=subsets)
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
    first: dict[tuple[str, int | None, str, str, bool], Section] = {}
    for section in found:
        key = (section.data, section.folds, section.subsets, section.unseen, bool(section.draws))
        other = first.setdefault(key, section)
        if other is section:
            continue
        if (section.n_images, section.n_texts) != (other.n_images, other.n_texts):
            why = f"its test split has another size than {other.n_images:,} images and {other.n_texts:,} texts"
        elif section.draws != other.draws:
            why = f"its rows were measured on other draws ({', '.join(map(str, section.draws))})"
        elif section.fingerprint != other.fingerprint:
            one, two = (part.fingerprint[:8] or "unknown" for part in (section, other))
            why = f"its test split has the same size but another content (fingerprint {one}, above {two})"
        else:
            differing = _differing(section.definitions, other.definitions)
            why = f"it defines {', '.join(differing) or 'its metrics'} otherwise than above"
        section.note = f"Shown apart: {why}."
