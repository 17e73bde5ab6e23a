"""Whether a stored result can be what it says: ranges, sums, and what lies beside it in its run folder."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from cmr_bench.results.published import RECALLS
from cmr_bench.results.record import RESULT_FILE, Result, identity, read_result
from cmr_bench.results.store import failures, result_files, stored_configuration
from cmr_bench.support.errors import CmrBenchError
from cmr_bench.support.places import without_folders

if TYPE_CHECKING:
    from cmr_bench.evaluation.per_query import PerQuery

_RANKS_FILE = "ranks.npz"
# What a metric can be, by its name without protocol and direction.
_RANGES = (
    (re.compile(r"r\d+|mr"), 0.0, 100.0),
    (re.compile(r"rsum"), 0.0, 600.0),
    (re.compile(r"map|map_at_.*|r_precision|minp"), 0.0, 1.0),
    (re.compile(r"medr|meanr"), 1.0, math.inf),
)
_PREFIX = re.compile(r"(fold\d+_|subsets\d+x\d+_|identity_)?(.*)")
# Sums of unrounded figures agree but for the order of addition; ranks are kept in single precision.
_SUM, _RANK = 1e-6, 1e-3


def load_checked(*runs: Path) -> tuple[list[tuple[Path, Result]], list[str]]:
    """Read every result under folders of runs that can be what it says; one that lies in several counts once.

    Returns:
        Run folder and result, in the order of the folders, and one line for each file that cannot be read, each result
        that contradicts itself or what lies beside it, and each run that failed.
    """
    found, problems = read_checked(path.parent for folder in runs for path in result_files(folder))
    if len(runs) > 1:
        found = list({identity(result): (folder, result) for folder, result in reversed(found)}.values())[::-1]
    return found, [*problems, *(line for folder in runs for line in failures(folder))]


def read_checked(folders: Iterable[Path]) -> tuple[list[tuple[Path, Result]], list[str]]:
    """Read the results of run folders; see :func:`load_checked`."""
    found, problems = [], []
    for folder in folders:
        try:
            result = read_result(folder / RESULT_FILE)
        except CmrBenchError as error:
            problems.append(str(error))
            continue
        outcomes = None
        if (folder / _RANKS_FILE).is_file():
            from cmr_bench.evaluation.per_query import read_per_query

            try:
                outcomes = read_per_query(folder / _RANKS_FILE, result.tie_rate)
            except CmrBenchError as error:
                problems.append(str(error))
        wrong = contradictions(result, folder, outcomes)
        problems += wrong
        if not wrong:
            found.append((folder, result))
    return found, problems


def contradictions(result: Result, folder: Path, outcomes: PerQuery | None) -> list[str]:
    """Say in one line why a result cannot be what it says; nothing where it can.

    Args:
        result: The result.
        folder: Its run folder.
        outcomes: What its queries came to, where the run kept it.
    """
    several = (*_ranges(result.metrics), *_sums(result.metrics), *_date(result), *_identity(result, folder))
    several += tuple(_ranks(result, outcomes)) if outcomes is not None else ()
    return [f"{folder / RESULT_FILE} contradicts itself: {'; '.join(several)}"] if several else []


def _ranges(metrics: Mapping[str, float]) -> Iterator[str]:
    for name, value in metrics.items():
        fold, rest = _parts(name)
        plain = rest.removeprefix("i2t_").removeprefix("t2i_")
        for pattern, low, high in _RANGES:
            if pattern.fullmatch(plain) and not low - _SUM <= value <= high + _SUM:
                yield f"{fold}{rest} is {value:.6g}, outside {low:g} to {high:g}"


def _sums(metrics: Mapping[str, float]) -> Iterator[str]:
    for fold in sorted({_parts(name)[0] for name in metrics}):
        own = {rest: value for name, value in metrics.items() for part, rest in [_parts(name)] if part == fold}
        sums = {}
        if all(name in own for name in RECALLS):
            sums["rsum"] = "the sum of the six recalls", math.fsum(own[name] for name in RECALLS)
            sums["mr"] = "the mean of the six recalls", sums["rsum"][1] / len(RECALLS)
        if "i2t_map" in own and "t2i_map" in own:
            sums["map"] = "the mean of both directions", (own["i2t_map"] + own["t2i_map"]) / 2
        if "i2t_minp" in own and "t2i_minp" in own:
            sums["minp"] = "the mean of both directions", (own["i2t_minp"] + own["t2i_minp"]) / 2
        for name, (words, value) in sums.items():
            if name in own and not math.isclose(own[name], value, rel_tol=_SUM, abs_tol=_SUM):
                yield f"{fold}{name} is {own[name]:.6g}, and {words} {value:.6g}"
        for way in ("i2t", "t2i"):
            rising = [own[name] for name in RECALLS if name.startswith(way) and name in own]
            if any(later < earlier - _SUM for earlier, later in itertools.pairwise(rising)):
                yield f"the {fold}recalls of {way} fall with K"


def _parts(name: str) -> tuple[str, str]:
    match = _PREFIX.fullmatch(name)
    return (match[1] or "", match[2]) if match else ("", name)


def _date(result: Result) -> Iterator[str]:
    try:
        created = datetime.fromisoformat(result.created)
    except ValueError:
        return
    created = created if created.tzinfo else created.replace(tzinfo=UTC)
    if created > datetime.now(UTC) + timedelta(days=1):
        yield f"it is dated {result.created[:10]}, in the future"


def _identity(result: Result, folder: Path) -> Iterator[str]:
    """Compare method, data set, variant and seed with the configuration that the run saved."""
    content = stored_configuration(folder) or {}
    data = content.get("data")
    name = data.get("name") if isinstance(data, dict) else None
    saved = {
        "method": without_folders(content.get("method")),
        "data set": name or without_folders(content.get("dataset")),
        "variant": content.get("variant"),
        "seed": content.get("seed"),
    }
    told = {"method": result.method, "data set": result.data, "variant": result.variant, "seed": result.seed}
    for what, value in told.items():
        if saved[what] is not None and value is not None and saved[what] != value:
            yield f"it says {what} {value}, and config.yaml beside it {saved[what]}"


def _ranks(result: Result, outcomes: PerQuery) -> Iterator[str]:
    """Compare the metrics with the means over the queries that lie beside them."""
    import numpy as np

    from cmr_bench.evaluation.per_query import with_sums

    images, texts, *_ = [*result.split_sizes.get("test", []), 0, 0]
    if images and texts and (outcomes.n_images, len(outcomes.image_of_text)) != (images, texts):
        yield (
            f"{_RANKS_FILE} has {outcomes.n_images} images and {len(outcomes.image_of_text)} texts, and the test split "
            f"{images} and {texts}"
        )
        return
    columns = {name: values for name, values in outcomes.columns().items() if not np.isnan(values).all()}
    means = with_sums({name: np.nanmean(values, keepdims=True) for name, values in columns.items()})
    differing = [
        f"{name} {result.metrics[name]:.6g} by {RESULT_FILE} and {float(value[0]):.6g} by {_RANKS_FILE}"
        for name, value in means.items()
        if name in result.metrics and not math.isclose(result.metrics[name], float(value[0]), rel_tol=_RANK)
    ]
    if differing:
        yield ", ".join(differing[:3]) + (f" and {len(differing) - 3} more" if len(differing) > 3 else "")
