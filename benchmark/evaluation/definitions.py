"""What every metric means, in words that are stored with it, and what older words for it mean today."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

_SHUFFLED = ", expected over all orders of tied items"
_MID_RANK = ", 1 + items scored better + half of the other items scored the same"
_DEFINITIONS = {
    "r1": f"percent of queries with a match at rank 1{_SHUFFLED}",
    "r5": f"percent of queries with a match at rank 5 or better{_SHUFFLED}",
    "r10": f"percent of queries with a match at rank 10 or better{_SHUFFLED}",
    "medr": f"median rank of the match{_MID_RANK}",
    "meanr": f"mean rank of the match{_MID_RANK}",
    "mr": "mean of the six recalls",
    "rsum": "sum of the six recalls",
    "map": "mean average precision over the whole ranking, AP divided by the number of relevant items",
    "map_at_50_retrieved": "mean average precision of the first 50, AP divided by the relevant items retrieved there",
    "map_at_r": "precisions at the relevant items among the first R, divided by R, the number of relevant items",
    "minp": f"number of relevant items / rank of the last of them, mean over the queries (mINP){_SHUFFLED}",
    "r_precision": "share of relevant items among the first R, the number of relevant items",
    "ndcg_at_10": f"nDCG of the first 10, relevant or not, discount 1 / log2(1 + place){_SHUFFLED}",
}
# Up to 0.1.0 R@K counted a match whose mid-rank was within K: the same where nothing ties.
_MID_RANK_RECALLS = {
    "r1": "percent of queries with a match at rank 1",
    "r5": "percent of queries with a match at rank 5 or better",
    "r10": "percent of queries with a match at rank 10 or better",
}
# The same rule in other words.
_OTHER_WORDS = {
    "medr": "median rank of the match, counted from 1",
    "meanr": "mean rank of the match, counted from 1",
}
_UNITS = {"r1": "percent", "r5": "percent", "r10": "percent", "mr": "percent", "rsum": "sum of percent"} | {
    "medr": "rank",
    "meanr": "rank",
}
# What the names of metrics under a protocol of their own begin with.
_PROTOCOLS = ("fold", "subsets", "qrels", "identity")
_DIRECTIONS = {
    "i2t_": "image query, all texts; an image ranks by its best text: ",
    "t2i_": "text query, all images: ",
}


def unit(name: str) -> str:
    """Return the unit of a metric."""
    return _UNITS.get(_parts(name)[2], "fraction")


def definition(name: str, by_identity: bool = False) -> str:
    """Return the definition of a metric in words.

    Args:
        name: Name of the metric.
        by_identity: Whether what is of the query's identity matches, and not its own image or texts alone.
    """
    protocol, direction, rest = _parts(name)
    ranked = direction and protocol != "qrels" and (rest in _MID_RANK_RECALLS or rest in ("medr", "meanr"))
    return ("all of the query's identity matches; " if by_identity and ranked else "") + _define(
        name, _DEFINITIONS[rest]
    )


def in_words_of_today(definitions: Mapping[str, str], metrics: Iterable[str], tie_rate: float) -> dict[str, str]:
    """Return the definitions of a stored result so that equal words mean comparable numbers.

    A definition in older words of the same rule gets today's words, and so does the older rule of R@K where nothing
    ties, as both rules then give the same number. Where something ties the older rule keeps its words, and a result
    that defines none of its recalls gets them.

    Args:
        definitions: Definitions that were stored.
        metrics: Names of the metrics that were stored.
        tie_rate: Share of the queries that are tied.
    """
    found = dict(definitions)
    recalls = {name: _MID_RANK_RECALLS[key] for name in metrics if (key := _parts(name)[2]) in _MID_RANK_RECALLS}
    if tie_rate > 0 and not found.keys() & recalls:
        found |= {name: _define(name, text) for name, text in recalls.items()}
    older = _OTHER_WORDS | (_MID_RANK_RECALLS if tie_rate == 0 else {})
    for name, text in found.items():
        key = _parts(name)[2]
        if key in older and text == _define(name, older[key]):
            found[name] = definition(name)
    return found


def by_mid_rank(definitions: Mapping[str, str]) -> bool:
    """Tell whether definitions hold the older rule of R@K, under which a tied match scores by its mid-rank."""
    return any(
        text == _define(name, _MID_RANK_RECALLS[key])
        for name, text in definitions.items()
        if (key := _parts(name)[2]) in _MID_RANK_RECALLS
    )


def _parts(name: str) -> tuple[str, str, str]:
    """Split a metric's name into the prefix of its protocol, direction prefix and the rest."""
    fold, _, rest = name.partition("_") if name.startswith(_PROTOCOLS) else ("", "", name)
    direction = next((one for one in _DIRECTIONS if rest.startswith(one)), "")
    return fold, direction, rest.removeprefix(direction)


def _define(name: str, text: str) -> str:
    fold, direction, rest = _parts(name)
    both = "" if direction or rest in ("mr", "rsum") else "mean of both directions: "
    if fold == "qrels":
        way = {"i2t_": "image query, all texts: ", "t2i_": "text query, all images: ", "": both}[direction]
        return f"relevance judgments in place of the captions' images; {way}{text}"
    if fold == "identity":
        way = {"i2t_": "image query, all texts: ", "t2i_": "text query, all images: ", "": both}[direction]
        return f"relevant is all of the query's identity; {way}{text}"
    within = f"mean over {fold.removeprefix('fold')} folds of consecutive images, " if fold else ""
    if fold.startswith("subsets"):
        count, size = (int(number) for number in fold.removeprefix("subsets").split("x"))
        within = f"mean over {count} draws of {size:,} pairs, "
    return within + (_DIRECTIONS[direction] if direction else both) + text
