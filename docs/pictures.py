"""Makes the two pictures of the README from a folder of runs: ``python docs/pictures.py RUNS [--data NAME]``.

The dashboard of the runs is built, opened in the system's Chromium and photographed. The queries come from the data set
`synthetic`, whose pictures are drawn and belong to nobody.
"""

from __future__ import annotations

import argparse
import io
import shutil
import tempfile
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import sync_playwright

from cmr_bench.dashboard.site import build
from cmr_bench.results.published import load_published

HERE = Path(__file__).parent


def keep(shot: bytes, name: str) -> None:
    with Image.open(io.BytesIO(shot)) as picture:
        picture.convert("RGB").save(HERE / name, quality=82, method=6)


def leaderboard(page: Any, site: Path, data: str) -> None:
    (file,) = sorted(site.glob(f"{data}-whole-*.html"))[:1]
    page.goto(file.as_uri())
    # Single runs have no spread to show, and a long table leaves no room for the charts.
    if page.locator("#board tbody tr").count() > 12:
        page.locator("#f-seeds").select_option("2")
    page.locator("#c-recall .main-svg").first.wait_for()
    page.locator("#c-map .main-svg").first.wait_for()
    page.wait_for_timeout(1000)
    end = page.locator("#c-recall").bounding_box()
    keep(page.screenshot(full_page=True, clip={"x": 0, "y": 0, "width": 1280, "height": end["y"] + end["height"] + 16}),
         "leaderboard.webp")  # fmt: skip


def queries(page: Any, site: Path) -> None:
    page.goto((site / "queries.html").as_uri())
    split = page.locator("#q-split option", has_text="synthetic").first.get_attribute("value")
    page.locator("#q-split").select_option(split)
    page.locator("#q-only").select_option("split")
    page.locator(".query img").first.wait_for()
    page.wait_for_timeout(1000)
    end = page.locator(".query").nth(1).bounding_box()
    keep(page.screenshot(full_page=True, clip={"x": 0, "y": 0, "width": 1280, "height": end["y"] + end["height"] + 16}),
         "queries.webp")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description="Make the pictures of the README.")
    parser.add_argument("runs", type=Path, help="folder of runs, those on synthetic with examples")
    parser.add_argument("--data", default="synthetic", help="data set of the leaderboard (default: synthetic)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as driver:
        site = Path(folder) / "site"
        build(args.runs, site, load_published())
        browser = driver.chromium.launch(
            executable_path=shutil.which("chromium"),
            args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"],
        )
        page = browser.new_page(viewport={"width": 1280, "height": 3000})
        leaderboard(page, site, args.data)
        queries(page, site)
        browser.close()


if __name__ == "__main__":
    main()
