"""Recipes: find, read, check against the constructors, override, save."""

from __future__ import annotations

import argparse
import copy
import functools
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import yaml
from jsonargparse import ArgumentError, ArgumentParser, Namespace

from cmr_bench import registry
from cmr_bench.evaluation.options import EvaluationOptions
from cmr_bench.experiment.fidelity import FIDELITIES as FIDELITIES
from cmr_bench.experiment.fidelity import changed, dotted, is_shorter, label_of
from cmr_bench.experiment.presence import check_files as check_files
from cmr_bench.experiment.presence import check_rows as check_rows
from cmr_bench.experiment.recipe_files import modernised, shipped_recipe, with_variant
from cmr_bench.experiment.recipe_files import read_yaml as read_yaml
from cmr_bench.experiment.recipe_files import recipe_file as recipe_file
from cmr_bench.experiment.signatures import choices, metavar, signature_class
from cmr_bench.support.errors import UsageError, did_you_mean, one_line
from cmr_bench.support.places import without_folders

# Options that say where and how a run is computed, or that the result records in a field of its own.
_NO_SETTING = {
    *("data.root", "data.name", "data.num_workers", "data.eval_batch_size", "data.skip_missing", "data.skip_invalid"),
    "data.seed",
    *("data.image_features", "data.image_weights", "data.make_features", "data.text_features"),
    *("trainer.accelerator", "trainer.devices", "trainer.num_nodes", "trainer.strategy", "trainer.deterministic"),
    *("trainer.bootstrap", "trainer.subsets", "trainer.progress"),
}


@dataclass
class TrainerOptions:
    """Options of the Trainer.

    Args:
        max_epochs: Maximum number of epochs.
        accelerator: Accelerator: cpu, gpu, mps or auto.
        devices: Number of devices per node, or auto for all. The batch is split over them and gathered before the loss,
            so negatives and batch statistics are those of the global batch.
        num_nodes: Number of nodes.
        strategy: Lightning strategy, such as auto or ddp.
        precision: Numerical precision of training; scores are always computed in float32.
        compile: Compile the loss by torch.compile: minutes at first, then faster, most on a GPU; it rounds otherwise.
        gradient_clip: Gradient-clipping threshold (norm); 0 disables.
        accumulate: Number of batches to accumulate before an optimiser step; negatives come from a pair's own batch.
        val_every: Validate every n epochs.
        patience: Early-stopping patience in validations; 0 disables.
        select_on: Split that selects the checkpoint. Use test only to reproduce code that selects on the test split;
            the result is flagged and never ranked as best.
        deterministic: Use deterministic algorithms where PyTorch has them.
        limit_train_batches: Maximum number of training batches per epoch; 0 uses all.
        bootstrap: Number of bootstrap resamples of the test queries for confidence intervals; 0 disables.
        postprocess: Correction of hubs (csls, inverted_softmax) or re-ranking (mtfn_rr) of the test scores; the result
            is flagged transductive. mtfn_rr_groups also uses which test captions belong to one image, and is flagged.
        subsets: Also report the mean over draws of random test pairs, the same draws for every run: 10x1000,10x10000
            for Recipe1M. none for none; null uses those of the data set, if any.
        few_shot_below: Occurrences in the training captions below which a word is rare: the record also has the recalls
            of the test captions that hold one; 0 disables.
        progress: Show progress bars.
    """

    max_epochs: int = 30
    accelerator: str = "auto"
    devices: int | Literal["auto"] = 1
    num_nodes: int = 1
    strategy: str = "auto"
    precision: Literal["32-true", "16-mixed", "bf16-mixed"] = "32-true"
    compile: bool = False
    gradient_clip: float = 0.0
    accumulate: int = 1
    val_every: int = 1
    patience: int = 0
    select_on: Literal["val", "test"] = "val"
    deterministic: bool = False
    limit_train_batches: int = 0
    bootstrap: int = 1000
    postprocess: Literal["csls", "inverted_softmax", "mtfn_rr", "mtfn_rr_groups"] | None = None
    subsets: str | None = None
    few_shot_below: int = 10
    progress: bool = True

    def evaluation(self, usual: EvaluationOptions) -> EvaluationOptions:
        """Return how a run is evaluated on a data set whose usual evaluation is ``usual``."""
        names = ("select_on", "bootstrap", "postprocess", "few_shot_below")
        return replace(usual, **{name: getattr(self, name) for name in names})


