"""Two runs, or two rows of the leaderboard, against each other: paired query by query, or draw by draw."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.special import stdtr, stdtrit

from cmr_bench.evaluation.bootstrap import paired
from cmr_bench.evaluation.per_query import RANKS_FILE, PerQuery, draws, read_per_query, with_sums
from cmr_bench.leaderboard.checks import load_checked, read_checked
from cmr_bench.leaderboard.naming import changes_of, flags_of, label_of, split_seed_of
from cmr_bench.leaderboard.rows import definitions_of, sections
from cmr_bench.results.groups import GROUPS, LOWER_IS_BETTER
from cmr_bench.results.record import RESULT_FILE, Result, short_commit
from cmr_bench.support.errors import CmrBenchError, UsageError, did_you_mean

CONFIDENCE = 0.95
_FEW = 5


@dataclass(frozen=True)
class Side:
    """One side of a comparison.

    Attributes:
        label: What it is called.
        results: Run folder and result of each of its runs.
    """

    label: str
    results: tuple[tuple[Path, Result], ...]

    def on(self, fingerprint: str) -> list[tuple[Path, Result]]:
        """Return the runs on the test split of a fingerprint."""
        return [(folder, result) for folder, result in self.results if result.fingerprint == fingerprint]

    @property
    def splits(self) -> list[str]:
        """Fingerprints of its test splits."""
        return list(dict.fromkeys(result.fingerprint for _, result in self.results))

    @property
    def flags(self) -> list[str]:
        """What a reader must know of any of its runs."""
        return list(dict.fromkeys(flag for _, result in self.results for flag in flags_of(result)))


@dataclass(frozen=True)
class Verdict:
    """One metric of two sides.

    Attributes:
        name: Metric.
        one: Mean of the one.
        other: Mean of the other.
        difference: The one minus the other.
        low: Lower end of the interval of the difference.
        high: Upper end of it.
        p: Two-sided level at which the difference is told from none.
    """

    name: str
    one: float
    other: float
    difference: float
    low: float
    high: float
    p: float

    @property
    def better(self) -> int:
        """1 where the one is better, -1 where the other is, 0 where the interval holds zero."""
        if self.low <= 0 <= self.high:
            return 0
        return 1 if (self.difference > 0) != (self.name in LOWER_IS_BETTER) else -1


@dataclass(frozen=True)
class Versus:
    """Two sides compared.

    Attributes:
        verdicts: One a metric.
        n_splits: Number of test splits that both were scored on.
        how: How the intervals were made, in one sentence.
        notes: What to bear in mind, a line each.
    """

    verdicts: tuple[Verdict, ...]
    n_splits: int
    how: str
    notes: tuple[str, ...] = ()


def find_side(name: str, runs: Path, data: str | None, draws: bool = False) -> Side:
    """Return the runs that a run folder, or a row of the leaderboard, stands for.

    Args:
        name: A run folder, or the label of a row such as ``vsepp (margin=0.3)``.
        runs: Folder of runs in which rows are looked for.
        data: One data set; None takes the only one that has such a row.
        draws: Take the row over draws of the test split, where there is another on the data set's own split.

    Raises:
        UsageError: If there is no such run or row, or more than one.
        CmrBenchError: If the result of a run folder contradicts itself.
    """
    folder = Path(name).expanduser()
    folder = folder.parent if folder.name == RESULT_FILE else folder
    if (folder / RESULT_FILE).is_file():
        found, problems = read_checked([folder])
        if not found:
            raise CmrBenchError("; ".join(problems))
        ((_, result),) = found
        seed = "" if result.seed is None else f", seed {result.seed}"
        return Side(label_of(result) + seed, tuple(found))
    if folder.is_dir() and len(folder.parts) > 1:
        raise UsageError(f"{name} holds no {RESULT_FILE}: name a run folder, or a row as the leaderboard shows it")
    stored, _ = load_checked(runs)
    of = {id(result): (place, result) for place, result in stored}
    rows = [row for section in sections([result for _, result in stored], data=data) for row in section.rows]
    match = [row for row in rows if row.label == name]
    match = [row for row in match if bool(row.draws) == draws] or match
    if len(match) == 1:
        return Side(name, tuple(of[id(result)] for result in match[0].results))
    if not match:
        labels = sorted({row.label for row in rows})
        rest = f" and {len(labels) - 9} more" if len(labels) > 9 else ""
        there = f" There are {', '.join(labels[:9])}{rest}" if labels else " There are no results"
        raise UsageError(f"no run folder and no row '{name}' in {runs}.{did_you_mean(name, labels)}{there}")
    where = sorted({f"{row.results[0].data}, {row.features}" for row in match})
    raise UsageError(
        f"'{name}' names {len(match)} rows in {runs} ({'; '.join(where)}): pass --data NAME, or name run folders"
    )


def versus(one: Side, other: Side, resamples: int = 1000) -> Versus:
    """Compare two sides on the test splits that both were scored on.

    On one split this is the paired bootstrap over its queries. On several draws of the test split the differences of
    the draws are judged by the t-test for overlapping splits (Nadeau and Bengio, Machine Learning 52, 2003, section
    3.3), whose variance grows by the ratio of test to training items.

    Raises:
        CmrBenchError: If they share no test split, define metrics otherwise, or keep no outcomes of queries.
    """
    shared = [split for split in one.splits if split in other.splits]
    first, second = one.results[0][1], other.results[0][1]
    if not shared:
        raise CmrBenchError(
            f"no common test split: {one.label} was scored on {_splits(one)}, {other.label} on {_splits(other)}"
        )
    mine, theirs = definitions_of(first), definitions_of(second)
    differing = [name for name in mine if name in theirs and mine[name] != theirs[name]]
    if differing:
        raise CmrBenchError(f"{one.label} and {other.label} define {', '.join(differing)} otherwise")
    notes = [f"{side.label}: {', '.join(flags)}" for side in (one, other) if (flags := flags_of(side.results[0][1]))]
    most = max(len(one.splits), len(other.splits))
    if len(shared) < most:
        notes.append(f"compared on the {len(shared)} test splits that both have, of {most}")
    if 1 < len(shared) < _FEW:
        notes.append(f"{len(shared)} draws are too few to trust these intervals; ten are usual")
    if len(shared) > 1:
        how = f"{CONFIDENCE:.0%} intervals of the corrected t-test over {len(shared)} draws, paired draw by draw"
        return Versus(tuple(_over_draws(one, other, shared)), len(shared), how, tuple(notes))
    if max(len(side.on(shared[0])) for side in (one, other)) > 1:
        notes.append("outcomes are averaged over the seeds of a side; how far seeds scatter is not in the interval")
    how = f"{CONFIDENCE:.0%} intervals of the paired bootstrap, {resamples} resamples of the test images"
    verdicts = _over_queries(_outcomes(one, shared[0]), _outcomes(other, shared[0]), resamples)
    return Versus(tuple(_ordered(verdicts)), 1, how, tuple(notes))


def _splits(side: Side) -> str:
    result = side.results[0][1]
    images, texts, *_ = [*result.split_sizes.get("test", []), 0, 0]
    several = f" and {len(side.splits) - 1} more" if len(side.splits) > 1 else ""
    return f"{result.data} {result.fingerprint[:8] or 'unknown'} ({images:,} images, {texts:,} texts){several}"


def _outcomes(side: Side, split: str) -> list[PerQuery]:
    found = []
    for folder, result in side.on(split):
        if not (folder / RANKS_FILE).is_file():
            raise CmrBenchError(f"{folder} keeps no outcomes of its queries ({RANKS_FILE}): run it again to compare it")
        found.append(read_per_query(folder / RANKS_FILE, result.tie_rate))
    return found


def _over_queries(one: Sequence[PerQuery], other: Sequence[PerQuery], resamples: int) -> list[Verdict]:
    if any(not one[0].same_links(run) for run in (*one, *other)):
        raise CmrBenchError(f"the links of {RANKS_FILE} differ: these runs cannot be compared query by query")
    drawn = one[0].resamples(resamples, 0)
    sides = []
    for runs in (one, other):
        each = [with_sums(found) for found in draws(list(runs), drawn)]
        whole = [with_sums({k: np.nanmean(v, keepdims=True) for k, v in run.columns().items()}) for run in runs]
        names = [name for name in each[0] if all(name in found for found in each)]
        means = {name: np.mean([one_run[name][0] for one_run in whole]) for name in names}
        sides.append({name: (means[name], np.mean([found[name] for found in each], axis=0)) for name in names})
    # Recalls of a run that knows its ties and of one that does not would not follow one rule.
    one_rule = len({frozenset(run.matches) for run in (*one, *other)}) == 1
    found = []
    for name in sides[0]:
        if name in sides[1] and (one_rule or name.endswith("map")):
            (mean, values), (other_mean, other_values) = sides[0][name], sides[1][name]
            verdict = paired(float(mean - other_mean), values - other_values, CONFIDENCE)
            found.append(
                Verdict(name, float(mean), float(other_mean), verdict.difference, verdict.low, verdict.high, verdict.p)
            )
    return found


def _over_draws(one: Side, other: Side, shared: Sequence[str]) -> list[Verdict]:
    runs = [[[result for _, result in side.on(split)] for split in shared] for side in (one, other)]
    there = [result for side in runs for split in side for result in split]
    names = [name for name in there[0].metrics if all(name in result.metrics for result in there)]
    train, test = (there[0].split_sizes.get(name, [0])[0] for name in ("train", "test"))
    scale = math.sqrt(1 / len(shared) + (test / train if train else 0.0))
    found = []
    for name in names:
        means = [[statistics.fmean(r.metrics[name] for r in split) for split in side] for side in runs]
        each = [mine - theirs for mine, theirs in zip(*means, strict=True)]
        difference, error = statistics.fmean(each), statistics.stdev(each) * scale
        reach = float(stdtrit(len(each) - 1, (1 + CONFIDENCE) / 2)) * error
        p = 2 * float(stdtr(len(each) - 1, -abs(difference) / error)) if error else float(difference == 0)
        ends = statistics.fmean(means[0]), statistics.fmean(means[1])
        found.append(Verdict(name, *ends, difference, difference - reach, difference + reach, p))
    return _ordered(found)


def _ordered(verdicts: Sequence[Verdict]) -> list[Verdict]:
    by_name = {verdict.name: verdict for verdict in verdicts}
    known = [name for group in GROUPS.values() for name in group if name in by_name]
    return [by_name[name] for name in known]


def settings_of(side: Side) -> dict[str, str]:
    """Return what a side is and how it was set, by name, in words."""
    results = [result for _, result in side.results]
    found: dict[str, dict[str, None]] = {}

    def tell(name: str, value: object) -> None:
        if value not in ("", None):
            found.setdefault(name, {})[str(value)] = None

    for result in results:
        tell("method", result.method)
        tell("variant", result.variant)
        tell("fidelity", result.fidelity)
        tell("batch size", result.batch_size)
        tell("post-processing", result.protocol.get("postprocess"))
        tell("seeds", result.seed)
        tell("draws", split_seed_of(result))
        for view, read in result.views.items():
            if isinstance(read, Mapping):
                tell(f"{view} view", f"{read.get('kind')} {read.get('source') or ''} {read.get('shape')}")
        for name, value in {**result.options, **changes_of(result)}.items():
            tell(name, value)
    return {name: ", ".join(values) for name, values in found.items()}


def provenance_of(side: Side) -> dict[str, str]:
    """Return by what code, on what and with which versions a side was run, by name."""
    found: dict[str, dict[str, None]] = {}
    for _, result in side.results:
        told = {"commit": short_commit(result.commit), "device": result.device, **result.versions}
        for name, value in told.items():
            found.setdefault(name, {})[value or "unknown"] = None
    return {name: ", ".join(values) for name, values in found.items()}


def differing(one: Mapping[str, str], other: Mapping[str, str], absent: str) -> dict[str, tuple[str, str]]:
    """Return the entries in which two sides differ; ``absent`` stands for what one of them has not."""
    names = dict.fromkeys([*one, *other])
    pairs = {name: (one.get(name, absent), other.get(name, absent)) for name in names}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}
