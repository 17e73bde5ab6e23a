"""Upload stored results to Weights & Biases: those of runs that were made without it."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import track

from cmr_bench.results.record import RESULT_FILE, read_result
from cmr_bench.results.store import stored_configuration
from cmr_bench.support import foreign
from cmr_bench.tracking.runs import arguments, finish, keep_identity, labels, read_identity, refused, report


def upload(
    folders: Sequence[Path], project: str | None = None, entity: str | None = None, again: bool = False
) -> tuple[list[Path], list[Path]]:
    """Upload the results, curves and examples of run folders, each as one W&B run with an id that stays the same.

    A folder whose result is on W&B already, because it was uploaded or logged there by ``--logger wandb``, is passed
    over. Nothing is trained or scored.

    Args:
        folders: Run folders; those without a result are passed over.
        project: W&B project; ``WANDB_PROJECT`` or cmr-bench where not given.
        entity: W&B user or team; ``WANDB_ENTITY`` or the account's own where not given.
        again: Upload those too that are there already.

    Returns:
        The folders uploaded, and those that were there already.

    Raises:
        CmrBenchError: If W&B cannot be reached or there is no account; the folders before that are uploaded.
    """
    done: list[Path] = []
    there: list[Path] = []
    console = Console(stderr=True)
    finished = [folder for folder in folders if (folder / RESULT_FILE).is_file()]
    for folder in track(finished, "uploading", console=console, transient=True, disable=not console.is_terminal):
        (done if _upload_one(folder, project, entity, again) else there).append(folder)
    return done, there


def _upload_one(folder: Path, project: str | None, entity: str | None, again: bool) -> bool:
    import wandb

    result = read_result(folder / RESULT_FILE)
    wanted = arguments(folder, project, entity)
    known = read_identity(folder)
    same_place = known.get("project") == wanted["project"] and wanted["entity"] in (None, known.get("entity"))
    if same_place and known.get("uploaded") == result.created and not again:
        return False
    named = labels(result.method, result.data, result.seed, result.variant, result.family)
    try:
        run = wandb.init(**wanted, **named, config=stored_configuration(folder) or dict(result.options))
    except wandb.errors.Error as error:
        raise refused(error) from error
    failed = True
    try:
        for row in _history(folder):
            # A resumed run has its first steps already, and W&B takes no step twice.
            if int(row["epoch"]) >= run.step:
                run.log(row, step=int(row["epoch"]))
        report(run, result, folder)
        failed = False
    finally:
        finish(failed)
    keep_identity(folder, run, uploaded=result.created)
    return True


def _history(folder: Path) -> list[dict[str, float]]:
    file = folder / "history.csv"
    if not file.is_file():
        return []
    with io.StringIO(foreign.read_text(file, foreign.RECORD_BYTES, within=folder), newline="") as stream:
        return [{name: float(value) for name, value in row.items() if value} for row in csv.DictReader(stream)]
