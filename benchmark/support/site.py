"""Where the documentation is: on the site that the package names, or in a checkout's docs/."""

from __future__ import annotations

import importlib.metadata


def page(name: str) -> str:
    """Return the address of a page of the documentation.

    Args:
        name: Name of its file in docs/, without the ending.
    """
    try:
        urls = importlib.metadata.metadata("cmr-bench").get_all("Project-URL") or []
    except importlib.metadata.PackageNotFoundError:
        urls = []
    site = next((url.partition(", ")[2] for url in urls if url.startswith("Documentation, ")), "")
    # Before the repository has an owner there is no site.
    return f"{site.rstrip('/')}/{name}/" if site and "OWNER" not in site else f"docs/{name}.md"
