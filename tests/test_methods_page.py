"""docs/methods.md names every method of the registry and every published system, each with its state."""

from __future__ import annotations

import re
from pathlib import Path

from cmr_bench import registry
from cmr_bench.results.published import load_published

PAGE = (Path(__file__).parents[1] / "docs" / "methods.md").read_text(encoding="utf-8")
# Named in passing by the two documents that the suite follows.
NAMED = {"kcca", "dccae", "jrl", "can", "daml", "s2mc", "acme", "cmdn", "ccl", "cfsa", "r2gan", "cdah", "mcmhr", "dsah"}


def rows(title: str) -> list[list[str]]:
    part = PAGE.partition(f"## {title}\n")[2].partition("\n## ")[0]
    lines = [line for line in part.splitlines() if line.startswith("| `")]
    return [[cell.strip().strip("`") for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]


def test_implemented_methods_are_those_of_the_registry() -> None:
    wanted = [
        [name, entry.family, entry.paper]
        for family in registry.FAMILIES
        for name, entry in registry.METHODS.items()
        if entry.family == family
    ]
    assert rows("Implemented") == wanted


def test_published_systems_without_a_class_are_all_there() -> None:
    published = {row.method for row in load_published().rows}
    assert {name for name, *_ in rows("Published only")} == published - set(registry.METHODS)


def test_every_name_has_one_state_and_a_reason() -> None:
    names = [row[0] for title in ("Implemented", "Published only", "Not here") for row in rows(title)]
    assert len(set(names)) == len(names)
    assert set(names) >= NAMED
    assert all(row[2] for title in ("Published only", "Not here") for row in rows(title))
