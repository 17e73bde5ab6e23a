"""Runs on Weights & Biases: one identity a run folder, the summary and the examples, and errors of one line."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cmr_bench.results.examples import EXAMPLES_FILE, THUMBNAILS, read_thumbnail, thumbnail_name
from cmr_bench.results.record import Result
from cmr_bench.support import environment, foreign
from cmr_bench.support.errors import CmrBenchError, first_line
from cmr_bench.support.files import write_atomic

IDENTITY_FILE = "wandb.json"
PROJECT = "cmr-bench"
# Seconds for the first answer of the server; wandb's own 90 are long for somebody without a network.
_PATIENCE = 30.0


def read_identity(folder: Path) -> dict[str, Any]:
    """Return what a run folder says of its run on W&B, nothing where it has none: id, project, entity, uploaded."""
    try:
        content = foreign.read_json(folder / IDENTITY_FILE, within=folder)
    except (OSError, CmrBenchError):
        return {}
    return content if isinstance(content, dict) else {}


def run_id(folder: Path) -> str:
    """Return the id of a run on W&B: the stored one, else data, method and run id in the letters that W&B takes."""
    stored = read_identity(folder).get("id")
    parts = folder.resolve().parts[-3:]
    return str(stored) if stored else re.sub(r"[^\w.-]+", "-", "-".join(parts))[-128:]


def arguments(folder: Path, project: str | None = None, entity: str | None = None) -> dict[str, Any]:
    """Return the arguments of ``wandb.init`` that make every session of a run folder one run."""
    import wandb

    environment.silence_wandb()
    return {
        "id": run_id(folder),
        "project": project or environment.value(environment.WANDB_PROJECT) or PROJECT,
        "entity": entity or environment.value(environment.WANDB_ENTITY) or None,
        "dir": str(folder),
        "resume": "allow",
        "settings": wandb.Settings(silent=True, console="off", init_timeout=_PATIENCE),
    }


def labels(method: str, dataset: str, seed: int | None, variant: str, family: str) -> dict[str, Any]:
    """Return name and tags of a run as ``wandb.init`` takes them; W&B refuses tags of more than 64 signs."""
    name = "-".join(part for part in (method, variant, dataset, f"s{seed}" if seed is not None else "") if part)
    return {"name": name, "tags": [tag[:64] for tag in dict.fromkeys((family, dataset, variant)) if tag]}


def keep_identity(folder: Path, run: Any, **more: Any) -> None:
    """Store the identity of a W&B run in the run folder."""
    identity = {"id": run.id, "project": run.project, "entity": run.entity or None, **more}
    write_atomic(folder / IDENTITY_FILE, json.dumps({**read_identity(folder), **identity}, indent=1) + "\n")


def refused(error: Exception) -> CmrBenchError:
    """Return what a user can do about a session that W&B did not begin."""
    reason = first_line(error).rstrip(".")
    return CmrBenchError(
        f"W&B did not start the run ({reason}): log in by `wandb login`, or set WANDB_MODE=offline, which logs to the "
        "run folder for `wandb sync` later"
    )


def report(run: Any, result: Result, folder: Path) -> None:
    """Write the metrics of a result, under their own names, and its examples to an open W&B run."""
    for key, value in result.metrics.items():
        run.summary[key] = value
    run.summary.update({f"cost/{key}": value for key, value in result.cost.items()})
    found = _examples(folder)
    if found:
        run.log({f"examples/{way}": _table(found[way], folder / THUMBNAILS) for way in ("i2t", "t2i") if found[way]})


def _examples(folder: Path) -> Mapping[str, Sequence[Mapping[str, Any]]]:
    try:
        found = foreign.read_json(folder / EXAMPLES_FILE, within=folder)
        return {way: list(found[way]) for way in ("i2t", "t2i")}
    except (OSError, CmrBenchError, KeyError, TypeError):
        return {}


def _table(entries: Sequence[Mapping[str, Any]], thumbnails: Path) -> Any:
    import wandb

    most = max(len(entry["answers"]) for entry in entries)
    table = wandb.Table(columns=["query", "rank", *(f"answer {k + 1}" for k in range(most))])
    for entry in entries:
        answers = [
            _cell(answer, thumbnails, f"{'✓' if answer.get('match') else '✗'} {answer.get('score', 0.0):.3f}")
            for answer in entry["answers"]
        ]
        query = entry["query"]
        table.add_data(_cell(query, thumbnails, ""), query.get("rank"), *answers, *[None] * (most - len(answers)))
    return table


def _cell(item: Mapping[str, Any], thumbnails: Path, note: str) -> Any:
    """Return the note and the caption or id, or an image with its thumbnail where the run folder has thumbnails.

    A column of a W&B table holds values of one type, so an image whose thumbnail is missing is left empty.
    """
    import wandb

    if "caption" in item or not thumbnails.is_dir():
        return f"{note} {item.get('caption', item['id'])}".strip()
    file = thumbnails / thumbnail_name(str(item["id"]))
    content = read_thumbnail(file)
    return wandb.Image(str(file), caption=f"{note} {item['id']}".strip()) if content else None


def finish(failed: bool) -> None:
    """End the W&B run of this process, if there is one, so that the next begins its own."""
    wandb = sys.modules.get("wandb")
    if wandb is not None and wandb.run is not None:
        wandb.finish(exit_code=int(failed))
