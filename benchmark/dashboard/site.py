"""Writes the site: pages from templates, data of runs as scripts, thumbnails and the plotting library beside them."""

from __future__ import annotations

import functools
import importlib.resources
import json
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
from cmr_bench.dashboard.board import SHAPES, board
from cmr_bench.dashboard.collect import StoredRun, collect
from cmr_bench.dashboard.ended import ended
from cmr_bench.dashboard.front import best_pair, card, last_runs, totals
from cmr_bench.dashboard.heatmap import FIDELITIES, METRICS, heat_map
from cmr_bench.dashboard.pages import index_entry, run_data, run_page
from cmr_bench.dashboard.queries import split_data, split_key
from cmr_bench.dashboard.verdicts import RESAMPLES, packed_draws
from cmr_bench.leaderboard.rows import Section, comparable, sections
from cmr_bench.results.published import Published
from cmr_bench.results.store import failures
from cmr_bench.support.errors import CmrBenchError, UsageError
from cmr_bench.support.memory import collecting_no_garbage

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
    with collecting_no_garbage():
        return _build(runs, out, published)


def _build(runs: Path, out: Path, published: Published | None) -> Built:
    stored, problems = collect(runs)
    if not stored:
        why = f" ({len(problems)} skipped: {problems[0]})" if problems else _to_resume(runs)
        raise CmrBenchError(f"no results in {runs}{why}. Make one: cmr-bench run --model vsepp")
    try:
        out.absolute().parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.absolute().parent) as workplace:
            site, old = Path(workplace) / "site", Path(workplace) / "old"
            site.mkdir()
            _write(site, runs, stored, problems, published)
            if out.exists():
                out.rename(old)
            site.rename(out)
    except OSError as error:
        raise CmrBenchError(f"cannot write the site {out}: {error.strerror or error}") from error
    return Built(len(stored), problems)


def _write(
    site: Path, runs: Path, stored: Sequence[StoredRun], problems: Sequence[str], published: Published | None
) -> None:
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
        content = run_data(run, drawn.get(run.slug, {}), answers.get(run.slug), groups[run.slug])
        _script(site / "data" / f"{run.slug}.js", run.slug, content)
        page = run_page(run)
        in_queries = split_key(run) if run.examples else ""
        render(site / "runs" / f"{run.slug}.html", "run.html", root="../", run=page, board=page_of.get(run.slug),
               split=in_queries, data=_json(content["own"]))  # fmt: skip
    index = [index_entry(run, groups[run.slug], run.slug in drawn) for run in stored]
    unended = ended(runs)
    render(site / "index.html", "index.html", boards=boards, cards=[card(shown) for shown in boards],
           problems=_unreadable(problems, runs), totals=totals(stored, boards), last=last_runs(index),
           ended=unended)  # fmt: skip
    render(site / "runs.html", "runs.html", runs=index, ended=unended)
    chosen = best_pair(boards, {run.slug: groups[run.slug] for run in stored if run.slug in drawn})
    render(site / "compare.html", "compare.html", runs=index, resamples=RESAMPLES, chosen=chosen)
    maps = [heat_map(boards, metric) for metric in METRICS]
    render(site / "heatmap.html", "heatmap.html", maps=[one for one in maps if one["columns"]], fidelities=FIDELITIES,
           told={one["key"]: one["told"] for one in maps})  # fmt: skip
    render(site / "queries.html", "queries.html", splits=splits)


def _to_resume(runs: Path) -> str:
    commands = [one.command for one in ended(runs) if one.command]
    return f" ({len(commands)} unfinished, the latest goes on with `{commands[0]}`)" if commands else ""


def _unreadable(problems: Sequence[str], runs: Path) -> list[str]:
    """Return the problems but those of failed runs, which have a table of their own."""
    failed = set(failures(runs))
    return [problem for problem in problems if problem not in failed]


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
        "shapes": SHAPES,
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
