"""The size of what a reader has to hold in mind: files and functions, with the exceptions and why."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.support.runs import ROOT

LINES_OF_A_FILE, LINES_OF_A_FUNCTION = 400, 60

# Path, or path and function, and why it is longer. The paths that every run goes through have none.
LONG_FILES = {
    "tests/datamodules/images/test_features.py": "interrupted, damaged and concurrent making of one kind of store",
    "tests/datamodules/readers/test_layouts.py": "the layouts that one reader tells apart, side by side",
    "tests/test_faults.py": "full disks, damaged files and lost workers of one kind of run",
    "tests/leaderboard/test_leaderboard.py": "every rule of the board on one set of made-up rows",
    "tests/search/test_search.py": "trained runs that every test of the command searches with",
    "tests/suites/test_suite_tables.py": "tables of one made-up suite, from YAML to every output format",
}
LONG_FUNCTIONS = {
    "benchmarks/scan_similarity.py main": "a script that is read from top to bottom",
}
CORE = ("benchmark", "datamodules", "models")
FILES = sorted(
    file
    for part in (*CORE, "experiments", "tests", "benchmarks", "docs")
    for file in (ROOT / part).rglob("*.py")
    if "__pycache__" not in file.parts
)


def name_of(file: Path) -> str:
    return file.relative_to(ROOT).as_posix()


def long_functions(file: Path) -> set[str]:
    return {
        f"{name_of(file)} {node.name}"
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (node.end_lineno or 0) - node.lineno + 1 > LINES_OF_A_FUNCTION
    }


def test_files_are_short() -> None:
    assert len(FILES) > 200
    found = {name_of(file) for file in FILES if len(file.read_text("utf-8").splitlines()) > LINES_OF_A_FILE}
    assert found == set(LONG_FILES)


def test_functions_are_short() -> None:
    assert set().union(*map(long_functions, FILES)) == set(LONG_FUNCTIONS)


@pytest.mark.parametrize("name", [*LONG_FILES, *LONG_FUNCTIONS])
def test_an_exception_has_a_reason_and_is_none_of_the_package(name: str) -> None:
    assert len({**LONG_FILES, **LONG_FUNCTIONS}[name].split()) > 4
    assert name.partition("/")[0] not in CORE
