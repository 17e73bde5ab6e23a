"""docs/architecture.md speaks of the tree as it is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
FOLDERS = re.findall(r"^\| `([\w/]+)/` \|", PAGE, flags=re.M)
FILES = re.findall(r"`((?:benchmark|datamodules|models|experiments)/[\w/]+\.(?:py|yaml))`", PAGE)


@pytest.mark.parametrize("name", [*FOLDERS, *FILES])
def test_what_the_page_names_is_there(name: str) -> None:
    assert (ROOT / name).exists()


def test_every_folder_of_the_package_has_its_line() -> None:
    packages = {
        file.parent.relative_to(ROOT).as_posix()
        for top in ("benchmark", "datamodules", "models", "experiments")
        for file in (ROOT / top).rglob("__init__.py")
    }
    assert packages <= set(FOLDERS)
    assert len(FOLDERS) == len(set(FOLDERS))


def test_a_caption_goes_its_way_in_ten_steps() -> None:
    steps = re.findall(r"^(\d+)\. ", PAGE.partition("## The way")[2], flags=re.M)
    assert [int(step) for step in steps] == list(range(1, 11))
