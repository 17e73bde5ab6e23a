"""Lets torchvision start beside a torch that was built without CUDA.

torchvision's wheels on PyPI are compiled for CUDA. Beside a CPU-only torch its library does not load, the schema of
``torchvision::nms`` is missing, and ``import torchvision`` raises; lightning and torchmetrics, which import it, fall
with it. :func:`install` waits for that first import and, only where the operators cannot be had, declares their
schemas. Models and transforms then work; the compiled operators themselves stay unavailable.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any

_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
_declared: list[Any] = []


class _TorchvisionFinder:
    """Import hook that prepares torch for torchvision once, then takes itself off ``sys.meta_path``."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name != "torchvision":
            return None
        sys.meta_path.remove(self)
        spec = PathFinder.find_spec(name, path, target)
        if spec is not None and spec.origin is not None:
            declare_missing_operators(Path(spec.origin).parent)
        return None


def declare_missing_operators(torchvision_dir: Path) -> bool:
    """Declare the schemas torchvision registers fake kernels for, if its own library cannot provide them.

    Args:
        torchvision_dir: The installed package's folder, where ``_C`` lies.

    Returns:
        True if schemas were declared.
    """
    import torch

    if torch.version.cuda is not None:
        return False
    for binary in [*sorted(torchvision_dir.glob("_C*.so")), *sorted(torchvision_dir.glob("_C*.pyd"))]:
        try:
            torch.ops.load_library(binary)
        except (ImportError, OSError):
            continue
        return False
    library = torch.library.Library("torchvision", "DEF")
    for schema in _SCHEMAS:
        library.define(schema)
    _declared.append(library)
    return True


def install() -> None:
    """Put the import hook in place; does nothing if torchvision is already imported, absent, or the hook is there."""
    if "torchvision" in sys.modules or any(isinstance(finder, _TorchvisionFinder) for finder in sys.meta_path):
        return
    if importlib.util.find_spec("torchvision") is None:
        return
    sys.meta_path.insert(0, _TorchvisionFinder())