@dataclass
class RunConfig:
    """A resolved run: what ``config.yaml`` holds and `cmr-bench run --config` reads.

    Attributes:
        method: Short name of the method.
        dataset: Short name of the data set.
        model: Options of the method.
        data: Options of the data set.
        trainer: Options of the training.
        seed: Seed of the run.
        variant: Variant of the recipe, or empty.
        fidelity: paper, code or reconstruction.
        deviations: What differs from the paper or program, a line each.
        changes: Options that differ from the shipped recipe (without one, from the defaults), by dotted name.
        shortened: Whether the run trains less than its recipe.
    """

    method: str
    dataset: str
    model: dict[str, Any] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)
    trainer: dict[str, Any] = field(default_factory=dict)
    seed: int = 0
    variant: str = ""
    fidelity: str = "reconstruction"
    deviations: list[str] = field(default_factory=list)
    changes: dict[str, Any] = field(default_factory=dict)
    shortened: bool = False

    @property
    def method_label(self) -> str:
        """Name of the method in results: its short name, or ``FILE.py:Class`` without the folder."""
        return str(without_folders(self.method))

    @property
    def data_label(self) -> str:
        """Name of the data set in results: what the user calls it (``--data.name``), else its short name."""
        return str(self.data.get("name") or without_folders(self.dataset))

    def to_yaml(self) -> str:
        """Return the configuration as YAML that `cmr-bench run --config` takes."""
        return yaml.safe_dump(self.__dict__, sort_keys=False)


def option_parser(method: str, dataset: str) -> ArgumentParser:
    """Build the parser of one method on one data set from the signatures of the constructors.

    Those of the suite are read from their source, which imports no library; a user's own class is imported.
    """
    own_method = registry.method_entry(method).family == "own"
    return _parser(
        registry.method(method) if own_method else signature_class(registry.METHODS[method].target),
        _data_signature(dataset),
        f"cmr-bench run --model {method} --data {dataset}",
    )


def _data_signature(dataset: str) -> type:
    entry = registry.DATASETS.get(dataset)
    return registry.dataset(dataset) if entry is None else signature_class(entry.target)


def _parser(method: type | None, dataset: type, prog: str) -> ArgumentParser:
    # A copy takes a twentieth of the time, and whoever asked sets defaults of its own.
    return copy.deepcopy(_built_parser(method, dataset, prog))


@functools.cache
def _built_parser(method: type | None, dataset: type, prog: str) -> ArgumentParser:
    parser = ArgumentParser(prog=prog, exit_on_error=False, formatter_class=argparse.HelpFormatter, allow_abbrev=False)
    classes = {"data": dataset} if method is None else {"model": method, "data": dataset, "trainer": TrainerOptions}
    for part, found in classes.items():
        parser.add_class_arguments(found, part, fail_untyped=True)
    return parser


def option_names(parser: ArgumentParser) -> list[str]:
    """Return every dotted option of a parser, e.g. ``model.margin``."""
    names = [option[2:] for action in parser._actions for option in action.option_strings if option.startswith("--")]
    return [name for name in names if "." in name]


