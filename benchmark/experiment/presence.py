"""Whether the files that a run names are there, told by name alone and before anything heavy is imported."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cmr_bench import registry
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
    locate(root, dataset, [pattern for part in entry.needs for pattern in entry.parts[part]], entry.layout)
