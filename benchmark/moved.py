"""Old names of modules: code written for an earlier version keeps importing what has moved.

:func:`install` puts a finder at the end of ``sys.meta_path``, so it is asked only for modules that are not there. It
answers with a module that looks every name up where it lies today.
"""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

MOVED: dict[str, tuple[str, ...]] = {
    "cmr_bench.errors": ("cmr_bench.support.errors",),
    "cmr_bench.recipe": ("cmr_bench.experiment.recipe",),
    "cmr_bench.run": ("cmr_bench.experiment.run", "cmr_bench.experiment.trainer", "cmr_bench.experiment.selection"),
    "cmr_bench.callbacks": ("cmr_bench.experiment.callbacks",),
    "cmr_bench.published": ("cmr_bench.results.published",),
    "cmr_bench.backbones": ("cmr_bench.datamodules.images.backbones", "cmr_bench.datamodules.images.libraries"),
    "cmr_bench.datamodules.base": (
        "cmr_bench.datamodules.module",
        "cmr_bench.datamodules.batches",
        "cmr_bench.datamodules.split",
        "cmr_bench.datamodules.views",
        "cmr_bench.support.places",
    ),
    "cmr_bench.datamodules.features": (
        "cmr_bench.datamodules.images.store",
        "cmr_bench.datamodules.images.extract",
    ),
    "cmr_bench.datamodules.text": (
        "cmr_bench.datamodules.texts.words",
        "cmr_bench.datamodules.texts.vectors",
        "cmr_bench.datamodules.texts.fitting",
    ),
    "cmr_bench.models.interaction.attention": ("cmr_bench.models.common.attention",),
    "cmr_bench.datamodules.transforms": ("cmr_bench.datamodules.images.photos",),
    "cmr_bench.datamodules.karpathy": ("cmr_bench.datamodules.captions", "cmr_bench.datamodules.readers.karpathy"),
    "cmr_bench.datamodules.arrays": ("cmr_bench.datamodules.readers.arrays",),
    "cmr_bench.datamodules.precomputed": ("cmr_bench.datamodules.readers.precomputed",),
    "cmr_bench.datamodules.splits": ("cmr_bench.datamodules.stratified",),
    "cmr_bench.models.feature_module": ("cmr_bench.models.common.feature_module",),
    "cmr_bench.models.matching": ("cmr_bench.models.common.matching",),
    "cmr_bench.models.ranking": ("cmr_bench.models.common.ranking",),
}


class _Moved:
    """Import hook for the names in :data:`MOVED`; imports nothing until it is asked."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        return ModuleSpec(name, self) if name in MOVED else None  # type: ignore[arg-type]  # a loader by its methods

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        places = MOVED[module.__name__]
        warnings.warn(
            f"{module.__name__} has moved: import from {' or '.join(places)}", DeprecationWarning, stacklevel=2
        )

        def lookup(name: str) -> Any:
            for place in places:
                found = importlib.import_module(place)
                if hasattr(found, name):
                    return getattr(found, name)
            raise AttributeError(f"module {module.__name__} has no attribute {name}")

        module.__dict__["__getattr__"] = lookup


def install() -> None:
    """Put the import hook in place, once."""
    if not any(isinstance(finder, _Moved) for finder in sys.meta_path):
        sys.meta_path.append(_Moved())
