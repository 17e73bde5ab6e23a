"""Options given in Python as the words that the command line would take for them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cmr_bench.support.errors import CmrBenchError, UsageError, did_you_mean


def words_of(options: Mapping[str, Any]) -> list[str]:
    """Return options by dotted name as ``["--data.root", "DIR", ...]``."""
    return [word for name, value in options.items() for word in (f"--{name}", _word(value))]


def dotted_names(options: Mapping[str, Any], known: Sequence[str], where: str) -> dict[str, Any]:
    """Return options by their dotted names, where they were given without what they are an option of.

    Args:
        options: Values by name: ``margin``, or ``model.margin`` where the short name is not enough.
        known: Every dotted option.
        where: Method and data set, for the error.

    Raises:
        UsageError: For a name that there is not, or that stands for several options.
    """
    found: dict[str, Any] = {}
    for name, value in options.items():
        full = [one for one in known if name in (one, one.partition(".")[2])]
        if not full:
            short = sorted({one.partition(".")[2] for one in known})
            raise UsageError(f"unknown option '{name}' of {where}.{did_you_mean(name, short)}")
        if len(full) > 1:
            raise UsageError(f"option '{name}' of {where} may be {' or '.join(full)}: pass **{{'{full[0]}': ...}}")
        found[full[0]] = value
    return found


@contextmanager
def arguments_named() -> Iterator[None]:
    """Name the options of the command line in errors as the arguments that they are here."""
    try:
        yield
    except CmrBenchError as error:
        named = re.sub(r"--([a-z][a-z-]+)", lambda found: found[1].replace("-", "_"), str(error))
        raise type(error)(named) from error


def _word(value: Any) -> str:
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, float):
        # Without a point YAML 1.1 takes 1e-05 for text.
        digits, e, exponent = repr(value).partition("e")
        return f"{digits}{'' if '.' in digits or not e else '.0'}{e}{exponent}"
    if isinstance(value, str):
        return value
    return json.dumps(value, default=str)
