"""`cmr-bench data check`: look for missing, damaged, duplicate and leaking data before time is spent on training."""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import os
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from cmr_bench.datamodules import features
from cmr_bench.datamodules.base import SPLITS, ArrayView, RetrievalDataModule, Split
from cmr_bench.datamodules.transforms import read_photo
from cmr_bench.errors import CmrBenchError, DataError, UsageError
from cmr_bench.files import write_atomic

Level = Literal["error", "warning", "info"]
LEVELS: tuple[Level, ...] = ("error", "warning", "info")

EXAMPLES = 20
LEAK_ACCURACY = 0.97
LEAK_MARGIN = 0.10  # how far below its siblings stay: features of one content reach similar accuracy
LEAK_ITEMS = 3000  # enough to tell .97 from .7, and seconds on one core
_LEAK_FOLDS = 3
_CHUNK = 1 << 24  # values of an array held at once

Arrays = Mapping[str, Mapping[str, ArrayView]]


@dataclass(frozen=True)
class Finding:
    """One thing that the check has to say.

    Attributes:
        level: error (a run would fail or be wrong), warning (read it before you report numbers) or info.
        what: One line.
        count: How many items it is about.
        examples: Some of them.
    """

    level: Level
    what: str
    count: int = 0
    examples: tuple[str, ...] = ()


def _finding(level: Level, what: str, items: Iterable[str]) -> Iterator[Finding]:
    """Yield a finding about the items, or nothing where there are none."""
    items = list(items)
    if items:
        yield Finding(level, what, len(items), tuple(items[:EXAMPLES]))


def check(datamodule: RetrievalDataModule, decode: bool = True, progress: bool = False) -> list[Finding]:
    """Examine a data set.

    Args:
        datamodule: The data set; nothing is trained or written.
        decode: Decode every photograph and compare their contents; only look for the files otherwise.
        progress: Show a progress bar on the terminal while photographs are decoded.

    Returns:
        What was found, errors first.
    """
    try:
        splits = {name: split for name, split in datamodule.read().items() if split.n_images or split.n_texts}
    except CmrBenchError as error:
        return [Finding("error", str(error), 1)]
    found = [
        *check_counts(splits, datamodule.expected_counts()),
        *check_ids(splits),
        *check_captions(splits),
        *check_labels(splits),
        *check_files(datamodule, splits),
        *(check_photos(splits, progress) if decode else ()),
        *check_features(datamodule, splits),
        *check_leaks(datamodule, splits),
    ]
    return sorted(found, key=lambda finding: LEVELS.index(finding.level))


def check_counts(splits: Mapping[str, Split], expected: Mapping[str, tuple[int, ...]]) -> Iterator[Finding]:
    """Compare the numbers of images and texts with the published ones.

    Args:
        splits: What was read.
        expected: Images, and maybe texts, of every split.
    """
    for name in SPLITS:
        split, published = splits.get(name), expected.get(name)
        if split is None:
            what = f", expected {_counts(*published)}" if published else ""
            yield Finding("error", f"{name}: no such split here{what}; a run needs train, val and test", 1)
            continue
        per_image = np.bincount(split.image_of_text, minlength=split.n_images)
        spread = (
            f"{per_image.min()}" if per_image.min() == per_image.max() else f"{per_image.min()} to {per_image.max()}"
        )
        here = f"{name}: {_counts(split.n_images, split.n_texts)}, {spread} an image"
        if not published:
            yield Finding("info", here, split.n_images)
        elif split.n_images != published[0]:
            yield Finding("error", f"{here}; expected {_counts(*published)}", abs(split.n_images - published[0]))
        elif split.n_texts not in (published[1:] or (split.n_texts,)):
            yield Finding("warning", f"{here}; expected {_counts(*published)}", abs(split.n_texts - published[1]))
        else:
            yield Finding("info", f"{here}, as published", split.n_images)
        alone = np.flatnonzero(per_image == 0).tolist()
        yield from _finding("error", f"{name}: images without a text", (split.image_ids[i] for i in alone))


def _counts(images: int, texts: int | None = None) -> str:
    return f"{images:,} images" + ("" if texts is None else f" and {texts:,} texts")


