"""Errors that a user can act on: one line, an exit code, no traceback."""

from __future__ import annotations

import difflib
import re
import signal
from collections.abc import Iterable


class CmrBenchError(Exception):
    """Something went wrong that the user can act on; the command line prints the message and exits with 1.

    Args:
        message: What was looked for, where, and what to do; kept as one line, whatever names from the user's files are
            in it.
    """

    exit_code = 1

    def __init__(self, message: str) -> None:
        lines = message.strip().splitlines()
        if len(lines) > 1 and re.match(r"Caught \w+ in DataLoader worker process", lines[0]):
            # What torch makes of the error of a data worker: its traceback, which ends with the message.
            lines = [lines[-1].partition(": ")[2]]
        # Half a surrogate pair, which JSON can hold, cannot be printed.
        super().__init__(" ".join(line.strip() for line in lines).encode("utf-8", "backslashreplace").decode())


class UsageError(CmrBenchError):
    """The command or an option is wrong; the command line prints the message and exits with 2."""

    exit_code = 2


class DataError(CmrBenchError):
    """A data set is missing, incomplete or malformed."""


class Notice(UserWarning):
    """Something that a user should know and that stops nothing; the command line prints it as one line."""


def did_you_mean(name: str, choices: Iterable[str]) -> str:
    """Return ``" Did you mean 'x'?"`` for the choice nearest to ``name``, or an empty string."""
    nearest = difflib.get_close_matches(name, list(choices), n=1, cutoff=0.5)
    return f" Did you mean '{' '.join(nearest[0].split())}'?" if nearest else ""


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or the name of its class where it has none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def one_line(message: object) -> str:
    """Return a foreign message, or an error's, as one line."""
    return " ".join(str(message).split())


def brief(message: object) -> str:
    """Return a foreign message, or an error's, as one line of about 200 characters, cut between words."""
    line = one_line(message)
    return line if len(line) <= 200 else f"{line[:200].rsplit(' ', 1)[0]} ..."


def told_by(command: str, output: Iterable[str], code: int | None) -> str:
    """Return why a process of this program failed: its own last line in its output, else the last one, else the code.

    Args:
        command: Command of the program, such as ``run``.
        output: Lines of the output.
        code: Exit code, negative for a signal.
    """
    lines = [line.strip() for line in output if line.strip()]
    said = f"cmr-bench {command}: "
    own = [line.removeprefix(said).removeprefix("error: ") for line in lines if line.startswith(said)]
    return [_how_ended(code), *lines, *own][-1]


def _how_ended(code: int | None) -> str:
    if code is None or code >= 0:
        return f"exit code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        return f"exit code {code}"
    return f"ended by {name}{', which the system sends when memory runs out' if name == 'SIGKILL' else ''}"
