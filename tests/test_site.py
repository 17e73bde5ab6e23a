"""The pages of the documentation: generated ones cover the registry, every command in them parses or runs."""

from __future__ import annotations

import importlib
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from cmr_bench import cli, registry
from tests.support.browser import CHROMIUM

ROOT = Path(__file__).parents[1]
# What stands for something of the reader's own: data, runs, arrays, machines. Such commands are parsed, not run.
NEEDS = re.compile(
    r"flickr|mscoco|cuhk_pedes|recipe1m|nuswide|pascal|wikipedia|custom|adcsl|\bRUN\b|RUN_|_RUN|\bDIR\b|\bNAME\b|\.npy|\.jpg|\.yaml\b|…|--stored|--again|"
    r"strategy|\bI\b|vsepp \"|hf://|\$|check --jobs|--data\.n_train|our-results|their"
)
SHELL = re.compile(r"^ *```sh\n(.*?)^ *```", flags=re.DOTALL | re.MULTILINE)
PYTHON = re.compile(r"```python\n(.*?)```", flags=re.DOTALL)
QUICK = {
    "run": ["--trainer.max_epochs", "1", "--trainer.progress", "false", "--trainer.bootstrap", "0"],
    "suite": ["--dry-run"],
}
SMALL = ["--data.n_train", "64", "--data.n_val", "32", "--data.n_test", "32"]


def site(name: str) -> ModuleType:
    sys.path.insert(0, str(ROOT / "docs" / "site"))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.pop(0)


def written_pages() -> list[Path]:
    return [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def commands(page: str) -> Iterator[list[str]]:
    """Every `cmr-bench` command in the shell blocks of a page, as words."""
    for block in SHELL.findall(page):
        for line in block.replace("\\\n", " ").splitlines():
            if line.strip().startswith("cmr-bench "):
                yield shlex.split(line, comments=True)[1:]


def own_code(folder: Path) -> None:
    """Write the method and the data set of the pages into a folder."""
    for page, file in (("add_a_method.md", "my_method.py"), ("add_a_data_set.md", "my_data.py")):
        code = PYTHON.search((ROOT / "docs" / page).read_text(encoding="utf-8"))
        assert code is not None
        (folder / file).write_text(code[1], encoding="utf-8")


def test_every_method_has_a_card_that_says_what_it_computes() -> None:
    cards = site("method_cards")
    assert set(cards.EQUATIONS) <= set(registry.METHODS)
    for name in ("scan", "dcca"):
        page = cards.card(name, [])
        for part in ("<svg", "## What it computes", "## Run it", "fidelity", "Published beside measured", "--model.lr"):
            assert part in page, (name, part)
    overview = cards.index(has_states=True)
    for name in registry.METHODS:
        assert f"[{name}]({name}.md)" in overview
    assert "(../methods.md)" in overview
    assert not set(cards.missing_systems()) & set(registry.METHODS)


def test_no_line_of_an_equation_is_wider_than_the_page() -> None:
    for name, equation in site("method_cards").EQUATIONS.items():
        assert max(map(len, equation.splitlines())) <= 78, name


@pytest.mark.slow
@pytest.mark.skipif(find_spec("playwright") is None, reason="playwright is not installed: no browser to drive")
@pytest.mark.skipif(find_spec("mkdocs") is None, reason="mkdocs is not installed")
@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed: no browser to drive")
def test_no_page_scrolls_sideways_and_every_equation_fits(tmp_path: Path, browser: Any) -> None:
    words = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--site-dir", str(tmp_path / "site")]
    subprocess.run(words, cwd=ROOT, check=True, timeout=240)
    pages = sorted((tmp_path / "site").rglob("index.html"))
    assert {page.parent.name for page in pages} > set(registry.METHODS)
    wide = "sides => sides.filter(one => one.scrollWidth > one.clientWidth).map(one => one.innerText)"
    for width in (390, 1440):
        view = browser.new_page(viewport={"width": width, "height": 900})
        for page in pages:
            view.goto(page.as_uri())
            assert view.eval_on_selector_all("html", wide) == [], (page, width)
            assert view.eval_on_selector_all(".equation code", wide) == [], (page, width)
            if page.parent.name == "scan":
                assert view.locator(".equation code").count() == 1
        view.close()


def test_the_command_line_and_the_data_sets_are_whole() -> None:
    reference = site("command_reference").reference()
    for name in cli.COMMANDS:
        assert f"\n## {name}\n" in reference
        assert f"usage: cmr-bench {name}" in reference
    page = site("data_pages").page()
    for name in registry.DATASETS:
        assert f"\n## {name}\n" in page
    assert "| train | 113,287 | 566,747 |" in page


@pytest.mark.parametrize("page", written_pages(), ids=lambda page: page.name)
def test_commands_of_a_page_parse(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    own_code(tmp_path)
    for words in commands(page.read_text(encoding="utf-8")):
        assert parses(words, monkeypatch), (words, capsys.readouterr().err)


def parses(words: list[str], monkeypatch: pytest.MonkeyPatch) -> bool:
    if "--help" in words:
        return cli.main(words) == 0
    if words[0] == "run" and "--resume" not in words and "--config" not in words:
        known = [word for word in words if word != "…"]
        return cli.main([*known, "--print-config"]) == 0
    name = next(known for known in cli.COMMANDS if known.split() == words[: len(known.split())])
    if name == "run":
        return {"--resume", "--config"} >= {word for word in words if word.startswith("--")}
    command: Any = importlib.import_module(cli.COMMANDS[name][0])
    with monkeypatch.context() as patch:
        patch.setattr(command, "run", lambda args: 0)
        return cli.main(words) == 0


def runnable() -> list[list[str]]:
    """The commands that need nothing of the reader's, each once, in the order of the pages."""
    pages = [ROOT / "docs/index.md", *(page for page in written_pages() if page.name != "index.md")]
    found = [words for page in pages for words in commands(page.read_text(encoding="utf-8"))]
    kept = [words for words in found if not NEEDS.search(shlex.join(words)) and "…" not in words]
    return [words for at, words in enumerate(kept) if words not in kept[:at]]


def test_the_first_commands_are_among_those_that_run() -> None:
    found = [shlex.join(words) for words in runnable()]
    for wanted in ("list", "run --model vsepp", "leaderboard --data synthetic", "dashboard"):
        assert wanted in found


@pytest.mark.slow
def test_commands_that_need_nothing_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    own_code(tmp_path)
    for words in runnable():
        more = QUICK.get(words[0], []) if "--help" not in words else []
        small = SMALL if words[0] == "run" and more and "my_data.py:MyData" not in words else []
        assert cli.main([*words, *more, *small]) == 0, (words, capsys.readouterr().err)
    assert (tmp_path / "site" / "index.html").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["concepts.md", "api.md"])
def test_the_python_of_a_page_runs(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = PYTHON.findall((ROOT / "docs" / name).read_text(encoding="utf-8"))
    assert blocks
    for code in blocks:
        exec(compile(code, name, "exec"), {})
