"""Every recipe says what it does otherwise than its paper or program; those that do nothing otherwise may claim it."""

from __future__ import annotations

import importlib.resources
from typing import Any

import pytest
import yaml

from cmr_bench import registry
from cmr_bench.experiment import recipe

CONTENT: dict[str, Any] = yaml.safe_load(
    importlib.resources.files("cmr_bench.experiments").joinpath("deviations.yaml").read_text(encoding="utf-8")
)
SHIPPED = [(data, name) for data in registry.DATASETS for name in registry.METHODS if recipe.recipe_file(data, name)]


def deviations(data: str, method: str, variant: str) -> list[str]:
    of_method = CONTENT["methods"][method]
    found = of_method.get(variant or "default", of_method["default"])
    return [*found, *CONTENT["data"].get(data, {}).get(method, [])] if found else []


def variants(data: str, method: str) -> dict[str, str]:
    file = recipe.recipe_file(data, method)
    assert file is not None
    content = recipe.read_yaml(file)
    return {"": content["fidelity"]} | {
        name: (options or {}).get("fidelity", content["fidelity"])
        for name, options in content.get("variants", {}).items()
    }


@pytest.mark.parametrize(("data", "method"), SHIPPED)
def test_paper_needs_an_empty_list_and_everything_else_says_why(data: str, method: str) -> None:
    for variant, fidelity in variants(data, method).items():
        assert (deviations(data, method, variant) == []) == (fidelity == "paper"), (variant, fidelity)


def test_every_name_is_that_of_a_recipe() -> None:
    assert set(CONTENT["methods"]) == set(registry.METHODS)
    there = {
        method: {variant for data, name in SHIPPED if name == method for variant in variants(data, name)}
        for method in registry.METHODS
    }
    for part in ("methods", "program"):
        for method, lists in CONTENT[part].items():
            assert set(lists) - {"default"} <= there[method], method
    for data, methods in CONTENT["data"].items():
        assert {(data, method) for method in methods} <= set(SHIPPED)


def test_every_deviation_is_one_short_line() -> None:
    lists = [
        lines for part in ("methods", "program", "data") for entry in CONTENT[part].values() for lines in entry.values()
    ]
    for lines in lists:
        assert len(set(lines)) == len(lines)
        for line in lines:
            assert isinstance(line, str), line
            assert line == line.strip()
            assert "\n" not in line
            assert len(line) <= 125, line
