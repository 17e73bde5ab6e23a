"""A card for every method, made of its class, its recipes, and what is stored or published of it."""

from __future__ import annotations

import importlib.resources
import itertools
import re
from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import Any

import yaml
from family_diagrams import FAMILIES, family_svg

from cmr_bench import registry
from cmr_bench.experiment.describe import recipes_of
from cmr_bench.experiment.recipe import option_parser
from cmr_bench.experiment.signatures import metavar, signature_class
from cmr_bench.leaderboard.board import head, number
from cmr_bench.leaderboard.entries import Row
from cmr_bench.leaderboard.rows import sections
from cmr_bench.results.published import load_published

HERE = Path(__file__).parent
EQUATIONS: dict[str, str] = yaml.safe_load((HERE / "equations.yaml").read_text(encoding="utf-8"))
STATES = HERE.parent / "methods.md"
_METRICS = ("i2t_r1", "i2t_r5", "i2t_r10", "t2i_r1", "t2i_r5", "t2i_r10", "rsum", "i2t_map", "t2i_map", "map")

_INDEX = """# Methods

Every method of the registry has a card. `fidelity` says how close its recipes come: *paper* (as the paper says), *code*
(as a released program does) or *reconstruction*."""
_OTHERS = """## Named by the source papers, not implemented {#others}

The review of Chen et al. (MIPR 2020) and the paper of Ma et al. (2023) also name these.

| system | paper | state |
| --- | --- | --- |"""


def card(name: str, results: list[Any]) -> str:
    """Return the page of a method.

    Args:
        name: Short name.
        results: Stored results, shown beside published ones.
    """
    entry = registry.METHODS[name]
    title, about, *_ = FAMILIES[entry.family]
    parts = [
        f"# {name}\n\n**{escape(entry.paper)}** · [{title}](index.md#{entry.family}): {about}.",
        f"Images: {_views(entry.views, 0)}. Texts: {_views(entry.views, 1)}. Category labels: {entry.labels}.",
        family_svg(entry.family),
        f"## What it computes\n\n{_description(entry.target)}",
    ]
    if name in EQUATIONS:
        parts.append(f"``` {{.text .equation}}\n{EQUATIONS[name].rstrip()}\n```")
    parts.append(f"## Run it\n\n{_commands(name)}")
    parts.append(f"## Recipes and fidelity\n\n{_recipes(name)}")
    parts.append(f"## Published beside measured\n\n{_figures(name, results)}")
    parts.append(f"## Options\n\n{_options(name)}")
    return "\n\n".join(parts) + "\n"


def index(has_states: bool) -> str:
    """Return the list of all methods by family, and the systems of the source papers that are not implemented.

    Args:
        has_states: Whether docs/methods.md is there, to link to.
    """
    parts = [_INDEX]
    if has_states:
        parts.append("The state of every system in words: [methods](../methods.md).")
    for family, (title, about, *_) in FAMILIES.items():
        rows = [
            f"| [{name}]({name}.md) | {escape(entry.paper)} | {_fidelities(name)} |"
            for name, entry in registry.METHODS.items()
            if entry.family == family
        ]
        head = f"## {title} {{#{family}}}\n\n{about[0].upper()}{about[1:]}.\n"
        parts.append("\n".join([head, "| method | paper | fidelity |", "| --- | --- | --- |", *rows]))
    others = [f"| {name} | {paper} | {why} |" for name, (paper, why) in missing_systems().items()]
    parts.append("\n".join([_OTHERS, *others]))
    return "\n\n".join(parts) + "\n"


def missing_systems() -> dict[str, tuple[str, str]]:
    """Return the systems that docs/methods.md lists without an implementation: paper, and why."""
    rest = STATES.read_text(encoding="utf-8").partition("## Published only")[2]
    rows = re.findall(r"^\| `(\w+)` \| (.+?) \| (.+?) \|$", rest, flags=re.MULTILINE)
    return {name: (paper, why) for name, paper, why in rows}


def _views(views: str, side: int) -> str:
    return " or ".join(views.split(", ")[side].split("|"))


def _description(target: str) -> str:
    doc = (signature_class(target).__doc__ or "").partition("Args:")[0]
    return re.sub(r"``([^`]+)``", r"`\1`", doc.strip())


