"""A browser that must not complain, and sites that it opens from disk."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.dashboard import made_up_runs
from cmr_bench.dashboard.site import build
from cmr_bench.results.published import load_published
from tests.support.browser import HOSTILE


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    """A page that must neither complain nor ask for anything that is not on disk."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    context.set_default_timeout(20_000)
    opened = context.new_page()
    problems: list[str] = []
    opened.on("console", lambda message: problems.append(message.text) if message.type != "log" else None)
    opened.on("pageerror", lambda error: problems.append(str(error)))
    opened.on("requestfailed", lambda request: problems.append(f"not there: {request.url}"))
    opened.on(
        "request",
        lambda request: None if request.url.startswith(("file:", "data:", "blob:")) else problems.append(request.url),
    )
    yield opened
    hacked = opened.evaluate("window.hacked")
    context.close()
    assert problems == []
    assert hacked is None


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """72 made-up runs: three data sets, five methods with settings, four seeds each; published rows of pascal."""
    folder = tmp_path_factory.mktemp("dashboard")
    made_up_runs(folder / "runs", 72)
    build(folder / "runs", folder / "site", load_published())
    return folder / "site"


@pytest.fixture(scope="session")
def hostile_site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hostile")
    made_up_runs(folder / "runs", 24)
    for run in (folder / "runs").glob("*/*/*"):
        (run / "config.yaml").unlink()  # the name of the method in it is another
        record = json.loads((run / "result.json").read_text())
        record |= {"method": HOSTILE, "variant": HOSTILE, "run_id": HOSTILE, "family": HOSTILE, "flags": [HOSTILE]}
        record["options"] |= {HOSTILE: HOSTILE}
        record["views"]["image"]["source"] = HOSTILE
        (run / "result.json").write_text(json.dumps(record))
        text = (run / "examples.json").read_text().replace("a made-up caption", json.dumps(HOSTILE)[1:-1])
        (run / "examples.json").write_text(text.replace('"image', json.dumps(HOSTILE)[:-1]))
        text = (run / "history.csv").read_text().replace("train/loss", 'train/<img src=x onerror="hacked=1">')
        (run / "history.csv").write_text(text)
    build(folder / "runs", folder / "site", None)
    return folder / "site"
