"""Completion of commands, options and names in the shell, by argcomplete (the extra ``completion``)."""

from __future__ import annotations

import argparse
import importlib
import shlex
from collections.abc import Mapping
from typing import Any

from cmr_bench import registry
from cmr_bench.support import environment
from cmr_bench.support.errors import CmrBenchError


def complete(commands: Mapping[str, tuple[str, str]]) -> None:
    """Answer the shell that asks for completions, and exit.

    Args:
        commands: Module and one line about each command.
    """
    try:
        import argcomplete
    except ImportError:
        raise SystemExit(1) from None
    # jsonargparse would answer for the parsers that are made on the way.
    with environment.not_completing():
        made = parser(commands, environment.value(environment.COMPLETED_LINE) or "")
    argcomplete.autocomplete(made, always_complete_options="long")


def parser(commands: Mapping[str, tuple[str, str]], line: str) -> argparse.ArgumentParser:
    """Build a parser of all commands, with the options of the one that a line begins.

    Args:
        commands: Module and one line about each command.
        line: What is typed so far.
    """
    try:
        words = shlex.split(line)[1:]
    except ValueError:
        words = line.split()[1:]
    root = argparse.ArgumentParser(prog="cmr-bench")
    groups = {"": root.add_subparsers()}
    for name, (module, about) in commands.items():
        first, _, last = name.rpartition(" ")
        if first not in groups:
            groups[first] = groups[""].add_parser(first).add_subparsers()
        begun = name.split() == words[: len(name.split())]
        made = groups[first].add_parser(last, help=about, add_help=name != "run")
        if begun:
            importlib.import_module(module).add_arguments(made)
            _add_names(made)
        if begun and name == "run":
            _add_dotted(made, words)
    return root


def _add_names(made: argparse.ArgumentParser) -> None:
    """Let options that take the name of a method, data set or suite complete it."""
    from cmr_bench.suites.plan import shipped

    names: dict[str, Any] = {"model": registry.METHODS, "data": registry.DATASETS, "suite": shipped()}
    for action in made._actions:
        if action.dest in names:
            action.completer = lambda known=[*names[action.dest]], **_: known  # type: ignore[attr-defined]


def _add_dotted(made: argparse.ArgumentParser, words: list[str]) -> None:
    from cmr_bench.experiment import option_help, recipe

    given: dict[str, str] = {}
    for word, following in zip(words, [*words[1:], ""], strict=True):
        option, equals, value = word.partition("=")
        given[option] = value if equals else following
    if not given.get("--model"):
        return
    try:
        config = recipe.resolve(given["--model"], given.get("--data") or "synthetic")
    except CmrBenchError:
        return
    option_help.add_options(dict.fromkeys(option_help.PARTS, made.add_argument_group("options")), config)
