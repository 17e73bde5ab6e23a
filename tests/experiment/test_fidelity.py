"""The label of a run: what lowers it, what it lists, and that nothing calls itself a paper's that deviates from it."""

from __future__ import annotations

import functools
import importlib.resources
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cmr_bench import cli, registry
from cmr_bench.experiment import fidelity, recipe
from cmr_bench.experiment.describe import recipes_of
from cmr_bench.experiment.recipe_files import shipped_recipe
from cmr_bench.support.errors import UsageError

# Where and how a run is computed, in the words of the test: none of these makes another experiment of it.
WHERE_AND_HOW = {
    *("data.root", "data.images", "data.num_workers", "data.eval_batch_size", "data.seed", "trainer.accelerator"),
    *("trainer.devices", "trainer.num_nodes", "trainer.strategy", "trainer.deterministic", "trainer.bootstrap"),
    "trainer.subsets",
    *("trainer.progress", "data.name", "data.image_weights", "data.make_features"),
}
WORDS = ("other", "8", "0.25", "true", "[3]", "{test: other}", "null")
SHIPPED = [
    (data, method)
    for data in registry.DATASETS
    for method in registry.METHODS
    if recipe.recipe_file(data, method) is not None
]


def variants(data: str, method: str) -> list[str]:
    content = shipped_recipe(data, method)
    assert content is not None
    return ["", *content.get("variants", {})]


@pytest.fixture
def one_parser(monkeypatch: pytest.MonkeyPatch) -> None:
    """Build the parser of a pair once, as every override of a recipe starts from the same defaults."""
    monkeypatch.setattr(recipe, "option_parser", functools.cache(recipe.option_parser))


def overridden(data: str, method: str, variant: str) -> Iterator[tuple[str, recipe.RunConfig]]:
    """Yield every option with the run in which it alone has another value than in the recipe."""
    plain = fidelity.dotted(recipe.resolve(method, data, variant=variant).__dict__)
    words = [*WORDS, *literals(method, data)]
    for name, value in plain.items():
        first = {bool: [str(not value).lower()], int: ["8", "9"], float: ["0.25", "0.5"], list: ["[3]"]}
        for word in [*first.get(type(value), []), *words]:
            try:
                config = recipe.resolve(method, data, [f"--{name}={word}"], variant=variant)
            except UsageError:
                continue
            if fidelity.dotted(config.__dict__)[name] != value:
                yield name, config
                break
        else:
            raise AssertionError(f"no other value of {name} was found")


def literals(method: str, data: str) -> list[str]:
    """Every choice that an option of the pair is restricted to."""
    from typing import get_args, get_type_hints

    def inner(hint: object) -> list[object]:
        return [hint, *(part for arg in get_args(hint) for part in inner(arg))]

    hints = [
        get_type_hints(vars(base)["__init__"])
        for chosen in (registry.method(method), registry.dataset(data), recipe.TrainerOptions)
        for base in chosen.__mro__
        if "__init__" in vars(base) and base.__module__.startswith("cmr_bench")
    ]
    found = [arg for table in hints for hint in table.values() for arg in inner(hint)]
    return sorted({arg for arg in found if isinstance(arg, str)})


LABELLED = [
    (data, method, variant)
    for data, method in SHIPPED
    for variant in variants(data, method)
    if fidelity.label_of(shipped_recipe(data, method) or {}, variant, method, data)[0] != "reconstruction"
]


@pytest.mark.parametrize(("data", "method", "variant"), LABELLED)
def test_any_option_but_where_and_how_makes_a_labelled_recipe_a_reconstruction(
    one_parser: None, data: str, method: str, variant: str
) -> None:
    config = recipe.resolve(method, data, variant=variant)
    base = fidelity.dotted(config.__dict__)
    content = shipped_recipe(data, method) or {}
    for name in base:
        part, option = name.split(".")
        other = replace(config, **{part: {**getattr(config, part), option: "other"}})
        made = recipe._labelled(other, content, base, base, [])
        kept = name in WHERE_AND_HOW
        assert made.fidelity == (config.fidelity if kept else "reconstruction"), name
        assert made.changes == ({} if kept else {name: "other"}), name


