"""Writes the site: pages from templates, data of runs as scripts, thumbnails and the plotting library beside them."""

from __future__ import annotations

import functools
import importlib.resources
import json
import math
import shlex
import tempfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from cmr_bench import __version__
from cmr_bench.dashboard.board import board, costs, rounded, short, write_cost
from cmr_bench.dashboard.collect import StoredRun, collect
from cmr_bench.dashboard.queries import split_data, split_key
from cmr_bench.dashboard.verdicts import RESAMPLES, packed_draws
from cmr_bench.leaderboard.board import MARKS, head, number
from cmr_bench.leaderboard.naming import NEVER_BEST, changes_of, flags_of, label_of, split_seed_of
from cmr_bench.leaderboard.rows import Section, comparable, sections
from cmr_bench.results.groups import GROUPS
from cmr_bench.results.published import Published
from cmr_bench.results.record import Result, short_commit
from cmr_bench.support.errors import CmrBenchError, UsageError

# A folder with this file is a site of ours, which may be replaced.
MARKER = ".cmr-bench-dashboard"


@dataclass(frozen=True)
class Built:
    """What was built.

    Attributes:
        n_runs: Runs with a result.
        problems: One line for each file that could not be read and each run that failed.
    """

    n_runs: int
    problems: list[str]


def build(runs: Path, out: Path, published: Published | None) -> Built:
    """Build the site of a folder of runs; an earlier site in its place is replaced when the new one is whole.

    Args:
        runs: Folder of runs.
        out: Folder of the site.
        published: Figures of papers; None leaves them out.

    Raises:
        UsageError: If ``out`` is a file, or a folder that holds anything but a site.
        CmrBenchError: If there is no result, or the site cannot be written.
    """
    if out.exists() and not (out.is_dir() and ((out / MARKER).is_file() or not any(out.iterdir()))):
        raise UsageError(f"--out {out} exists and is not a dashboard: pass another folder, or remove it")
    stored, problems = collect(runs)
    if not stored:
        why = f" ({len(problems)} skipped: {problems[0]})" if problems else ""
        raise CmrBenchError(f"no results in {runs}{why}. Make one: cmr-bench run --model vsepp")
    try:
        out.absolute().parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.absolute().parent) as workplace:
            site, old = Path(workplace) / "site", Path(workplace) / "old"
            site.mkdir()
            _write(site, stored, problems, published)
            if out.exists():
                out.rename(old)
            site.rename(out)
    except OSError as error:
        raise CmrBenchError(f"cannot write the site {out}: {error.strerror or error}") from error
    return Built(len(stored), problems)


def _write(site: Path, stored: Sequence[StoredRun], problems: Sequence[str], published: Published | None) -> None:
    for folder in ("assets", "data", "runs", "thumbnails"):
        (site / folder).mkdir()
    (site / MARKER).write_text(f"{__version__}\n")
    _copy_assets(site / "assets")
    render = _renderer(len(stored))
    found = sections([run.result for run in stored], published)
    run_of = {id(run.result): run for run in stored}
    boards = [board(section, run_of) for section in found]
    page_of = {run.slug: shown for section, shown in zip(found, boards, strict=True) for run in _runs(section, run_of)}
    for shown in boards:
        render(site / f"{shown['slug']}.html", "board.html", board=shown)
    groups = _groups(stored)
    drawn = packed_draws(stored)
    by_split: dict[str, list[StoredRun]] = defaultdict(list)
    for run in stored:
        if run.examples:
            by_split[split_key(run)].append(run)
    answers: dict[str, Any] = {}
    splits = []
    for key, members in by_split.items():
        content, own = split_data(members, site / "thumbnails")
        answers |= own
        splits.append({"key": key, "title": content["title"], "n_runs": len(members)})
        _script(site / "data" / f"split-{key}.js", f"split-{key}", content)
    for run in stored:
        content = _run_data(run, drawn.get(run.slug, {}), answers.get(run.slug), groups[run.slug])
        _script(site / "data" / f"{run.slug}.js", run.slug, content)
        page = _run_page(run)
        in_queries = split_key(run) if run.examples else ""
        render(site / "runs" / f"{run.slug}.html", "run.html", root="../", run=page, board=page_of.get(run.slug),
               split=in_queries, data=_json(content["own"]))  # fmt: skip
    index = [_index_entry(run, groups[run.slug], run.slug in drawn) for run in stored]
    render(site / "index.html", "index.html", boards=boards, problems=problems, totals=_totals(stored, boards))
    render(site / "runs.html", "runs.html", runs=index)
    render(site / "compare.html", "compare.html", runs=index, resamples=RESAMPLES)
    render(site / "queries.html", "queries.html", splits=splits)


