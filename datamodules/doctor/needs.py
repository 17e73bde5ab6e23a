"""What each kind of method still needs before it can run on the data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from cmr_bench.datamodules.doctor.features import store_folders
from cmr_bench.datamodules.doctor.findings import Finding
from cmr_bench.datamodules.images.store import FeatureStore
from cmr_bench.datamodules.module import RetrievalDataModule
from cmr_bench.datamodules.split import Split
from cmr_bench.support.errors import CmrBenchError

_TRIED = 20


def check_needs(datamodule: RetrievalDataModule, splits: Mapping[str, Split]) -> Iterator[Finding]:
    """Say what methods that read pixels, vectors and regions need, with the commands that make it."""
    if not any(file.is_file() for split in splits.values() for file in (split.image_files or ())[:_TRIED]):
        return
    yield Finding(
        "info",
        "methods that read pixels need nothing more; those that can read pixels or features, such as vsepp, take "
        "--model.image_view pixels",
    )
    there = _features(datamodule)
    for kind, layer in (("vectors", "pool"), ("regions", "grid")):
        names = there.get(kind) or [f"torchvision:resnet152/{layer}"]
        others = f" (or {', '.join(names[1:4])})" if names[1:] else ""
        made = "" if kind in there else ", or another encoder and layer; `run` makes such features first"
        yield Finding("info", f"methods that read {kind} need --data.image_features {names[0]}{others}{made}")


def _features(datamodule: RetrievalDataModule) -> dict[str, list[str]]:
    """Names of the image features that are there, by what they are."""
    found: dict[str, list[str]] = {}
    try:
        for name, views in datamodule.image_arrays().items():
            for view in list(views.values())[:1]:
                found.setdefault(_kind(view.array), []).append(name)
        named = datamodule.feature_file()
        if named is not None:
            found[_kind(named.array)] = [str(datamodule.image_features)]
        folders = store_folders(datamodule)
    except CmrBenchError:
        return found
    for folder in folders:
        try:
            store = FeatureStore(folder)
        except CmrBenchError:
            continue
        found.setdefault(_kind(store.array), []).append(store.name)
    return found


def _kind(array: Any) -> str:
    return "vectors" if array.ndim == 2 else "regions"
