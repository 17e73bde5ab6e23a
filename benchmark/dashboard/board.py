"""What a page of comparable rows shows: the leaderboard's section as plain data for the template and the charts."""

from __future__ import annotations

import re
import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from cmr_bench.dashboard.breakdown import breakdown
from cmr_bench.dashboard.collect import StoredRun, slug
from cmr_bench.leaderboard.board import MARKS, head, legend, marks, number
from cmr_bench.leaderboard.columns import best, columns, order
from cmr_bench.leaderboard.naming import FEATURES, NEVER_BEST, changes_of, split_seed_of
from cmr_bench.leaderboard.rows import Row, Section
from cmr_bench.results.groups import GROUPS, LOWER_IS_BETTER
from cmr_bench.results.record import Result

COSTS = {
    "train": ("Training", "s"),
    "query": ("Query", "ms"),
    "parameters": ("Parameters", ""),
}
_GROUP_NAMES = {
    "recall": "Recall",
    "map": "mAP",
    "relevance": "Precision at R",
    "identity": "By identity",
    "qrels": "Relevance judgments",
    "rank": "Ranks",
}
# The shape of a family wherever its rows are drawn, as Plotly names it; other families get a star.
SHAPES = {
    "pairwise": "circle",
    "adversarial": "diamond",
    "interaction": "square",
    "attributes": "triangle-up",
    "subspace": "cross",
}


def rounded(value: float) -> float:
    """Return a number with the digits that a chart can show."""
    return float(f"{value:.6g}")


def costs(result: Result) -> dict[str, float]:
    """Return the cost of a run where it is recorded: training in s, a query in ms, trained parameters."""
    images, texts, *_ = [*result.split_sizes.get("test", []), 0, 0]
    found: dict[str, float] = {}
    if "train_seconds" in result.cost:
        found["train"] = result.cost["train_seconds"]
    if "score_seconds" in result.cost and images + texts:
        spent = result.cost.get("encode_seconds", 0.0) + result.cost["score_seconds"]
        found["query"] = 1000 * spent / (images + texts)
    if result.cost.get("parameters"):
        found["parameters"] = result.cost["parameters"]
    return found


def short(source: str) -> str:
    """Shorten the source of a view for a table: without checksums, and of a path only the end."""
    plain = re.sub(r"@[0-9a-f]{6,}$", "", source)
    kind, _, path = plain.partition(":")
    if path.startswith(("/", "~", ".")):
        return f"{kind}:{'/'.join(path.split('/')[-2:])}"
    return plain


def _repetition(result: Result) -> str:
    seed, draw = "–" if result.seed is None else str(result.seed), split_seed_of(result)
    return seed if draw is None else f"draw {draw}, seed {seed}"


def _views(row: Row) -> tuple[str, str]:
    image, _, text = row.features.partition(" + ")
    return short(image), short(text)


def write_cost(name: str, value: float) -> str:
    """Write a cost for a reader."""
    if name == "parameters":
        for size, letter in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
            if value >= size:
                return f"{value / size:.1f} {letter}"
        return f"{value:.0f}"
    if name == "train" and value >= 3600:
        return f"{value / 3600:.1f} h"
    if name == "train" and value >= 120:
        return f"{value / 60:.1f} min"
    return f"{value:.3g} {COSTS[name][1]}"


def section_slug(section: Section) -> str:
    """Name the page of a section."""
    part = (
        f"subsets{section.subsets}"
        if section.subsets
        else "whole"
        if section.folds is None
        else f"folds{section.folds}"
    )
    return slug((section.data, part, section.fingerprint[:12], section.note))


def metric_groups(section: Section) -> dict[str, list[str]]:
    """Return the metrics of the table by group, the group by which the methods were selected first."""
    there = section.names()
    found = {group: [name for name in names if name in there] for group, names in GROUPS.items()}
    shown = columns(section, None)
    found = {group: names for group, names in found.items() if names}
    return dict(sorted(found.items(), key=lambda pair: not set(pair[1]) & set(shown)))


def main_metric(section: Section) -> str:
    """Return the metric that decides the order: map where methods were selected by it, else rsum, else any."""
    shown = columns(section, None)
    return next((name for name in ("map", "rsum", "mr") if name in shown), shown[0] if shown else "")


