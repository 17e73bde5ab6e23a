"""Every shipped recipe fits the constructors it names."""

from __future__ import annotations

import importlib.resources
import json

import pytest

from cmr_bench import registry
from cmr_bench.experiment import recipe

SHIPPED = sorted(
    (folder.name, file.name.removesuffix(".yaml"))
    for folder in importlib.resources.files("cmr_bench.experiments").iterdir()
    if folder.name in registry.DATASETS
    for file in folder.iterdir()
    if file.name.endswith(".yaml")
)


def test_every_method_has_a_recipe_on_every_data_set_that_it_can_learn_from() -> None:
    unlabelled = {"flickr8k", "flickr30k", "mscoco"}
    for name in registry.METHODS:
        wanted = (
            set(registry.DATASETS)
            - {"synthetic"}
            - (unlabelled if registry.method(name).labels == "required" else set())
        )
        assert wanted <= {data for data, method in SHIPPED if method == name}, name


@pytest.mark.parametrize(("data", "method"), SHIPPED)
def test_recipe_is_accepted_and_says_where_it_comes_from(data: str, method: str) -> None:
    file = recipe.recipe_file(data, method)
    assert file is not None
    content = recipe.read_yaml(file)
    assert content.get("fidelity") in recipe.FIDELITIES
    assert content.get("source")
    for variant in ("", *content.get("variants", {})):
        config = recipe.resolve(method, data, variant=variant)
        model, module, _ = recipe.instantiate(config)
        assert isinstance(model, registry.method(method))
        assert isinstance(module, registry.dataset(data))


@pytest.mark.parametrize(("data", "method"), SHIPPED)
def test_recipe_says_only_what_differs_from_the_defaults(data: str, method: str) -> None:
    file = recipe.recipe_file(data, method)
    assert file is not None
    content = recipe.read_yaml(file)
    bare = recipe.resolve(method, data, config={"method": method, "dataset": data})
    for part in ("model", "data", "trainer"):
        for name, value in content.get(part, {}).items():
            assert getattr(bare, part)[name] != value, f"{part}.{name} repeats the default"


@pytest.mark.parametrize(("data", "method"), SHIPPED)
def test_saved_configuration_resolves_to_itself(data: str, method: str) -> None:
    config = recipe.resolve(method, data)
    again = recipe.resolve(method, data, config=json.loads(json.dumps(config.__dict__)))
    assert again == config
