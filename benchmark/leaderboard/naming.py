"""What a row is called: its method, its variant and its difference from the recipe, whatever other rows there are."""

from __future__ import annotations

import functools
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from hashlib import sha256
from typing import Any

from cmr_bench import registry
from cmr_bench.results.record import Result

FEATURES = ("data.image_features", "data.text_features")
SPLIT_SEED = "data.split_seed"
# A row with one of these flags is never the best.
NEVER_BEST = ("selected_on_test", "shortened", "uses_test_groups")


def changes_of(result: Result) -> dict[str, Any]:
    """Return the options in which a result differs from its recipe, by dotted name.

    A record that is older than the field is compared with the recipe of today, as far as its options tell.
    """
    if result.changes is not None:
        return dict(result.changes)
    recipe = _recipe(result.method, result.data, result.variant)
    return {name: value for name, value in result.options.items() if name not in recipe or recipe[name] != value}


@functools.cache
def _recipe(method: str, data: str, variant: str) -> Mapping[str, Any]:
    """Return what the shipped recipe sets, by dotted name; nothing where there is none."""
    if method not in registry.METHODS or data not in registry.DATASETS:
        return {}
    from cmr_bench.experiment.fidelity import dotted
    from cmr_bench.experiment.recipe_files import shipped_recipe, with_variant

    recipe = shipped_recipe(data, method) or {}
    return dotted(with_variant(recipe, variant if variant in recipe.get("variants", {}) else "", ""))


def flags_of(result: Result) -> list[str]:
    """Return what a reader must know of a result, with what its record tells without a flag."""
    flags = [*result.flags]
    if result.selection.get("split") == "test":
        flags.append("selected_on_test")
    if result.changes is None and result.selection.get("epoch") is not None and _trains_less(result):
        flags.append("shortened")
    flags += ["external"] if result.fidelity == "external" else []
    flags += ["skipped"] if any(result.skipped.values()) else []
    return list(dict.fromkeys(flags))


def _trains_less(result: Result) -> bool:
    from cmr_bench.experiment.fidelity import is_shorter
    from cmr_bench.experiment.recipe import TrainerOptions

    recipe = _recipe(result.method, result.data, result.variant)
    options = {f"trainer.{name}": value for name, value in vars(TrainerOptions()).items()}
    return is_shorter({**options, **result.options}, {**options, **recipe} if recipe else {})


def unseen_of(result: Result) -> str:
    """Say how many classes of the test split training has not seen; empty where it has seen all."""
    if "unseen_classes" not in result.flags:
        return ""
    names = result.protocol.get("unseen_classes")
    return f"{len(names)} unseen classes" if isinstance(names, list) else "unseen classes"


def split_seed_of(result: Result) -> int | None:
    """Return the seed of the draw of a result's splits; None where the splits are those of the data set."""
    seed = result.options.get(SPLIT_SEED)
    return seed if isinstance(seed, int) and not isinstance(seed, bool) else None


def difference(result: Result) -> str:
    """Say in words what a result changes in its recipe; features and drawn splits have a place of their own."""
    parts = [
        f"{name.partition('.')[2] or name}={_text(value)}"
        for name, value in changes_of(result).items()
        if name not in FEATURES and not (name == SPLIT_SEED and split_seed_of(result) is not None)
    ]
    missing = sum(result.skipped.values())
    parts += [f"{missing} images skipped"] if missing else []
    parts += [f"{result.invalid_rows} rows skipped"] if result.invalid_rows else []
    return ", ".join(parts)


def label_of(result: Result) -> str:
    """Return method, variant and difference from the recipe in one text."""
    inner = ", ".join(part for part in (result.variant, difference(result)) if part)
    return f"{result.method} ({inner})" if inner else result.method


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str)


def facts_of(result: Result) -> dict[str, str]:
    """Return in words what else may set apart two results that change the same."""
    told = changes_of(result)
    facts = {
        name: f"{name.partition('.')[2]}={_text(value)}"
        for name, value in result.options.items()
        if name not in told and name != SPLIT_SEED
    }
    facts |= {
        name: f"{name} {images:,}"
        for name, sizes in result.split_sizes.items()
        for images in sizes[:1]
        if name != "test"
    }
    for side, view in result.views.items():
        if isinstance(view, dict):
            facts[f"{side} view"] = f"{side} {view.get('kind')} {view.get('shape')}"
    facts["batch"] = f"batch {result.batch_size}" if result.batch_size else ""
    facts["fidelity"] = result.fidelity
    facts["labels"] = f"labels: {result.label_space}"
    facts["post"] = str(result.protocol.get("postprocess") or "")
    facts["folds"] = f"folds {result.protocol.get('folds')}"
    facts["subsets"] = f"subsets {result.protocol.get('subsets')}" if result.protocol.get("subsets") else ""
    for part in ("train", "val") if split_seed_of(result) is None else ():
        facts[f"{part} content"] = f"{part} {result.content[part][:8]}" if part in result.content else ""
    for side in ("images", "texts", "model") if split_seed_of(result) is None else ():
        values = [value for part, value in result.content.items() if side in part.split(".")]
        facts[f"{side} content"] = f"{side} {sha256(' '.join(values).encode()).hexdigest()[:8]}" if values else ""
    facts["fingerprint"] = f"test {result.fingerprint[-8:]}" if split_seed_of(result) is None else ""
    return facts


def set_apart(names: Sequence[tuple[str, ...]], facts: Sequence[Mapping[str, str]], age: Sequence[str]) -> list[str]:
    """Return what rows of one name need beside it: the facts in which each differs from the oldest row of that name.

    The oldest row keeps its name, and a later one is told from it, so that no row is renamed when another arrives.

    Args:
        names: Name of each row, with what else is shown of it.
        facts: Facts of each row.
        age: When each row began, as text that sorts.

    Returns:
        Words for each row, empty for the oldest of its name.
    """
    alike: dict[tuple[str, ...], list[int]] = defaultdict(list)
    for number, name in enumerate(names):
        alike[name].append(number)
    words = [""] * len(names)
    for numbers in alike.values():
        first = min(numbers, key=lambda number: age[number])
        for number in numbers:
            there = dict.fromkeys([*facts[first], *facts[number]])
            words[number] = ", ".join(
                facts[number].get(name) or f"other {name.partition('.')[2] or name}"
                for name in there
                if facts[number].get(name, "") != facts[first].get(name, "")
            )
    return words
