"""How the tests of the dashboard drive a browser."""

from __future__ import annotations

import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = shutil.which("chromium")
HOSTILE = '</script><img src=x onerror="window.hacked=1"><b>bold</b><script>window.hacked=1</script>\'&%{x}'
NEEDS_A_BROWSER = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("playwright") is None, reason="playwright is not installed: no browser to drive"),
    pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed: no browser to drive"),
]


def show(page: Any, site: Path, name: str) -> None:
    file, _, rest = name.partition("#")
    (found,) = site.glob(file)
    page.goto(found.as_uri() + (f"#{rest}" if rest else ""))
