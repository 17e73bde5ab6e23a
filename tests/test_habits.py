"""What a repository has beside its code: workflows, templates, the image, releases; each says what is so."""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import yaml

from cmr_bench.support import site
from cmr_bench.version import __version__

ROOT = Path(__file__).parents[1]
GITHUB = sorted((ROOT / ".github").rglob("*.yml"))
INSTRUCTIONS = {"ARG", "FROM", "ENV", "RUN", "WORKDIR", "COPY", "USER", "VOLUME", "ENTRYPOINT", "CMD"}


@pytest.mark.parametrize("file", GITHUB, ids=lambda file: file.name)
def test_files_of_github_are_yaml(file: Path) -> None:
    content = yaml.safe_load(file.read_text(encoding="utf-8"))
    assert isinstance(content, dict)
    for job in content.get("jobs", {}).values():
        assert job["runs-on"] or job["uses"]
        for step in job.get("steps", ()):
            assert ("uses" in step) != ("run" in step), step


def test_the_tests_run_on_every_python_that_is_declared() -> None:
    content = yaml.safe_load((ROOT / ".github/workflows/tests.yml").read_text(encoding="utf-8"))
    told = re.findall(r"Python :: (3\.\d+)", (ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert content["jobs"]["pinned"]["strategy"]["matrix"]["python"] == told
    assert any("test-lowest" in step.get("run", "") for step in content["jobs"]["lowest"]["steps"])


def test_a_release_is_published_without_a_token() -> None:
    jobs = yaml.safe_load((ROOT / ".github/workflows/release.yml").read_text(encoding="utf-8"))["jobs"]
    for name in ("testpypi", "pypi"):
        assert jobs[name]["permissions"] == {"id-token": "write"}
        assert not any("password" in step.get("with", {}) for step in jobs[name]["steps"])
    assert "secrets." not in (ROOT / ".github/workflows/release.yml").read_text(encoding="utf-8")


def script(name: str) -> ModuleType:
    """A script of .ci as a module."""
    spec = importlib.util.spec_from_file_location(name, ROOT / ".ci" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def tool(name: str) -> str:
    """The path of a program beside this Python; the test is skipped where it is not installed."""
    found = shutil.which(name, path=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]))
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


@pytest.mark.parametrize(
    ("schema", "pattern"),
    [("workflows", ".github/workflows/*.yml"), ("actions", ".github/actions/*/action.yml"),
     ("issue-forms", ".github/ISSUE_TEMPLATE/[!c]*.yml"), ("issue-config", ".github/ISSUE_TEMPLATE/config.yml")],
)  # fmt: skip
def test_what_github_reads_has_the_form_that_it_takes(schema: str, pattern: str) -> None:
    files = [str(file) for file in ROOT.glob(pattern)]
    assert files
    words = [tool("check-jsonschema"), "--builtin-schema", f"vendor.github-{schema}", *files]
    answer = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    assert answer.returncode == 0, answer.stdout + answer.stderr


def test_dependabot_reads_its_file() -> None:
    words = [tool("check-jsonschema"), "--builtin-schema", "vendor.dependabot", str(ROOT / ".github/dependabot.yml")]
    answer = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    assert answer.returncode == 0, answer.stdout + answer.stderr


def test_the_linter_has_nothing_against_the_dockerfile() -> None:
    answer = subprocess.run(
        [tool("hadolint"), str(ROOT / "Dockerfile")], capture_output=True, text=True, timeout=60, check=False
    )
    assert answer.returncode == 0, answer.stdout


def test_the_summary_of_coverage_adds_up() -> None:
    counts = {"models/a/x.py": (3, 4), "models/a/y.py": (0, 4), "models/z.py": (2, 2), "models/e/__init__.py": (0, 0)}
    files = {name: {"summary": {"covered_lines": hit, "num_statements": n}} for name, (hit, n) in counts.items()}
    page = script("coverage_summary").summary({"files": files, "totals": {"covered_lines": 5, "num_statements": 10}})
    assert "fast tests: 50 %" in page
    assert "| models/a | 37 % | 8 |" in page
    assert "| models | 100 % | 2 |" in page
    assert page.index("| models/a/y.py | 0 % | 4 |") < page.index("| models/a/x.py | 75 % | 1 |")


def test_release_notes_are_the_section_of_the_changelog() -> None:
    module = script("release_notes")
    text = "## [Unreleased]\n\n- new\n\n## [1.2.0] - 2026-01-01\n\n- this\n- that\n\n## [1.1.0]\n\n- old\n"
    assert module.notes("1.2.0", text) == "- this\n- that\n"
    with pytest.raises(ValueError, match=r"\[1\.3\.0\]"):
        module.notes("1.3.0", text)
    for version in ("9.9.9", __version__):
        words = [sys.executable, str(ROOT / ".ci" / "release_notes.py"), version]
        answer = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
        assert answer.returncode == (f"## [{version}]" not in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"))
        assert len(answer.stderr.splitlines()) == answer.returncode


def instructions() -> list[tuple[str, str]]:
    """The instructions of the Dockerfile with their arguments, continued lines joined."""
    text = re.sub(r"^\s*#.*\n", "", (ROOT / "Dockerfile").read_text(encoding="utf-8"), flags=re.M)
    lines = [line.strip() for line in text.replace("\\\n", " ").splitlines() if line.strip()]
    return [(line.partition(" ")[0], line.partition(" ")[2].strip()) for line in lines]


def test_the_dockerfile_is_sound() -> None:
    found = instructions()
    assert {name for name, _ in found} <= INSTRUCTIONS
    assert [name for name, _ in found][:2] == ["ARG", "FROM"]
    for name, rest in found:
        assert rest
        if name == "COPY":
            for source in rest.split()[:-1]:
                assert (ROOT / source).exists(), source
        elif name == "RUN":
            answer = subprocess.run(["sh", "-n", "-c", rest], capture_output=True, text=True, timeout=60, check=False)
            assert answer.returncode == 0, answer.stderr
        elif name in ("ENTRYPOINT", "CMD", "VOLUME"):
            assert isinstance(yaml.safe_load(rest), list)
        elif name in ("ENV", "ARG"):
            assert all("=" in word for word in shlex.split(rest))
    kept = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    copied = {source for name, rest in found if name == "COPY" for source in rest.split()[:-1]}
    assert {f"!{source}" for source in copied} == {line for line in kept if line.startswith("!")}


def test_errors_name_a_page_that_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    class About:
        urls = ("Repository, https://github.com/a/b", "Documentation, https://a.github.io/b/")

        def get_all(self, name: str) -> tuple[str, ...]:
            return self.urls

    monkeypatch.setattr(site.importlib.metadata, "metadata", lambda name: About())
    assert site.page("check") == "https://a.github.io/b/check/"
    About.urls = ("Documentation, https://OWNER.github.io/b/",)
    assert site.page("check") == "docs/check.md"
    used = {
        name
        for file in (ROOT / "benchmark").rglob("*.py")
        for name in re.findall(r"""\bpage\(['"](\w+)['"]\)""", file.read_text(encoding="utf-8"))
    }
    assert used >= {"check", "scale"}
    assert all((ROOT / "docs" / f"{name}.md").is_file() for name in used)


def test_no_message_names_a_file_that_is_not_installed() -> None:
    for folder in ("benchmark", "datamodules", "models"):
        for file in (ROOT / folder).rglob("*.py"):
            if file.name not in ("site.py", "environment.py"):
                assert "docs/" not in file.read_text(encoding="utf-8"), file
