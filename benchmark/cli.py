# PYTHON_ARGCOMPLETE_OK
"""The command line: a thin front end that imports a command only when it is called."""

from __future__ import annotations

import argparse
import importlib
import io
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from cmr_bench.support import environment
from cmr_bench.support.errors import CmrBenchError, Notice, did_you_mean, one_line
from cmr_bench.version import __version__

COMMANDS: dict[str, tuple[str, str]] = {
    "run": (
        "cmr_bench.commands.run",
        "train one method on one data set, select on validation, test and store the result",
    ),
    "suite": ("cmr_bench.commands.suite", "run many experiments from one YAML file, skipping stored runs"),
    "eval": ("cmr_bench.commands.evaluate", "evaluate your own embeddings or similarity matrix by the same protocols"),
    "ensemble": ("cmr_bench.commands.ensemble", "evaluate the mean of the scores of several runs, and store it"),
    "leaderboard": ("cmr_bench.commands.leaderboard", "compare stored results with each other and with published ones"),
    "compare": ("cmr_bench.commands.compare", "test whether one run is better than another, and list what differs"),
    "check": ("cmr_bench.commands.check", "compare the scores of a suite with expected scores; exit 1 on a regression"),
    "dashboard": ("cmr_bench.commands.dashboard", "build a static site of stored runs"),
    "push": ("cmr_bench.commands.push", "share runs in a folder or on the Hugging Face Hub"),
    "pull": ("cmr_bench.commands.pull", "bring shared runs into a folder of runs"),
    "data check": (
        "cmr_bench.commands.data_check",
        "check a data set for missing, corrupt, duplicate and leaking data",
    ),
    "data features": (
        "cmr_bench.commands.data_features",
        "extract image features of a data set by a pretrained encoder",
    ),
    "data get": ("cmr_bench.commands.data_get", "download a data set, where its host and licence allow it"),
    "data import": ("cmr_bench.commands.data_import", "convert a data set of any layout to Karpathy's JSON"),
    "search": ("cmr_bench.commands.search", "search your own images or captions with a trained run"),
    "list": ("cmr_bench.commands.list", "list the methods and data sets"),
}

_ABOUT = "Benchmark suite for image-text cross-modal retrieval."
_GROUPS = {"data ": "Prepare and check data sets."}
_EXAMPLES = """\
examples:
  cmr-bench run --model vsepp                         on the built-in synthetic data, no files needed
  cmr-bench run --model adv_subspace --data flickr8k --data.root DIR
  cmr-bench run --model vsepp --data flickr8k --help  all options of this method and data set
  cmr-bench data features flickr8k --encoder timm:tf_efficientnet_lite0 --weights FILE
  cmr-bench eval --images I.npy --texts T.npy --image-of-text M.npy
  cmr-bench leaderboard --data synthetic --format markdown
  cmr-bench check --jobs 2                            regression check of one method per family
  cmr-bench search RUN "a dog in the snow" --images FOLDER
"""


