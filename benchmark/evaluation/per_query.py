"""What every query of a run came to: stored with it, so that two runs can be compared query by query."""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cmr_bench.evaluation.bootstrap import Paired, Resamples, paired
from cmr_bench.evaluation.ties import BestMatches
from cmr_bench.support import foreign
from cmr_bench.support.errors import CmrBenchError, DataError

if TYPE_CHECKING:
    from cmr_bench.evaluation.metrics import Floats
    from cmr_bench.evaluation.protocol import Evaluation

RANKS_FILE = "ranks.npz"
_COUNTS = ("better", "tied", "matching")


@dataclass(frozen=True)
class PerQuery:
    """Outcomes of all queries of a split, in the order of its rows.

    Attributes:
        image_of_text: Row of the image that each text belongs to, (n_texts,).
        i2t: Mid-rank of the best text of each image, (n_images,); empty where instance retrieval was not scored.
        t2i: Mid-rank of the image of each text, (n_texts,); empty likewise.
        i2t_map: Average precision of each image, (n_images,), NaN where nothing is relevant; empty without labels.
        t2i_map: Average precision of each text, (n_texts,); likewise.
        matches: What the ranks were made of, by direction; empty where an older version kept the ranks alone. A query
            then counts as a hit if its mid-rank is within K, as its stored recalls do.
        words: Number of words of each text, (n_texts,); empty without captions and where an older version kept none.
        identity: Number of each image's identity, (n_images,): all of one matches; empty where every image is its own.
    """

    image_of_text: NDArray[np.int64]
    i2t: Floats = field(default_factory=lambda: np.zeros(0))
    t2i: Floats = field(default_factory=lambda: np.zeros(0))
    i2t_map: Floats = field(default_factory=lambda: np.zeros(0))
    t2i_map: Floats = field(default_factory=lambda: np.zeros(0))
    matches: dict[str, BestMatches] = field(default_factory=dict)
    words: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    identity: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, dtype=np.int64))

    def resamples(self, count: int, seed: int) -> Resamples:
        """Return resamples of the images, which runs on the same links share."""
        identity = self.identity if len(self.identity) else None
        return Resamples(self.n_images, self.image_of_text, count, seed, identity)

    def same_links(self, other: PerQuery) -> bool:
        """Tell whether the same texts and images belong together in another run."""
        return np.array_equal(self.image_of_text, other.image_of_text) and np.array_equal(self.identity, other.identity)

    @property
    def n_images(self) -> int:
        """Number of images."""
        return int(self.image_of_text.max()) + 1

    def columns(self) -> dict[str, Floats]:
        """Return what the mean over queries makes a metric of, by its name: hits of 0 to 100, average precisions."""
        found: dict[str, Floats] = {}
        for way, ranks in (("i2t", self.i2t), ("t2i", self.t2i)):
            if way in self.matches:
                found |= {f"{way}_r{k}": 100.0 * self.matches[way].hits(k) for k in (1, 5, 10)}
            elif len(ranks):
                found |= {f"{way}_r{k}": np.where(ranks <= k, 100.0, 0.0) for k in (1, 5, 10)}
        for way, precision in (("i2t", self.i2t_map), ("t2i", self.t2i_map)):
            if len(precision):
                found[f"{way}_map"] = precision
        return found

    def to_bytes(self) -> bytes:
        """Return the content of ``ranks.npz``; ranks are whole or half, which float32 holds exactly."""
        content = io.BytesIO()
        arrays = {"image_of_text": self.image_of_text.astype(np.int32)}
        for name in ("i2t", "t2i", "i2t_map", "t2i_map"):
            if len(getattr(self, name)):
                arrays[name] = getattr(self, name).astype(np.float64 if name.endswith("map") else np.float32)
        for way, matches in self.matches.items():
            arrays |= {f"{way}_{name}": getattr(matches, name).astype(np.int32) for name in _COUNTS}
        if len(self.words):
            arrays["words"] = self.words.astype(np.int32)
        if len(self.identity):
            arrays["identity"] = self.identity.astype(np.int32)
        np.savez_compressed(content, allow_pickle=False, **arrays)
        return content.getvalue()


def per_query(
    evaluation: Evaluation, image_of_text: NDArray[np.int64], words: NDArray[np.int64] | None = None
) -> PerQuery:
    """Take the outcomes of all queries out of an evaluation; ``words`` are the lengths of the captions, if known."""
    matches: dict[str, BestMatches] = {}
    if evaluation.ranks is not None:
        matches |= {"i2t": evaluation.ranks.images, "t2i": evaluation.ranks.texts}
    found = {way: one.rank for way, one in matches.items()}
    found |= {f"{way}_map": scores.values["map"] for way, scores in evaluation.categories.items()}
    none = np.zeros(0, dtype=np.int64)
    return PerQuery(
        image_of_text,
        **found,
        matches=matches,
        words=none if words is None else words,
        identity=none if evaluation.identity is None else np.unique(evaluation.identity, return_inverse=True)[1],
    )


