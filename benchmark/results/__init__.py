"""The record of a run, the folder of runs, published scores; called, it reads stored results.

``cmr_bench.results("runs")`` is the function of the library, and ``cmr_bench.results.record`` a module of this
package. One object is both: an import of a submodule would put the package in the place of a function of its name.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import Any


class _Results(ModuleType):
    def __call__(self, *runs: Any) -> Any:
        return importlib.import_module("cmr_bench.api.records").results(*runs)


sys.modules[__name__].__class__ = _Results
