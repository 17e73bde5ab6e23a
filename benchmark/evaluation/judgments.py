"""Files of relevance judgments, in the forms that they are passed around in."""

from __future__ import annotations

import csv
import importlib.resources
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cmr_bench.evaluation.brought import rows_of
from cmr_bench.evaluation.qrels import PREFIX, Qrels, qrels
from cmr_bench.support import foreign
from cmr_bench.support.errors import DataError

_TREC_COLUMNS = 4
# ECCV Caption (Chun et al., ECCV 2022) and CrissCrossed Captions (Parekh et al., EACL 2021), by MSCOCO's ids.
PACKAGED = ("eccv", "cxc")
Ids = tuple[NDArray[np.str_], NDArray[np.str_]]
# A file, or what a JSON file would hold.
Source = Path | Mapping[Any, Any]


@dataclass(frozen=True)
class _Judged:
    """Judged pairs as a file has them: ids, grades, and whether it says which are the images."""

    first: NDArray[np.str_]
    second: NDArray[np.str_]
    grades: NDArray[np.float64]
    images_first: bool | None


def read_judgments(paths: Sequence[Source], ids: Ids, size: tuple[int, int]) -> tuple[dict[str, Qrels], list[str]]:
    """Read one file for both directions, or one for the image queries and one for the text queries.

    Args:
        paths: One or two files, or tables {id of the query: [ids of the items]}; or ``eccv`` or ``cxc``, the judgments
            of MSCOCO's test split that eccv_caption has.
        ids: Ids of the images and of the texts; either empty for row numbers.
        size: Number of images and of texts.

    Returns:
        Judgments by direction, i2t and t2i, and a line about each.

    Raises:
        DataError: If a file is missing, malformed, or names an item that is not there.
    """
    known = tuple(given if len(given) else np.arange(n).astype(np.str_) for given, n in zip(ids, size, strict=True))
    found, told = {}, []
    given, paths = paths, _of_package(paths)
    # A gallery of the first five captions of each image, such as the package's own, lacks a few that are judged.
    may_lack = _not_in_gallery(known[1]) if paths is not given else known[1][:0]
    for way, path in zip(("i2t", "t2i"), (paths[0], paths[-1]), strict=True):
        where = f"--qrels: {path}" if isinstance(path, Path) else f"--qrels of {way}"
        judged = _read(path, where)
        judged, lacking = _without(judged, may_lack, way)
        images, texts = _rows(judged, (known[0], known[1]), way if len(paths) > 1 else None, where)
        query, item, (n_queries, n_items) = (images, texts, size) if way == "i2t" else (texts, images, size[::-1])
        try:
            found[way] = qrels(query, item, judged.grades, (n_queries, n_items))
        except DataError as error:
            raise DataError(f"{where}: {error}") from error
        if len(lacking):
            queries, counts = np.unique(rows_of(lacking, known[0], "image", where), return_counts=True)
            found[way] = replace(found[way], lacking=(queries, counts))
            told.append(
                f"qrels {way}: {len(lacking)} relevant captions are not in this gallery, and count as not found"
            )
        one = found[way]
        told.append(
            f"qrels {way}: {len(one.items):,} relevant of {one.judged:,} judged pairs; the "
            f"{one.asked * n_items - _judged_of_asked(query, item, one):,} unjudged pairs of its {one.asked:,} queries "
            "count as not relevant"
        )
    return found, told


def named(definitions: Mapping[str, str], paths: Sequence[Source]) -> dict[str, str]:
    """Say in the definitions of a result which judgments it was scored by: figures by others are not comparable.

    Args:
        definitions: Definition of every metric, those by judgments under names such as ``qrels_i2t_r1``.
        paths: What :func:`read_judgments` was given.
    """
    titles = {"eccv": "ECCV Caption", "cxc": "CrissCrossed Captions"}
    packaged = [*_of_package(paths)] != [*paths]
    names = [path.name if isinstance(path, Path) else "a table" for path in paths]
    name = titles[str(paths[0])] if packaged else ", ".join(dict.fromkeys(names))
    return {key: f"{name}: {text}" if key.startswith(PREFIX) else text for key, text in definitions.items()}


def _of_package(paths: Sequence[Source]) -> Sequence[Source]:
    first = paths[0]
    name = str(first) if isinstance(first, Path) else ""
    if name not in PACKAGED or len(paths) > 1 or Path(name).exists():
        return paths
    try:
        folder = importlib.resources.files("eccv_caption")
    except ModuleNotFoundError:
        raise DataError(f"--qrels {name}: pip install eccv_caption, which has these judgments") from None
    return [Path(str(folder / "data" / f"{name}_{way}.json")) for way in ("image_to_caption", "caption_to_image")]


def _not_in_gallery(texts: NDArray[np.str_]) -> NDArray[np.str_]:
    """Return the captions that the package judges but does not rank, and that are not among ``texts`` either."""
    folder = importlib.resources.files("eccv_caption") / "data"
    ranked = np.load(str(folder / "coco_test_ids.npy"), allow_pickle=False).astype(np.int64).astype(np.str_)
    judged = foreign.read_json(Path(str(folder / "eccv_image_to_caption.json")), foreign.ANNOTATION_BYTES)
    named = np.array([str(text) for items in judged.values() for text in items], dtype=np.str_)
    return np.setdiff1d(named, np.concatenate([ranked, texts]))


