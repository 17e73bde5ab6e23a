"""Print the section of CHANGELOG.md for a version; fail where the versions of the repository disagree."""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def notes(version: str, changelog: str) -> str:
    """Return what the changelog says of a version.

    Raises:
        ValueError: If it has no section of it, or an empty one.
    """
    found = re.search(rf"^## \[{re.escape(version)}\][^\n]*\n(.*?)(?=^## \[|\Z)", changelog, flags=re.M | re.S)
    if found is None or not found[1].strip():
        raise ValueError(f"CHANGELOG.md has no section [{version}]")
    return found[1].strip() + "\n"


def main(version: str) -> int:
    """Print the notes of a version, which has to be that of the package and of CITATION.cff."""
    package = re.search(r'__version__ = "(.*)"', (ROOT / "benchmark" / "version.py").read_text(encoding="utf-8"))
    citation = re.search(r'^version: "(.*)"', (ROOT / "CITATION.cff").read_text(encoding="utf-8"), flags=re.M)
    for where, said in (("benchmark/version.py", package), ("CITATION.cff", citation)):
        if said is None or said[1] != version:
            print(f"{where} says version {said[1] if said else 'nothing'}, the tag {version}", file=sys.stderr)
            return 1
    try:
        print(notes(version, (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")), end="")
    except ValueError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1]))
