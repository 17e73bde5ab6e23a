"""Recipes: find, read, check against the constructors, override, save."""

from __future__ import annotations

import argparse
import importlib.resources
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, Literal

import yaml
from jsonargparse import ArgumentError, ArgumentParser, Namespace

from cmr_bench import registry
from cmr_bench.evaluation.options import EvaluationOptions
from cmr_bench.experiment.signatures import choices, metavar, signature_class
from cmr_bench.support import foreign
from cmr_bench.support.errors import DataError, UsageError, did_you_mean
from cmr_bench.support.places import data_root, locate, without_folders

FIDELITIES = ("paper", "code", "reconstruction")

# Options that say where and how a run is computed, or that the result records in a field of its own.
_NO_SETTING = {
    *("data.root", "data.name", "data.num_workers", "data.eval_batch_size", "data.skip_missing", "data.skip_invalid"),
    "data.seed",
    *("data.image_features", "data.text_features"),
    *("trainer.accelerator", "trainer.devices", "trainer.num_nodes", "trainer.strategy", "trainer.deterministic"),
    *("trainer.bootstrap", "trainer.progress"),
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
        gradient_clip: Gradient-clipping threshold (norm); 0 disables.
        accumulate: Number of batches to accumulate before an optimiser step; negatives come from a pair's own batch.
        val_every: Validate every n epochs.
        patience: Early-stopping patience in validations; 0 disables.
        select_on: Split that selects the checkpoint. Use test only to reproduce code that selects on the test split;
            the result is flagged and never ranked as best.
        deterministic: Use deterministic algorithms where PyTorch has them.
        limit_train_batches: Maximum number of training batches per epoch; 0 uses all.
        bootstrap: Number of bootstrap resamples of the test queries for confidence intervals; 0 disables.
        postprocess: Hubness correction of the test scores; the result is flagged transductive.
        progress: Show progress bars.
    """

    max_epochs: int = 30
    accelerator: str = "auto"
    devices: int | Literal["auto"] = 1
    num_nodes: int = 1
    strategy: str = "auto"
    precision: Literal["32-true", "16-mixed", "bf16-mixed"] = "32-true"
    gradient_clip: float = 0.0
    accumulate: int = 1
    val_every: int = 1
    patience: int = 0
    select_on: Literal["val", "test"] = "val"
    deterministic: bool = False
    limit_train_batches: int = 0
    bootstrap: int = 1000
    postprocess: Literal["csls", "inverted_softmax"] | None = None
    progress: bool = True

    def evaluation(self, criterion: Literal["rsum", "map"]) -> EvaluationOptions:
        """Return the options of the evaluation, for a data set that chooses by ``criterion``."""
        return EvaluationOptions(criterion, self.select_on, self.bootstrap, self.postprocess)


@dataclass
class RunConfig:
    """A resolved run: what ``config.yaml`` holds and `cmr-bench run --config` reads."""

    method: str
    dataset: str
    model: dict[str, Any] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)
    trainer: dict[str, Any] = field(default_factory=dict)
    seed: int = 0
    variant: str = ""
    fidelity: str = "reconstruction"

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


def recipe_file(dataset: str, method: str) -> Traversable | None:
    """Return the shipped recipe ``experiments/<data>/<method>.yaml``, or None."""
    if dataset not in registry.DATASETS or method not in registry.METHODS:
        return None
    file = importlib.resources.files("cmr_bench.experiments").joinpath(dataset, f"{method}.yaml")
    return file if file.is_file() else None


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
    known = {"method", "dataset", "model", "data", "trainer", "seed", "variant", "variants", "fidelity", "source"}
    for key in content:
        if key not in known:
            raise UsageError(f"{file}: unknown entry '{key}'.{did_you_mean(key, known)}")
    for key in ("model", "data", "trainer", "variants"):
        if content.get(key) is None:
            content.pop(key, None)
        elif not isinstance(content[key], dict):
            raise UsageError(f"{file}: '{key}' must be a mapping")
    if type(content.get("seed", 0)) is not int:
        raise UsageError(f"{file}: 'seed' must be an integer, not {content['seed']!r}")
    for key in ("method", "dataset", "variant"):
        if not isinstance(content.get(key) or "", str):
            raise UsageError(f"{file}: '{key}' must be text, not {content[key]!r}")
    fidelity = content.get("fidelity")
    if fidelity is not None and fidelity not in FIDELITIES:
        raise UsageError(f"{file}: fidelity '{fidelity}' is none of {', '.join(FIDELITIES)}")
    return content


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
        merged[part] = {**merged.get(part, {}), **options} if isinstance(options, dict) else options
    return merged


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
    parser = ArgumentParser(prog=prog, exit_on_error=False, formatter_class=argparse.HelpFormatter, allow_abbrev=False)
    if method is not None:
        parser.add_class_arguments(method, "model", fail_untyped=True)
    parser.add_class_arguments(dataset, "data", fail_untyped=True)
    if method is not None:
        parser.add_class_arguments(TrainerOptions, "trainer", fail_untyped=True)
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
    shipped = recipe_file(dataset, method)
    recipe = dict(config) if config is not None else read_yaml(shipped) if shipped is not None else {}
    variant = variant or str(recipe.get("variant", ""))
    saved = config is not None and "variants" not in recipe
    layers = recipe if saved else with_variant(recipe, variant, f"the recipe of {method} on {dataset}")
    parser = option_parser(method, dataset)
    known = option_names(parser)
    defaults = {
        f"{part}.{name}": value for part in ("model", "data", "trainer") for name, value in layers.get(part, {}).items()
    }
    for name in defaults:
        if name not in known:
            raise UsageError(
                f"the recipe sets '{name}', which {method} on {dataset} does not have.{did_you_mean(name, known)}"
            )
    for word in overrides:
        name = word.removeprefix("--").partition("=")[0]
        if word.startswith("--") and name not in known and name not in ("help", "print_config"):
            raise _unknown(name, f"{method} on {dataset}", known)
    try:
        parser.set_defaults(defaults)
        options = parser.parse_args(list(overrides))
    except (ArgumentError, argparse.ArgumentError, ArithmeticError, ValueError, TypeError) as error:
        raise _wrong_value(error, parser) from error
    tree = {part: _plain(options[part]) for part in ("model", "data", "trainer")}
    return RunConfig(
        method=method,
        dataset=dataset,
        **tree,
        seed=int(recipe.get("seed", 0)) if seed is None else seed,
        variant=variant,
        fidelity=str(layers.get("fidelity", "reconstruction")),
    )


def settings(config: RunConfig) -> dict[str, Any]:
    """Return the options that differ from the constructors' defaults, by dotted name.

    Two runs of a method are repetitions of one experiment only where these agree. Options that change no score, such as
    devices, or that a result records elsewhere, such as features, are left out. Of absolute paths the last name is
    kept: no folder of somebody's machine belongs in a record.
    """
    defaults = option_parser(config.method, config.dataset).get_defaults()
    chosen = {"model": config.model, "data": config.data, "trainer": config.trainer}
    return {
        f"{part}.{name}": without_folders(_json_value(value))
        for part, options in chosen.items()
        for name, value in options.items()
        if f"{part}.{name}" not in _NO_SETTING and _json_value(value) != _json_value(defaults.get(f"{part}.{name}"))
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


def check_files(dataset: str, options: Mapping[str, Any]) -> None:
    """Look for the files of a data set of the suite, by name alone and before anything heavy is imported.

    Raises:
        DataError: If no root is given or the files are not there.
    """
    entry = registry.DATASETS.get(dataset)
    root, named = options.get("root"), options.get("file") or options.get("precomputed")
    # Files that the user names may lie elsewhere; the data set looks for them itself.
    if entry is None or not entry.needs or (named and (data_root(root) or Path(named).expanduser().is_absolute())):
        return
    locate(root, dataset, [pattern for part in entry.needs for pattern in entry.parts[part]], entry.layout)


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
    text = " ".join(str(error).split())
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
