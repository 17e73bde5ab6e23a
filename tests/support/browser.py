"""How the tests of pages drive a browser."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = shutil.which("chromium")
HOSTILE = '</script><img src=x onerror="window.hacked=1"><b>bold</b><script>window.hacked=1</script>\'&%{x}'
_ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update",
              "--disable-sync", "--no-first-run"]  # fmt: skip
NEEDS_A_BROWSER = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("playwright") is None, reason="playwright is not installed: no browser to drive"),
    pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed: no browser to drive"),
]


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """The one browser of a process of tests: Playwright starts no second one."""
    from playwright import sync_api as playwright

    with playwright.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=CHROMIUM, args=_ARGUMENTS)
        yield opened
        opened.close()


def show(page: Any, site: Path, name: str) -> None:
    file, _, rest = name.partition("#")
    (found,) = site.glob(file)
    page.goto(found.as_uri() + (f"#{rest}" if rest else ""))
