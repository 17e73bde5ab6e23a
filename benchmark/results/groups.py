"""Groups of metrics that tables show together."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    pass


GROUPS: dict[str, tuple[str, ...]] = {
    "recall": (*(f"{way}_r{k}" for way in ("i2t", "t2i") for k in (1, 5, 10)), "mr", "rsum"),
    "map": ("i2t_map", "t2i_map", "map"),
    "rank": ("i2t_medr", "i2t_meanr", "t2i_medr", "t2i_meanr"),
}
LOWER_IS_BETTER = GROUPS["rank"]
