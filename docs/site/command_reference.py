"""The reference of the command line: the help of every command."""

from __future__ import annotations

import contextlib
import io
import os
from unittest import mock

from cmr_bench import cli


def reference() -> str:
    """Return the page: what `--help` prints, command by command."""
    parts = ["# Command line\n\nWhat `--help` prints. `run` has more options, those of the method and the data set: "
             "`cmr-bench run --model vsepp --data flickr8k --help`."]  # fmt: skip
    for name, (_, about) in cli.COMMANDS.items():
        parts.append(f"## {name}\n\n{about[0].upper()}{about[1:]}.\n\n```text\n{_help(name)}\n```")
    return "\n\n".join(parts) + "\n"


def _help(name: str) -> str:
    shown = io.StringIO()
    with mock.patch.dict(os.environ, {"COLUMNS": "80", "NO_COLOR": "1"}), contextlib.redirect_stdout(shown):
        cli.main([*name.split(), "--help"])
    return shown.getvalue().rstrip()