def _help(group: str = "") -> str:
    names = [name for name in COMMANDS if name.startswith(group)]
    width = max(map(len, names)) + 2
    return (
        f"usage: cmr-bench {group or ''}COMMAND [options]\n\n{_GROUPS.get(group, _ABOUT)}\n\ncommands:\n"
        + "\n".join(f"  {name:<{width}}{COMMANDS[name][1]}" for name in names)
        + f"\n\n`cmr-bench {group or ''}COMMAND --help` explains a command.\n"
        + ("" if group else f"\n{_EXAMPLES}")
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code: 0 done, 1 failed, 2 wrong usage."""
    if environment.completing() and argv is None:
        importlib.import_module("cmr_bench.commands.completion").complete(COMMANDS)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="replace")  # a terminal that lacks a sign shows a question mark
    words = list(sys.argv[1:] if argv is None else argv)
    if words and words[0] in ("-V", "--version"):
        print(f"cmr-bench {__version__}")
        return 0
    name = next((known for known in COMMANDS if known.split() == words[: len(known.split())]), None)
    if name is not None:
        return _guarded(name, words[len(name.split()) :])
    group = f"{words[0]} " if words and any(known.startswith(f"{words[0]} ") for known in COMMANDS) else ""
    rest = words[1:] if group else words
    if not rest or rest[0] in ("-h", "--help"):
        print(_help(group), end="")
        return 0 if rest else 2
    asked = group + rest[0]
    _complain("", f"unknown command '{asked}'.{did_you_mean(asked, COMMANDS)} See cmr-bench {group}--help")
    return 2


def _complain(name: str, message: str) -> None:
    print(f"{f'cmr-bench {name}'.rstrip()}: error: {message}", file=sys.stderr)


@contextmanager
def _notices(name: str) -> Iterator[None]:
    """Print notices as one line each, without the place in the code that other warnings name."""
    shown = warnings.showwarning

    def show(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
        if issubclass(category, Notice):
            print(f"cmr-bench {name}: {message}", file=sys.stderr)
        else:
            shown(message, category, *where, **more)

    warnings.showwarning = show
    try:
        yield
    finally:
        warnings.showwarning = shown


def _guarded(name: str, words: list[str]) -> int:
    """Run a command; what it raises becomes one line and an exit code."""
    try:
        with _notices(name):
            code = _command(name, words)
        sys.stdout.flush()
        return code
    except CmrBenchError as error:
        _complain(name, str(error))
        return error.exit_code
    except BrokenPipeError:
        sys.stderr.close()
        return 1
    except KeyboardInterrupt:
        print(f"cmr-bench {name}: interrupted", file=sys.stderr)
        return 1
    except Exception as error:
        if environment.value(environment.DEBUG):
            raise
        what = one_line(error)[:500]
        _complain(name, f"{type(error).__name__}: {what} (set CMR_BENCH_DEBUG=1 for the traceback)")
        return 1


class _Parser(argparse.ArgumentParser):
    """Answers a usage error with one line, and an unknown option with the one that was probably meant."""

    def refuse(self, left: Sequence[str]) -> None:
        """Fail on words that no option takes, naming the first and the option that was probably meant."""
        option = next((word for word in left if word.startswith("-")), left[0]).partition("=")[0]
        known = [name for action in self._actions for name in action.option_strings]
        self.error(f"unknown option '{option}'.{did_you_mean(option, known)}")

    def error(self, message: str) -> None:  # type: ignore[override]
        """Print one line and exit with 2."""
        end = "" if message.endswith(("?", ".")) else "."
        print(f"{self.prog}: error: {message}{end} See {self.prog} --help", file=sys.stderr)
        raise SystemExit(2)


def _command(name: str, words: list[str]) -> int:
    target, about = COMMANDS[name]
    parser = _Parser(
        prog=f"cmr-bench {name}",
        description=about[0].upper() + about[1:] + ".",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        add_help=name != "run",
    )
    try:
        if name == "run":
            return _run(parser, words)
        command = importlib.import_module(target)
        command.add_arguments(parser)
        args, others = parser.parse_known_args(words)
        if others and not (name.startswith("data ") and others[0].startswith("--data.")):
            parser.refuse(others)
        args.data_options = others
        return int(command.run(args))
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 1


def _run(parser: _Parser, words: list[str]) -> int:
    from cmr_bench.commands.run import add_arguments, show_help

    add_arguments(parser)
    args, overrides = parser.parse_known_args(words)
    if args.help:
        return show_help(parser, args)
    strays = [word for word in overrides if word.startswith("-") and "." not in word.partition("=")[0]]
    if strays or (overrides and not overrides[0].startswith("-")):
        parser.refuse(strays or overrides)
    from cmr_bench.commands import run

    return run.main(args, overrides)


if __name__ == "__main__":
    raise SystemExit(main())
