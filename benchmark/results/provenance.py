"""What a number can depend on beside its configuration, and what it cost: commit, versions, time, memory."""

from __future__ import annotations

import importlib.metadata
import platform
import resource
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import nn

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


@dataclass(frozen=True)
class Cost:
    """What a run cost.

    Attributes:
        parameters: Numbers in the parameters of the method, frozen ones included.
        train_seconds: Wall time of training or fitting, over all sessions of the run.
        encode_seconds: Wall time of encoding the test items.
        score_seconds: Wall time of scoring and ranking them.
        peak_memory_bytes: Peak memory of the process that writes the result.
    """

    parameters: float
    train_seconds: float
    encode_seconds: float
    score_seconds: float
    peak_memory_bytes: float

    @classmethod
    def of(cls, module: nn.Module, train: float, encode: float, score: float) -> Cost:
        """Measure the method and the process as they are now, and keep the wall times given, in seconds."""
        parameters = sum(p.numel() for p in module.parameters())
        return cls(float(parameters), train, encode, score, float(peak_memory()))

    def record(self) -> dict[str, float]:
        """Return the cost as a result keeps it."""
        return asdict(self)


def peak_memory() -> int:
    """Return the peak memory of this process in bytes: of the GPU where there is one, else resident."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
