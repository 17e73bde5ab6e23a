"""What makes two runs the same: the options that can change a number, and the content of what is read."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cmr_bench.experiment import recipe
from cmr_bench.experiment.recipe import RunConfig
from cmr_bench.experiment.recipe_files import modernised
from cmr_bench.support.checksums import checksum, folder_checksum
from cmr_bench.support.encoders import canonical
from cmr_bench.support.places import without_folders

PARTS = ("model", "data", "trainer")

# What changes no number, or only its last digits: where the data lies, what computes, what is shown.
_NO_ESSENCE = {
    "data": ("root", "num_workers", "eval_batch_size", "image_weights", "make_features"),
    "trainer": ("accelerator", "devices", "num_nodes", "strategy", "deterministic", "bootstrap", "progress"),
}


def essence(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the part of a configuration that can change a number; of absolute paths the last name.

    Features named by their encoder and by their store are the same; their content is compared elsewhere.
    """
    found: dict[str, Any] = without_folders(json.loads(json.dumps(modernised(config), default=str)))
    for part in PARTS:
        options = found.get(part)
        kept = options.items() if isinstance(options, dict) else ()
        found[part] = {key: value for key, value in kept if key not in _NO_ESSENCE.get(part, ())}
    if found["data"].get("seed") is None:
        found["data"]["seed"] = found.get("seed")
    if isinstance(features := found["data"].get("image_features"), str):
        found["data"]["image_features"] = canonical(features)
    for name in ("fidelity", "deviations", "changes", "shortened"):
        found.pop(name, None)
    return found


@dataclass(frozen=True)
class Difference:
    """An option in which two runs differ: its dotted name, and the value that each has."""

    name: str
    stored: Any
    asked: Any

    def __str__(self) -> str:
        return f"--{self.name} {_short(self.stored)}, not {_short(self.asked)}"


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def other_options(stored: Mapping[str, Any], config: RunConfig, parts: Sequence[str] = PARTS) -> list[Difference]:
    """Compare what is stored with what is asked for, option by option.

    What cannot change a number does not count. An option that is younger than the stored thing had its default there;
    one that is gone since had a value that nothing has now.

    Args:
        stored: Options of a stored run by part: a ``config.yaml``, or the mark of a checkpoint.
        config: The run that is asked for.
        parts: Parts to compare.
    """
    found, wanted = essence(stored), essence(config.__dict__)
    differing = []
    for part in parts:
        theirs, ours = found[part], wanted[part]
        for name in sorted({*theirs, *ours}):
            here = ours.get(name)
            there = theirs[name] if name in theirs else _default(config, f"{part}.{name}")
            if name not in ours or there != here:
                differing.append(Difference(f"{part}.{name}", there, here))
    return differing


def same_run(stored: Mapping[str, Any], config: RunConfig) -> bool:
    """Tell whether a stored configuration is the run that ``config`` asks for, see :func:`other_options`."""
    found, wanted = essence(stored), essence(config.__dict__)
    others = {*found, *wanted}.difference(PARTS)
    return all(found.get(name) == wanted.get(name) for name in others) and not other_options(stored, config)


def _default(config: RunConfig, name: str) -> Any:
    return without_folders(json.loads(json.dumps(_defaults(config.method, config.dataset).get(name), default=str)))


@functools.cache
def _defaults(method: str, dataset: str) -> Any:
    return recipe.option_parser(method, dataset).get_defaults()


def file_content(config: RunConfig) -> dict[str, str]:
    """Return the checksum of every file or folder that an option of the method names, by dotted name."""
    found = {}
    for name, value in config.model.items():
        named = re.sub(r"^(hf|open_clip|st):", "", value) if isinstance(value, str) else ""
        path = Path(named).expanduser() if named else None
        if path is not None and path.is_file():
            found[f"model.{name}"] = checksum(path)
        # The name of a model of the hub, or a word such as "max", is no folder that lies here by chance.
        elif path is not None and path.is_dir() and without_folders(value) != value:
            found[f"model.{name}"] = folder_checksum(path)
    return found


def content_of(config: RunConfig) -> dict[str, str]:
    """Return the checksums of all that a run of this configuration would read now, see ``Result.content``.

    Raises:
        CmrBenchError: If something of it is not there.
    """
    config = deepcopy(config)
    if config.data.get("seed") is None:
        config.data["seed"] = config.seed
    module, data, _ = recipe.instantiate(config)
    data.make_features = False
    found: dict[str, str] = data.content(module.image_view, module.text_view, module.tokenizer)
    return found | file_content(config)