def _commands(name: str) -> str:
    datas = [data for data in registry.DATASETS if any(one.data == data for one in recipes_of(name))]
    lines = [f"cmr-bench run --model {name} --data {data}" for data in datas or ["synthetic"]]
    return "```sh\n" + "\n".join(lines) + "\n```"


def _fidelities(name: str) -> str:
    found = {one.fidelity for one in recipes_of(name)}
    return ", ".join(kind for kind in ("paper", "code", "reconstruction") if kind in found)


def _recipes(name: str) -> str:
    entries = recipes_of(name)
    if not entries:
        return "No recipe: the defaults of the constructor are used."
    lines = ["| data | variants | fidelity | otherwise than the paper or program |", "| --- | --- | --- | --- |"]
    same = itertools.groupby(entries, key=lambda one: (one.data, one.fidelity, one.deviations))
    for (data, fidelity, deviations), several in same:
        variants = ", ".join(one.variant or "–" for one in several)
        told = "<br>".join(_cell(line) for line in deviations) or "–"
        lines.append(f"| {data} | {variants} | {fidelity} | {told} |")
    sources = dict.fromkeys(one.source for one in entries if one.source)
    cited = [f"- {escape(source)}" for source in sources]
    return "\n".join(lines) + ("\n\nCited by the recipes:\n\n" + "\n".join(cited) if cited else "")


def _figures(name: str, results: list[Any]) -> str:
    published = load_published()
    rows = [row for row in published.rows if row.method == name]
    lines = list(_measured(name, results))
    lines += [
        (
            f"{row.data}, mean of {row.folds} folds" if row.folds else row.data,
            row.variant or "–",
            published.sources[row.source],
            row.metrics,
        )
        for row in rows
    ]
    if not lines:
        return "No figures are published for the data sets here, and none are stored with these pages."
    names = [metric for metric in _METRICS if any(metric in metrics for *_, metrics in lines)]
    titles = " | ".join(" ".join(head(metric)).strip() for metric in names)
    first = f"| data | variant | source | {titles} |\n| --- | --- | --- |{' ---: |' * len(names)}"
    body = [
        f"| {data} | {variant} | {escape(source)} | {' | '.join(_figure(metrics, metric) for metric in names)} |"
        for data, variant, source, metrics in lines
    ]
    note = "Recalls in percent, mAP in 0..1."
    if not any(source.startswith("measured") for _, _, source, _ in lines):
        note += " No measured results are stored with these pages: run the commands above to put yours beside them."
    return f"{note}\n\n" + "\n".join([first, *body])


def _measured(name: str, results: list[Any]) -> Iterator[tuple[str, str, str, Any]]:
    file = importlib.resources.files("cmr_bench.experiments").joinpath("expected.yaml")
    for row in yaml.safe_load(file.read_text(encoding="utf-8"))["rows"]:
        if row["method"] == name:
            metrics = {metric: value["mean"] for metric, value in row["metrics"].items()}
            source = f"measured by `cmr-bench check`: a small run, mean of {len(row['seeds'])} seeds"
            yield row["data"], row["variant"] or "–", source, metrics
    for section in sections(results, None):
        for row in section.rows:
            if row.method == name and row.measured:
                yield section.data, row.variant or "–", f"measured, {_times(row)}", row.metrics


def _times(row: Row) -> str:
    if row.draws:
        return f"mean of {len(row.draws)} draws"
    return "1 seed" if (row.n_seeds or 1) == 1 else f"mean of {row.n_seeds} seeds"


def _figure(metrics: Any, name: str) -> str:
    if name not in metrics:
        return ""
    return number(name, metrics[name])


def _options(name: str) -> str:
    parser = option_parser(name, "synthetic")
    defaults = parser.get_defaults()
    lines = ["| option | type | default | |", "| --- | --- | --- | --- |"]
    for action in parser._actions:
        if not action.dest.startswith("model.") or not action.option_strings:
            continue
        kind = metavar(getattr(action, "_typehint", action.type)).replace("|", " or ")
        default = "–" if defaults[action.dest] is None else f"`{defaults[action.dest]}`"
        lines.append(f"| `--{action.dest}` | {escape(kind)} | {default} | {_cell(action.help or '')} |")
    return "\n".join(lines)


def _cell(text: str) -> str:
    return escape(" ".join(text.split())).replace("|", "&#124;")
