"""One run's result: what is in ``result.json``."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeGuard

from cmr_bench.support import foreign
from cmr_bench.support.errors import CmrBenchError, one_line
from cmr_bench.support.files import write_atomic

SCHEMA = 1
RESULT_FILE = "result.json"
FAILURE_FILE = "failed.json"
WEIGHTS_FILE = "model.safetensors"  # in place of a checkpoint, in a run that was shared


@dataclass
class Result:
    """One stored result.

    Attributes:
        method: Short name of the method, or the name a user gave to scores of their own.
        data: Short name of the data set.
        metrics: Every metric, unrounded; recalls in percent, mAP in 0..1.
        run_id: Name of the run folder.
        variant: Variant of the recipe, or empty.
        family: Family of the survey.
        fidelity: paper, code or reconstruction; external for scores that a user brought.
        units: Unit of each metric.
        intervals: Bootstrap interval (low, high) of metrics that have one.
        curves: Precision-recall curves.
        split_sizes: Images and texts of each split, ``{"train": [6000, 30000], ...}``.
        fingerprint: Content fingerprint of the test split.
        views: Image and text view with source and shape.
        protocol: Folds, subsets and their seed, bootstrap, post-processing, number of identities, unseen classes and
            the definitions of the metrics.
        tie_rate: Fraction of queries whose match shares its score with another item.
        selection: Split, criterion, value and epoch of model selection.
        seed: Seed of the run.
        batch_size: Global batch size.
        label_space: category, identity or none.
        cost: Parameters, seconds of training, encoding and scoring, peak memory in bytes.
        versions: Versions of Python and the libraries.
        device: Device in words.
        code: SHA-256 of the files that classes outside of the suite came from, by ``FILE.py:Class``.
        commit: Commit of the code, where it ran from a checkout of the suite; with a `+` behind it where changes of the
            code were not committed.
        flags: ensemble, transductive, uses_test_groups, unseen_classes, selected_on_test, shortened.
        skipped: Images skipped because a file is missing or cannot be decoded, by split.
        invalid_rows: Rows of the annotation files skipped because they cannot be read.
        unknown_words: Fraction of the words of validation and test that the vocabulary lacks, 0..1.
        options: Settings of method, data and training that differ from the constructors' defaults, by dotted name.
        members: What an ensemble is the mean of, by ``method/run id``: method, variant, seed and time of writing.
        slices: Recalls over parts of the test queries: ``few_shot``, the captions with a word seen fewer than ``below``
            times in training, as :func:`cmr_bench.experiment.slices.slices` has them.
        content: Checksums of what was read, by part: ``train``, ``val`` and ``test`` (ids, captions, links, labels),
            ``<split>.images`` and ``<split>.texts`` (photographs, features, vectors), files that options name.
        deviations: What differs from the paper or program, a line each.
        changes: Options that differ from the recipe of the method on the data set, by dotted name; None where the
            record is older than this field.
        created: Time of writing, UTC.
        schema: Version of this record.
    """

    method: str
    data: str
    metrics: dict[str, float]
    run_id: str = ""
    variant: str = ""
    family: str = ""
    fidelity: str = ""
    units: dict[str, str] = field(default_factory=dict)
    intervals: dict[str, tuple[float, float]] = field(default_factory=dict)
    curves: dict[str, list[float]] = field(default_factory=dict)
    split_sizes: dict[str, list[int]] = field(default_factory=dict)
    fingerprint: str = ""
    views: dict[str, Any] = field(default_factory=dict)
    protocol: dict[str, Any] = field(default_factory=dict)
    tie_rate: float = 0.0
    selection: dict[str, Any] = field(default_factory=dict)
    seed: int | None = None
    batch_size: int | None = None
    label_space: str = "none"
    cost: dict[str, float] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    device: str = ""
    code: dict[str, str] = field(default_factory=dict)
    commit: str = ""
    flags: list[str] = field(default_factory=list)
    skipped: dict[str, int] = field(default_factory=dict)
    invalid_rows: int = 0
    unknown_words: dict[str, float] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    members: dict[str, Any] = field(default_factory=dict)
    slices: dict[str, Any] = field(default_factory=dict)
    content: dict[str, str] = field(default_factory=dict)
    deviations: list[str] = field(default_factory=list)
    changes: dict[str, Any] | None = None
    created: str = ""
    schema: int = SCHEMA

    def to_json(self) -> str:
        """Return the record as JSON text; a metric that is not finite is an error."""
        bad = [name for name, value in self.metrics.items() if not math.isfinite(value)]
        if bad:
            raise CmrBenchError(f"result of {self.method} on {self.data} is not finite: {', '.join(bad)}")
        return json.dumps(dataclasses.asdict(self), indent=2, allow_nan=False) + "\n"


def identity(result: Result) -> str:
    """Return the SHA-256 of a record: two files of one result have the same, wherever they lie."""
    content = json.dumps(dataclasses.asdict(result), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(content.encode()).hexdigest()


def short_commit(commit: str) -> str:
    """Return the first letters of a commit, and the `+` behind one with uncommitted changes."""
    return commit[:12].removesuffix("+") + ("+" if commit.endswith("+") else "")


def write_result(folder: Path, result: Result) -> Path:
    """Write ``result.json`` into a run folder, whole or not at all."""
    result.created = result.created or datetime.now(UTC).isoformat(timespec="seconds")
    path = folder / RESULT_FILE
    write_atomic(path, result.to_json())
    return path


def read_result(path: Path) -> Result:
    """Read a stored result of this or an older schema.

    Raises:
        CmrBenchError: If the file is unreadable, malformed, or of a newer schema.
    """
    try:
        record = foreign.read_json(path, within=path.parent)
    except (OSError, CmrBenchError) as error:
        raise CmrBenchError(f"{path} is not a readable result: {one_line(error)}") from error
    schema = record.get("schema") if isinstance(record, dict) else None
    if not _whole(schema) or schema < 1:
        raise CmrBenchError(f"{path} is not a result: it has no schema version")
    if schema > SCHEMA:
        raise CmrBenchError(f"{path} has schema {schema}, newer than {SCHEMA}: update cmr-bench to read it")
    problem = _malformed(record)
    if problem:
        raise CmrBenchError(f"{path} is not a result: {problem}")
    known = {f.name for f in dataclasses.fields(Result)}
    result = Result(**{name: value for name, value in record.items() if name in known})
    result.intervals = {name: (low, high) for name, (low, high) in result.intervals.items()}
    result.views = {side: _without_folder(view) for side, view in result.views.items()}
    return result


def _without_folder(view: Any) -> Any:
    """Take the folder, absolute or not, from the name of an array that an earlier version recorded with it."""
    source = view.get("source") if isinstance(view, dict) else None
    return {**view, "source": Path(source).name} if isinstance(source, str) and source.endswith(".npy") else view


def _whole(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def _number(value: Any) -> bool:
    try:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:
        return False


def _text(value: Any) -> bool:
    return isinstance(value, str)


def _list_of(check: Callable[[Any], bool], length: int | None = None) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, list) and length in (None, len(value)) and all(map(check, value))


def _table_of(check: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, dict) and all(map(check, value.values()))


# Annotation of a field -> what its JSON must look like, and how to say so.
_SHAPES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "str": (_text, "text"),
    "int": (_whole, "a whole number"),
    "int | None": (lambda value: value is None or _whole(value), "a whole number"),
    "float": (_number, "a finite number"),
    "list[str]": (_list_of(_text), "a list of texts"),
    "dict[str, Any]": (_table_of(lambda value: True), "a table"),
    "dict[str, Any] | None": (lambda value: value is None or isinstance(value, dict), "a table"),
    "dict[str, str]": (_table_of(_text), "a table of texts"),
    "dict[str, int]": (_table_of(_whole), "a table of whole numbers"),
    "dict[str, float]": (_table_of(_number), "a table of finite numbers"),
    "dict[str, list[int]]": (_table_of(_list_of(_whole)), "a table of lists of whole numbers"),
    "dict[str, list[float]]": (_table_of(_list_of(_number)), "a table of lists of finite numbers"),
    "dict[str, tuple[float, float]]": (_table_of(_list_of(_number, 2)), "a table of low and high"),
}


def _malformed(record: Mapping[str, Any]) -> str:
    try:
        json.dumps(record, allow_nan=False)
    except ValueError:
        return "a number in it is not finite"
    for name in ("method", "data", "metrics"):
        if not record.get(name):
            return f"'{name}' is missing"
    for field_ in dataclasses.fields(Result):
        check, words = _SHAPES[str(field_.type)]
        if field_.name in record and not check(record[field_.name]):
            return f"'{field_.name}' is not {words}"
    return ""
