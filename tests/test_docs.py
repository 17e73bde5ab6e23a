"""The page on adding a method holds a method that runs as it stands there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from cmr_bench.cli import main

PAGE = Path(__file__).parents[1] / "docs" / "add_a_method.md"


def test_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = dict(re.findall(r"```(\w+)\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL))
    assert len(blocks["python"].splitlines()) <= 60
    monkeypatch.chdir(tmp_path)
    Path("my_method.py").write_text(blocks["python"], encoding="utf-8")
    words = blocks["sh"].split()
    assert words[:2] == ["cmr-bench", "run"]
    quick = ["--data.n_train", "64", "--data.n_val", "32", "--data.n_test", "32", "--trainer.progress", "false"]
    assert main([*words[1:], *quick]) == 0
    (result,) = tmp_path.glob("runs/synthetic/MyMethod/*/result.json")
    assert result.stat().st_size > 0
