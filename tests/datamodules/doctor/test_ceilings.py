"""The highest recall that equal items allow, against every ranking there is."""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cmr_bench.datamodules.doctor.ceilings import KS, ceilings


def chance(order: tuple[object, ...], contents: list[object], mine: set[int], k: int) -> float:
    """Share of the orders of tied items that put one of mine among the first k, given an order of the contents."""
    before = 0
    for content in order:
        tied = [row for row, other in enumerate(contents) if other == content]
        places = k - before
        if places <= 0:
            return 0.0
        own = [row for row in tied if row in mine]
        if own:
            draws = list(itertools.combinations(tied, min(places, len(tied))))
            share = sum(any(row in mine for row in draw) for draw in draws) / len(draws)
            if share == 1 or places <= len(tied):
                return share
        before += len(tied)
    return 0.0


def by_hand(texts: list[str], images: list[int], photos: list[int], k: int) -> dict[str, float]:
    """Try every order of the contents for every query; equal queries share theirs."""
    found = Counter[str]()
    for text in set(texts):
        asked = [images[row] for row, other in enumerate(texts) if other == text]
        orders = itertools.permutations(sorted(set(photos)))
        found["t2i"] += max(sum(chance(order, list(photos), {image}, k) for image in asked) for order in orders)
    described: dict[int, list[int]] = defaultdict(list)
    for image in sorted(set(images)):
        described[photos[image]].append(image)
    for group in described.values():
        own = [{row for row, image in enumerate(images) if image == one} for one in group]
        orders = itertools.permutations(sorted(set(texts)))
        found["i2t"] += max(sum(chance(order, list(texts), mine, k) for mine in own) for order in orders)
    return {"t2i": found["t2i"] / len(texts), "i2t": found["i2t"] / len(set(images))}


@st.composite
def small_splits(draw: st.DrawFn, twins: bool) -> tuple[list[str], list[int], list[int]]:
    n_images = draw(st.integers(1, 4))
    images = draw(st.lists(st.integers(0, n_images - 1), min_size=1, max_size=7))
    texts = draw(st.lists(st.sampled_from("abcd"), min_size=len(images), max_size=len(images)))
    photos = list(range(n_images))
    if twins:
        photos = draw(st.lists(st.integers(0, n_images - 1), min_size=n_images, max_size=n_images))
    return texts, images, photos


@given(small_splits(twins=False))
@settings(deadline=None, max_examples=60)
def test_equal_captions_give_the_best_of_all_rankings(split: tuple[list[str], list[int], list[int]]) -> None:
    texts, images, photos = split
    best = ceilings(texts, np.array(images), np.array(photos))
    for k in KS[:2]:
        expected = by_hand(texts, images, photos, k)
        assert best["t2i", k] == pytest.approx(expected["t2i"])
        assert best["i2t", k] == pytest.approx(expected["i2t"])


@given(small_splits(twins=True))
@settings(deadline=None, max_examples=60)
def test_no_ranking_passes_the_ceiling_of_equal_photographs(split: tuple[list[str], list[int], list[int]]) -> None:
    texts, images, photos = split
    best = ceilings(texts, np.array(images), np.array(photos))
    for k in KS[:2]:
        expected = by_hand(texts, images, photos, k)
        assert best["t2i", k] == pytest.approx(expected["t2i"])
        assert best["i2t", k] >= expected["i2t"] - 1e-12


def test_two_images_with_one_photograph_share_the_first_place() -> None:
    best = ceilings(["a", "b", "c"], np.array([0, 1, 2]), np.array([0, 0, 2]))
    assert best["t2i", 1] == pytest.approx(2 / 3)
    assert best["i2t", 1] == pytest.approx(2 / 3)
    assert best["t2i", 5] == best["i2t", 5] == 1
