"""Code in a process of its own, which has imported nothing yet."""

from __future__ import annotations

import subprocess
import sys


def python(code: str) -> str:
    """Run the code and return what it printed; what it wrote on standard error where it failed fails the test."""
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=240, check=False)
    assert answer.returncode == 0, answer.stderr
    return answer.stdout
