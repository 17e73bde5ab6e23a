"""Expected scores: what the runs of a suite gave over several seeds, and how far one more run may fall below it."""

from __future__ import annotations

import hashlib
import json
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import yaml
from scipy.special import stdtrit

from cmr_bench.results.record import Result
from cmr_bench.support import foreign
from cmr_bench.support.errors import DataError, UsageError
from cmr_bench.support.files import write_atomic

SCHEMA = 1
JUDGED = ("rsum", "map")
RECALLS = tuple(f"{way}_r{k}" for way in ("i2t", "t2i") for k in (1, 5, 10))
RECORDED = (*RECALLS, "mr", "rsum", "i2t_map", "t2i_map", "map")
FALSE_ALARMS = 0.01
LEAST_SEEDS = 3
_AGAIN = "record it again with `cmr-bench check --record`"


@dataclass(frozen=True)
class Score:
    """What one metric of one row was over the recorded seeds.

    Attributes:
        mean: Mean over the seeds.
        sd: Standard deviation over the seeds, with n - 1.
        n: Number of seeds.
        tolerance: How far the score of one more seed may lie from the mean.
    """

    mean: float
    sd: float
    n: int
    tolerance: float


@dataclass(frozen=True)
class Entry:
    """A method on a data set, whatever is said of it.

    Attributes:
        method: Name of the method.
        data: Name of the data set.
        variant: Variant of the recipe, or empty.
        draw: Seed of the drawn split, each of which is compared with itself; None for the data set's own split.
    """

    method: str
    data: str
    variant: str
    draw: int | None = field(default=None, kw_only=True)

    @property
    def title(self) -> str:
        """Method, variant, data set and drawn split."""
        draw = "" if self.draw is None else f", split {self.draw}"
        return f"{self.method}{f' ({self.variant})' if self.variant else ''} on {self.data}{draw}"

    def same(self, other: Entry) -> bool:
        """Return whether the other is of the same method, data set, variant and drawn split."""
        mine, theirs = ((one.method, one.data, one.variant, one.draw) for one in (self, other))
        return mine == theirs


@dataclass(frozen=True)
class ExpectedRow(Entry):
    """What was recorded of an entry.

    Attributes:
        seeds: Recorded seeds.
        options: Settings that differ from the constructors' defaults, by dotted name.
        fingerprint: Content fingerprint of the test split.
        test_size: Images and texts of the test split.
        views: What images and texts were read as.
        metrics: The scores.
    """

    seeds: tuple[int, ...]
    options: Mapping[str, Any]
    fingerprint: str
    test_size: tuple[int, int]
    views: Mapping[str, str]
    metrics: Mapping[str, Score]

    @property
    def judged(self) -> list[str]:
        """The metrics that decide: rsum and mAP, as far as there are."""
        return [name for name in JUDGED if name in self.metrics]


@dataclass(frozen=True)
class Expected:
    """Everything that ``expected.yaml`` holds.

    Attributes:
        suite: Name of the suite.
        false_alarms: Fraction of checks of unchanged code with new seeds in which any judged score falls by chance.
        recorded: When, by which commit and versions, and on what.
        rows: The rows.
    """

    suite: str
    false_alarms: float
    recorded: Mapping[str, Any] = field(default_factory=dict)
    rows: tuple[ExpectedRow, ...] = ()

    @property
    def n_judged(self) -> int:
        """Number of scores that decide."""
        return sum(len(row.judged) for row in self.rows)


def half_width(sd: float, n: int, rate: float, k: int = 1) -> float:
    """Return how far below the mean of n scores the mean of k new ones falls with a probability of ``rate``.

    This is the one-sided prediction interval of normal scores, ``t(1 - rate, n - 1) sd sqrt(1/k + 1/n)``: that of the
    mean would only say where the mean of many more seeds lies, and a new run would fall outside of it all the time.

    Args:
        sd: Standard deviation of the n scores, with n - 1.
        n: Number of recorded scores, at least 2.
        rate: Probability of a fall by chance.
        k: Number of new scores.
    """
    return float(stdtrit(n - 1, 1 - rate)) * sd * math.sqrt(1 / k + 1 / n)


def one_query(name: str, n_images: int, n_texts: int) -> float:
    """Return what a metric moves by when one query of each direction that it looks at changes from right to wrong.

    It is the least tolerance: a closed form gives the same score with every seed, and other processors and libraries
    may still turn a near tie around.

    Args:
        name: Metric.
        n_images: Images of the test split, the queries of i2t.
        n_texts: Texts of the test split, the queries of t2i.
    """
    step = {"i2t": 1 / n_images, "t2i": 1 / n_texts}
    way, _, rest = name.partition("_")
    if rest:
        return step[way] * (1 if rest == "map" else 100)
    whole = step["i2t"] + step["t2i"]
    return {"rsum": 300 * whole, "mr": 50 * whole, "map": whole / 2}[name]


