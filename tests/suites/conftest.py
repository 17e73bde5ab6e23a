"""What the tests of suites share."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.support.runs import OWN


@pytest.fixture
def folder(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with own.py and try.yaml, the SUITE of the module that asks."""
    shutil.copy(OWN, tmp_path)
    (tmp_path / "try.yaml").write_text(request.module.SUITE)
    monkeypatch.chdir(tmp_path)
    return tmp_path