def check_ids(splits: Mapping[str, Split]) -> Iterator[Finding]:
    """Look for items that stand in two splits, and for ids that are not unique in one."""
    levels: dict[str, Level] = {"image": "error", "text": "warning"}
    for side, level in levels.items():
        where: dict[str, list[str]] = defaultdict(list)
        for name, split in splits.items():
            for item in split.image_ids if side == "image" else split.text_ids:
                where[item].append(name)
        several = {item: names for item, names in where.items() if len(names) > 1}
        across = [f"{item} ({', '.join(dict.fromkeys(n))})" for item, n in several.items() if len(set(n)) > 1]
        yield from _finding(level, f"{side}s that stand in two splits", across)
        within = [item for item, names in several.items() if len(set(names)) < len(names)]
        yield from _finding(level, f"{side} ids that two {side}s of a split share", within)


def check_captions(splits: Mapping[str, Split]) -> Iterator[Finding]:
    """Look for captions that say the same of different images: no text encoder can tell them apart."""
    for name, split in splits.items():
        if split.captions is None:
            continue
        images_of: dict[str, Counter[int]] = defaultdict(Counter)
        for caption, image in zip(split.captions, split.image_of_text.tolist(), strict=True):
            images_of[" ".join(caption.split())][image] += 1
        yield from _finding("error", f"{name}: empty captions", (split.image_ids[i] for i in images_of.pop("", ())))
        shared = {caption: images for caption, images in images_of.items() if len(images) > 1}
        # equal texts rank the images equally, so at R@1 only those of one image can be right
        lost = sum(images.total() - max(images.values()) for images in shared.values())
        ceiling = 100 * (1 - lost / split.n_texts)
        yield from _finding(
            "info",
            f"{name}: captions shared by different images; t2i R@1 cannot pass {ceiling:.2f} %",
            (f"'{caption}' ({len(images)} images)" for caption, images in shared.items()),
        )


def check_labels(splits: Mapping[str, Split]) -> Iterator[Finding]:
    """Look for categories that the training split lacks, and for labels that are no category."""
    for name, split in splits.items():
        if split.labels is None:
            continue
        if split.labels.ndim == 1:
            wrong = (split.labels < 0) | (split.labels >= max(len(split.class_names), 1))
            what = f"{name}: images whose label is none of the {len(split.class_names)} categories"
        else:
            wrong = split.labels.sum(axis=1) == 0
            what = f"{name}: images without a category"
        yield from _finding("error", what, (split.image_ids[i] for i in np.flatnonzero(wrong).tolist()))
    train = splits.get("train")
    if train is not None and train.labels is not None:
        counts = train.labels.sum(axis=0) if train.labels.ndim == 2 else np.bincount(np.maximum(train.labels, 0))
        unseen = [c for k, c in enumerate(train.class_names) if k >= len(counts) or counts[k] == 0]
        yield from _finding("warning", "categories without a training image", unseen)


def check_files(datamodule: RetrievalDataModule, splits: Mapping[str, Split]) -> Iterator[Finding]:
    """Look for photographs that are named and not there."""
    photographed = {name: split for name, split in splits.items() if split.image_files is not None}
    if not photographed:
        yield Finding("info", "no photographs here, features only")
        return
    absent: dict[str, list[str]] = {}
    for name, split in photographed.items():
        try:
            gone = datamodule.missing_images("pixels", split)
        except DataError as error:
            others = bool(datamodule.image_arrays()) or bool(_store_folders(datamodule))
            yield Finding("warning" if others else "error", str(error), sum(s.n_images for s in photographed.values()))
            return
        absent[name] = [split.image_ids[i] for i in np.flatnonzero(gone).tolist()]
    for name, missing in absent.items():
        yield from _finding(
            "error", f"{name}: missing photographs; get them, or run with --data.skip_missing true", missing
        )


@dataclass(frozen=True)
class _Photo:
    """A photograph that was read: the checksum of its bytes and why it cannot be decoded, if so."""

    name: str
    split: str
    checksum: str
    problem: str | None


def _read(item: tuple[str, str, Path]) -> _Photo:
    name, split, file = item
    try:
        content = file.read_bytes()
    except OSError as error:
        return _Photo(name, split, "", error.strerror or str(error))
    checksum = hashlib.sha256(content).hexdigest()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with Image.open(io.BytesIO(content)) as photo:
                photo.verify()
            read_photo(file)
        except DataError as error:
            return _Photo(name, split, checksum, str(error.__cause__ or error))
        except Exception as error:  # Pillow's plugins raise anything on damaged files
            return _Photo(name, split, checksum, str(error) or type(error).__name__)
    return _Photo(name, split, checksum, None)


