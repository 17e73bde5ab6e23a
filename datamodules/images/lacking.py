"""Images without a row in stored features, told from annotations and manifest alone: torch is not imported."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cmr_bench.datamodules.images.making import find_in
from cmr_bench.datamodules.images.store import Manifest, read_manifest
from cmr_bench.datamodules.readers.karpathy import load_json
from cmr_bench.datamodules.readers.parts import Parts
from cmr_bench.datamodules.split import undelivered
from cmr_bench.support.encoders import feature_name
from cmr_bench.support.errors import DataError
from cmr_bench.support.places import MANIFEST, store_folders

# A larger file takes longer to read a second time than the run takes to start; its run finds out by itself.
_MOST_BYTES = 50_000_000


def check_rows(name: str, annotations: Path, options: Mapping[str, Any]) -> None:
    """Refuse stored features that lack images, as the run would some seconds later.

    What cannot be told from the names of files is left to the run: file names that stand twice, files and stores that
    cannot be read.

    Args:
        name: Name of the data set.
        annotations: Its annotations in Karpathy's layout.
        options: The options of the data set; ``image_features`` is given.

    Raises:
        DataError: If images of a split have no row.
    """
    if annotations.stat().st_size > _MOST_BYTES:
        return
    try:
        manifest, content = _manifest(name, options), load_json(annotations)
    except DataError:
        return
    entries = content.get("images") if isinstance(content, dict) else None
    if manifest is None or not manifest.complete or not isinstance(entries, list):
        return
    parts, rows = Parts(restval=bool(options.get("restval", True))), set(manifest.ids)
    images: dict[str, list[str]] = {}
    for entry in entries:
        if not isinstance(entry, dict) or not isinstance(entry.get("filename"), str):
            return
        split = parts.split_of(str(entry.get("split")))
        if split is not None and entry.get("sentences"):
            images.setdefault(split, []).append(entry["filename"])
    if any(count > 1 for ids in images.values() for count in Counter(ids).values()):
        return
    for split, ids in images.items():
        gone = [image for image in ids if image not in rows]
        if gone:
            what = f"row in features '{options['image_features']}'"
            raise undelivered(f"{name} {split}", len(gone), len(ids), what, gone[0])


def _manifest(name: str, options: Mapping[str, Any]) -> Manifest | None:
    """Return the manifest of the features that the options name; None where there is no such store."""
    features = str(options["image_features"])
    places, made = store_folders(name, options.get("root")), feature_name(features)
    if made is not None:
        folder = find_in(places, made, options.get("image_weights"))
    else:
        looked = [*(place / features for place in places), Path(features).expanduser()]
        folder = next((place for place in looked if (place / MANIFEST).is_file()), None)
    return None if folder is None else read_manifest(folder)