@pytest.mark.slow
@pytest.mark.parametrize(("data", "method", "variant"), {method: (d, method, v) for d, method, v in LABELLED}.values())
def test_any_option_of_the_command_line_lowers_the_label(
    one_parser: None, data: str, method: str, variant: str
) -> None:
    label = recipe.resolve(method, data, variant=variant).fidelity
    for name, config in overridden(data, method, variant):
        kept = name in WHERE_AND_HOW
        assert config.fidelity == (label if kept else "reconstruction"), name
        assert (name in config.changes) == (not kept), name


@pytest.mark.slow
@pytest.mark.parametrize(("data", "method"), [("custom", "scan"), ("pascal", "cca"), ("synthetic", "vsepp")])
def test_a_run_is_named_by_what_it_changes_in_its_recipe(one_parser: None, data: str, method: str) -> None:
    for name, config in overridden(data, method, ""):
        assert set(config.changes) == {name} - WHERE_AND_HOW


@pytest.mark.parametrize(("data", "method", "variant"), LABELLED)
def test_a_recipe_changes_nothing_of_itself(data: str, method: str, variant: str) -> None:
    config = recipe.resolve(method, data, variant=variant)
    label, deviations = fidelity.label_of(shipped_recipe(data, method) or {}, variant, method, data)
    assert (config.fidelity, config.deviations) == (label, deviations)
    assert (config.changes, config.shortened) == ({}, False)


def test_a_variant_with_a_label_answers_for_itself_and_any_other_deviates_as_its_recipe_does() -> None:
    content = {
        "fidelity": "paper",
        "variants": {
            "released": {"fidelity": "code", "deviations": ["no bias"], "model": {"margin": 0.1}},
            "wide": {"model": {"dim": 3}, "deviations": ["wider"]},
        },
    }
    assert fidelity.label_of(content, "", "none", "none") == ("paper", [])
    assert fidelity.label_of(content, "released", "none", "none") == ("code", ["no bias"])
    other = content | {"fidelity": "code", "deviations": ["other words"]}
    assert fidelity.label_of(other, "wide", "none", "none") == ("reconstruction", ["wider", "other words"])


def test_what_the_package_lists_of_a_method_and_a_data_set_belongs_to_its_recipes() -> None:
    lists = fidelity._listed()
    default, particular = lists["methods"]["vsepp"]["default"], lists["data"]["pascal"]["vsepp"]
    config = recipe.resolve("vsepp", "pascal")
    assert config.deviations == [*default, *particular]
    assert recipe.resolve("vsepp", "flickr30k", variant="paper").deviations == []
    assert fidelity.unsaid_by_paper("vsepp", "paper") == lists["program"]["vsepp"]["paper"]


def test_a_released_program_is_code_and_not_paper() -> None:
    assert recipe.resolve("scan", "flickr30k", variant="released_program").fidelity == "code"


def save(config: recipe.RunConfig, file: Path) -> dict[str, Any]:
    file.write_text(config.to_yaml())
    return recipe.read_yaml(file)


def test_a_saved_configuration_keeps_its_label_and_loses_it_by_an_override(tmp_path: Path) -> None:
    config = recipe.resolve("scan", "flickr30k", variant="paper_t2i_lse")
    assert config.fidelity == "paper"
    saved = save(config, tmp_path / "config.yaml")
    assert recipe.resolve("scan", "flickr30k", config=saved) == config
    other = recipe.resolve("scan", "flickr30k", ["--model.margin=0.3"], config=saved)
    assert (other.fidelity, other.changes) == ("reconstruction", {"model.margin": 0.3})
    again = recipe.resolve("scan", "flickr30k", config=save(other, tmp_path / "other.yaml"))
    assert again == other


def test_a_configuration_from_before_labels_were_lowered_is_judged_by_its_recipe() -> None:
    changed = recipe.resolve("scan", "flickr30k", ["--model.margin=0.3"], variant="paper_t2i_lse")
    whole = changed.__dict__ | {"fidelity": "paper"}
    old = {name: value for name, value in whole.items() if name not in ("changes", "deviations", "shortened")}
    assert recipe.resolve("scan", "flickr30k", config=old).fidelity == "reconstruction"


def test_data_under_a_name_of_ones_own_are_not_those_of_the_recipe() -> None:
    own = {"source": "mine", "fidelity": "code"}
    assert recipe.resolve("cca", "custom", config=own).fidelity == "code"
    named = recipe.resolve("cca", "custom", ["--data.name=mine"], config=own)
    assert named.fidelity == "reconstruction"
    assert "data.name" not in named.changes