def chance(name: str, results: Sequence[Result]) -> float | None:
    """Return what a metric of rsum, mR, mAP and the recalls would be, were the ranking random.

    A random ranking finds one of an image's c texts among the first K of n with 1 - C(n - c, K) / C(n, K). Its mAP is
    about the share of relevant items, which the precision at full recall bounds from above.

    Args:
        name: Metric.
        results: Results of a row, on one test split.

    Returns:
        The score; None where the results do not tell.
    """
    n_images, n_texts = test_size_of(results[0])
    if min(n_images, n_texts) < 1:
        return None
    if name in ("rsum", "mr"):
        whole = sum(chance(recall, results) or 0.0 for recall in RECALLS)
        return whole if name == "rsum" else whole / len(RECALLS)
    if name == "map":
        ways = [chance(f"{way}_map", results) for way in ("i2t", "t2i")]
        return None if None in ways else statistics.fmean(one for one in ways if one is not None)
    way, _, rest = name.partition("_")
    if rest == "map":
        last = [result.curves.get(f"{way}_precision", [])[-1:] for result in results]
        return statistics.fmean(one[0] for one in last) if all(last) else None
    n, matches = (n_texts, n_texts / n_images) if way == "i2t" else (n_images, 1.0)
    missed = math.prod(max(0.0, 1 - matches / (n - place)) for place in range(min(int(rest[1:]), n)))
    return 100 * (1 - missed)


def toothless(expected: Expected, groups: Sequence[Sequence[Result]]) -> list[str]:
    """Say of every score that decides, a line each, where it may fall to what chance gives without being noticed."""
    lines = []
    for row, group in zip(expected.rows, groups, strict=True):
        for name in row.judged:
            score, floor = row.metrics[name], chance(name, group)
            if floor is not None and score.mean - score.tolerance <= floor:
                lines.append(
                    f"{row.title}: {name} of {score.mean:.4g} may fall by "
                    f"{score.tolerance:.4g}, and chance gives {floor:.3g}: a broken method would pass; record "
                    "more seeds or train for longer"
                )
    return lines


def per_score(false_alarms: float, n_judged: int) -> float:
    """Share the rate of false alarms of a whole check out to its judged scores, so that their sum stays below it."""
    return false_alarms / max(1, n_judged)


def tolerance(name: str, sd: float, n: int, rate: float, test_size: tuple[int, int], k: int = 1) -> float:
    """Return the larger of prediction interval and one query: see :func:`half_width` and :func:`one_query`."""
    return max(half_width(sd, n, rate, k), one_query(name, *test_size))


def options_of(result: Result) -> dict[str, Any]:
    """Return the settings of a result as JSON and YAML give them back."""
    options: dict[str, Any] = json.loads(json.dumps(result.options, sort_keys=True))
    return options


def views_of(result: Result) -> dict[str, str]:
    """Return what images and texts of a result were read as, a word each."""
    return {side: str(view.get("source", "")) for side, view in result.views.items() if isinstance(view, dict)}


def test_size_of(result: Result) -> tuple[int, int]:
    """Return images and texts of a result's test split; of no size where not recorded."""
    n_images, n_texts = (*result.split_sizes.get("test", ()), 0, 0)[:2]
    return n_images, n_texts


def expect(
    suite: str, groups: Sequence[Sequence[Result]], false_alarms: float, recorded: Mapping[str, Any]
) -> Expected:
    """Make the expected scores of a suite.

    Args:
        suite: Its name.
        groups: The results of each row, one per seed.
        false_alarms: Fraction of checks of unchanged code that may fail by chance.
        recorded: Provenance.

    Raises:
        UsageError: If a row has fewer than two seeds, nothing that decides, or results that differ in more than seed.
    """
    for group in groups:
        title = Entry(group[0].method, group[0].data, group[0].variant, draw=_draw(group[0])).title
        if len(group) < 2:
            raise UsageError(f"{title}: {len(group)} seed; at least 2 are needed to estimate the spread, better 5")
        repeated: dict[str, list[Any]] = {
            "fingerprints": [result.fingerprint for result in group],
            "options": [options_of(result) for result in group],
            "features": [views_of(result) for result in group],
            "metrics": [sorted(result.metrics) for result in group],
        }
        for what, values in repeated.items():
            if any(value != values[0] for value in values):
                raise UsageError(f"{title}: the {what} of its results differ; repeat them with --again")
        if not any(name in group[0].metrics for name in JUDGED):
            raise UsageError(f"{title}: its results have neither rsum nor map to test")
        if min(test_size_of(group[0])) < 1:
            raise UsageError(f"{title}: its results do not record the size of the test split")
    n_judged = sum(name in group[0].metrics for group in groups for name in JUDGED)
    rate = per_score(false_alarms, n_judged)
    return Expected(suite, false_alarms, dict(recorded), tuple(_row(group, rate) for group in groups))


