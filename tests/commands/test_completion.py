"""Completion in the shell: what follows the words typed so far."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from cmr_bench import registry

pytest.importorskip("argcomplete")


def completed(line: str, tmp_path: Path) -> list[str]:
    """Ask as bash does, in a process of its own, which must import no torch."""
    answer = tmp_path / "answer"
    code = (
        "import os, sys\n"
        "leave = os._exit\n"
        "def checked(code):\n"
        "    leave(3 if {'torch', 'lightning'} & set(sys.modules) else code)\n"
        "os._exit = checked\n"
        "sys.argv = ['cmr-bench']\n"
        "from cmr_bench.cli import main\n"
        "main()\n"
    )
    asked = {
        "_ARGCOMPLETE": "1",
        "_ARGCOMPLETE_IFS": "\n",
        "_ARGCOMPLETE_STDOUT_FILENAME": str(answer),
        "COMP_LINE": line,
        "COMP_POINT": str(len(line)),
    }
    made = subprocess.run([sys.executable, "-c", code], env={**os.environ, **asked}, timeout=120, check=False)
    assert made.returncode == 0
    return [word.strip() for word in answer.read_text().split("\n")]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("cmr-bench le", {"leaderboard"}),
        ("cmr-bench data ", {"check", "features"}),
        ("cmr-bench run --model ", set(registry.METHODS)),
        ("cmr-bench run --model vsepp --data ", set(registry.DATASETS)),
        ("cmr-bench run --model vsepp --model.mar", {"--model.margin"}),
        ("cmr-bench run --model vsepp --data mscoco --data.rest", {"--data.restval"}),
        ("cmr-bench run --model vsepp --model.negatives ", {"hardest", "mean", "sum"}),
        ("cmr-bench run --model=nothing --model.mar", {""}),
        ("cmr-bench suite four", {"four_families"}),
        ("cmr-bench data check fl", {"flickr8k", "flickr30k"}),
    ],
)
def test_words_are_completed(line: str, expected: set[str], tmp_path: Path) -> None:
    assert expected <= set(completed(line, tmp_path))


def test_only_what_begins_alike_is_offered(tmp_path: Path) -> None:
    assert completed("cmr-bench run --model cmpm_", tmp_path) == ["cmpm_cmpc"]
