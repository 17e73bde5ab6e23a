"""Pushing runs to, and pulling them from, a folder or a repository of the Hugging Face Hub."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cmr_bench.exchange.card import model_card
from cmr_bench.exchange.merging import Merged, merge
from cmr_bench.exchange.packing import FILES, WEIGHTS, pack
from cmr_bench.results.record import RESULT_FILE, read_result
from cmr_bench.results.store import result_files
from cmr_bench.support.errors import CmrBenchError, DataError, UsageError, brief, first_line
from cmr_bench.support.files import write_atomic
from cmr_bench.support.hub import do_not_wait_for_hub

HUB = "hf://"


@dataclass(frozen=True)
class Repository:
    """A repository of the hub, or a folder in it.

    Attributes:
        name: ``user/name``.
        below: Folder below it, ``<data>/<method>/<run id>`` or a part of that; empty for all.
    """

    name: str
    below: str = ""


def repository(address: str) -> Repository:
    """Return what ``hf://user/name`` or ``hf://user/name/<data>/<method>/<run id>`` means.

    Raises:
        UsageError: If it is none.
    """
    parts = address.removeprefix(HUB).strip("/").split("/")
    if not 2 <= len(parts) <= 5 or not all(re.fullmatch(r"\w[\w.+-]*", part) for part in parts):
        raise UsageError(f"{address}: write hf://user/name, perhaps with /<data>/<method>/<run> behind it")
    return Repository("/".join(parts[:2]), "/".join(parts[2:]))


def push(runs: Sequence[Path], to: str, *, weights: bool = True, private: bool = False) -> Merged:
    """Share runs.

    Args:
        runs: Folders of finished runs.
        to: ``hf://user/name``, or a folder of runs.
        weights: Share the weights too.
        private: Make a new repository private.

    Returns:
        What was added there and what there was already; of a repository, the folders below it.

    Raises:
        CmrBenchError: If a run cannot be read, or the hub refuses.
    """
    with tempfile.TemporaryDirectory(prefix="cmr-bench-push-") as temporary:
        packed = Path(temporary) / "packed"
        for run in runs:
            pack(run, packed, weights)
        if not to.startswith(HUB):
            return _whole(merge(packed, Path(to).expanduser(), weights))
        target = repository(to)
        if target.below:
            raise UsageError(f"--to {to}: runs have their places in a repository; pass hf://{target.name}")
        return _upload(packed, Path(temporary) / "there", target.name, weights, private)


def _whole(merged: Merged) -> Merged:
    if merged.problems:
        raise CmrBenchError("; ".join(merged.problems))
    return merged


def _upload(packed: Path, there: Path, name: str, weights: bool, private: bool) -> Merged:
    """Upload what a repository lacks, after a look at the results in it."""
    api = _api()
    try:
        api.create_repo(name, repo_type="model", private=private, exist_ok=True)
    except Exception as error:
        raise _refused(name, error) from error
    _download(Repository(name), there, weights=False, empty=True)
    merged = _whole(merge(packed, there, weights))
    grown = [folder for folder in merged.completed if _files(folder, there) - set(api.list_repo_files(name))]
    below = [folder.relative_to(there) for folder in (*merged.added, *grown)]
    if below:
        listed = [(file.parent.relative_to(there), read_result(file)) for file in result_files(there)]
        write_atomic(there / "README.md", model_card(name, listed))
        try:
            api.upload_folder(
                repo_id=name,
                folder_path=there,
                allow_patterns=["README.md", *(f"{place.as_posix()}/*" for place in below)],
                commit_message=f"Add {len(below)} run{'s' if len(below) > 1 else ''}",
            )
        except Exception as error:
            raise _refused(name, error) from error
    added, present = ([folder.relative_to(there) for folder in some] for some in (merged.added, merged.present))
    return Merged(added, present, [folder.relative_to(there) for folder in grown])


def _files(folder: Path, root: Path) -> set[str]:
    return {file.relative_to(root).as_posix() for file in folder.iterdir()}


def pull(source: str, into: Path, *, weights: bool = True) -> Merged:
    """Bring runs into a folder of runs.

    Args:
        source: ``hf://user/name``, perhaps with a folder behind it, or a folder of runs.
        into: Folder of runs.
        weights: Bring the weights too.

    Returns:
        What was added, what there was already, and what was left out, with reasons.

    Raises:
        CmrBenchError: If the source is not there.
    """
    if not source.startswith(HUB):
        folder = Path(source).expanduser()
        if not folder.is_dir():
            raise UsageError(f"{source}: no such folder; pass a folder of runs or hf://user/name")
        return merge(folder, into, weights)
    with tempfile.TemporaryDirectory(prefix="cmr-bench-pull-") as temporary:
        there = Path(temporary) / "there"
        _download(repository(source), there, weights)
        return merge(there, into, weights)


def fetch(address: str, into: Path) -> Path:
    """Return the folder of one run of a repository, brought into a folder of runs.

    Raises:
        UsageError: If there are several and the address names none.
        DataError: If there is none.
    """
    source = repository(address)
    # Before anything is downloaded: the weights of many runs are large.
    runs = [file.rpartition("/")[0] for file in _listed(source) if file.endswith(f"/{RESULT_FILE}")]
    if len(runs) > 1:
        several = ", ".join(f"hf://{source.name}/{run}" for run in sorted(runs)[:4])
        raise UsageError(f"{address} holds {len(runs)} runs: name one, such as {several}")
    found = pull(address, into)
    if not found.folders:
        raise DataError(f"{address} holds no run{': ' if found.problems else ''}{'; '.join(found.problems)}")
    return found.folders[0]


def _listed(source: Repository) -> list[str]:
    """List the files of known names."""
    prefix = f"{source.below}/" if source.below else ""
    try:
        listed = _api().list_repo_files(source.name)
    except Exception as error:
        raise _refused(source.name, error) from error
    return [
        file for file in listed if file.startswith(prefix) and file.count("/") == 3 and file.rpartition("/")[2] in FILES
    ]


def _download(source: Repository, there: Path, weights: bool, empty: bool = False) -> None:
    """Download the files of known names; ``empty`` allows a repository without any."""
    files = [file for file in _listed(source) if weights or file.rpartition("/")[2] not in WEIGHTS]
    if not files and not empty:
        raise DataError(f"hf://{source.name}/{source.below}".rstrip("/") + " holds no results")
    api = _api()
    try:
        for file in files:
            api.hf_hub_download(source.name, file, local_dir=there)
    except Exception as error:
        raise _refused(source.name, error) from error


def _api() -> Any:
    from huggingface_hub import HfApi

    do_not_wait_for_hub()
    return HfApi(library_name="cmr-bench")


def _refused(name: str, error: Exception) -> CmrBenchError:
    return CmrBenchError(
        f"the hub does not give hf://{name}: {brief(first_line(error))}; check name, network and `hf auth login`"
    )
