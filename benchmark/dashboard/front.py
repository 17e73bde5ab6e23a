"""The front page: what each leaderboard comes to, the last runs, and those without a result."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from cmr_bench.dashboard.collect import StoredRun
from cmr_bench.leaderboard.naming import NEVER_BEST
from cmr_bench.results.groups import LOWER_IS_BETTER

_LAST_RUNS = 8
_UNVERIFIED = 2


def is_verified(row: Mapping[str, Any]) -> bool:
    """Tell whether a row of a board may lead: not one of unverified external files, nor one that is never the best."""
    return not {"external", *NEVER_BEST} & set(row["row"].flags)


def card(shown: Mapping[str, Any]) -> dict[str, Any]:
    """Put the best of each family beside the best that is published of it.

    Args:
        shown: A board, as :func:`cmr_bench.dashboard.board.board` arranges it.

    Returns:
        ``families``, the best first: name, the measured and the published row with value, text and share of the longest
        bar, and the best row that may not lead, such as a shortened one; ``unverified``: rows of external files, of
        whose test split nothing is known.
    """
    main = shown["main"]
    sign = -1 if main in LOWER_IS_BETTER else 1
    rows = [row for row in shown["rows"] if main in row["cells"]]
    best: dict[str, dict[str, Mapping[str, Any]]] = {}
    for row in sorted(rows, key=lambda row: -sign * row["cells"][main]["value"]):
        kind = "published" if not row["measured"] else "measured" if is_verified(row) else "unranked"
        if "external" not in row["row"].flags:
            best.setdefault(row["family"], {}).setdefault(kind, row)
    longest = max((abs(row["cells"][main]["value"]) for each in best.values() for row in each.values()), default=0.0)
    families = [
        {"name": family or "no family", "key": family,
         **{kind: _bar(each.get(kind), main, longest) for kind in ("measured", "unranked", "published")}}
        for family, each in best.items()
    ]  # fmt: skip

    def place(family: Mapping[str, Any]) -> tuple[int, float]:
        kinds = ("measured", "unranked", "published")
        first, value = next((at, family[kind]["value"]) for at, kind in enumerate(kinds) if family[kind])
        return (first, -sign * value)

    others = [row for row in rows if row["measured"] and "external" in row["row"].flags]
    return {
        "families": sorted(families, key=place),
        "unverified": [_bar(row, main, longest) for row in others[:_UNVERIFIED]],
        "has_published": any(family["published"] for family in families),
    }


def _bar(row: Mapping[str, Any] | None, main: str, longest: float) -> dict[str, Any] | None:
    if row is None:
        return None
    cell = row["cells"][main]
    return {
        "title": row["title"],
        "source": row["source"],
        "marks": row["marks"],
        "value": cell["value"],
        "text": cell["text"],
        "spread": cell["spread"],
        "share": round(100 * abs(cell["value"]) / longest, 1) if longest else 0,
    }


def last_runs(index: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return the entries of the runs that were stored last, the latest first."""
    return sorted(index, key=lambda entry: (entry["created"], entry["run_id"]), reverse=True)[:_LAST_RUNS]


def best_pair(boards: Sequence[Mapping[str, Any]], ready: Mapping[str, int]) -> list[str]:
    """Choose two runs that a comparison can begin with: the best two rows of the board with the most measured rows.

    Args:
        boards: The boards.
        ready: Number of the group of comparable runs, by the slug of each run that kept the outcomes of its queries.

    Returns:
        Slugs of two runs, of one seed where the rows share one, or fewer where there are not two.
    """
    for shown in sorted(boards, key=lambda shown: -shown["n_measured"]):
        rows = [row for row in shown["rows"] if row["measured"] and is_verified(row) and shown["main"] in row["cells"]]
        each = [{seed["name"]: seed["slug"] for seed in row["seeds"] if seed["slug"] in ready} for row in rows]
        each = [seeds for seeds in each if seeds][:2]
        if len(each) == 2:
            shared = [name for name in each[0] if name in each[1]]
            first, second = (seeds[shared[0]] if shared else next(iter(seeds.values())) for seeds in each)
            if ready[first] == ready[second]:
                return [first, second]
    return []


def totals(stored: Sequence[StoredRun], boards: Sequence[Mapping[str, Any]]) -> list[tuple[int, str]]:
    """Count what is on the site."""
    results = [run.result for run in stored]
    seconds = math.fsum(result.cost.get("train_seconds", 0.0) for result in results)
    return [
        (len(results), "runs"),
        (len({result.method for result in results}), "methods"),
        (len({result.family for result in results if result.family}), "families"),
        (len({result.data for result in results}), "data sets"),
        (len(boards), "leaderboards"),
        (round(seconds / 3600), "hours of training")
        if seconds > 5400
        else (round(seconds / 60), "minutes of training"),
    ]