def _row(group: Sequence[Result], rate: float) -> ExpectedRow:
    first = group[0]
    metrics = {}
    for name in RECORDED:
        if name in first.metrics:
            values = [result.metrics[name] for result in group]
            sd = statistics.stdev(values)
            metrics[name] = Score(
                statistics.fmean(values), sd, len(values), tolerance(name, sd, len(values), rate, test_size_of(first))
            )
    return ExpectedRow(
        first.method,
        first.data,
        first.variant,
        tuple(result.seed for result in group if result.seed is not None),
        options_of(first),
        first.fingerprint,
        test_size_of(first),
        views_of(first),
        metrics,
        draw=_draw(first),
    )


def _draw(result: Result) -> int | None:
    seed = result.options.get("data.split_seed")
    return seed if type(seed) is int else None


def provenance(results: Iterable[Result], created: str) -> dict[str, Any]:
    """Tell where recorded scores come from: date, and the commits, devices and versions of the runs.

    Args:
        results: All results behind the record.
        created: Time of recording, UTC.
    """
    found = list(results)
    versions: dict[str, list[str]] = {}
    for result in found:
        for name, version in result.versions.items():
            versions.setdefault(name, [])
            versions[name] += [version] if version not in versions[name] else []
    return {
        "created": created,
        "commit": ", ".join(sorted({result.commit or "unknown" for result in found})),
        "device": ", ".join(sorted({result.device or "unknown" for result in found})),
        "versions": {name: ", ".join(known) for name, known in versions.items()},
    }


def write_expected(path: Path, expected: Expected, command: str) -> None:
    """Write expected scores.

    Args:
        path: The file.
        expected: What to write.
        command: The command that recorded them, for the first line.
    """
    content = json.loads(json.dumps({"schema": SCHEMA} | asdict(expected)))
    content["digest"] = _digest(content)
    header = f"# written by `{' '.join(command.split())}`; do not edit: repeat it after an intended change\n"
    write_atomic(path, header + yaml.safe_dump(content, sort_keys=False, width=120, allow_unicode=True))


def _digest(content: Mapping[str, Any]) -> str:
    """Return a checksum over everything but the checksum."""
    rest = {key: value for key, value in content.items() if key != "digest"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def read_expected(path: Path) -> Expected:
    """Read expected scores.

    Raises:
        UsageError: If the file is missing, malformed, of a newer schema or was changed by hand.
    """
    try:
        content = foreign.read_yaml(path)
    except FileNotFoundError as error:
        raise UsageError(f"no expected scores at {path}: record them with `cmr-bench check --record`") from error
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror or error}") from error
    except DataError as error:
        raise UsageError(str(error)) from error
    if not isinstance(content, dict) or type(content.get("schema")) is not int:
        raise UsageError(f"{path} contains no expected scores: no schema version; {_AGAIN}")
    if content["schema"] > SCHEMA:
        raise UsageError(f"{path} has schema {content['schema']}, newer than {SCHEMA}: update cmr-bench to read it")
    try:
        if content.get("digest") != _digest(content):
            raise UsageError(f"{path} was edited or truncated, its checksum differs; {_AGAIN}")
        return _parsed(content)
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RecursionError) as error:
        what = " ".join(f"{type(error).__name__} {error}".split())
        raise UsageError(f"{path} contains no expected scores ({what}); {_AGAIN}") from error


def _parsed(content: Mapping[str, Any]) -> Expected:
    rows = tuple(
        ExpectedRow(
            method=str(row["method"]),
            data=str(row["data"]),
            variant=str(row["variant"]),
            seeds=tuple(int(seed) for seed in row["seeds"]),
            options=dict(row["options"]),
            fingerprint=str(row["fingerprint"]),
            test_size=(int(row["test_size"][0]), int(row["test_size"][1])),
            views={str(side): str(source) for side, source in row["views"].items()},
            draw=None if row.get("draw") is None else int(row["draw"]),
            metrics={str(name): _score(score) for name, score in row["metrics"].items() if name in RECORDED},
        )
        for row in content["rows"]
    )
    false_alarms = float(content["false_alarms"])
    if not 0 < false_alarms < 1:
        raise ValueError(f"false_alarms {false_alarms} is no share between 0 and 1")
    return Expected(str(content["suite"]), false_alarms, dict(content["recorded"]), rows)


def _score(value: Mapping[str, Any]) -> Score:
    score = Score(float(value["mean"]), float(value["sd"]), int(value["n"]), float(value["tolerance"]))
    if not all(map(math.isfinite, (score.mean, score.sd, score.tolerance))) or min(score.sd, score.tolerance) < 0:
        raise ValueError(f"a score of mean {score.mean}, sd {score.sd}, tolerance {score.tolerance}")
    if score.n < 2:
        raise ValueError(f"a score of {score.n} seeds")
    return score
