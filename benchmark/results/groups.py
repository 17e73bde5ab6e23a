"""Groups of metrics that tables show together."""

from __future__ import annotations

# What the name of a metric by relevance judgments beyond the pairs begins with.
QRELS = "qrels_"
GROUPS: dict[str, tuple[str, ...]] = {
    "recall": (*(f"{way}_r{k}" for way in ("i2t", "t2i") for k in (1, 5, 10)), "mr", "rsum"),
    "map": ("i2t_map", "t2i_map", "map"),
    "relevance": tuple(
        f"{way}{name}" for name in ("map_at_r", "r_precision", "map_at_50_retrieved") for way in ("i2t_", "t2i_", "")
    ),
    "qrels": tuple(
        f"{QRELS}{way}_{name}" for way in ("i2t", "t2i") for name in ("r1", "map_at_r", "r_precision", "ndcg_at_10")
    ),
    "rank": ("i2t_medr", "i2t_meanr", "t2i_medr", "t2i_meanr"),
}
LOWER_IS_BETTER = GROUPS["rank"]
