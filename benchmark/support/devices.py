"""Where a command computes."""

from __future__ import annotations

import os
import platform
from pathlib import Path

from cmr_bench.support import environment
from cmr_bench.support.errors import UsageError

_DRIVER = Path("/proc/driver/nvidia/gpus")


def visible_gpus() -> list[str]:
    """Return the NVIDIA GPUs of this machine as ``CUDA_VISIBLE_DEVICES`` names them, without importing torch."""
    named = environment.visible_devices()
    if named is not None:
        return [name for part in named.split(",") if (name := part.strip()) and name != "-1"]
    try:
        return [str(number) for number, _ in enumerate(_DRIVER.iterdir())]
    except OSError:
        return []


def cores() -> int:
    """Return the number of processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def device_in_words(accelerator: str, devices: int | str) -> str:
    """Return what a run computes on, as far as that can be told without importing torch.

    Args:
        accelerator: As for the Trainer: cpu, gpu, mps or auto.
        devices: Number of devices, or auto for all.
    """
    if accelerator == "auto":
        apple = platform.system() == "Darwin" and platform.machine() == "arm64"
        accelerator = "gpu" if visible_gpus() else "mps" if apple else "cpu"
    if accelerator == "cpu":
        processes = f"{devices} processes on " if devices not in ("auto", 1) else ""
        return f"{processes}CPU ({cores()} core{'s' if cores() > 1 else ''})"
    number = len(visible_gpus()) if devices == "auto" else devices
    return f"{number} x {accelerator.upper()}"


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
