"""Classes by name: of the suite, and of a user's own code, which runs only if the user named it."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import os
import shlex
import sys
from pathlib import Path
from types import ModuleType

from cmr_bench.support.errors import UsageError, did_you_mean

_trusted: set[str] = set()


def is_own(name: str) -> bool:
    """Tell whether a name is that of a class outside of the suite, ``FILE.py:Class`` or ``module:Class``."""
    return ":" in name and not name.startswith("cmr_bench.")


def resume_command(folder: Path, method: str, dataset: str) -> str:
    """Return the command that resumes a run of these names; classes outside of the suite have to be trusted."""
    trusted = " --trust" if is_own(method) or is_own(dataset) else ""
    return f"cmr-bench run --resume {shlex.quote(str(folder))}{trusted}"


def trust(*names: object) -> None:
    """Allow classes outside of the suite to be loaded; for names that the user gave, never for what a file says.

    Args:
        names: Names as the user gave them; those of the suite and None are passed over.
    """
    _trusted.update(_place(name) for name in names if isinstance(name, str) and is_own(name))


def _place(name: str) -> str:
    module = name.rpartition(":")[0]
    return str(Path(module).resolve()) if module.endswith(".py") else module


def checksums(*names: str) -> dict[str, str]:
    """Return the SHA-256 of the files of classes outside of the suite, by ``FILE.py:Class`` without its folder."""
    found = {}
    for name in filter(is_own, names):
        file = sys.modules[load(name).__module__].__file__
        module, _, kind = name.rpartition(":")
        shown = Path(module).name if module.endswith(".py") else module
        found[f"{shown}:{kind}"] = "" if file is None else hashlib.sha256(Path(file).read_bytes()).hexdigest()
    return found


def load(target: str) -> type:
    """Import a class by ``module:Class`` or ``FILE.py:Class``.

    Raises:
        UsageError: If there is none, or a stored configuration names code from outside that is not trusted.
    """
    module, _, name = target.rpartition(":")
    if not module.startswith("cmr_bench.") and _place(target) not in _trusted:
        raise UsageError(
            f"{target} is code from outside the package, named by a stored configuration: it runs only if you name it "
            "(run --model, --data) or pass --trust"
        )
    loaded = _load_file(Path(module)) if module.endswith(".py") else _load_module(module)
    found = getattr(loaded, name, None)
    if not isinstance(found, type):
        classes = [known for known, value in vars(loaded).items() if isinstance(value, type)]
        raise UsageError(f"{module} has no class '{name}'.{did_you_mean(name, classes)}")
    return found


def _load_file(path: Path) -> ModuleType:
    if not os.path.isfile(path):  # noqa: PTH113  # Path.is_file raises for a name too long for any file
        raise UsageError(f"{path} is not a file; pass FILE.py:Class or a name from `cmr-bench list`")
    # A user's file may be called like a library; a second import must give the same classes.
    name = f"cmr_bench_own_{path.stem}_{hashlib.sha1(str(path.resolve()).encode()).hexdigest()[:8]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    sys.modules[name] = loaded
    try:
        spec.loader.exec_module(loaded)
    except BaseException:
        del sys.modules[name]
        raise
    return loaded


def _load_module(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if not error.name or not f"{name}.".startswith(f"{error.name}."):
            raise
        raise UsageError(
            f"no module '{error.name}'; pass FILE.py:Class, an installed module:Class or a name from `cmr-bench list`"
        ) from None