def board(section: Section, run_of: Mapping[int, StoredRun]) -> dict[str, Any]:
    """Arrange a section for its page.

    Args:
        section: Comparable rows.
        run_of: The run of each result, by the result's identity.

    Returns:
        What the template shows and, under ``data``, what the charts draw.
    """
    groups = metric_groups(section)
    names = [name for group in groups.values() for name in group]
    main = main_metric(section)
    rows = order(section.rows, [main] if main else ["method"])
    tops = best(rows, names)
    shown = [_row(row, names, tops, run_of) for row in rows]
    repeated = Counter(row["label"] for row in shown if row["measured"])
    for place, row in enumerate(shown):
        row["id"] = place
        # Charts name a row by its label alone, so it says what it read where that is not what its recipe reads.
        features = ", ".join(part for part in (row["image"], row["text"]) if part)
        told = features and (row["other_features"] or repeated[row["label"]] > 1)
        row["title"] = f"{row['label']} · {features}" if told else row["label"]
    return {
        "title": section.title,
        "slug": section_slug(section),
        "data_name": section.data,
        "protocol": section.title.partition(": ")[2],
        "note": section.note,
        "remark": section.remark,
        "fingerprint": section.fingerprint,
        "main": main,
        "main_head": " ".join(part for part in head(main) if part),
        "groups": [
            {"key": group, "name": _GROUP_NAMES[group], "metrics": [_column(name) for name in members]}
            for group, members in groups.items()
        ],
        "costs": [{"key": name, "head": heading, "unit": unit} for name, (heading, unit) in COSTS.items()],
        "rows": shown,
        "n_measured": sum(row["measured"] for row in shown),
        "families": _distinct(row["family"] for row in shown),
        "images": _distinct(row["image"] for row in shown),
        "texts": _distinct(row["text"] for row in shown),
        "legend": legend(rows),
        "remarks": [
            *(f"{row.label}: averaged over {'; '.join(row.mixture)}." for row in rows if row.mixture),
            *(f"{warning}." for warning in section.warnings),
        ],
        "definitions": [(head(name), section.definitions[name]) for name in names if name in section.definitions],
        "ablations": ablations(rows, names, main),
        "data": {
            "main": main,
            "names": {name: " ".join(part for part in head(name) if part) for name in names},
            "lower": [name for name in names if name in LOWER_IS_BETTER],
            "rows": [_chart_row(row, run_of) for row in shown],
            "shapes": SHAPES,
            "title": section.title,
            "file": section_slug(section),
        },
    }


def _distinct(values: Iterable[str]) -> list[str]:
    return sorted({value for value in values if value})


def _column(name: str) -> dict[str, Any]:
    direction, heading = head(name)
    return {"key": name, "direction": direction, "head": heading, "lower": name in LOWER_IS_BETTER}


def _row(row: Row, names: Sequence[str], tops: Mapping[str, float], run_of: Mapping[int, StoredRun]) -> dict[str, Any]:
    runs = [run_of[id(result)] for result in row.results]
    image, text = _views(row)
    intervals = mean_intervals(row.results)
    cells = {}
    for name in names:
        if name in row.metrics:
            low_high = intervals.get(name)
            cells[name] = {
                "value": row.metrics[name],
                "text": number(name, row.metrics[name]),
                "spread": number(name, row.spread[name]) if name in row.spread else "",
                "interval": [number(name, end) for end in low_high] if low_high else None,
                "best": row.measured and not set(row.flags) & set(NEVER_BEST) and tops.get(name) == row.metrics[name],
            }
    spent = _mean_costs([costs(result) for result in row.results])
    return {
        "label": row.label,
        "other_features": any(name in changes_of(result) for result in row.results for name in FEATURES),
        "method": row.method,
        "variant": row.variant,
        "detail": row.detail,
        "family": row.family,
        "image": image,
        "text": text,
        "features": row.features,
        "measured": row.measured,
        "source": row.source,
        "seeds": [{"name": _repetition(run.result), "slug": run.slug} for run in runs],
        "n_seeds": row.n_seeds,
        "draws": row.draws,
        "repeats": row.repeats,
        "about": "; ".join(row.deviations) or "no deviation is listed",
        "deviations": row.deviations,
        "marks": [MARKS.get(flag, (flag, flag)) for flag in row.flags],
        "fidelity": row.fidelity,
        "cells": cells,
        "costs": {name: {"value": value, "text": write_cost(name, value)} for name, value in spent.items()},
        "row": row,
        "intervals": intervals,
    }  # fmt: skip


