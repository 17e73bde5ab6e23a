"""Figures that papers report, read from ``experiments/published.yaml``."""

from __future__ import annotations

import functools
import importlib.resources
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

import yaml

from cmr_bench.support.errors import CmrBenchError

DIRECTIONS = ("i2t", "t2i")
RECALLS = tuple(f"{direction}_r{k}" for direction in DIRECTIONS for k in (1, 5, 10))
_FLAGS = ("ensemble", "uses_test_groups", "transductive")


@dataclass(frozen=True)
class PublishedRow:
    """One row of a paper's table.

    Attributes:
        method: Short name of the method.
        data: Short name of the data set.
        source: Key of the source.
        metrics: What is reported, and what follows from it: mr and rsum of all six recalls, map of both directions.
        variant: Variant of the method, or empty.
        family: Family of the survey, or empty.
        folds: Number of folds that the figures are means over; None for the whole test split.
        spread: Standard deviation over seeds, where reported.
        seeds: Number of seeds, where reported.
        flags: ensemble, uses_test_groups, transductive.
        subsets: Draws of pairs that the figures are means over, such as 10x1000; empty for none.
    """

    method: str
    data: str
    source: str
    metrics: Mapping[str, float]
    variant: str = ""
    family: str = ""
    folds: int | None = None
    spread: Mapping[str, float] = field(default_factory=dict)
    seeds: int | None = None
    flags: tuple[str, ...] = ()
    subsets: str = ""


@dataclass(frozen=True)
class Published:
    """All published figures.

    Attributes:
        rows: The rows, in the order of the file.
        sources: What each source key stands for.
        tests: Size of the test split of each data set, ``{"images": n, "texts": n}``, and a ``remark``.
    """

    rows: tuple[PublishedRow, ...]
    sources: Mapping[str, str]
    tests: Mapping[str, Mapping[str, Any]]

    def fits(self, data: str, n_images: int, n_texts: int) -> bool:
        """Return whether figures published for ``data`` were measured on a test split of this size."""
        expected = self.tests.get(data, {})
        return bool(expected.get("images", n_images) == n_images and expected.get("texts", n_texts) == n_texts)


def model_of(variant: str) -> str:
    """Return which of a paper's models a variant of a recipe stands for, as the published rows name it.

    A variant ``paper`` is the model of the method's name and ``paper_X`` the model X, trained as the paper says.
    """
    return "" if variant == "paper" else variant.removeprefix("paper_")


def with_sums(metrics: Mapping[str, float]) -> dict[str, float]:
    """Add mr and rsum where all six recalls are there, and map where both directions are; nothing is filled in."""
    found = dict(metrics)
    if all(key in metrics for key in RECALLS):
        found["rsum"] = sum(metrics[key] for key in RECALLS)
        found["mr"] = found["rsum"] / len(RECALLS)
    if all(f"{direction}_map" in metrics for direction in DIRECTIONS):
        found["map"] = sum(metrics[f"{direction}_map"] for direction in DIRECTIONS) / len(DIRECTIONS)
    return found


@functools.cache
def load_published() -> Published:
    """Read the figures that come with the package."""
    return read_published(importlib.resources.files("cmr_bench.experiments").joinpath("published.yaml"))


def read_published(file: Traversable | Path) -> Published:
    """Read published figures from a file.

    Raises:
        CmrBenchError: If it cannot be read, or an entry is malformed.
    """
    try:
        content = yaml.load(file.read_text(encoding="utf-8"), getattr(yaml, "CSafeLoader", yaml.SafeLoader))
        return parse_published(content)
    except (OSError, yaml.YAMLError, LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        what = " ".join(f"{type(error).__name__} {error}".split())[:300]
        raise CmrBenchError(f"{file} holds no published figures: {what}") from error


def parse_published(content: Mapping[str, Any]) -> Published:
    """Build the rows from the content of the file."""
    rows = [_row(entry, kind) for kind in ("recall", "map", "seed_spread") for entry in content.get(kind) or ()]
    return Published(tuple(rows), dict(content["sources"]), dict(content.get("tests") or {}))


def _row(entry: Mapping[str, Any], kind: str) -> PublishedRow:
    metrics: dict[str, float | None] = {}
    spread: dict[str, float] = {}
    if kind == "recall":
        for direction in DIRECTIONS:
            metrics |= dict(zip((f"{direction}_r{k}" for k in (1, 5, 10)), entry[direction], strict=True))
    elif kind == "map":
        metrics = {f"{direction}_map": entry[direction] for direction in DIRECTIONS}
    else:
        pairs = {key: value for key, value in entry.items() if key.startswith(DIRECTIONS)}
        metrics = {key: mean for key, (mean, _) in pairs.items()}
        spread = {key: sd for key, (_, sd) in pairs.items()}
    metrics |= entry.get("more") or {}
    if not all(math.isfinite(value) for value in (*metrics.values(), *spread.values()) if value is not None):
        raise ValueError(f"a figure of {entry['method']} on {entry['data']} is not finite")
    protocol = str(entry.get("protocol", ""))
    drawn = protocol.startswith("subsets")
    return PublishedRow(
        method=entry["method"],
        data=entry["data"],
        source=entry["source"],
        metrics=with_sums({key: float(value) for key, value in metrics.items() if value is not None}),
        variant=entry.get("variant", ""),
        family=entry.get("family", ""),
        folds=int(protocol.partition("x")[0]) if protocol and not drawn else None,
        spread=spread,
        seeds=entry.get("seeds"),
        flags=tuple(flag for flag in _FLAGS if entry.get(flag)),
        subsets=protocol.removeprefix("subsets") if drawn else "",
    )
