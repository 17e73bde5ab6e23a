"""Notebooks as pages: their text and code; the tests run them."""

from __future__ import annotations

import json
from pathlib import Path


def page(file: Path) -> str:
    """Return a notebook as Markdown, with a link to the file."""
    parts = []
    for cell in json.loads(file.read_text(encoding="utf-8"))["cells"]:
        source = "".join(cell["source"])
        parts.append(source if cell["cell_type"] == "markdown" else f"```python\n{source}\n```")
    return "\n\n".join([*parts[:1], f"[Download the notebook]({file.name})", *parts[1:]]) + "\n"
