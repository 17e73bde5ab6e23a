"""Every recipe says what it does otherwise than its paper or program; those that do nothing otherwise may claim it."""

from __future__ import annotations

import importlib.resources
from typing import Any

import pytest
import yaml

from cmr_bench import registry
from cmr_bench.experiment import recipe
from cmr_bench.experiment.describe import recipes_of
from cmr_bench.experiment.recipe_files import shipped_recipe
from cmr_bench.results.published import load_published, model_of

CONTENT: dict[str, Any] = yaml.safe_load(
    importlib.resources.files("cmr_bench.experiments").joinpath("deviations.yaml").read_text(encoding="utf-8")
)
SHIPPED = [(data, name) for data in registry.DATASETS for name in registry.METHODS if recipe.recipe_file(data, name)]
ENTRIES = [entry for method in registry.METHODS for entry in recipes_of(method)]


def test_paper_needs_an_empty_list_and_everything_else_says_why() -> None:
    assert {(entry.data, entry.variant) for entry in ENTRIES if entry.fidelity == "paper"} >= {("flickr30k", "paper")}
    for entry in ENTRIES:
        assert (entry.deviations == []) == (entry.fidelity == "paper"), entry


def test_the_file_is_the_one_source() -> None:
    for data, method in SHIPPED:
        content = shipped_recipe(data, method) or {}
        for own in (content, *(options or {} for options in content.get("variants", {}).values())):
            assert "deviations" not in own, (data, method)


@pytest.mark.parametrize("method", ["vsepp", "scan"])
def test_what_claims_a_paper_has_its_figures_to_stand_beside(method: str) -> None:
    models = {(row.data, row.variant) for row in load_published().rows if row.method == method}
    claimed = [entry for entry in recipes_of(method) if entry.fidelity == "paper" and entry.data == "flickr30k"]
    assert {("flickr30k", model_of(entry.variant)) for entry in claimed} <= models
    assert claimed


def test_every_name_is_that_of_a_recipe() -> None:
    assert set(CONTENT["methods"]) == set(registry.METHODS)
    there = {method: {entry.variant for entry in recipes_of(method)} for method in registry.METHODS}
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
            assert " " in line, f"{line!r} is what a comma in an unquoted list leaves"
            assert len(line) <= 125, line
