"""Where data sets, stored features and caches lie; imports nothing heavy."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs

DATA_VARIABLE = "CMR_BENCH_DATA"
CACHE_VARIABLE = "CMR_BENCH_CACHE"
RUN_FOLDER_VARIABLE = "CMR_BENCH_RUN_FOLDER"
MANIFEST = "manifest.json"


def data_root(root: str | Path | None = None) -> Path | None:
    """Return the folder of data sets: ``root`` if given, else ``CMR_BENCH_DATA``, else None."""
    given = root or os.environ.get(DATA_VARIABLE)
    return Path(given).expanduser() if given else None


def candidates(data: str, root: str | Path | None = None) -> list[Path]:
    """Return the folders in which the files of a data set are looked for: ``root/data``, then ``root`` itself."""
    base = data_root(root)
    return [] if base is None else [base / data, base]


def cache_dir(data: str) -> Path:
    """Return the folder for what is made from data set ``data``, under ``CMR_BENCH_CACHE`` or the user's caches."""
    base = os.environ.get(CACHE_VARIABLE) or platformdirs.user_cache_dir("cmr-bench", appauthor=False)
    return Path(base) / data


def store_folders(data: str, root: str | Path | None = None) -> list[Path]:
    """Return the folders that hold a data set's stored features: beside the data first, then the cache."""
    return [*(place / "features" for place in candidates(data, root)), cache_dir(data) / "features"]


def list_stores(data: str, root: str | Path | None = None) -> list[Path]:
    """Return the folders of the stored features of a data set, complete or not."""
    return [manifest.parent for place in store_folders(data, root) for manifest in sorted(place.glob(f"*/{MANIFEST}"))]
