"""The table of promises names tests that exist and counts that are true."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from tests.test_fuzz import READERS

ROOT = Path(__file__).parents[1]
ROWS = [
    line.strip("| \n").split(" | ") for line in (ROOT / "docs" / "trust.md").read_text().splitlines() if "::" in line
]


@pytest.mark.parametrize("row", ROWS, ids=[row[-2].rpartition("::")[2].strip("`") for row in ROWS])
def test_the_test_of_a_promise_exists(row: list[str]) -> None:
    file, name = row[-2].strip("`").split("::")
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    assert name in {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


def test_the_number_of_malformed_inputs_is_that_of_the_table() -> None:
    (row,) = (row for row in ROWS if "test_fuzz" in row[-2])
    told = int(re.sub(r"\D", "", row[-1]))
    assert told == sum(reader.examples for reader in READERS.values())
    assert told >= 10_000
