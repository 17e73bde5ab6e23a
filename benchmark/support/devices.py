"""Where a command computes."""

from __future__ import annotations

from cmr_bench.support.errors import UsageError


def choose_device(name: str) -> str:
    """Return the device that ``--device`` names, for auto a GPU if there is one; raises UsageError for others."""
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(1, device=name)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UsageError(f"--device {name} cannot be used here: {reason}") from error
    return name
