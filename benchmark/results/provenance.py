"""What a number can depend on beside its configuration: commit, library versions, memory."""

from __future__ import annotations

import importlib.metadata
import platform
import resource
import subprocess
import sys
from pathlib import Path

import torch

from cmr_bench import __version__


def commit() -> str:
    """Return the commit of the code where it runs from a checkout, else an empty string."""
    here = Path(__file__).resolve().parent
    answer = subprocess.run(["git", "-C", str(here), "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    return answer.stdout.strip() if answer.returncode == 0 else ""


def library_versions() -> dict[str, str]:
    """Return the versions that a number can depend on."""
    names = ("torch", "torchvision", "lightning", "transformers", "timm", "gensim", "numpy", "scikit-learn")
    return {"cmr-bench": __version__, "python": platform.python_version()} | {
        name: importlib.metadata.version(name) for name in names
    }


def peak_memory() -> int:
    """Return the peak memory of this process in bytes: of the GPU where there is one, else resident."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
