"""What the page of a run shows, and what lists of runs say of it."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

from cmr_bench.dashboard.board import costs, rounded, short, write_cost
from cmr_bench.dashboard.breakdown import breakdown
from cmr_bench.dashboard.collect import StoredRun
from cmr_bench.leaderboard.board import MARKS, head, number
from cmr_bench.leaderboard.naming import NEVER_BEST, changes_of, flags_of, label_of, split_seed_of
from cmr_bench.results.groups import GROUPS, lower_is_better
from cmr_bench.results.record import Result, short_commit


def run_label(run: StoredRun) -> str:
    """Return method, variant, difference from the recipe, draw and seed in one text."""
    draw, seed = split_seed_of(run.result), run.result.seed
    parts = [label_of(run.result)]
    parts += [] if draw is None else [f"draw {draw}"]
    parts += [] if seed is None else [f"seed {seed}"]
    return ", ".join(parts)


def run_marks(result: Result) -> list[str]:
    """Return the marks of the flags of a run."""
    return [MARKS[flag][0] if flag in MARKS else flag for flag in flags_of(result)]


def index_entry(run: StoredRun, group: int, has_draws: bool) -> dict[str, Any]:
    """Return what lists of runs say of one; runs of one ``group`` may be compared."""
    result = run.result
    names = [name for name in ("rsum", "mr", "map") if name in result.metrics]
    return {
        "slug": run.slug,
        "label": run_label(run),
        "run_id": result.run_id,
        "method": result.method,
        "variant": result.variant,
        "data": result.data,
        "family": result.family,
        "seed": result.seed,
        "group": group,
        "paired": has_draws,
        "fingerprint": result.fingerprint[:12],
        "marks": run_marks(result),
        "ranked": not set(flags_of(result)) & set(NEVER_BEST),
        "created": result.created[:16].replace("T", " "),
        "figures": {name: number(name, result.metrics[name]) for name in names},
    }


def run_data(run: StoredRun, draws: Mapping[str, Any], answers: Any, group: int) -> dict[str, Any]:
    """Return what scripts read of a run, what its own page draws under ``own``."""
    result = run.result
    return {
        "own": {
            "label": run_label(run),
            "history": {name: [None if value is None else rounded(value) for value in values]
                        for name, values in run.history.items()},
            **breakdown([run.outcomes] if run.outcomes is not None else []),
            "curves": {name: [rounded(value) for value in values] for name, values in result.curves.items()},
        },
        "group": group,
        "metrics": result.metrics,
        "names": {name: " ".join(part for part in head(name) if part) for name in result.metrics},
        "lower": [name for name in result.metrics if lower_is_better(name)],
        "intervals": result.intervals,
        "costs": {name: write_cost(name, value) for name, value in costs(result).items()},
        "facts": _facts(run),
        "draws": draws,
        "answers": answers,
    }  # fmt: skip


def _facts(run: StoredRun) -> dict[str, str]:
    """Return what may set apart two runs, in words."""
    result = run.result
    found = {
        "method": result.method,
        "variant": result.variant,
        "family": result.family,
        "fidelity": result.fidelity,
        "seed": "" if result.seed is None else str(result.seed),
        "data": result.data,
        "batch size": str(result.batch_size or ""),
        "device": result.device,
        "commit": short_commit(result.commit),
        "flags": ", ".join(flags_of(result)),
    }
    for side in ("image", "text"):
        view = result.views.get(side)
        if isinstance(view, dict):
            found[f"{side} view"] = f"{view.get('kind')}, {view.get('source')}, {view.get('shape')}"
    found |= {name: str(value) for name, value in {**result.options, **changes_of(result)}.items()}
    found |= {f"version of {name}": version for name, version in result.versions.items()}
    return {name: value for name, value in found.items() if value}


def run_page(run: StoredRun) -> dict[str, Any]:
    """Return what the template of a run shows."""
    result = run.result
    names = [name for group in GROUPS.values() for name in group if name in result.metrics]
    names += [name for name in result.metrics if name not in names]
    definitions = result.protocol.get("definitions")
    definitions = definitions if isinstance(definitions, dict) else {}
    images, texts, *_ = [*result.split_sizes.get("test", []), 0, 0]
    return {
        "label": run_label(run),
        "slug": run.slug,
        "result": result,
        "flags": flags_of(result),
        "changes": changes_of(result),
        "commit": short_commit(result.commit),
        "headline": [
            (name, *head(name), number(name, result.metrics[name]))
            for name in ("rsum", "map", "i2t_r1", "t2i_r1") if name in result.metrics
        ],
        "metrics": [
            {
                "name": name,
                "direction": head(name)[0],
                "head": head(name)[1],
                "text": number(name, result.metrics[name]),
                "interval": [number(name, end) for end in result.intervals.get(name, ())],
                "unit": result.units.get(name, ""),
                "definition": definitions.get(name, ""),
            }
            for name in names
        ],
        "protocol": {
            "folds": result.protocol.get("folds"),
            "subsets": result.protocol.get("subsets"),
            "identities": result.protocol.get("identities"),
            "unseen_classes": result.protocol.get("unseen_classes"),
            "bootstrap": result.protocol.get("bootstrap"),
            "postprocess": result.protocol.get("postprocess"),
        },
        "test_size": (images, texts),
        "costs": [(name, write_cost(name, value)) for name, value in costs(result).items()],
        "memory": result.cost.get("peak_memory_bytes", 0) / 2**20,
        "views": [
            (side, view.get("kind"), short(str(view.get("source"))), view.get("shape"))
            for side, view in result.views.items() if isinstance(view, dict)
        ],
        "config": run.config,
        "command": f"cmr-bench run --config {shlex.quote(str(run.folder / 'config.yaml'))}" if run.config else "",
        "has_history": any(name.startswith("val/") for name in run.history),
    }  # fmt: skip