def read_per_query(path: Path, tie_rate: float | None = None) -> PerQuery:
    """Read ``ranks.npz``.

    Args:
        path: The file.
        tie_rate: Fraction of tied queries in the result beside it. Where it is 0, ranks alone say all.

    Raises:
        CmrBenchError: If the file is unreadable or its arrays do not fit together.
    """
    try:
        arrays: dict[str, NDArray[Any]] = dict(foreign.read_npz(path, within=path.parent))
        owner = arrays.pop("image_of_text").astype(np.int64)
        found: dict[str, Floats] = {
            name: arrays[name].astype(np.float64) for name in ("i2t", "t2i", "i2t_map", "t2i_map") if name in arrays
        }
        counts = {
            way: [arrays[f"{way}_{name}"].astype(np.int64) for name in _COUNTS]
            for way in ("i2t", "t2i")
            if way in found and f"{way}_better" in arrays
        }
        words, identity = (
            arrays[name].astype(np.int64) if name in arrays else np.zeros(0, dtype=np.int64)
            for name in ("words", "identity")
        )
    except (ValueError, KeyError, TypeError, DataError) as error:
        raise CmrBenchError(f"{path} holds no readable ranks: {error}") from error
    good = owner.ndim == 1 and len(owner) > 0 and owner.min() >= 0
    sizes = {"i2t": int(owner.max()) + 1, "t2i": len(owner)} if good else {}
    if not good or any(values.shape != (sizes[name[:3]],) for name, values in found.items()):
        raise CmrBenchError(f"{path} holds no readable ranks: its arrays do not fit together")
    if len(words) and (words.shape != owner.shape or words.min() < 0):
        raise CmrBenchError(f"{path} holds no readable ranks: its numbers of words are not those of its texts")
    if identity.shape not in ((0,), (int(owner.max()) + 1,)):
        raise CmrBenchError(f"{path} holds no readable ranks: its identities are not those of its images")
    matches: dict[str, BestMatches] = {way: BestMatches(*each) for way, each in counts.items()}
    if any(not _make(one, found[way]) for way, one in matches.items()):
        raise CmrBenchError(f"{path} holds no readable ranks: they are not those of its counts")
    if tie_rate == 0:
        old = [way for way in ("i2t", "t2i") if way in found and way not in matches]
        matches |= {way: _untied(found[way]) for way in old if np.array_equal(found[way], np.rint(found[way]))}
    return PerQuery(owner, **found, matches=matches, words=words, identity=identity)


def _make(matches: BestMatches, ranks: Floats) -> bool:
    """Return whether counts read from a file are possible, and the ranks beside them theirs."""
    if any(getattr(matches, name).shape != ranks.shape for name in _COUNTS):
        return False
    possible = (matches.better >= 0) & (matches.matching >= 1) & (matches.tied >= matches.matching)
    return bool(possible.all() and np.array_equal(matches.rank.astype(np.float32), ranks))


def _untied(ranks: Floats) -> BestMatches:
    alone = np.ones(len(ranks), dtype=np.int64)
    return BestMatches(ranks.astype(np.int64) - 1, alone, alone)


def compare(one: PerQuery, other: PerQuery, resamples: int = 1000, seed: int = 0) -> dict[str, Paired]:
    """Compare two runs on the same test split by the paired bootstrap.

    Args:
        one: Outcomes of one run.
        other: Outcomes of the other.
        resamples: Number of resamples.
        seed: Of the draws.

    Returns:
        The verdict on every metric that both have; a positive difference means that ``one`` scores higher. rsum is
        there where all six recalls are, map where both directions are. Recalls are omitted where only one of the two
        knows its ties, as they would not follow one rule.

    Raises:
        CmrBenchError: If the two were not scored on the same links.
    """
    if not one.same_links(other):
        raise CmrBenchError("runs on different test splits cannot be compared query by query")
    drawn = one.resamples(resamples, seed)
    one_rule = set(one.matches) == set(other.matches)
    first, second = (with_sums(draws([run], drawn)[0]) for run in (one, other))
    means = [
        with_sums({name: np.nanmean(values, keepdims=True) for name, values in run.columns().items()})
        for run in (one, other)
    ]
    return {
        name: paired(float(means[0][name][0] - means[1][name][0]), first[name] - second[name])
        for name in first
        if name in second and (one_rule or name.endswith("map"))
    }


def draws(runs: list[PerQuery], drawn: Resamples) -> list[dict[str, Floats]]:
    """Return every metric in every resample, ``(resamples,)``, of runs that share their links."""
    names = [(number, name) for number, run in enumerate(runs) for name in run.columns()]
    columns = [run.columns() for run in runs]
    found: list[dict[str, Floats]] = [{} for _ in runs]
    for way, mean in (("i2t", drawn.mean_of_images), ("t2i", drawn.mean_of_texts)):
        own = [(number, name) for number, name in names if name.startswith(way)]
        if own:
            means = mean(np.stack([columns[number][name] for number, name in own], axis=1))
            for place, (number, name) in enumerate(own):
                found[number][name] = means[:, place]
    return found


def with_sums(values: dict[str, Floats]) -> dict[str, Floats]:
    """Add rsum where all six recalls are there, and map where both directions are."""
    found = dict(values)
    recalls = [f"{way}_r{k}" for way in ("i2t", "t2i") for k in (1, 5, 10)]
    if all(name in values for name in recalls):
        found["rsum"] = np.sum([values[name] for name in recalls], axis=0)
    if "i2t_map" in values and "t2i_map" in values:
        found["map"] = (values["i2t_map"] + values["t2i_map"]) / 2
    return found