def mean_intervals(results: Sequence[Result]) -> dict[str, tuple[float, float]]:
    """Return the bootstrap interval of every metric, its ends averaged over the seeds."""
    names = [name for name in (results[0].intervals if results else {}) if all(name in r.intervals for r in results)]
    return {
        name: (
            statistics.fmean(r.intervals[name][0] for r in results),
            statistics.fmean(r.intervals[name][1] for r in results),
        )
        for name in names
    }


def _mean_costs(each: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {
        name: statistics.fmean(one[name] for one in each) for name in COSTS if each and all(name in o for o in each)
    }


def _chart_row(shown: Mapping[str, Any], run_of: Mapping[int, StoredRun]) -> dict[str, Any]:
    row: Row = shown["row"]
    found: dict[str, Any] = {
        "label": " ".join([shown["title"], *(f"[{mark}]" for mark in marks(row))])
                 if row.measured else f"{row.label} (published)",
        "family": row.family,
        "measured": row.measured,
        "metrics": {name: rounded(cell["value"]) for name, cell in shown["cells"].items()},
        "spread": {name: rounded(row.spread[name]) for name in shown["cells"] if name in row.spread},
        "interval": {name: [*map(rounded, shown["intervals"][name])]
                     for name in shown["cells"] if name in shown["intervals"]},
        "cost": {name: rounded(cost["value"]) for name, cost in shown["costs"].items()},
        "runs": [seed["slug"] for seed in shown["seeds"]],
        "repeats": [seed["name"] for seed in shown["seeds"]],
        "seeds": {name: [rounded(result.metrics[name]) for result in row.results]
                  for name in shown["cells"] if all(name in result.metrics for result in row.results)}
                 if len(row.results) > 1 else {},
    }  # fmt: skip
    curves = mean_curves(row.results)
    outcomes = [run_of[id(result)].outcomes for result in row.results]
    found |= breakdown([one for one in outcomes if one is not None])
    return found | ({"curves": curves} if curves else {})


def mean_curves(results: Sequence[Result]) -> dict[str, list[float]]:
    """Return the precision-recall curves averaged over the seeds, where all of them have them at the same recalls."""
    if not results or any(result.curves.get("recall") != results[0].curves.get("recall") for result in results):
        return {}
    wanted = ("recall", "i2t_precision", "t2i_precision")
    if not all(name in result.curves for result in results for name in wanted):
        return {}
    return {
        name: [rounded(statistics.fmean(values)) for values in zip(*(r.curves[name] for r in results), strict=True)]
        for name in wanted
    }


def ablations(rows: Sequence[Row], names: Sequence[str], main: str) -> list[dict[str, Any]]:
    """Put the variants of a method side by side, as differences from its plain recipe.

    The reference is the row without a variant that changes the fewest options of the recipe; a method whose rows all
    lack the main metric, or that has one row, is left out.
    """
    of_method: dict[tuple[str, str, str], list[Row]] = defaultdict(list)
    for row in rows:
        if row.measured and main in row.metrics and row.fidelity != "external":
            of_method[row.method, row.family, row.features].append(row)
    found = []
    for (method, _, features), members in of_method.items():
        plain = [row for row in members if not row.variant]
        if len(members) < 2 or not plain:
            continue
        reference = min(plain, key=lambda row: ("shortened" in row.flags, len(changes_of(row.results[0]))))
        shared = [name for name in names if name in reference.metrics]
        found.append(
            {
                "method": method,
                "features": " + ".join(short(part) for part in features.split(" + ")),
                "reference": reference.label,
                "metrics": [_column(name) for name in shared],
                "rows": [_ablation(row, reference, shared) for row in members],
            }
        )
    return found


def _ablation(row: Row, reference: Row, names: Sequence[str]) -> dict[str, Any]:
    cells = {}
    for name in names:
        if name in row.metrics:
            change = row.metrics[name] - reference.metrics[name]
            cells[name] = {
                "text": number(name, row.metrics[name]),
                "spread": number(name, row.spread[name]) if name in row.spread else "",
                "change": "" if row is reference else f"{'+' if change >= 0 else '−'}{number(name, abs(change))}",
                "worse": (change > 0) if name in LOWER_IS_BETTER else (change < 0),
            }
    return {"label": row.label, "reference": row is reference, "n_seeds": row.n_seeds, "cells": cells}
