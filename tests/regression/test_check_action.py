"""The workflow and the action: they parse, and what their shell steps call exists with the options that they pass."""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from cmr_bench.commands import check
from cmr_bench.support import environment
from tests.support.runs import ROOT

ACTION = ROOT / ".github" / "actions" / "check" / "action.yml"
WORKFLOW = ROOT / ".github" / "workflows" / "recall.yml"
PAGE = ROOT / "docs" / "check.md"


def read(path: Path) -> dict[str, Any]:
    # YAML 1.1 reads the key `on` as true.
    content: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return content


def parsed(words: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(exit_on_error=False, allow_abbrev=False)
    check.add_arguments(parser)
    assert words[0] == "check"
    return parser.parse_args(words[1:])


def step(name: str) -> dict[str, Any]:
    (found,) = [one for one in read(ACTION)["runs"]["steps"] if one.get("name") == name]
    return found


def fill(text: str, inputs: dict[str, str]) -> str:
    """Put inputs where GitHub would; anything else that is left open is a mistake."""
    filled = re.sub(r"\$\{\{ inputs\.([\w-]+) \}\}", lambda found: inputs[found[1]], text)
    return filled.replace("${{ github.action_path }}", str(ACTION.parent))


def run_step(
    name: str, inputs: dict[str, str], folder: Path, program: str, code: int = 0
) -> tuple[int, list[list[str]]]:
    """Run a shell step of the action beside a program that only writes down how it is called.

    Returns:
        Exit code, and the words of every call.
    """
    place = folder / "bin"
    place.mkdir(exist_ok=True)
    stand_in = place / program
    note = "import json, sys; print(json.dumps(sys.argv[1:]), file=open('calls', 'a'))"
    stand_in.write_text(f'#!/bin/sh\n{sys.executable} -c "{note}" "$@"\nexit {code}\n')
    stand_in.chmod(0o755)
    inputs = {key: entry.get("default", "") for key, entry in read(ACTION)["inputs"].items()} | inputs
    one = step(name)
    variables = {key: fill(value, inputs) for key, value in one.get("env", {}).items()}
    assert "${{" not in one["run"]
    variables |= {"PATH": f"{place}:{os.environ['PATH']}", "GITHUB_OUTPUT": str(folder / "output")}
    shell = ["bash", "--noprofile", "--norc", "-eo", "pipefail"]  # as GitHub does for `shell: bash`
    done = subprocess.run([*shell, "-c", one["run"]], env={**os.environ, **variables}, cwd=folder, check=False)
    calls = (folder / "calls").read_text().splitlines() if (folder / "calls").is_file() else []
    return done.returncode, [json.loads(line) for line in calls]


@pytest.mark.parametrize(
    ("inputs", "want"),
    [
        ({}, {"suite": "ci", "expected": None, "runs": Path("runs"), "jobs": 2, "fail_on_rise": False}),
        ({"suite": "my suite.yaml", "expected": "a b.yaml", "args": "--fail-on-rise  --seed 3"},
         {"suite": "my suite.yaml", "expected": Path("a b.yaml"), "fail_on_rise": True, "seed": 3}),
        ({"args": "--fail-on-rise\n--seed 3\n\n  --again\n"}, {"fail_on_rise": True, "seed": 3, "again": True}),
        ({"suite": "$(touch broken)`touch broken`;touch broken", "runs": "x"},
         {"suite": "$(touch broken)`touch broken`;touch broken", "runs": Path("x")}),
    ],
)  # fmt: skip
def test_step_calls_check(inputs: dict[str, str], want: dict[str, Any], tmp_path: Path) -> None:
    code, (words,) = run_step("Check", inputs, tmp_path, "cmr-bench")
    assert code == 0
    args = vars(parsed(words))
    assert {key: args[key] for key in want} == want
    assert not (tmp_path / "broken").exists()
    outputs = dict(line.split("=", 1) for line in (tmp_path / "output").read_text().splitlines())
    assert outputs == {"passed": "true", "junit": str(args["junit"]), "markdown": str(args["markdown"])}
    assert set(outputs) == set(read(ACTION)["outputs"])


def test_failed_check_fails_the_step_and_says_so(tmp_path: Path) -> None:
    code, _ = run_step("Check", {}, tmp_path, "cmr-bench", code=1)
    assert code == 1
    assert (tmp_path / "output").read_text().splitlines()[-1] == "passed=false"


@pytest.mark.parametrize("requirements", ["", "my requirements.txt"])
def test_install_step_installs_the_package_with_its_pins(requirements: str, tmp_path: Path) -> None:
    code, calls = run_step("Install", {"requirements": requirements}, tmp_path, "python")
    assert code == 0
    assert len(calls) == (2 if requirements else 1)
    pins, package = Path(calls[0][calls[0].index("-c") + 1]), Path(calls[0][-1])
    assert pins.samefile(ROOT / "constraints.txt")
    assert (package / "pyproject.toml").samefile(ROOT / "pyproject.toml")
    assert "https://download.pytorch.org/whl/cpu" in calls[0]
    assert not requirements or calls[1][-2:] == ["-r", requirements]


def test_workflow_uses_the_action_as_it_is() -> None:
    workflow = read(WORKFLOW)
    assert set(workflow[True]) == {"push", "pull_request"}
    assert workflow["permissions"] == {"contents": "read"}
    steps = workflow["jobs"]["check"]["steps"]
    (own,) = [one for one in steps if str(one.get("uses", "")).startswith("./")]
    assert (ROOT / own["uses"] / "action.yml").samefile(ACTION)
    inputs = read(ACTION)["inputs"]
    assert set(own["with"]) <= set(inputs)
    assert parsed(["check", *own["with"]["args"].split()]).fail_on_rise
    (cache,) = [one for one in steps if str(one.get("uses", "")).startswith("actions/cache@")]
    assert cache["with"]["path"] == inputs["runs"]["default"]
    assert "restore-keys" not in cache["with"]
    hashed = re.findall(r"'([^']+)'", cache["with"]["key"])
    packages = {place.split("/")[0] for place in re.findall(r'= "([\w/]+)"', package_folders())}
    assert {f"{folder}/**" for folder in packages} | {"constraints.txt", "pyproject.toml"} == set(hashed)


def package_folders() -> str:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    return text.split("[tool.setuptools.package-dir]")[1].split("\n[")[0]


def blocks(kind: str) -> list[str]:
    found = re.findall(
        rf"^( *)```{kind}\n(.*?)^ *```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE
    )
    return [re.sub(rf"^{indent}", "", text, flags=re.MULTILINE) for indent, text in found]


def test_commands_of_the_page_are_understood() -> None:
    lines = [line.partition("#")[0].split() for block in blocks("sh") for line in block.splitlines() if line.strip()]
    assert len(lines) >= 5
    for program, *words in lines:
        assert program == "cmr-bench"
        parsed(words)


def test_workflow_of_the_page_passes_inputs_that_there_are() -> None:
    (workflow,) = [yaml.safe_load(block) for block in blocks("yaml") if "jobs:" in block]
    (own,) = [one for one in workflow["jobs"]["recall"]["steps"] if "cmr-bench/" in one["uses"]]
    place = own["uses"].partition("/cmr-bench/")[2].partition("@")[0]
    assert (ROOT / place / "action.yml").samefile(ACTION)
    assert set(own["with"]) <= set(read(ACTION)["inputs"])


@pytest.mark.skipif(shutil.which("actionlint") is None, reason="actionlint is not installed")
def test_actionlint_finds_nothing() -> None:
    subprocess.run(["actionlint", str(WORKFLOW)], check=True)


@pytest.mark.slow
def test_suite_of_the_page_is_recorded_and_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from cmr_bench.cli import main

    method = (ROOT / "docs" / "add_a_method.md").read_text(encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(environment.JOB_SUMMARY, raising=False)
    Path("my_method.py").write_text(re.findall(r"```python\n(.*?)```", method, flags=re.DOTALL)[0], encoding="utf-8")
    (suite,) = [block for block in blocks("yaml") if "runs:" in block and "jobs:" not in block]
    quick = suite.replace("max_epochs: 5", "max_epochs: 1").replace("n_train: 500", "n_train: 60")
    Path("recall.yaml").write_text(quick, encoding="utf-8")
    words = ["check", "--suite", "recall.yaml", "--expected", "expected.yaml"]
    assert main([*words, "--record", "--seeds", "2", "--force"]) == 0
    assert main([*words, "--junit", "check.xml"]) == 0
    assert Path("check.xml").is_file()
