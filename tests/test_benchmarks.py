"""Every script of benchmarks/ runs to its end, on a small scale."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "benchmarks"
SMALL = {
    "dashboard.py": ["4"],
    "gpu.py": ["--device", "cpu", "--small"],
    "ranks.py": ["--images", "20", "--per-image", "2", "--dim", "8", "--rounds", "1"],
    "results.py": ["--runs", "4", "--rounds", "1"],
    "scan_similarity.py": ["--images", "4", "--texts", "5", "--regions", "3", "--dim", "8", "--rounds", "1"],
    "search.py": ["--items", "200", "--dim", "8"],
    "step.py": ["--shrink", "256", "--rounds", "1"],
    "stream.py": ["--images", "40", "--regions", "3", "--width", "8", "--batch-size", "8", "--batches", "3"],
    "survey_scores.py": ["--images", "4", "--texts", "5", "--regions", "3", "--dim", "8", "--rounds", "1"],
}


def test_every_script_has_a_small_scale() -> None:
    assert set(SMALL) == {file.name for file in FOLDER.glob("*.py")} - {"timing.py"}


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(SMALL))
def test_benchmark_runs_to_its_end(name: str) -> None:
    ran = subprocess.run([sys.executable, FOLDER / name, *SMALL[name]], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.strip()
