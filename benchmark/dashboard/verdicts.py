"""Draws of the bootstrap for every run, from which the page compares any two without computing them again."""

from __future__ import annotations

import base64
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from cmr_bench.dashboard.collect import StoredRun
from cmr_bench.evaluation.per_query import draws

if TYPE_CHECKING:
    from cmr_bench.evaluation.metrics import Floats

RESAMPLES = 1000
# Runs whose outcomes are resampled at once: enough to amortise the weights, few enough for 25,000 texts.
_AT_ONCE = 16


def packed_draws(runs: Sequence[StoredRun]) -> dict[str, dict[str, Any]]:
    """Resample the queries of every run that kept their outcomes.

    Runs on the same test split see the same resamples, so that the difference of two runs in a resample is the
    difference of their draws.

    Returns:
        By slug and metric: ``mean`` on the whole split, ``scale`` and ``draws``, base64 of little-endian int16; a draw
        is mean + scale * number.
    """
    found = {}
    for members in _by_split(runs):
        first = members[0].outcomes
        assert first is not None
        drawn = first.resamples(RESAMPLES, 0)
        for start in range(0, len(members), _AT_ONCE):
            part = members[start : start + _AT_ONCE]
            outcomes = [run.outcomes for run in part if run.outcomes is not None]
            for run, own, values in zip(part, outcomes, draws(outcomes, drawn), strict=True):
                means = {name: float(np.nanmean(column)) for name, column in own.columns().items()}
                found[run.slug] = {
                    name: _packed(means[name], values[name]) for name in means if np.isfinite(means[name])
                }
    return found


def _by_split(runs: Sequence[StoredRun]) -> Iterator[list[StoredRun]]:
    groups: dict[tuple[str, bytes, bytes], list[StoredRun]] = defaultdict(list)
    for run in runs:
        if run.outcomes is not None:
            links = run.outcomes.image_of_text.tobytes(), run.outcomes.identity.tobytes()
            groups[run.result.fingerprint, *links].append(run)
    yield from groups.values()


def _packed(mean: float, values: Floats) -> dict[str, Any]:
    offsets = np.nan_to_num(values - mean)
    scale = float(np.abs(offsets).max()) / 32767 or 1.0
    numbers = np.round(offsets / scale).astype("<i2")
    return {"mean": mean, "scale": scale, "draws": base64.b64encode(numbers.tobytes()).decode()}