def resolve(
    method: str,
    dataset: str,
    overrides: Sequence[str] = (),
    *,
    config: Mapping[str, Any] | None = None,
    variant: str = "",
    seed: int | None = None,
) -> RunConfig:
    """Lay recipe (or saved configuration) and command-line options over the constructors' defaults.

    Args:
        method: Short name of the method.
        dataset: Short name of the data set.
        overrides: Command-line words such as ``--model.margin 0.3``.
        config: A saved configuration or the user's own recipe, in place of the shipped recipe.
        variant: Variant of the recipe.
        seed: Seed of the run; None takes the recipe's, else 0.

    Returns:
        The full configuration, every option present.

    Raises:
        UsageError: For an unknown option or a value of the wrong type.
    """
    shipped = shipped_recipe(dataset, method)
    recipe = modernised(config) if config is not None else shipped or {}
    variant = variant or str(recipe.get("variant", ""))
    whole = config is not None and "variants" not in recipe
    layers = recipe if whole else with_variant(recipe, variant, f"the recipe of {method} on {dataset}")
    parser = option_parser(method, dataset)
    known = option_names(parser)
    for word in overrides:
        name = word.removeprefix("--").partition("=")[0]
        if word.startswith("--") and name not in known and name not in ("help", "print_config"):
            raise _unknown(name, f"{method} on {dataset}", known)
    plain = _flat(parser.get_defaults())
    base = _parsed(parser, layers, [], f"{method} on {dataset}")
    tree = _parsed(parser, layers, overrides, f"{method} on {dataset}") if overrides else base
    found = RunConfig(
        method=method,
        dataset=dataset,
        **tree,
        seed=int(recipe.get("seed", 0)) if seed is None else seed,
        variant=variant,
    )
    if config is None:
        recipes = [_flat(base)] if shipped is not None else []
        return _labelled(found, recipe, _flat(base), recipes[0] if recipes else plain, recipes)
    return _judged(found, recipe, shipped, _flat(base), plain)


def _judged(
    config: RunConfig,
    given: Mapping[str, Any],
    shipped: Mapping[str, Any] | None,
    base: Mapping[str, Any],
    plain: Mapping[str, Any],
) -> RunConfig:
    """Label a run of a configuration that was passed: a saved one by its recipe, a user's own recipe by what it says.

    Args:
        config: The run.
        given: The configuration that was passed.
        shipped: The shipped recipe, if there is one.
        base: Every option of the given configuration.
        plain: Every option by default.
    """
    own = given if "variants" in given else {**given, "variants": {}}
    if shipped is None:
        made = _labelled(config, own, base, plain, [base])
        return replace(made, shortened=made.shortened or bool(given.get("shortened")))
    there = config.variant if config.variant in shipped.get("variants", {}) else ""
    parser = option_parser(config.method, config.dataset)
    reference = _flat(_parsed(parser, with_variant(shipped, there, ""), [], f"{config.method} on {config.dataset}"))
    saved = "variants" not in given and ("changes" in given or "source" not in given)
    if saved and there == config.variant:
        return _labelled(config, shipped, reference, reference, [reference])
    return _labelled(config, own, base, reference, [base, reference])


def _parsed(parser: ArgumentParser, layers: Mapping[str, Any], overrides: Sequence[str], what: str) -> dict[str, Any]:
    """Lay a recipe and command-line options over a parser's defaults; return ``model``, ``data`` and ``trainer``."""
    known = option_names(parser)
    defaults = dotted(layers)
    for name in defaults:
        if name not in known:
            raise UsageError(f"the recipe sets '{name}', which {what} does not have.{did_you_mean(name, known)}")
    try:
        parser.set_defaults(defaults)
        options = parser.parse_args(list(overrides))
    except (ArgumentError, argparse.ArgumentError, ArithmeticError, ValueError, TypeError) as error:
        raise _wrong_value(error, parser) from error
    return {part: _plain(options[part]) for part in ("model", "data", "trainer")}


def _flat(tree: Mapping[str, Any] | Namespace) -> dict[str, Any]:
    """Return options by dotted name, as a JSON file would give them back."""
    return {name: _json_value(value) for name, value in dotted(_plain(tree)).items()}


def _labelled(
    config: RunConfig,
    recipe: Mapping[str, Any],
    base: Mapping[str, Any],
    reference: Mapping[str, Any],
    recipes: Sequence[Mapping[str, Any]],
) -> RunConfig:
    """Say of a run how faithful it is and what it changes.

    Args:
        config: The run.
        recipe: The recipe that labels it.
        base: Every option of that recipe; any other value makes the run a reconstruction.
        reference: Every option by which the run is named: those of the shipped recipe, else the defaults.
        recipes: Every option of the recipes whose epochs a run must not fall short of.
    """
    options = _flat(config.__dict__)
    variant = config.variant if config.variant in recipe.get("variants", {}) else ""
    fidelity, deviations = label_of(recipe, variant, config.method, config.dataset)
    # Data that the user gave a name of their own are not those of the paper.
    if changed(options, base) or config.data.get("name") or (fidelity == "paper" and deviations):
        fidelity = "reconstruction"
    return replace(
        config,
        fidelity=fidelity,
        deviations=deviations,
        changes=without_folders(changed(options, reference)),
        shortened=any(is_shorter(options, one) for one in (recipes or [{}])),
    )


