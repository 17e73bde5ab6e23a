"""Every shipped recipe fits the constructors it names."""

from __future__ import annotations

import importlib.resources
import json
import re

import pytest
import torch

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
    # People and recipes are there for the methods that their papers measured on them, and two to compare with.
    few = {
        "cuhk_pedes": {"cmpm", "cmpm_cmpc", "timam", "a_ganet", "vsepp", "adv_subspace"},
        "recipe1m": {"vsepp", "adv_subspace", "acme"},
    }
    assert {data: {method for found, method in SHIPPED if found == data} for data in few} == few
    # Labelled vectors without a text or a photograph; their recipes are listed in tests/datamodules/test_tagged.py.
    vectors_only = {"nuswide", "mirflickr"}
    for name in registry.METHODS:
        wanted = (
            set(registry.DATASETS)
            - {"synthetic", *few, *vectors_only}
            - (unlabelled if registry.method(name).labels == "required" else set())
        )
        assert wanted <= {data for data, method in SHIPPED if method == name}, name


# Of the module, so that the tests of one recipe follow each other and share its parser.
@pytest.fixture(scope="module", params=SHIPPED, ids="-".join)
def shipped(request: pytest.FixtureRequest) -> tuple[str, str]:
    found: tuple[str, str] = request.param
    return found


def test_recipe_is_accepted_and_says_where_it_comes_from(shipped: tuple[str, str]) -> None:
    data, method = shipped
    file = recipe.recipe_file(data, method)
    assert file is not None
    content = recipe.read_yaml(file)
    assert content.get("fidelity") in recipe.FIDELITIES
    assert content.get("source")
    for variant in ("", *content.get("variants", {})):
        config = recipe.resolve(method, data, variant=variant)
        # Networks of the papers' widths, of which only the shapes are needed.
        with torch.device("meta"):
            model, module, _ = recipe.instantiate(config)
        assert isinstance(model, registry.method(method))
        assert isinstance(module, registry.dataset(data))


def test_recipe_says_only_what_differs_from_the_defaults(shipped: tuple[str, str]) -> None:
    data, method = shipped
    file = recipe.recipe_file(data, method)
    assert file is not None
    content = recipe.read_yaml(file)
    bare = recipe.resolve(method, data, config={"method": method, "dataset": data})
    for part in ("model", "data", "trainer"):
        for name, value in content.get(part, {}).items():
            assert getattr(bare, part)[name] != value, f"{part}.{name} repeats the default"


def test_saved_configuration_resolves_to_itself(shipped: tuple[str, str]) -> None:
    data, method = shipped
    config = recipe.resolve(method, data)
    again = recipe.resolve(method, data, config=json.loads(json.dumps(config.__dict__)))
    assert again == config


# What follows from the data: which features there are and their scale, and what is sized to the number of images.
FEATURES = {"image_features", "text_features", "image_view", "text_view", "standardise", "cnn"}
SIZES = {"dim", "hidden", "word_dim", "bits", "memory", "batch_size", "min_count", "precision"}
SCHEDULE = {"max_epochs", "lr", "lr_decay_every", "lr_decay", "warmup_epochs", "frozen_epochs", "cnn_lr"}


@pytest.mark.parametrize("method", sorted(registry.METHODS))
def test_recipes_of_caption_data_differ_only_where_data_do_or_a_comment_says_why(method: str) -> None:
    options: dict[str, dict[str, object]] = {}
    comments: dict[str, str] = {}
    for data in ("flickr8k", "flickr30k", "mscoco"):
        file = recipe.recipe_file(data, method)
        if file is None:
            continue
        content = recipe.read_yaml(file)
        options[data] = {
            f"{part}.{name}": value
            for part in ("model", "data", "trainer")
            for name, value in content.get(part, {}).items()
            if name not in FEATURES | SIZES | SCHEDULE
        }
        comments[data] = "\n".join(line for line in file.read_text().splitlines() if line.lstrip().startswith("#"))
    for name in {name for each in options.values() for name in each}:
        values = {json.dumps(each.get(name)) for each in options.values()}
        if len(values) > 1:
            said = [data for data, text in comments.items() if re.search(rf"\b{name.split('.')[1]}\b", text)]
            assert said, f"{method}: {name} differs between caption data sets and no comment names it"


@pytest.mark.parametrize("method", [name for data, name in SHIPPED if data == "synthetic"])
def test_on_the_built_in_data_labels_are_those_of_single_images(method: str) -> None:
    # Its recall is shown, and categories teach nothing of which image of a category a text describes.
    assert recipe.resolve(method, "synthetic").model.get("label_source", "identity") == "identity"