def _runs(section: Section, run_of: Mapping[int, StoredRun]) -> list[StoredRun]:
    return [run_of[id(result)] for row in section.rows for result in row.results]


def _copy_assets(folder: Path) -> None:
    ours = importlib.resources.files("cmr_bench.dashboard") / "assets"
    for file in ours.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    library = importlib.resources.files("plotly") / "package_data" / "plotly.min.js"
    (folder / "plotly.min.js").write_bytes(library.read_bytes())


def _renderer(n_runs: int) -> Any:
    environment = Environment(
        loader=PackageLoader("cmr_bench.dashboard"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    environment.globals |= {
        "version": __version__,
        "built": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "n_runs": n_runs,
        "json": _json,
    }
    template = functools.cache(environment.get_template)

    def render(path: Path, name: str, root: str = "", **values: Any) -> None:
        text = template(name).render(root=root, **values)
        path.write_text(text, encoding="utf-8", errors="replace")

    return render


def _json(value: Any) -> Markup:
    """Return JSON for a script element: nothing in it can end the element or start another."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    return Markup(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))


def _script(path: Path, name: str, value: Any) -> None:
    # A page that is opened from disk may not fetch files, but it may run scripts that lie beside it.
    path.write_text(f"cmr.receive({json.dumps(name)},{_json(value)});\n", encoding="utf-8")


def _groups(stored: Sequence[StoredRun]) -> dict[str, int]:
    """Number the runs so that those of one number may be compared: same test split, definitions, post-processing."""
    slug_of = {id(run.result): run.slug for run in stored}
    found: dict[str, int] = {}
    numbers: dict[tuple[int, str, str], int] = {}
    for place, bucket in enumerate(comparable([run.result for run in stored])):
        for result in bucket:
            key = (place, result.fingerprint, str(result.protocol.get("postprocess") or ""))
            found[slug_of[id(result)]] = numbers.setdefault(key, len(numbers))
    return found


def _label(run: StoredRun) -> str:
    draw, seed = split_seed_of(run.result), run.result.seed
    parts = [label_of(run.result)]
    parts += [] if draw is None else [f"draw {draw}"]
    parts += [] if seed is None else [f"seed {seed}"]
    return ", ".join(parts)


def _marks(result: Result) -> list[str]:
    return [MARKS[flag][0] if flag in MARKS else flag for flag in flags_of(result)]


def _index_entry(run: StoredRun, group: int, has_draws: bool) -> dict[str, Any]:
    result = run.result
    names = [name for name in ("rsum", "mr", "map") if name in result.metrics]
    return {
        "slug": run.slug,
        "label": _label(run),
        "run_id": result.run_id,
        "method": result.method,
        "variant": result.variant,
        "data": result.data,
        "family": result.family,
        "seed": result.seed,
        "group": group,
        "paired": has_draws,
        "fingerprint": result.fingerprint[:12],
        "marks": _marks(result),
        "ranked": not set(flags_of(result)) & set(NEVER_BEST),
        "created": result.created[:16].replace("T", " "),
        "figures": {name: number(name, result.metrics[name]) for name in names},
    }


def _run_data(run: StoredRun, draws: Mapping[str, Any], answers: Any, group: int) -> dict[str, Any]:
    result = run.result
    return {
        "own": {
            "label": _label(run),
            "history": {name: [None if value is None else rounded(value) for value in values]
                        for name, values in run.history.items()},
            "curves": {name: [rounded(value) for value in values] for name, values in result.curves.items()},
        },
        "group": group,
        "metrics": result.metrics,
        "names": {name: " ".join(part for part in head(name) if part) for name in result.metrics},
        "lower": [name for name in result.metrics if name in GROUPS["rank"]],
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


def _run_page(run: StoredRun) -> dict[str, Any]:
    result = run.result
    names = [name for group in GROUPS.values() for name in group if name in result.metrics]
    names += [name for name in result.metrics if name not in names]
    definitions = result.protocol.get("definitions")
    definitions = definitions if isinstance(definitions, dict) else {}
    images, texts, *_ = [*result.split_sizes.get("test", []), 0, 0]
    return {
        "label": _label(run),
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


def _totals(stored: Sequence[StoredRun], boards: Sequence[Mapping[str, Any]]) -> list[tuple[int, str]]:
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
