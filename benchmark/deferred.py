"""Puts off what ``import torchmetrics`` imports until somebody asks for it.

Lightning needs two classes of torchmetrics. The package's ``__init__`` imports every metric it has, and with them
torchvision, ``scipy.signal`` and transformers: a third of the time from a command to its first step. After
:func:`install` the package's ``__init__`` runs when a name is asked for, or a module is imported, that these classes do
not need; then all of it is there, as without this module. :class:`importlib.util.LazyLoader` does the same for modules
of which nothing is wanted at first.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import sys
import threading
from collections.abc import Sequence
from importlib.abc import Loader
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from types import ModuleType
from typing import Any

# Of the package's own names: what lightning and the base classes ask for, and the module it is from.
_NAMES = {
    "Metric": "torchmetrics.metric",
    "MetricCollection": "torchmetrics.collections",
    "__version__": "torchmetrics.__about__",
}
# The modules that these need, which import nothing else of the package.
_PARTS = ("torchmetrics.metric", "torchmetrics.collections", "torchmetrics.utilities", "torchmetrics.__about__")


class _Package(ModuleType):
    """torchmetrics with its ``__init__`` still to run."""

    def __getattr__(self, name: str) -> Any:
        if name == "_logger":
            return logging.getLogger("torchmetrics")
        if name in _NAMES and not _is_running():
            with contextlib.suppress(ImportError):
                # First, as the package does: its modules import each other in this order alone.
                importlib.import_module("torchmetrics.utilities")
                value = getattr(importlib.import_module(_NAMES[name]), name)
                setattr(self, name, value)
                return value
        if _is_running() or (name.startswith("__") and name not in _NAMES):
            raise AttributeError(f"module 'torchmetrics' has no attribute '{name}'")
        importlib.import_module(_WHOLE)
        return getattr(self, name)


class _Defer(SourceFileLoader):
    """Loads the package without its ``__init__``, which :meth:`run` runs."""

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _Package(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        # Of a package that is whole, this is a reload.
        if not isinstance(module, _Package):
            super().exec_module(module)

    def run(self, package: ModuleType) -> None:
        _running.add(threading.get_ident())
        try:
            super().exec_module(package)
        finally:
            _running.discard(threading.get_ident())
        package.__class__ = ModuleType


class _Run(Loader):
    """Runs the package's ``__init__``: as the import of a module, so that threads wait as they do for any other."""

    def create_module(self, spec: ModuleSpec) -> None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        package = sys.modules["torchmetrics"]
        assert isinstance(package.__loader__, _Defer)
        package.__loader__.run(package)


class _Reuse(Loader):
    """Hands out a module that the package's ``__init__`` imported while the same module was being looked for."""

    def __init__(self, module: ModuleType) -> None:
        self.module, self.spec = module, module.__spec__

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return self.module

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = self.spec


_WHOLE = "torchmetrics.__whole__"
_running: set[int] = set()


def _is_running() -> bool:
    return threading.get_ident() in _running


class _Finder:
    """Import hook for torchmetrics and its modules."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name == "torchmetrics":
            spec = PathFinder.find_spec(name, path, target)
            if spec is not None and isinstance(spec.loader, SourceFileLoader):
                spec.loader = _Defer(spec.loader.name, spec.loader.path)
            return spec
        if name == _WHOLE:
            return ModuleSpec(name, _Run())
        if not name.startswith("torchmetrics.") or name.startswith(_PARTS) or _is_running():
            return None
        if not isinstance(sys.modules["torchmetrics"], _Package):
            return None
        importlib.import_module(_WHOLE)
        if name not in sys.modules:
            return None
        spec = ModuleSpec(name, _Reuse(sys.modules[name]))
        # The import system takes the module's own spec, of which it would make the module anew.
        sys.modules[name].__spec__ = spec
        return spec


def install() -> None:
    """Put the import hook in place; does nothing if torchmetrics is already imported, or the hook is there."""
    if "torchmetrics" not in sys.modules and not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())
