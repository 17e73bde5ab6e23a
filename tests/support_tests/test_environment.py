"""Environment variables: read in one place, listed in one page, handed down and taken back."""

from __future__ import annotations

import ast
import os
import re
from collections.abc import Mapping
from pathlib import Path

import pytest

from cmr_bench.support import environment
from tests.support.runs import ROOT

PAGE = (ROOT / "docs" / "environment.md").read_text(encoding="utf-8")
FILES = [file for part in ("benchmark", "datamodules", "models") for file in sorted((ROOT / part).rglob("*.py"))]


def test_no_other_file_looks_at_the_environment() -> None:
    found = []
    for file in FILES:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            name = node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""
            if name in ("environ", "getenv", "putenv", "environb"):
                found.append(f"{file.relative_to(ROOT)}:{node.lineno}")
    assert {line.partition(":")[0] for line in found} == {"benchmark/support/environment.py"}, found


@pytest.mark.parametrize(
    ("head", "listed"), [("Read", environment.READ), ("Set for other processes", environment.PASSED_ON)]
)
def test_the_page_lists_every_variable_in_the_words_of_the_module(head: str, listed: Mapping[str, str]) -> None:
    section = PAGE.partition(f"## {head}\n")[2].partition("\n## ")[0]
    assert dict(re.findall(r"^\| `(\w+)` \| (.+) \|$", section, re.MULTILINE)) == dict(listed)


def test_every_name_in_the_module_is_listed() -> None:
    text = (ROOT / "benchmark" / "support" / "environment.py").read_text(encoding="utf-8")
    assert set(re.findall(r'"(_?[A-Z][A-Z_]{4,})"', text)) == {*environment.READ, *environment.PASSED_ON}


def test_the_run_folder_is_taken_back(tmp_path: Path) -> None:
    seen = []

    def fail() -> None:
        with environment.run_folder(tmp_path):
            seen.append(environment.value(environment.RUN_FOLDER))
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert seen == [str(tmp_path)]
    assert environment.value(environment.RUN_FOLDER) is None


@pytest.mark.parametrize(("name", "found"), [("https_proxy", True), ("ALL_PROXY", True), ("http_proxy", False)])
def test_proxies_of_any_case(name: str, found: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    for set_here in [key for key in os.environ if key.lower().endswith("_proxy")]:
        monkeypatch.delenv(set_here)
    assert not environment.behind_proxy()
    monkeypatch.setenv(name, "http://proxy")
    assert environment.behind_proxy() == found


def test_what_the_user_has_set_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert environment.of_a_run(3)["OMP_NUM_THREADS"] == "3"
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    assert environment.of_a_run(3)["OMP_NUM_THREADS"] == "7"
    monkeypatch.setenv("WANDB_RUN_GROUP", "mine")
    environment.group_wandb_runs("suite")
    assert os.environ["WANDB_RUN_GROUP"] == "mine"
