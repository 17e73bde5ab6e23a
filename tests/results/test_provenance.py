"""The commit of a result: that of the suite's own checkout, marked where the code was changed since."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from cmr_bench.results import provenance
from cmr_bench.results.record import short_commit


def git(folder: Path, *words: str) -> str:
    settings = ("-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false", "-c", "core.hooksPath=none")
    return subprocess.run(["git", "-C", folder, *settings, *words], check=True, capture_output=True, text=True).stdout


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file of the package in a committed checkout."""
    for name in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"):
        monkeypatch.delenv(name, raising=False)
    file = tmp_path / "benchmark" / "results" / "provenance.py"
    file.parent.mkdir(parents=True)
    file.write_text("x = 1\n")
    (tmp_path / "README.md").write_text("read")
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "cmr-bench"\n')
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "first")
    return file


def test_a_checkout_of_the_suite_gives_its_commit(module: Path) -> None:
    assert provenance.commit(module) == git(module.parent, "rev-parse", "HEAD").strip()


@pytest.mark.parametrize(
    ("name", "marked"),
    [("benchmark/results/provenance.py", True), ("models/new.py", True), ("README.md", False), ("runs/a.json", False)],
)
def test_changes_of_the_code_that_are_not_committed_are_marked(
    module: Path, tmp_path: Path, name: str, marked: bool
) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("changed")
    found = provenance.commit(module)
    assert found.endswith("+") == marked
    assert short_commit(found) == git(tmp_path, "rev-parse", "HEAD")[:12] + ("+" if marked else "")


@pytest.mark.parametrize("project", ['[project]\nname = "thesis"\n', "", "not TOML = ="])
def test_the_repository_of_another_project_has_no_commit_of_ours(module: Path, tmp_path: Path, project: str) -> None:
    (tmp_path / "pyproject.toml").write_text(project)
    assert provenance.commit(module) == ""


def test_a_package_that_is_installed_beside_the_tracked_files_has_no_commit(module: Path, tmp_path: Path) -> None:
    installed = tmp_path / ".venv" / "lib" / "cmr_bench" / "results" / "provenance.py"
    installed.parent.mkdir(parents=True)
    installed.write_text("x = 1\n")
    assert provenance.commit(installed) == ""


def test_without_a_repository_or_without_git_there_is_none(
    module: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    outside = tmp_path_factory.mktemp("outside") / "provenance.py"
    outside.write_text("")
    assert provenance.commit(outside) == ""
    monkeypatch.setenv("GIT_DIR", str(module.parents[2] / ".git"))
    assert provenance.commit(outside) == ""
    monkeypatch.setenv("PATH", "")
    assert provenance.commit(module) == ""
