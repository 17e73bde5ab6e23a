"""How faithful a run is to a paper or a program: its label, its known deviations and what it changes in the recipe."""

from __future__ import annotations

import functools
import importlib.resources
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from cmr_bench.support.encoders import same_features
from cmr_bench.support.errors import UsageError, did_you_mean

FIDELITIES = ("paper", "code", "reconstruction")
DEVIATIONS_FILE = "deviations.yaml"

# Where and how a run is computed, and what is scored beside: a paper's run stays one on another disk and machine.
_WHERE_AND_HOW = {
    *("data.root", "data.name", "data.images", "data.num_workers", "data.eval_batch_size", "data.seed"),
    *("data.image_weights", "data.make_features"),
    *("trainer.accelerator", "trainer.devices", "trainer.num_nodes", "trainer.strategy", "trainer.deterministic"),
    *("trainer.bootstrap", "trainer.subsets", "trainer.progress"),
}
_PARTS = ("model", "data", "trainer")
_EPOCHS, _BATCHES = "trainer.max_epochs", "trainer.limit_train_batches"


def dotted(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of ``model``, ``data`` and ``trainer`` by dotted name."""
    return {f"{part}.{name}": value for part in _PARTS for name, value in (tree.get(part) or {}).items()}


def changed(options: Mapping[str, Any], recipe: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options that differ from those of a recipe, but for those that say where and how a run is computed.

    Args:
        options: Every option of a run, by dotted name.
        recipe: Every option as the recipe sets it, or as it is by default.
    """
    return {
        name: value
        for name, value in options.items()
        if name not in _WHERE_AND_HOW and (name not in recipe or not _same(name, recipe[name], value))
    }


def _same(name: str, one: Any, other: Any) -> bool:
    """Compare two values of an option; image features go by two names, their encoder's and their store's."""
    return same_features(one, other) if name == "data.image_features" else bool(one == other)


def is_shorter(options: Mapping[str, Any], recipe: Mapping[str, Any]) -> bool:
    """Tell whether a run trains on fewer batches an epoch, or for fewer epochs, than its recipe."""
    # A recipe of the user's is not checked yet, and may hold anything.
    batches, whole, epochs, all_epochs = (
        value if isinstance(value, int | float) else None
        for value in (options.get(_BATCHES), recipe.get(_BATCHES), options.get(_EPOCHS), recipe.get(_EPOCHS))
    )
    fewer_batches = bool(batches and (not whole or batches < whole))
    return fewer_batches or (epochs is not None and all_epochs is not None and epochs < all_epochs)


def other_sizes(
    sizes: Mapping[str, tuple[int, int]], expected: Mapping[str, tuple[int, ...]], skipped: Mapping[str, int]
) -> list[str]:
    """Say which splits of a run are not those of the data set, one line each.

    Args:
        sizes: Images and texts of every split that was read.
        expected: Images, and texts where they are fixed, that every split should have; nothing where not known.
        skipped: Images of each split that were left out for want of a file.
    """
    lines = [f"{count:,} images of the {name} split are missing" for name, count in skipped.items() if count]
    for name, counts in expected.items():
        found = sizes.get(name, (0, 0))
        if found[: len(counts)] != tuple(counts) and not skipped.get(name):
            lines.append(f"{name} split of {_words(found)} where the data set has {_words(counts)}")
    return lines


def _words(counts: Sequence[int]) -> str:
    return " and ".join(f"{count:,} {what}" for count, what in zip(counts, ("images", "texts"), strict=False))


def check_label(entry: Mapping[str, Any], where: str) -> None:
    """Check ``fidelity`` and ``deviations`` of a recipe or of one of its variants.

    Raises:
        UsageError: If the label is unknown, the list is none of single lines, or a run that deviates is called paper.
    """
    label, listed = entry.get("fidelity"), entry.get("deviations") or []
    if label is not None and label not in FIDELITIES:
        raise UsageError(f"{where}: fidelity '{label}' is none of {', '.join(FIDELITIES)}")
    if not isinstance(listed, list) or not all(isinstance(line, str) and line.strip() for line in listed):
        raise UsageError(f"{where}: 'deviations' must be a list of texts, one line each")
    if any(len(line.strip().splitlines()) > 1 for line in listed):
        raise UsageError(f"{where}: a deviation is one line of text")
    if label == "paper" and listed:
        raise UsageError(f"{where}: fidelity 'paper' has no deviations, but {len(listed)} are listed")


def check_variants(variants: Mapping[str, Any], where: str) -> None:
    """Check that every variant of a recipe is a table of options, with a label of its own where it has one.

    Raises:
        UsageError: If one is not.
    """
    known = {*_PARTS, "fidelity", "deviations"}
    for name, entry in variants.items():
        if entry is None:
            continue
        if not isinstance(entry, dict):
            raise UsageError(f"{where}: variant '{name}' must be a mapping")
        for key in entry:
            if key not in known:
                raise UsageError(f"{where}: unknown entry '{key}' of variant '{name}'.{did_you_mean(str(key), known)}")
        for part in _PARTS:
            if not isinstance(entry.get(part) or {}, dict):
                raise UsageError(f"{where}: '{part}' of variant '{name}' must be a mapping")
        check_label(entry, f"{where}: variant '{name}'")


def label_of(recipe: Mapping[str, Any], variant: str, method: str, data: str) -> tuple[str, list[str]]:
    """Return fidelity and deviations of a recipe, or of one of its variants.

    A variant with a label of its own answers for itself. Any other one is a reconstruction, which deviates as the
    recipe does. What the package lists in ``deviations.yaml`` comes first.

    Args:
        recipe: The recipe, with its variants.
        variant: Name of the variant, or empty.
        method: Short name of the method.
        data: Short name of the data set.
    """
    own = ((recipe.get("variants") or {}).get(variant) or {}) if variant else {}
    lines = [*_of_package(method, variant, data), *(own.get("deviations") or [])]
    if "fidelity" in own:
        return str(own["fidelity"]), list(dict.fromkeys(lines))
    label = "reconstruction" if variant else str(recipe.get("fidelity", "reconstruction"))
    return label, list(dict.fromkeys([*lines, *(recipe.get("deviations") or [])]))


def _of_package(method: str, variant: str, data: str) -> list[str]:
    """Return what the package lists for a method, for a variant by its name, with what is particular to a data set."""
    lists = (_listed().get("methods") or {}).get(method) or {}
    found = lists.get(variant or "default", lists.get("default")) or []
    particular = ((_listed().get("data") or {}).get(data) or {}).get(method) or []
    return [*found, *particular] if found else []


def unsaid_by_paper(method: str, variant: str) -> list[str]:
    """Return what the released program does otherwise where the paper does not say; no deviation from the paper."""
    lists = (_listed().get("program") or {}).get(method) or {}
    return list(lists.get(variant or "default") or [])


@functools.cache
def _listed() -> Mapping[str, Any]:
    """Read ``deviations.yaml``, whose head says how it is laid out."""
    file = importlib.resources.files("cmr_bench.experiments").joinpath(DEVIATIONS_FILE)
    content: Mapping[str, Any] = (yaml.safe_load(file.read_text(encoding="utf-8")) or {}) if file.is_file() else {}
    return content
