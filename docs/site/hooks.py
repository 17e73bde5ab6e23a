"""What mkdocs calls while it builds the site: pages that are generated from the code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import command_reference
import data_pages
import method_cards
import notebook_pages
import result_pages
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

from cmr_bench import registry
from cmr_bench.leaderboard.checks import load_checked

ROOT = Path(__file__).parents[2]
_OF_ROOT = ("CHANGELOG", "CONTRIBUTING", "CODE_OF_CONDUCT", "SECURITY")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages."""
    for uri, content in pages(ROOT / str(config.extra.get("runs", "runs"))).items():
        files.append(File.generated(config, uri, content=content))
    return files


def pages(runs: Path) -> dict[str, str]:
    """Return every generated page by its address below docs/.

    Args:
        runs: Folder of results, which have a page and stand beside published figures on the cards, if there is one.
    """
    results: list[Any] = [result for _, result in load_checked(runs)[0]] if runs.is_dir() else []
    found = {"cards/index.md": method_cards.index((ROOT / "docs" / "methods.md").is_file())}
    found |= {f"cards/{name}.md": method_cards.card(name, results) for name in registry.METHODS}
    found |= {
        "cli.md": command_reference.reference(),
        "data_sets.md": data_pages.page(),
        "results.md": result_pages.page(results),
        **{f"{name.lower()}.md": _of_root(name) for name in _OF_ROOT},
    }
    for file in sorted((ROOT / "docs" / "notebooks").glob("*.ipynb")):
        found[f"notebooks/{file.stem}.md"] = notebook_pages.page(file)
    return found


def _of_root(name: str) -> str:
    """Return a page of the root of the repository, its links turned to where the pages are on the site."""
    text = (ROOT / f"{name}.md").read_text(encoding="utf-8").replace("](docs/", "](")
    for other in _OF_ROOT:
        text = text.replace(f"]({other}.md)", f"]({other.lower()}.md)")
    return text