def test_a_recipe_of_ones_own_is_labelled_as_it_says_and_named_by_the_shipped_one() -> None:
    own = {"source": "mine", "fidelity": "code", "deviations": ["x"], "data": {"n_train": 99}}
    config = recipe.resolve("cca", "synthetic", config=own)
    assert (config.fidelity, config.deviations[-1], config.changes) == ("code", "x", {"data.n_train": 99})
    assert recipe.resolve("cca", "synthetic", ["--data.n_val=50"], config=own).fidelity == "reconstruction"


@pytest.mark.parametrize(
    ("words", "shortened"),
    [
        ([], False),
        (["--trainer.max_epochs=29"], True),
        (["--trainer.max_epochs=31"], False),
        (["--trainer.limit_train_batches=5"], True),
        (["--model.margin=0.3"], False),
    ],
)
def test_a_run_that_trains_less_than_its_recipe_is_shortened(words: list[str], shortened: bool) -> None:
    config = recipe.resolve("vsepp", "flickr30k", words)
    assert config.shortened == shortened
    assert recipe.resolve("vsepp", "flickr30k", config=config.__dict__).shortened == shortened


def test_without_a_recipe_only_left_out_batches_shorten_a_run() -> None:
    own = f"{Path(__file__).parents[1] / 'own.py'}"
    registry.trust(f"{own}:Linear")
    for words, shortened in ((["--trainer.max_epochs=1"], False), (["--trainer.limit_train_batches=1"], True)):
        config = recipe.resolve(f"{own}:Linear", f"{own}:Toy", words)
        assert config.shortened == shortened
        assert recipe.resolve(f"{own}:Linear", f"{own}:Toy", config=config.__dict__) == config
    assert recipe.resolve(f"{own}:Linear", f"{own}:Toy", ["--model.dim=5"]).changes == {"model.dim": 5}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("fidelity: exact", "fidelity 'exact' is none of"),
        ("deviations: one", "'deviations' must be a list"),
        ('deviations: ["two\\nlines"]', "one line"),
        ("{fidelity: paper, deviations: [x]}", "'paper' has no deviations"),
        ("variants: {v: {fidelity: paper, deviations: [x]}}", "variant 'v': fidelity 'paper' has no deviations"),
        ("variants: {v: {fidelty: paper}}", "Did you mean 'fidelity'?"),
        ("variants: {v: 3}", "variant 'v' must be a mapping"),
        ("variants: {v: {model: 3}}", "'model' of variant 'v' must be a mapping"),
    ],
)
def test_a_malformed_label_is_one_line(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "recipe.yaml").write_text(content)
    with pytest.raises(UsageError) as caught:
        recipe.read_yaml(tmp_path / "recipe.yaml")
    assert message in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_splits_of_other_sizes_are_told() -> None:
    expected = {"train": (6000,), "test": (1000, 5000)}
    assert fidelity.other_sizes({"train": (6000, 30000), "test": (1000, 5000)}, expected, {}) == []
    assert fidelity.other_sizes({"train": (6000, 1), "test": (1000, 4999)}, expected, {}) == [
        "test split of 1,000 images and 4,999 texts where the data set has 1,000 images and 5,000 texts"
    ]
    lines = fidelity.other_sizes({"train": (5999, 29995), "test": (1000, 5000)}, expected, {"train": 1})
    assert lines == ["1 images of the train split are missing"]


@pytest.mark.parametrize("kind", ["table", "json"])
def test_the_list_shows_a_method_with_its_recipes_and_deviations(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["list", "scan", "--format", kind]) == 0
    out = capsys.readouterr().out
    for entry in recipes_of("scan"):
        assert all(
            part in out for part in (entry.data, entry.variant, entry.fidelity, *entry.deviations, *entry.program)
        )
    if kind == "json":
        content = json.loads(out)
        (released,) = (
            one for one in content["recipes"] if (one["data"], one["variant"]) == ("flickr30k", "released_program")
        )
        assert released["fidelity"] == "code"


def test_the_list_refuses_a_name_that_is_none(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["list", "vsep"]) == 2
    assert "Did you mean 'vsepp'?" in capsys.readouterr().err


def test_every_recipe_of_the_package_is_read() -> None:
    folder = importlib.resources.files("cmr_bench.experiments")
    files = [
        (place.name, file.name)
        for place in folder.iterdir()
        if place.name in registry.DATASETS
        for file in place.iterdir()
    ]
    assert sorted(files) == sorted((data, f"{method}.yaml") for data, method in SHIPPED)
