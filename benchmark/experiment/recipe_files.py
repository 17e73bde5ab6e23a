"""Recipes as files: found, read, checked, one variant laid over them."""

from __future__ import annotations

import importlib.resources
from collections.abc import Mapping
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

from cmr_bench import registry
from cmr_bench.experiment.fidelity import check_label, check_variants
from cmr_bench.support import foreign
from cmr_bench.support.errors import DataError, UsageError, did_you_mean

# What a recipe may say, and what a run adds to the configuration that it saves.
_RECIPE = ("source", "variants", "model", "data", "trainer", "fidelity", "deviations")
_SAVED = ("method", "dataset", "seed", "variant", "changes", "shortened")


def recipe_file(dataset: str, method: str) -> Traversable | None:
    """Return the shipped recipe ``experiments/<data>/<method>.yaml``, or None."""
    if dataset not in registry.DATASETS or method not in registry.METHODS:
        return None
    file = importlib.resources.files("cmr_bench.experiments").joinpath(dataset, f"{method}.yaml")
    return file if file.is_file() else None


def shipped_recipe(dataset: str, method: str) -> dict[str, Any] | None:
    """Read the shipped recipe of a method on a data set; None where there is none."""
    file = recipe_file(dataset, method)
    return None if file is None else read_yaml(file)


def read_yaml(file: Traversable | Path) -> dict[str, Any]:
    """Read a recipe or a saved configuration; anything but a table of options is a usage error."""
    try:
        content = foreign.read_yaml(file)
    except OSError as error:
        raise UsageError(f"cannot read {file}: {error.strerror or error}") from error
    except DataError as error:
        raise UsageError(str(error)) from error
    if content is None:
        return {}
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise UsageError(f"{file} is not a mapping of options")
    known = (*_RECIPE, *_SAVED)
    for key in content:
        if key not in known:
            raise UsageError(f"{file}: unknown entry '{key}'.{did_you_mean(key, known)}")
    for key in ("model", "data", "trainer", "variants", "changes"):
        if content.get(key) is None:
            content.pop(key, None)
        elif not isinstance(content[key], dict):
            raise UsageError(f"{file}: '{key}' must be a mapping")
    if type(content.get("seed", 0)) is not int:
        raise UsageError(f"{file}: 'seed' must be an integer, not {content['seed']!r}")
    for key in ("method", "dataset", "variant"):
        if not isinstance(content.get(key) or "", str):
            raise UsageError(f"{file}: '{key}' must be text, not {content[key]!r}")
    check_label(content, str(file))
    check_variants(content.get("variants", {}), str(file))
    return content


def modernised(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a saved configuration in the words of today.

    Up to 0.1.0 the split seed was 0 where the split is that of the data set, which is now no seed.
    """
    data = config.get("data") or {}
    saved_then = isinstance(data, Mapping) and "changes" not in config and "eval_batch_size" in data
    if saved_then and config.get("dataset") in ("pascal", "custom") and data.get("split_seed") == 0:
        return {**config, "data": {**data, "split_seed": None}}
    return dict(config)


def with_variant(recipe: Mapping[str, Any], variant: str, where: str) -> dict[str, Any]:
    """Return the recipe with the options of one of its variants laid over it."""
    merged = {key: value for key, value in recipe.items() if key != "variants"}
    if not variant:
        return merged
    variants = recipe.get("variants", {})
    if variant not in variants:
        there = f"it has {', '.join(variants)}" if variants else "it has none"
        raise UsageError(f"{where} has no variant '{variant}': {there}.{did_you_mean(variant, variants)}")
    for part, options in (variants[variant] or {}).items():
        if isinstance(options, dict):
            merged[part] = {**merged.get(part, {}), **options}
    return merged
