"""Options read from the source: exactly those of the classes themselves."""

from __future__ import annotations

import argparse
import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import pytest
from jsonargparse import ArgumentParser

from cmr_bench import registry
from cmr_bench.experiment import recipe
from cmr_bench.experiment.option_help import add_options
from cmr_bench.experiment.signatures import choices, metavar, signature_class
from cmr_bench.support.errors import DataError, UsageError

TARGETS = [entry.target for entry in (*registry.METHODS.values(), *registry.DATASETS.values())]


def options(found: type) -> tuple[str | None, list[tuple[Any, ...]]]:
    parser = ArgumentParser()
    parser.add_class_arguments(found, "x", fail_untyped=True)
    *_, group = parser._action_groups
    return group.title, [
        (action.dest, action.help, getattr(action, "_typehint", action.type), action.default, action.required)
        for action in group._group_actions
        if action.dest != "x"
    ]


@pytest.mark.parametrize("target", TARGETS)
def test_options_types_defaults_and_help_are_those_of_the_class(target: str) -> None:
    title, light = options(signature_class(target))
    assert (title, light) == options(registry._load(target))
    # Found by Python itself too: every named parameter of the constructor is an option.
    own = [name for name in inspect.signature(registry._load(target)).parameters if name != "kwargs"]
    assert {f"x.{name}" for name in own} <= {dest for dest, *_ in light}
    assert all(text for _, text, *_ in light)


@pytest.mark.parametrize("target", TARGETS)
def test_the_bases_are_those_of_the_class(target: str) -> None:
    light = [found.__name__ for found in signature_class(target).__mro__]
    real = [found.__name__ for found in registry._load(target).__mro__ if found.__module__.startswith("cmr_bench.")]
    assert light == [*real, "object"]


def test_a_class_that_is_not_there_is_wrong_usage() -> None:
    with pytest.raises(UsageError, match="has no class 'VSE'"):
        signature_class("cmr_bench.models.pairwise.vsepp:VSE")


@pytest.mark.parametrize(
    ("kind", "shown", "values"),
    [
        (int, "INT", []),
        (float, "FLOAT", []),
        (str | None, "STR", []),
        (bool, "{true,false}", ["true", "false"]),
        (Literal["val", "test"], "{val,test}", ["val", "test"]),
        (Literal["csls"] | None, "{csls}", ["csls"]),
        (int | Literal["auto"], "INT|{auto}", []),
        (Sequence[int], "[INT,...]", []),
    ],
)
def test_types_are_written_as_help_shows_them(kind: Any, shown: str, values: list[str]) -> None:
    assert metavar(kind) == shown
    assert choices(kind) == values


@pytest.mark.parametrize("dataset", registry.DATASETS)
@pytest.mark.parametrize("method", registry.METHODS)
def test_every_option_has_a_type_and_the_default_that_a_run_takes(method: str, dataset: str) -> None:
    config = recipe.resolve(method, dataset)
    parser = argparse.ArgumentParser()
    groups = {part: parser.add_argument_group(part) for part in ("model", "data", "trainer")}
    add_options(groups, config)
    shown = {action.option_strings[0][2:]: action for group in groups.values() for action in group._group_actions}
    known = recipe.option_names(recipe.option_parser(method, dataset))
    assert list(shown) == [name for name in known if not name.endswith("+")]
    for name, action in shown.items():
        assert action.metavar not in (None, "VALUE"), name
    chosen = config.trainer["max_epochs"]
    assert f"(default: {chosen}" in str(shown["trainer.max_epochs"].help)
    assert ("set by the recipe" in str(shown["trainer.max_epochs"].help)) == (chosen != 30)
    parser.format_help()


@pytest.mark.parametrize("dataset", [name for name, entry in registry.DATASETS.items() if entry.needs])
def test_missing_files_are_told_as_the_data_set_itself_tells_it(
    dataset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CMR_BENCH_DATA", raising=False)
    with pytest.raises(DataError) as early:
        recipe.check_files(dataset, {})
    with pytest.raises(DataError) as late:
        registry.dataset(dataset)().folder()
    assert str(early.value) == str(late.value)
    for root in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(DataError, match=f"{dataset} not found: looked for .* in {root}") as early:
            recipe.check_files(dataset, {"root": str(root)})
        with pytest.raises(DataError, match=f"{dataset} not found: looked for .* in {root}"):
            registry.dataset(dataset)(root=str(root)).folder()
    with pytest.raises(DataError, match=r"not found: looked for mine\.csv in "):
        recipe.check_files(dataset, {"root": str(tmp_path), "file": "mine.csv"})
    (tmp_path / "mine.csv").touch()
    recipe.check_files(dataset, {"root": str(tmp_path), "file": "mine.csv"})
    recipe.check_files(dataset, {"precomputed": str(tmp_path)})


@pytest.mark.real_data
@pytest.mark.parametrize("dataset", [name for name, entry in registry.DATASETS.items() if entry.needs])
def test_files_that_a_data_set_finds_are_found(dataset: str, data_root: Path) -> None:
    try:
        registry.dataset(dataset)(root=str(data_root)).folder()
    except DataError:
        pytest.skip(f"no {dataset} below {data_root}")
    recipe.check_files(dataset, {"root": str(data_root)})
