"""cmr-bench: a benchmark suite for image-text cross-modal retrieval.

The names in ``__all__`` are the library; everything else is private and may change in any version. They are loaded
when they are first used, so that importing the package takes no time.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from cmr_bench import compat as compat
from cmr_bench import deferred as deferred
from cmr_bench import moved as moved
from cmr_bench.version import __version__

if TYPE_CHECKING:
    from cmr_bench.api.combining import ensemble
    from cmr_bench.api.data import load_data
    from cmr_bench.api.records import Records, results
    from cmr_bench.api.runs import Run, load_run
    from cmr_bench.api.scoring import evaluate
    from cmr_bench.api.sharing import pull, push
    from cmr_bench.api.training import resume, train

__all__ = [
    "Records",
    "Run",
    "__version__",
    "ensemble",
    "evaluate",
    "load_data",
    "load_run",
    "pull",
    "push",
    "results",
    "resume",
    "train",
]

_PLACES = {
    "ensemble": "combining",
    "evaluate": "scoring",
    "load_data": "data",
    "load_run": "runs",
    "Records": "records",
    "pull": "sharing",
    "push": "sharing",
    "resume": "training",
    "Run": "runs",
    "train": "training",
}

compat.install()
deferred.install()
moved.install()


def __getattr__(name: str) -> Any:
    if name == "results":
        # A package that can be called.
        return importlib.import_module("cmr_bench.results")
    if name not in _PLACES:
        raise AttributeError(f"module 'cmr_bench' has no attribute '{name}'")
    found = getattr(importlib.import_module(f"cmr_bench.api.{_PLACES[name]}"), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
