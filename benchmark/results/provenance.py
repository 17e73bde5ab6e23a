"""What a number can depend on beside its configuration, and what it cost: commit, versions, time, memory."""

from __future__ import annotations

import importlib.metadata
import platform
import resource
import subprocess
import sys
import tomllib
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import nn

from cmr_bench import __version__
from cmr_bench.support import environment

# What a number can depend on; a change of the README makes no other code.
_CODE = ("benchmark", "models", "datamodules", "experiments", "pyproject.toml")


def commit(here: Path | None = None) -> str:
    """Return the commit of the code where it runs from a checkout of the suite, else an empty string.

    The repository counts only where it is the suite's own: installed into the environment of another project, the
    package lies in that project's repository, whose commit says nothing of this code. A `+` behind the commit
    stands for changes of the code that are not committed.

    Args:
        here: A file of the package; None takes this one.
    """
    here = (here or Path(__file__)).resolve()
    top = _git(here.parent, "rev-parse", "--show-toplevel")
    tracked = _git(here.parent, "ls-files", "--error-unmatch", here.name) is not None
    if top is None or not tracked or not _is_suite(Path(top.strip())):
        return ""
    head = _git(here.parent, "rev-parse", "HEAD")
    changed = _git(Path(top.strip()), "status", "--porcelain", "--", *_CODE)
    return "" if head is None else head.strip() + ("+" if changed is None or changed.strip() else "")


def _is_suite(top: Path) -> bool:
    """Tell by its pyproject.toml whether a repository is that of the suite."""
    try:
        project = tomllib.loads((top / "pyproject.toml").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return bool(project.get("project", {}).get("name") == "cmr-bench")


def _git(folder: Path, *words: str) -> str | None:
    """Return what git prints about the repository around a folder; None where there is none, or no git."""
    try:
        answer = subprocess.run(
            ["git", "-C", str(folder), *words],
            capture_output=True,
            text=True,
            check=False,
            env=environment.without_git(),
        )
    except OSError:
        return None
    return answer.stdout if answer.returncode == 0 else None


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
