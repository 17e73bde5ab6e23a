"""Runs on the made-up method and data set of ``tests/own.py``."""

from __future__ import annotations

import shutil
from pathlib import Path

ROOT = Path(__file__).parents[2]
OWN = ROOT / "tests" / "own.py"
OLDEST_RESULT = ROOT / "tests" / "fixtures" / "result_v1.json"


def own_command(folder: Path) -> list[str]:
    """Copy method and data set into the folder and return the command that runs them, quickly, from there."""
    shutil.copy(OWN, folder)
    return [
        "run", "--model", "own.py:Linear", "--data", "own.py:Toy",
        "--trainer.progress", "false", "--trainer.accelerator", "cpu",
    ]  # fmt: skip
