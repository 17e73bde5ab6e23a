"""The options of a method on a data set, as `cmr-bench run --help` shows them: type, default, allowed values."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from typing import Any, Literal

from cmr_bench import registry
from cmr_bench.experiment.recipe import RunConfig, option_parser
from cmr_bench.experiment.signatures import choices, metavar

PARTS = ("model", "data", "trainer")


def add_options(groups: Mapping[str, argparse._ArgumentGroup], config: RunConfig) -> None:
    """Add the dotted options of a resolved run to the groups ``model``, ``data`` and ``trainer``, for help alone.

    Args:
        groups: Where the options of each part go; their descriptions become those of the classes.
        config: The run; its values are shown as defaults.
    """
    parser = option_parser(config.method, config.dataset)
    own = parser.get_defaults()
    for part, chosen in zip(PARTS, (config.model, config.data, config.trainer), strict=True):
        group = groups[part]
        options = [action for action in parser._actions if action.dest.startswith(f"{part}.")]
        title = next(made.title for made in parser._action_groups if options and options[-1] in made._group_actions)
        group.description = f"{title}."
        for action in options:
            value = chosen[action.dest.partition(".")[2]]
            source = "" if value == own[action.dest] else ", set by the recipe"
            text = _begin_small((action.help or "").rstrip(".")).replace("%", "%%")
            kind = _view_kind(config.method, action.dest) or getattr(action, "_typehint", action.type)
            group.add_argument(
                f"--{action.dest}",
                metavar=metavar(kind),
                choices=choices(kind) or None,
                help=f"{text} (default: {_written(value)}{source})",
            )


def _view_kind(method: str, option: str) -> Any:
    """Return the views that a method reads as a type: narrower than that of its constructor."""
    sides = registry.method_entry(method).views.split(", ")
    side = {"model.image_view": 0, "model.text_view": 1}.get(option)
    return None if side is None or len(sides) < 2 else Literal[tuple(sides[side].split("|"))]


def _begin_small(text: str) -> str:
    """Return a sentence of a docstring as a clause of help; names in capitals stay."""
    first = text.partition(" ")[0].rstrip(",;:")
    return text[:1].lower() + text[1:] if first[1:].islower() or len(first) == 1 else text


def _written(value: Any) -> str:
    """Return a value as it is written on the command line."""
    return (value or "''") if isinstance(value, str) else json.dumps(value)
