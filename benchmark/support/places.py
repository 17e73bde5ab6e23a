"""Where data sets, stored features and caches lie; imports nothing heavy."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path, PureWindowsPath
from typing import Any, overload

import platformdirs

from cmr_bench.support import environment
from cmr_bench.support.encoders import LIBRARIES, feature_name
from cmr_bench.support.errors import DataError, UsageError
from cmr_bench.support.files import is_leftover

MANIFEST = "manifest.json"
_NO_SPLIT = ("captions.txt", "results.csv", "*.token", "*.token.txt")


def check_name(name: str) -> str:
    """Return a name that a user gives to a data set, if it can be that of a folder; raises UsageError otherwise."""
    if not re.fullmatch(r"[\w][\w.+-]{0,63}", name):
        raise UsageError(
            f"--data.name {name[:80]!r}: use up to 64 letters, digits and . _ + -, a letter or digit first"
        )
    return name


def without_folders(value: Any) -> Any:
    """Return an option's value as a record may hold it: of an absolute path, and of one that climbs, the last name.

    Args:
        value: What JSON can hold; lists and tables are gone through.
    """
    if isinstance(value, dict):
        return {name: without_folders(one) for name, one in value.items()}
    if isinstance(value, list):
        return [without_folders(one) for one in value]
    if not isinstance(value, str):
        return value
    prefix, colon, path = value.partition(":")
    known = bool(colon) and prefix in (*LIBRARIES, "st")
    library, path = (f"{prefix}:", path) if known else ("", value)
    if not re.match(r"[/\\~]|\.{1,2}[/\\]|[A-Za-z]:[/\\]", path):
        return value
    made = feature_name(value)
    layer = "" if made is None or value == made.encoder else value.removeprefix(made.encoder)
    name = PureWindowsPath(path.removesuffix(layer)).name
    return f"{library}{name}{layer}" if name else value


@overload
def path_text(path: str | Path) -> str: ...
@overload
def path_text(path: None) -> None: ...
def path_text(path: str | Path | None) -> str | None:
    """Return a path, or a name that may stand in its place, as text: configurations keep text."""
    return None if path is None else str(path)


def data_root(root: str | Path | None = None) -> Path | None:
    """Return the folder of data sets: ``root`` if given, else ``CMR_BENCH_DATA``, else None."""
    given = root or environment.value(environment.DATA)
    return Path(given).expanduser() if given else None


def candidates(data: str, root: str | Path | None = None) -> list[Path]:
    """Return the folders in which the files of a data set are looked for: ``root/data``, then ``root`` itself."""
    base = data_root(root)
    return [] if base is None else [base / data, base]


def locate(root: str | Path | None, name: str, markers: Sequence[str], layout: str) -> Path:
    """Find the folder of a data set.

    Args:
        root: Value of ``--data.root``; None falls back on ``CMR_BENCH_DATA``.
        name: Name of the data set; the folder may be ``root/name`` or ``root`` itself.
        markers: Relative paths (glob patterns) of which one must exist in the folder.
        layout: One line that describes the expected folder, for the error.

    Returns:
        The folder.

    Raises:
        DataError: If no root is given or no marker is found.
    """
    places = candidates(name, root)
    if not places:
        raise DataError(
            f"{name} needs its files: pass --data.root DIR or set {environment.DATA}; DIR/{name} holds {layout}"
        )
    for place in places:
        if any(not is_leftover(file) for marker in markers for file in place.glob(marker)):
            return place
    looked = " and ".join(str(place) for place in places)
    raise DataError(
        f"{name} not found: looked for {' or '.join(markers)} in {looked}; expected layout: {layout}"
        f"{_without_split(name, places)}"
    )


def _without_split(name: str, places: Sequence[Path]) -> str:
    """Return what to do with the captions that Kaggle and the authors of Flickr8k distribute; empty without them."""
    table = next((file for place in places for marker in _NO_SPLIT for file in sorted(place.glob(marker))), None)
    if table is None or name == "custom":
        return ""
    return (
        f"; {table} has captions but no split: put the annotations of {name} beside it, or read it as your own data by "
        f"--data custom --data.file {table.name} --data.root {table.parent}"
    )


def cache_dir(data: str) -> Path:
    """Return the folder for what is made from data set ``data``, under ``CMR_BENCH_CACHE`` or the user's caches."""
    base = environment.value(environment.CACHE) or platformdirs.user_cache_dir("cmr-bench", appauthor=False)
    return Path(base) / data


def store_folders(data: str, root: str | Path | None = None, cache: Path | None = None) -> list[Path]:
    """Return the folders that hold a data set's stored features: beside the data first, then the cache.

    Args:
        data: Name of the data set.
        root: Value of ``--data.root``; None falls back on ``CMR_BENCH_DATA``.
        cache: Folder of what is made from it; None takes the one of its name.
    """
    made = cache_dir(data) if cache is None else cache
    return [*(place / "features" for place in candidates(data, root)), made / "features"]


def stores_in(folders: Iterable[Path]) -> list[Path]:
    """Return the folders of the stored features in some folders, complete or not."""
    return [manifest.parent for place in folders for manifest in sorted(place.glob(f"*/{MANIFEST}"))]


def list_stores(data: str, root: str | Path | None = None) -> list[Path]:
    """Return the folders of the stored features of a data set, complete or not."""
    return stores_in(store_folders(data, root))