def check_photos(splits: Mapping[str, Split], progress: bool = False) -> Iterator[Finding]:
    """Decode every photograph that is there, and compare their contents.

    Args:
        splits: What was read.
        progress: Show a progress bar on the terminal.
    """
    items = [
        (image, name, file)
        for name, split in splits.items()
        for image, file in zip(split.image_ids, split.image_files or (), strict=bool(split.image_files))
        if file.is_file()
    ]
    if not items:
        return
    bar = Progress(
        TextColumn("decoding photographs"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        disable=not progress,
        transient=True,
    )
    with bar, ThreadPoolExecutor(os.cpu_count()) as pool:
        photos = list(bar.track(pool.map(_read, items), total=len(items)))
    for name in splits:
        broken = [f"{p.name}: {' '.join((p.problem).split())[:120]}" for p in photos if p.problem and p.split == name]
        yield from _finding("error", f"{name}: photographs that cannot be decoded; replace them", broken)
    same: dict[str, list[_Photo]] = defaultdict(list)
    for photo in photos:
        if photo.checksum:
            same[photo.checksum].append(photo)
    twins = [group for group in same.values() if len(group) > 1]
    across = [group for group in twins if len({photo.split for photo in group}) > 1]
    within = [group for group in twins if len({photo.split for photo in group}) == 1]
    yield from _finding("warning", "the same photograph in two splits", map(_group, across))
    yield from _finding("info", "the same photograph under two names in one split", map(_group, within))


def _group(photos: Sequence[_Photo]) -> str:
    return " = ".join(f"{photo.split}/{photo.name}" for photo in photos[:4]) + (" …" if len(photos) > 4 else "")


def check_features(datamodule: RetrievalDataModule, splits: Mapping[str, Split]) -> Iterator[Finding]:
    """Examine the arrays that the data set ships and the stored image features: rows, ids and values."""
    for side in ("image", "text"):
        try:
            arrays = datamodule.image_arrays() if side == "image" else datamodule.text_arrays()
        except CmrBenchError as error:
            yield Finding("error", str(error), 1)
            continue
        for name, views in arrays.items():
            for split_name, view in views.items():
                split = splits.get(split_name)
                if split is None:
                    continue
                ids = split.image_ids if side == "image" else split.text_ids
                yield from check_array(f"{side} features {name}, {split_name}", view, ids)
    try:
        folders = _store_folders(datamodule)
    except CmrBenchError as error:
        yield Finding("error", str(error), 1)
        return
    for folder in folders:
        try:
            store = features.FeatureStore(folder)
        except CmrBenchError as error:
            yield Finding("error", str(error), 1)
            continue
        yield from check_store(store, splits)


def _store_folders(datamodule: RetrievalDataModule) -> list[Path]:
    """The stores to examine: the one that is named, else all that are found."""
    name = datamodule.image_features
    if name is None:
        return features.list_stores(datamodule.data_name, datamodule.root)
    if name in datamodule.image_arrays():
        return []
    return [features.open_store(name, datamodule.data_name, datamodule.root).folder]


def check_store(store: features.FeatureStore, splits: Mapping[str, Split]) -> Iterator[Finding]:
    """Compare a store with the images that were read, and examine its values."""
    what = f"image features {store.name}"
    known = set(store.manifest.skipped)
    for name, split in splits.items():
        gone = [split.image_ids[i] for i in np.flatnonzero(features.missing(store, split)).tolist()]
        yield from _finding("error", f"{what}: images of {name} without a row", (i for i in gone if i not in known))
        yield from _finding(
            "warning", f"{what}: images of {name} that were left out when it was made", (i for i in gone if i in known)
        )
    images = {image for split in splits.values() for image in split.image_ids}
    yield from _finding(
        "warning", f"{what}: rows of images that this data does not have", sorted(store.row_of.keys() - images)
    )
    rows = np.array(sorted(row for image, row in store.row_of.items() if image in images), dtype=np.int64)
    ids = [store.manifest.ids[row] for row in rows.tolist()]
    if ids:
        yield from check_array(what, ArrayView(store.array, store.source, rows, store.boxes), ids)


def check_array(what: str, view: ArrayView, ids: Sequence[str]) -> Iterator[Finding]:
    """Compare the number of rows with the ids, and look for rows that are not finite or zero throughout.

    Args:
        what: What to call it.
        view: The features, one item a row.
        ids: The items.
    """
    if len(view) != len(ids):
        yield Finding("error", f"{what}: {len(view):,} rows for {len(ids):,} items", abs(len(view) - len(ids)))
        return
    rows = np.arange(len(view.array)) if view.rows is None else view.rows
    if rows.size and (rows.min() < 0 or rows.max() >= len(view.array)):
        yield Finding("error", f"{what}: points to rows outside the {len(view.array):,} of the array", 1)
        return
    step = max(1, _CHUNK // max(1, int(np.prod(view.array.shape[1:]))))
    broken: list[str] = []
    zero: list[str] = []
    for start in range(0, len(rows), step):
        values = np.asarray(view.array[rows[start : start + step]])
        values = values.reshape(len(values), -1)
        finite = np.isfinite(values).all(axis=1)
        broken += [ids[start + k] for k in np.flatnonzero(~finite).tolist()]
        zero += [ids[start + k] for k in np.flatnonzero(finite & ~values.any(axis=1)).tolist()]
    yield from _finding("error", f"{what}: rows with NaN or infinity", broken)
    yield from _finding("warning", f"{what}: rows that are zero throughout", zero)


def check_leaks(datamodule: RetrievalDataModule, splits: Mapping[str, Split]) -> Iterator[Finding]:
    """Look for texts or features that give the category away.

    A linear classifier is cross-validated on the training split for each array, and on tf-idf of the raw texts. An
    array on which it is nearly always right, while it is not on the others, was made from the labels.
    """
    train = splits.get("train")
    if train is None or train.labels is None or train.labels.ndim != 1:
        return
    accuracy: dict[str, dict[str, float]] = {"image": {}, "text": {}}
    first_text = np.full(train.n_images, -1, dtype=np.int64)
    first_text[train.image_of_text[::-1]] = np.arange(train.n_texts)[::-1]
    rows = _leak_sample(np.where(first_text >= 0, train.labels, -1))
    if rows is None:
        return
    for side in ("text", "image"):
        try:
            arrays = datamodule.text_arrays() if side == "text" else datamodule.image_arrays()
        except CmrBenchError:
            continue  # check_features has told it
        labels = train.text_labels if side == "text" else train.labels
        assert labels is not None
        of_item = first_text[rows] if side == "text" else rows
        for name, views in arrays.items():
            view = views.get("train")
            if view is None or view.array.ndim != 2 or len(view) != len(labels):
                continue
            values = np.asarray(view.array[of_item if view.rows is None else view.rows[of_item]], dtype=np.float64)
            if np.isfinite(values).all():
                accuracy[side][name] = linear_accuracy(values, train.labels[rows])
    documents = [""] * train.n_images
    for caption, image in zip(train.captions or (), train.image_of_text.tolist(), strict=train.captions is not None):
        documents[image] += caption + " "
    if all(documents[i].strip() for i in rows.tolist()):
        accuracy["text"]["raw texts"] = linear_accuracy([documents[i] for i in rows.tolist()], train.labels[rows])
    for side, scores in accuracy.items():
        siblings = {name: score for name, score in scores.items() if score < LEAK_ACCURACY}
        other = accuracy["image" if side == "text" else "text"]
        best = max((siblings or other or {"": 1.0}).values())
        for name, score in scores.items():
            if score >= LEAK_ACCURACY and best <= LEAK_ACCURACY - LEAK_MARGIN:
                yield Finding(
                    "warning",
                    f"{side} features '{name}' give the category away: a linear classifier reaches {score:.3f} where "
                    f"the others reach {best:.3f}; were they made from the labels?",
                    1,
                    tuple(f"{n} {s:.3f}" for n, s in sorted({**(siblings or other), name: score}.items())),
                )


def _leak_sample(labels: npt.NDArray[np.int64]) -> npt.NDArray[np.int64] | None:
    """Rows to classify: categories (from 0) with enough members, at most LEAK_ITEMS; None where nothing can be said."""
    names, counts = np.unique(labels[labels >= 0], return_counts=True)
    rows = np.flatnonzero(np.isin(labels, names[counts >= 2 * _LEAK_FOLDS]))
    if len(np.unique(labels[rows])) < 2:
        return None
    if len(rows) > LEAK_ITEMS:
        rows = np.sort(np.random.default_rng(0).choice(rows, LEAK_ITEMS, replace=False))
        names, counts = np.unique(labels[rows], return_counts=True)
        rows = rows[np.isin(labels[rows], names[counts >= _LEAK_FOLDS])]
    return rows


def linear_accuracy(items: npt.NDArray[np.float64] | list[str], labels: npt.NDArray[np.int64]) -> float:
    """Cross-validated accuracy of logistic regression.

    Args:
        items: Vectors (n, d), standardised first, or texts, turned into tf-idf.
        labels: Category of each (n,).
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold, cross_val_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from threadpoolctl import threadpool_limits

    if isinstance(items, list):
        words = TfidfVectorizer(token_pattern=r"\S+", max_features=5000, sublinear_tf=True)
        classifier = make_pipeline(words, LogisticRegression(C=10, max_iter=200))
    else:
        classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=200))
    folds = StratifiedKFold(_LEAK_FOLDS, shuffle=True, random_state=0)
    # matrices this small lose more to threads than they gain
    with warnings.catch_warnings(), threadpool_limits(1):
        warnings.simplefilter("ignore", ConvergenceWarning)
        return float(np.mean(cross_val_score(classifier, items, labels, cv=folds)))


def print_findings(name: str, findings: Sequence[Finding], console: Console | None = None) -> None:
    """Print what was found as a table, and a line that sums it up."""
    console = console or Console()
    colours = {"error": "red", "warning": "yellow", "info": "green"}
    table = Table(title=f"data check {name}", title_justify="left")
    table.add_column("level")
    table.add_column("what", overflow="fold", ratio=3)
    table.add_column("count", justify="right")
    table.add_column("examples", overflow="fold", ratio=2)
    for finding in findings:
        more = finding.count - 3 if len(finding.examples) > 3 else 0
        shown = "\n".join(finding.examples[:3]) + (f"\n… {more:,} more" if more else "")
        table.add_row(
            f"[{colours[finding.level]}]{finding.level}[/]",
            escape(finding.what),
            f"{finding.count:,}" if finding.count else "",
            escape(shown),
        )
    console.print(table)
    totals = {level: sum(finding.level == level for finding in findings) for level in LEVELS}
    console.print(
        f"{name}: {totals['error']} error(s), {totals['warning']} warning(s)"
        + ("" if totals["error"] else "; ready to run" if not totals["warning"] else "; can be run")
    )


def make_datamodule(
    name: str, root: str | None, options: Sequence[str] = (), words: Sequence[str] = ()
) -> RetrievalDataModule:
    """Make a data set by name, its options typed by its constructor.

    Args:
        name: Name of the data set.
        root: Folder of the data sets; None for the default.
        options: ``key=value`` for every other option.
        words: Options as `run` takes them, such as ``--data.root=DIR``.

    Raises:
        UsageError: For an unknown name or option, or a value of the wrong type.
    """
    import jsonargparse

    from cmr_bench.registry import dataset

    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(dataset(name), "data", fail_untyped=True)
    bad = next((option for option in options if "=" not in option), None)
    if bad is not None:
        raise UsageError(f"--set {bad}: write KEY=VALUE, such as --set image_column=path")
    given = [f"--data.{option}" for option in options] + ([] if root is None else [f"--data.root={root}"])
    try:
        made = parser.instantiate(parser.parse_args([*given, *words]))
    except (jsonargparse.ArgumentError, argparse.ArgumentError) as error:
        raise UsageError(" ".join(str(error).split())[:300]) from None
    datamodule = made.data
    assert isinstance(datamodule, RetrievalDataModule)
    return datamodule


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `cmr-bench data check`."""
    parser.add_argument("data", metavar="DATA", help="data set, a name of `cmr-bench list`")
    parser.add_argument("--root", metavar="DIR", help="folder with one folder per data set (default: CMR_BENCH_DATA)")
    parser.add_argument(
        "--set", metavar="KEY=VALUE", action="append", default=[], help="another option of the data set"
    )
    parser.add_argument("--no-decode", action="store_true", help="look for the photographs without opening them")
    parser.add_argument("--json", metavar="OUT", type=Path, help="also write what was found as JSON")


def run(args: argparse.Namespace) -> int:
    """Check a data set and print what was found; 1 where there is an error."""
    datamodule = make_datamodule(args.data, args.root, args.set, args.data_options)
    findings = check(datamodule, decode=not args.no_decode, progress=True)
    print_findings(args.data, findings)
    failed = any(finding.level == "error" for finding in findings)
    if args.json is not None:
        record: dict[str, Any] = {"data": args.data, "ok": not failed, "findings": [asdict(f) for f in findings]}
        write_atomic(args.json, json.dumps(record, indent=1, ensure_ascii=False) + "\n")
    return int(failed)