def settings(config: RunConfig) -> dict[str, Any]:
    """Return the options that differ from the constructors' defaults, by dotted name.

    Two runs of a method are repetitions of one experiment only where these agree. Options that change no score, such as
    devices, or that a result records elsewhere, such as features, are left out. Of absolute paths the last name is
    kept: no folder of somebody's machine belongs in a record.
    """
    defaults = _flat(option_parser(config.method, config.dataset).get_defaults())
    return {
        name: without_folders(value)
        for name, value in _flat(config.__dict__).items()
        if name not in _NO_SETTING and value != defaults.get(name)
    }


def instantiate(config: RunConfig) -> tuple[Any, Any, TrainerOptions]:
    """Make the method, the data module and the Trainer's options of a resolved configuration."""
    parser = _parser(registry.method(config.method), registry.dataset(config.dataset), "cmr-bench run")
    try:
        values = parser.parse_object({"model": config.model, "data": config.data, "trainer": config.trainer})
    except (ArgumentError, argparse.ArgumentError) as error:
        raise _wrong_value(error, parser) from error
    made = parser.instantiate(values)
    return made.model, made.data, made.trainer


def data_module(dataset: str, overrides: Sequence[str] = ()) -> Any:
    """Make the data module of a data set from command-line words such as ``--data.root DIR``.

    Raises:
        DataError: If its files are not there.
        UsageError: For an unknown data set or option, or a value of the wrong type.
    """
    prog = f"cmr-bench data {dataset}"
    parser = _parser(None, _data_signature(dataset), prog)
    known = option_names(parser)
    for word in overrides:
        name = word.removeprefix("--").partition("=")[0]
        if word.startswith("--") and name not in known:
            raise _unknown(name, dataset, known)
    try:
        values = parser.parse_args(list(overrides))
        check_files(dataset, _plain(values.data))
        real = _parser(None, registry.dataset(dataset), prog)
        return real.instantiate(real.parse_object({"data": _plain(values.data)})).data
    except (ArgumentError, argparse.ArgumentError) as error:
        raise _wrong_value(error, parser) from error


def _unknown(name: str, where: str, known: Sequence[str]) -> UsageError:
    meant = did_you_mean(f"--{name}", [f"--{option}" for option in known])
    return UsageError(f"unknown option '--{name}' of {where}.{meant}")


def _wrong_value(error: Exception, parser: ArgumentParser) -> UsageError:
    """Return jsonargparse's error in the form of argparse: the option, its type or choices, the value."""
    text = one_line(error)
    found = re.search(r'Parser key "([\w.]+)": .*(?:Got|Given) value: (.*)', text)
    action = next((action for action in parser._actions if found and action.dest == found[1]), None)
    if found is None or action is None:
        return UsageError(text[:400] or "wrong option")
    kind = getattr(action, "_typehint", action.type)
    if values := choices(kind):
        problem = f"invalid choice: '{found[2]}' (choose from {', '.join(values)}).{did_you_mean(found[2], values)}"
    else:
        problem = f"invalid {metavar(kind).lower()} value: '{found[2][:200]}'"
    return UsageError(f"argument --{found[1]}: {problem}")


def _json_value(value: Any) -> Any:
    """Return what a JSON file would give back for ``value``; what JSON cannot hold becomes text."""
    value = _plain(value)
    if isinstance(value, Mapping):
        return {str(key): _json_value(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_json_value(item) for item in value]
    plain = value is None or isinstance(value, bool | int | str) or (isinstance(value, float) and math.isfinite(value))
    return value if plain else str(value)


def _plain(value: Any) -> Any:
    if isinstance(value, Namespace):
        return {key: _plain(item) for key, item in vars(value).items()}
    if isinstance(value, tuple):
        return list(value)
    return str(value) if isinstance(value, Path) else value
