"""``cmr-bench list``: the methods, the data sets, which data sets are found on this machine, a method's recipes."""

from __future__ import annotations

import argparse
import importlib.resources
import json
import sys
import zipfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cmr_bench import registry
from cmr_bench.support import environment, foreign, places
from cmr_bench.support.errors import CmrBenchError, UsageError, did_you_mean
from cmr_bench.support.files import is_leftover

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

_MANY = 40


@dataclass(frozen=True)
class MethodEntry:
    """A method, as the list shows it.

    Attributes:
        name: Short name.
        family: Family of the survey.
        paper: The paper.
        image_views: Image views it reads.
        text_views: Text views it reads.
        labels: Whether it uses category labels: ignored, optional or required.
        recipes: Data sets with a recipe for it.
    """

    name: str
    family: str
    paper: str
    image_views: list[str]
    text_views: list[str]
    labels: str
    recipes: list[str]


@dataclass(frozen=True)
class DataEntry:
    """A data set, as the list shows it.

    Attributes:
        name: Short name.
        about: One line.
        found: Whether there is enough to read it; None where no root is known.
        folder: Where it was found.
        parts: Number of files of each part that is there.
        arrays: Names of the feature arrays that the data set ships.
        missing: Parts of which nothing is there.
        features: Stored features by name: shape, and whether they are complete.
    """

    name: str
    about: str
    found: bool | None
    folder: str | None
    parts: dict[str, int]
    arrays: list[str]
    missing: list[str]
    features: list[dict[str, Any]]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``cmr-bench list``."""
    parser.add_argument(
        "what",
        nargs="?",
        metavar="methods|data|METHOD",
        help="list only these (default: both), or one method: its recipes, variants, fidelity and deviations",
    )
    parser.add_argument(
        "--root",
        "--data.root",
        dest="root",
        metavar="DIR",
        help="folder that contains one folder per data set (default: $CMR_BENCH_DATA)",
    )
    parser.add_argument("--format", choices=("table", "json"), default="table", help="output format (default: table)")


def run(args: argparse.Namespace) -> int:
    """Print the list."""
    if args.what not in (None, "methods", "data"):
        return _method(args.what, args.format)
    root = places.data_root(args.root)
    if args.root and not Path(args.root).expanduser().is_dir():
        raise UsageError(f"--root {args.root}: no such folder; pass one that contains a folder per data set")
    found_methods = methods() if args.what != "data" else None
    found_data = [data_entry(name, args.root) for name in registry.DATASETS] if args.what != "methods" else None
    if args.format == "json":
        content: dict[str, Any] = {}
        if found_methods is not None:
            content["methods"] = [asdict(entry) for entry in found_methods]
        if found_data is not None:
            content |= {"root": None if root is None else str(root), "data": [asdict(entry) for entry in found_data]}
        print(json.dumps(content, indent=2, ensure_ascii=False))
    else:
        _show(found_methods, found_data, root)
    return 0


def methods() -> list[MethodEntry]:
    """Describe every method of the registry, without importing any."""
    recipes = importlib.resources.files("cmr_bench.experiments")
    found = []
    for name, entry in registry.METHODS.items():
        images, _, texts = entry.views.partition(", ")
        there = [data for data in registry.DATASETS if recipes.joinpath(data, f"{name}.yaml").is_file()]
        views = (images.split("|"), texts.split("|"))
        found.append(MethodEntry(name, entry.family, entry.paper, *views, entry.labels, there))
    return found


def data_entry(name: str, root: str | Path | None = None) -> DataEntry:
    """Look for the files of a data set by their names; nothing is opened but the directory of an archive.

    Args:
        name: Short name of the data set.
        root: Folder of data sets; None falls back on ``CMR_BENCH_DATA``.

    Returns:
        What is there.
    """
    entry = registry.DATASETS[name]
    features = [_store(folder) for folder in places.list_stores(name, root)]
    if not entry.parts:
        return DataEntry(name, entry.about, True, None, {}, [], [], features)
    candidates = places.candidates(name, root)
    for folder in candidates:
        parts = {part: count for part, patterns in entry.parts.items() if (count := _count(folder, patterns))}
        if any(part in parts for part in entry.needs):
            missing = [part for part in entry.parts if part not in parts and part not in entry.needs]
            return DataEntry(name, entry.about, True, str(folder), parts, _arrays(folder), missing, features)
    return DataEntry(name, entry.about, False if candidates else None, None, {}, [], [], features)


def _count(folder: Path, patterns: tuple[str, ...]) -> int:
    for pattern in patterns:
        count = sum(not is_leftover(file) for file in folder.glob(pattern))
        if count:
            return count
    return 0


def _arrays(folder: Path) -> list[str]:
    names: list[str] = []
    for file in sorted(file for file in folder.glob("*.npz") if not is_leftover(file)):
        try:
            with zipfile.ZipFile(foreign.checked(file)) as archive:
                inside = [name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")]
        except (OSError, CmrBenchError, zipfile.BadZipFile):
            inside = [f"{file.name} (not readable)"]
        # Beside features such an archive may keep labels and ids; by custom the features are called img... and txt...
        names += [name for name in inside if name.startswith(("img", "txt"))] or inside
    return names


def _store(folder: Path) -> dict[str, Any]:
    try:
        manifest = foreign.read_json(folder / places.MANIFEST, foreign.ANNOTATION_BYTES)
        return {
            "name": folder.name,
            "folder": str(folder),
            "shape": [int(size) for size in manifest["shape"]],
            "complete": bool(manifest["complete"]),
        }
    except (OSError, CmrBenchError, ValueError, KeyError, TypeError):
        return {"name": folder.name, "folder": str(folder), "shape": [], "complete": False}


def _method(name: str, kind: str) -> int:
    """Show one method: what it reads, its recipes with variants, and where they deviate from paper or program."""
    if name not in registry.METHODS:
        known = ("methods", "data", *registry.METHODS)
        raise UsageError(f"nothing called '{name}' to list.{did_you_mean(name, known)} There are {', '.join(known)}")
    from cmr_bench.experiment.describe import recipes_of

    (entry,) = (entry for entry in methods() if entry.name == name)
    recipes = recipes_of(name)
    if kind == "json":
        content = asdict(entry) | {"recipes": [asdict(recipe) for recipe in recipes]}
        print(json.dumps(content, indent=2, ensure_ascii=False))
        return 0
    from rich.text import Text

    console = _console()
    labels = {"ignored": "are not used", "optional": "are used where there are any", "required": "are required"}
    console.print(Text(f"{name} ({entry.family}): {entry.paper}", style="bold"))
    console.print(
        f"reads images as {' or '.join(entry.image_views)}, texts as {' or '.join(entry.text_views)}; "
        f"category labels {labels.get(entry.labels, entry.labels)}\n",
        markup=False,
    )
    numbers = {line: at for at, line in enumerate(dict.fromkeys(d for r in recipes for d in r.deviations), start=1)}
    shown = _table("recipe for", "variant", "fidelity", "deviations", "source")
    for recipe in recipes:
        listed = " ".join(str(numbers[line]) for line in recipe.deviations)
        source = "" if recipe.variant else recipe.source
        shown.add_row(*map(Text, (recipe.data, recipe.variant, recipe.fidelity, listed, source)))
    console.print(shown)
    if numbers:
        console.print("\nDeviations from the paper, or from the program where the fidelity is code:")
    for line, at in numbers.items():
        console.print(Text(f"{at:>3} {line}"))
    unsaid: dict[str, dict[str, None]] = {}
    for recipe in recipes:
        for line in recipe.program:
            unsaid.setdefault(line, {})[recipe.variant or "default"] = None
    if unsaid:
        console.print("\nWhat the released program does otherwise where the paper does not say:")
    for line, variants in unsaid.items():
        console.print(Text(f"    {line} ({', '.join(variants)})"))
    return 0


def _show(found_methods: list[MethodEntry] | None, found_data: list[DataEntry] | None, root: Path | None) -> None:
    from rich.text import Text

    console = _console()
    if found_methods is not None:
        shown = _table("method", "family", "paper", "images as", "texts as", "labels", "recipes for")
        for method in found_methods:
            views = ("\n".join(method.image_views), "\n".join(method.text_views))
            cells = (method.name, method.family, method.paper, *views, method.labels, _recipes(method.recipes))
            shown.add_row(*map(Text, cells))
        console.print(shown)
    if found_data is not None:
        if found_methods is not None:
            console.print()
        shown = _table("data set", "about", f"found in {root}" if root is not None else "found")
        for data in found_data:
            about = Text(_there(data), style="" if data.found else "dim")
            shown.add_row(Text(data.name), Text(data.about), about)
        console.print(shown)
        if root is None:
            console.print(
                Text("Set CMR_BENCH_DATA or pass --root DIR: data sets are searched in DIR/<data set>/.", style="dim")
            )


def _console() -> Console:
    from rich.console import Console

    # A pipe has no width: one line per entry, for grep.
    width = None if sys.stdout.isatty() or environment.has_width() else 1000
    return Console(highlight=False, width=width)


def _table(*heads: str) -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    whole = ("method", "data set", "family", "labels", "images as", "texts as", "recipe for", "variant", "fidelity")
    made = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1), collapse_padding=True)
    for name in heads:
        made.add_column(name, no_wrap=name in whole, overflow="fold")
    return made


def _recipes(there: list[str]) -> str:
    absent = [name for name in registry.DATASETS if name not in there]
    if there and len(absent) <= 2:
        return " ".join(["all", *(["but", *absent] if absent else [])])
    return " ".join(there)


def _there(data: DataEntry) -> str:
    if data.found and data.folder is None:
        parts = ["built in"]
    elif data.found:
        parts = [f"{part} {count:,}" if count > 1 else part for part, count in data.parts.items()]
        parts += [f"no {part}" for part in data.missing]
        parts += [f"arrays {' '.join(data.arrays[:_MANY])}"] if data.arrays else []
    else:
        parts = ["not found" if data.found is False else "no root"]
    for store in data.features:
        shape = "x".join(map(str, store["shape"]))
        parts.append(f"features {store['name']} {shape if store['complete'] else '(unfinished)'}".rstrip())
    return "; ".join(parts)
