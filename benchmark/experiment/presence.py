"""Whether the files that a run names are there and have what it reads, told before anything heavy is imported."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cmr_bench import registry
from cmr_bench.data_sets import DataSet
from cmr_bench.support.encoders import require_weights
from cmr_bench.support.places import data_root, locate


def check_files(dataset: str, options: Mapping[str, Any]) -> None:
    """Look for the files of a data set of the suite, by name alone and before anything heavy is imported.

    Raises:
        DataError: If no root is given or the files are not there.
    """
    entry = registry.DATASETS.get(dataset)
    if options.get("image_weights"):
        require_weights(str(options["image_weights"]))
    root, named = options.get("root"), options.get("file") or options.get("precomputed")
    if entry is None or not entry.needs or options.get("hub"):
        return
    if file := options.get("file"):
        from cmr_bench.datamodules.readers.tablefiles import markers, named_files, patterns

        first = Path(next(iter(patterns(file)), "")).expanduser()
        if first.is_absolute():
            named_files(first.parent, file)
        else:
            locate(root, dataset, list(dict.fromkeys(markers(file))), entry.layout)
        return
    # Files that the user names may lie elsewhere; the data set looks for them itself.
    if named and (data_root(root) or Path(named).expanduser().is_absolute()):
        return
    _folder(root, dataset, entry)


def _folder(root: str | None, dataset: str, entry: DataSet) -> Path:
    return locate(root, dataset, [pattern for part in entry.needs for pattern in entry.parts[part]], entry.layout)


def check_rows(method: str, dataset: str, model: Mapping[str, Any], options: Mapping[str, Any]) -> None:
    """Look for the images of a data set of the suite in the stored features that are named, before torch is imported.

    Args:
        method: Name of the method.
        dataset: Name of the data set.
        model: Options of the method.
        options: Options of the data set.

    Raises:
        DataError: If images have no row, and are not to be skipped.
    """
    entry, known = registry.DATASETS.get(dataset), registry.METHODS.get(method)
    usual = "" if known is None else known.views.partition(",")[0].partition("|")[0]
    if (
        entry is None
        or not options.get("image_features")
        or options.get("precomputed")
        or options.get("skip_missing")
        or model.get("image_view", usual) not in ("vector", "regions")
        or "annotations" not in entry.parts
    ):
        return
    folder = _folder(options.get("root"), dataset, entry)
    file = next((folder / name for name in entry.parts["annotations"] if (folder / name).is_file()), None)
    if file is not None:
        from cmr_bench.datamodules.images.lacking import check_rows as check_store

        check_store(dataset, file, options)