def _without(judged: _Judged, texts: NDArray[np.str_], way: str) -> tuple[_Judged, NDArray[np.str_]]:
    """Take judgments of captions out of those of image queries, and return the images that they are of."""
    gone = np.isin(judged.second, texts) if way == "i2t" else np.zeros(len(judged.second), dtype=np.bool_)
    left = replace(judged, first=judged.first[~gone], second=judged.second[~gone], grades=judged.grades[~gone])
    return left, judged.first[gone]


def _judged_of_asked(query: NDArray[np.int64], item: NDArray[np.int64], given: Qrels) -> int:
    pairs = np.unique(query * given.n_items + item)
    return int(np.isin(pairs // given.n_items, given.queries).sum())


def _rows(judged: _Judged, ids: Ids, way: str | None, where: str) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the rows of the images and of the texts of the pairs.

    Where the file does not say which of its columns are the images, the queries are: of a file for image queries they
    are the images, of one for text queries the texts, and of a file for both what the ids allow, images first.
    """
    images_first = judged.images_first
    if images_first is None:
        images_first = way != "t2i" if way is not None else _all_known(judged, ids) or not _all_known(judged, ids[::-1])
    images, texts = (judged.first, judged.second) if images_first else (judged.second, judged.first)
    return rows_of(images, ids[0], "image", where), rows_of(texts, ids[1], "text", where)


def _all_known(judged: _Judged, ids: Ids) -> bool:
    return bool(np.isin(judged.first, ids[0]).all() and np.isin(judged.second, ids[1]).all())


def _read(path: Source, where: str) -> _Judged:
    if isinstance(path, Mapping):
        judged = _table(path, where)
    elif not path.exists():
        raise DataError(f"--qrels: no file {path}")
    else:
        judged = {".json": _json, ".csv": _csv, ".npz": _npz}.get(path.suffix.lower(), _trec)(path, where)
    if not len(judged.first):
        raise DataError(f"{where} judges no pair")
    if not np.isfinite(judged.grades).all():
        raise DataError(f"{where}: a grade is not a number")
    return judged


def _made(rows: list[tuple[Any, Any, Any]], where: str, images_first: bool | None) -> _Judged:
    try:
        grades = np.array([float(grade) for _, _, grade in rows])
    except (TypeError, ValueError) as error:
        raise DataError(f"{where}: a grade is not a number ({error})") from error
    first, second = (np.array([str(row[at]) for row in rows], dtype=np.str_) for at in (0, 1))
    return _Judged(first, second, grades, images_first)


def _json(path: Path, where: str) -> _Judged:
    content = foreign.read_json(path, foreign.ANNOTATION_BYTES)
    if not isinstance(content, dict):
        raise DataError(f"{where}: expected an object, {{id of the query: [ids of the relevant items]}}")
    return _table(content, where)


def _table(content: Mapping[Any, Any], where: str) -> _Judged:
    rows: list[tuple[Any, Any, Any]] = []
    for query, items in content.items():
        if isinstance(items, dict):
            rows += [(query, item, grade) for item, grade in items.items()]
        elif isinstance(items, list | tuple | set) and all(isinstance(item, str | int) for item in items):
            rows += [(query, item, 1) for item in items]
        else:
            raise DataError(f"{where}: '{query}' needs a list of ids, or an object {{id: grade}}")
    return _made(rows, where, None)


def _csv(path: Path, where: str) -> _Judged:
    table = csv.DictReader(foreign.read_text(path, foreign.ANNOTATION_BYTES).removeprefix("\ufeff").splitlines())
    missing = [name for name in ("image", "text") if name not in (table.fieldnames or ())]
    if missing:
        raise DataError(f"{where}: no column '{missing[0]}'; its first line names the columns image, text and grade")
    rows = [(row["image"], row["text"], 1 if row.get("grade") is None else row["grade"]) for row in table]
    if any(text is None for _, text, _ in rows):
        raise DataError(f"{where}: a line is shorter than the first")
    return _made(rows, where, True)


def _npz(path: Path, where: str) -> _Judged:
    arrays = foreign.read_npz(path)
    names = [name for name in ("image", "text") if name not in arrays]
    if names:
        raise DataError(f"{where}: no array '{names[0]}'; it holds image, text and perhaps grade, one value a pair")
    image, text = arrays["image"], arrays["text"]
    grade = arrays.get("grade", np.ones(len(image)))
    if not image.shape == text.shape == grade.shape or image.ndim != 1 or grade.dtype.kind not in "biuf":
        raise DataError(f"{where}: image, text and grade are lists of one length, and grades numbers")
    return _Judged(image.astype(np.str_), text.astype(np.str_), grade.astype(np.float64), True)


def _trec(path: Path, where: str) -> _Judged:
    rows: list[tuple[Any, Any, Any]] = []
    for number, line in enumerate(foreign.read_text(path, foreign.ANNOTATION_BYTES).splitlines(), start=1):
        cells = line.split()
        if cells and len(cells) != _TREC_COLUMNS:
            raise DataError(
                f"{where}, line {number}: TREC qrels have four columns (query 0 item grade), not {len(cells)}"
            )
        if cells:
            rows.append((cells[0], cells[2], cells[3]))
    return _made(rows, where, None)
