"""Groups of metrics that tables show together."""

from __future__ import annotations

import re

# What the name of a metric by relevance judgments beyond the pairs begins with.
QRELS = "qrels_"
# And those of metrics that count every image and text of the query's identity.
IDENTITY = "identity_"
# What the names of metrics of a part of the test split begin with: the mean over folds, or over draws of pairs.
PART = re.compile(r"(fold\d+|subsets\d+x\d+)_(.+)")
GROUPS: dict[str, tuple[str, ...]] = {
    "recall": (*(f"{way}_r{k}" for way in ("i2t", "t2i") for k in (1, 5, 10)), "mr", "rsum"),
    "map": ("i2t_map", "t2i_map", "map"),
    "relevance": tuple(
        f"{way}{name}" for name in ("map_at_r", "r_precision", "map_at_50_retrieved") for way in ("i2t_", "t2i_", "")
    ),
    "qrels": tuple(
        f"{QRELS}{way}_{name}" for way in ("i2t", "t2i") for name in ("r1", "map_at_r", "r_precision", "ndcg_at_10")
    ),
    "identity": tuple(f"{IDENTITY}{way}_{name}" for way in ("i2t", "t2i") for name in ("map", "minp")),
    "rank": ("i2t_medr", "i2t_meanr", "t2i_medr", "t2i_meanr"),
}
LOWER_IS_BETTER = GROUPS["rank"]


def parts_of(name: str) -> tuple[str, str]:
    """Split the name of a metric into what it begins with, in words, and the rest; "" of the whole split by pairs."""
    if match := PART.fullmatch(name):
        if match[1].startswith("fold"):
            return f"{match[1].removeprefix('fold')} folds", match[2]
        count, _, size = match[1].removeprefix("subsets").partition("x")
        return f"{count} x {int(size):,}", match[2]
    for prefix in (QRELS, IDENTITY):
        if name.startswith(prefix):
            return prefix.removesuffix("_"), name.removeprefix(prefix)
    return "", name


def lower_is_better(name: str) -> bool:
    """Tell whether less is better in a metric, of the whole test split or of parts of it."""
    return parts_of(name)[1] in LOWER_IS_BETTER
