"""A suite's YAML file, read into the runs that it asks for."""

from __future__ import annotations

import importlib.resources
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

import yaml

from cmr_bench import registry
from cmr_bench.experiment import recipe
from cmr_bench.experiment.identity import essence
from cmr_bench.experiment.recipe import RunConfig
from cmr_bench.suites.launchers import check_resources
from cmr_bench.suites.tables import read_tables, split_seeds
from cmr_bench.support import foreign
from cmr_bench.support.errors import DataError, UsageError, did_you_mean

SPLIT_SEED = "data.split_seed"
_ENTRIES = {"about", "seeds", "split_seeds", "options", "runs", "tables", "resources"}
_RUN_ENTRIES = {"method", "data", "variants", "seeds", "split_seeds", "options"}


@dataclass(frozen=True)
class Job:
    """One run of a suite: what it is called and how it is configured."""

    config: RunConfig

    @property
    def title(self) -> str:
        """Name of the run in progress and failures."""
        variant = f" ({self.config.variant})" if self.config.variant else ""
        draw = "" if self.draw is None else f", split {self.draw}"
        return f"{self.config.method}{variant} on {self.config.data_label}{draw}, seed {self.config.seed}"

    @property
    def draw(self) -> int | None:
        """Seed of the drawn split; None where the split is that of the data set."""
        return draw_of(self.config.data)


def shipped() -> dict[str, str]:
    """Return the names of the suites that come with the package, and what each is about."""
    folder = importlib.resources.files("cmr_bench.experiments").joinpath("suites")
    found = {}
    if folder.is_dir():
        for file in sorted(folder.iterdir(), key=lambda entry: entry.name):
            if file.name.endswith(".yaml"):
                about = yaml.safe_load(file.read_text(encoding="utf-8")).get("about", "")
                found[file.name.removesuffix(".yaml")] = str(about)
    return found


def read_suite(name: str) -> dict[str, Any]:
    """Read a suite by the name of a shipped one, or from a YAML file.

    Raises:
        UsageError: If there is no such suite or the file is malformed.
    """
    where = name
    if name.endswith((".yaml", ".yml")) or "/" in name:
        file: Traversable | Path = Path(name)
    else:
        file = importlib.resources.files("cmr_bench.experiments").joinpath("suites", f"{name}.yaml")
        if not file.is_file():
            names = shipped()
            raise UsageError(
                f"unknown suite '{name}'.{did_you_mean(name, names)} Shipped: {', '.join(names)}; or pass a YAML file"
            )
    try:
        suite = foreign.read_yaml(file)
    except OSError as error:
        raise UsageError(f"cannot read {file}: {error.strerror or error}") from error
    except DataError as error:
        raise UsageError(str(error)) from error
    if not isinstance(suite, dict) or not isinstance(suite.get("runs"), list) or not suite["runs"]:
        raise UsageError(f"{where} is not a suite: it needs a list 'runs' of entries with 'method' and 'data'")
    _known(suite, _ENTRIES, where)
    _check_kinds(suite, where)
    check_resources(suite.get("resources"), where)
    for entry in suite["runs"]:
        if not isinstance(entry, dict) or not entry.get("method") or not entry.get("data"):
            raise UsageError(f"{where}: an entry of 'runs' needs 'method' and 'data': {entry}")
        _known(entry, _RUN_ENTRIES, where)
        _check_kinds(entry, where)
        registry.trust(*_listed(entry["method"]), *_listed(entry["data"]))
    read_tables(suite, where)
    return suite


def _check_kinds(table: Mapping[str, Any], where: str) -> None:
    kinds: dict[str, tuple[type, str]] = {
        "method": (str, "a string or a list of strings"),
        "data": (str, "a string or a list of strings"),
        "variants": (str, "a string or a list of strings"),
        "seeds": (int, "an integer or a list of integers"),
    }
    for name, (kind, words) in kinds.items():
        value = table.get(name)
        if value is not None and not (_listed(value) and all(type(one) is kind for one in _listed(value))):
            raise UsageError(f"{where}: '{name}' must be {words}, not {value!r}")
    splits = table.get("split_seeds")
    if splits is not None and not all(one is None or type(one) is int for one in _listed(splits)):
        raise UsageError(
            f"{where}: 'split_seeds' must be a list of integers, with null for the data set's own split, not {splits!r}"
        )
    options = table.get("options") or {}
    if not isinstance(options, dict) or not all(isinstance(name, str) for name in options):
        raise UsageError(f"{where}: 'options' must be a mapping of dotted options, not {options!r}")


def _known(table: Mapping[str, Any], names: set[str], where: str) -> None:
    for key in table:
        if key not in names:
            raise UsageError(f"{where}: unknown entry '{key}'.{did_you_mean(str(key), names)}")


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list) else [value]


def jobs(suite: Mapping[str, Any], seeds: Sequence[int] | None, overrides: Sequence[str]) -> Iterator[Job]:
    """Yield every run of a suite, each method on each data set, variant, drawn split and seed.

    Args:
        suite: As :func:`read_suite` returns it.
        seeds: Seeds in place of the suite's own.
        overrides: Dotted options for every run, as on the command line of `run`.
    """
    planned: set[str] = set()
    for entry in suite["runs"]:
        options = {**(suite.get("options") or {}), **(entry.get("options") or {})}
        words = [f"--{name}={json.dumps(v) if isinstance(v, bool) else v}" for name, v in options.items()]
        for dataset in _listed(entry["data"]):
            for method in _listed(entry["method"]):
                for variant, split in itertools.product(
                    _listed(entry.get("variants") or ""), split_seeds(suite, entry)
                ):
                    drawn = [] if split is None else [f"--{SPLIT_SEED}={split}"]
                    config = recipe.resolve(method, dataset, [*words, *drawn, *overrides], variant=str(variant or ""))
                    for seed in seeds or _listed(entry.get("seeds", suite.get("seeds", 0))):
                        job = Job(replace(config, seed=int(seed)))
                        key = json.dumps(essence(job.config.__dict__), sort_keys=True)
                        if key not in planned:
                            planned.add(key)
                            yield job


def draw_of(data: Mapping[str, Any]) -> int | None:
    """Return the seed of the drawn split among the options of a data set; None where there is none."""
    seed = data.get(SPLIT_SEED.partition(".")[2])
    return seed if type(seed) is int else None
