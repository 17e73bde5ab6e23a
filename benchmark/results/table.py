"""The table of one result, as a run or an ensemble prints it when it ends."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cmr_bench.results.groups import parts_of

if TYPE_CHECKING:
    from rich.table import Table

    from cmr_bench.results.record import Result


def result_table(result: Result) -> Table:
    """Return the result table that a run prints."""
    from rich.table import Table

    title = f"{result.method}{f' ({result.variant})' if result.variant else ''} on {result.data}, seed {result.seed}"
    table = Table(title=title, title_justify="left")
    columns = {"R@1": "r1", "R@5": "r5", "R@10": "r10", "MedR": "medr", "mAP": "map"}
    shown = {head: key for head, key in columns.items() if f"i2t_{key}" in result.metrics}
    table.add_column("direction")
    for head in shown:
        table.add_column(head, justify="right")
    for direction in ("i2t", "t2i"):
        cells = []
        for key in shown.values():
            value = result.metrics[f"{direction}_{key}"]
            cells.append(f"{value:.3f}" if key == "map" else f"{value:.1f}")
        table.add_row(direction, *cells)
    whole = [f"rsum {result.metrics['rsum']:.1f}", f"mR {result.metrics['mr']:.1f}"] if "rsum" in result.metrics else []
    if "map" in result.metrics:
        whole.append(f"mAP {result.metrics['map']:.3f}")
    if "fold5_rsum" in result.metrics:
        whole.append(f"rsum of 5x1K {result.metrics['fold5_rsum']:.1f}")
    for name in result.metrics:
        if name.startswith("subsets") and name.endswith("_i2t_medr"):
            part = name.removesuffix("i2t_medr")
            medians = " / ".join(f"{result.metrics[f'{part}{way}_medr']:.1f}" for way in ("i2t", "t2i"))
            whole.append(f"{parts_of(name)[0]} pairs: MedR {medians}, rsum {result.metrics[f'{part}rsum']:.1f}")
    if "identity_map" in result.metrics:
        found = (result.metrics[f"identity_t2i_{name}"] for name in ("map", "minp"))
        whole.append("t2i by identity: mAP {:.3f}, mINP {:.3f}".format(*found))
    rare = result.slices.get("few_shot", {})
    if "t2i_r1" in rare:
        recalls = " / ".join(f"{rare[f't2i_r{k}']:.1f}" for k in (1, 5, 10))
        words = f"a word seen fewer than {rare['below']} times in training"
        whole.append(f"t2i R@1/5/10 of the {rare['n_texts']:,} captions with {words}: {recalls}")
    table.caption = ", ".join(whole)
    table.caption_justify = "left"
    return table
