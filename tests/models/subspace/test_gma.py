"""Generalised multiview analysis against its written-out definition."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import scipy.linalg
from hypothesis import given, settings
from hypothesis import strategies as st

from cmr_bench.models.subspace.gma import (
    GMA,
    Side,
    discriminant,
    marginal_fisher,
    membership,
    multiview,
    principal,
)
from cmr_bench.models.subspace.solving import Whitened
from cmr_bench.support.errors import UsageError


def labelled(n: int = 60, seed: int = 0) -> tuple[Any, Any, Any]:
    random = np.random.default_rng(seed)
    labels = np.arange(n) % 4
    x = random.normal(size=(4, 5))[labels] + random.normal(size=(n, 5))
    y = random.normal(size=(4, 3))[labels] + random.normal(size=(n, 3))
    return x, y, labels


def slow_discriminant(items: Any, members: list[list[int]]) -> tuple[Any, Any, Any]:
    """Between, within and class means, item by item, an item once in each of its classes."""
    everything = np.array([items[i] for rows in members for i in rows])
    mean = everything.mean(0)
    between, within = np.zeros((2, items.shape[1], items.shape[1]))
    means = []
    for rows in members:
        own = np.mean([items[i] for i in rows], axis=0)
        means.append(own - mean)
        between += len(rows) * np.outer(own - mean, own - mean)
        for i in rows:
            within += np.outer(items[i] - own, items[i] - own)
    return between / len(everything), within / len(everything), np.array(means)


def check_discriminant(items: Any, labels: Any, members: list[list[int]]) -> None:
    found = discriminant(items, membership(labels, len(members)))
    for value, wanted in zip(
        (found.between, found.within, found.class_means), slow_discriminant(items, members), strict=True
    ):
        np.testing.assert_allclose(value, wanted, atol=1e-10)


def test_scatter_of_single_labels() -> None:
    x, _, labels = labelled()
    check_discriminant(x, labels, [np.flatnonzero(labels == c).tolist() for c in range(4)])


def test_scatter_of_several_labels_an_item() -> None:
    x, _, _ = labelled()
    hot = (np.random.default_rng(1).random((60, 3)) < 0.4).astype(np.int64)
    check_discriminant(x, hot, [np.flatnonzero(hot[:, c]).tolist() for c in range(3)])


def test_class_without_items_counts_for_nothing() -> None:
    x, _, labels = labelled()
    with_empty, without = (discriminant(x, membership(labels, n)) for n in (5, 4))
    np.testing.assert_allclose(with_empty.between, without.between)
    assert with_empty.shares[4] == 0
    assert not with_empty.class_means[4].any()


def slow_marginal_fisher(items: Any, sets: list[set[int]], k_within: int, k_between: int) -> tuple[Any, Any]:
    n, dim = items.shape
    inside, outside = set(), set()
    for label in set().union(*sets):
        rows = [i for i in range(n) if label in sets[i]]
        for i in rows:
            near = sorted((j for j in rows if j != i), key=lambda j: np.linalg.norm(items[i] - items[j]))
            inside |= {frozenset((i, j)) for j in near[:k_within]}
        pairs = [(i, j) for i in rows for j in range(n) if not sets[i] & sets[j]]
        pairs.sort(key=lambda pair: np.linalg.norm(items[pair[0]] - items[pair[1]]))
        outside |= {frozenset(pair) for pair in pairs[:k_between]}
    result = []
    for links in (outside, inside):
        total = np.zeros((dim, dim))
        for i, j in links:
            total += np.outer(items[i] - items[j], items[i] - items[j])
        result.append(total / max(len(links), 1))
    return result[0], result[1]


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 10**6), st.integers(1, 6), st.integers(1, 40), st.booleans())
def test_marginal_fisher_links(seed: int, k_within: int, k_between: int, several: bool) -> None:
    random = np.random.default_rng(seed)
    items = random.normal(size=(18, 3))
    labels = random.integers(0, 4, 18)
    sets = [{int(label)} for label in labels]
    if several:
        labels = (random.random((18, 4)) < 0.35).astype(np.int64)
        sets = [set(np.flatnonzero(row).tolist()) for row in labels]
        if not any(sets):
            return
    found = marginal_fisher(items, membership(labels, 4), k_within, k_between)
    for value, wanted in zip(found, slow_marginal_fisher(items, sets, k_within, k_between), strict=True):
        np.testing.assert_allclose(value, wanted, atol=1e-9)


@pytest.mark.parametrize(("alpha", "mu", "gamma"), [(10.0, 1.0, 0.0), (0.5, 2.0, 0.7)])
def test_solves_the_generalised_eigenproblem_of_the_paper(alpha: float, mu: float, gamma: float) -> None:
    x, y, labels = labelled()
    image, text = (discriminant(items, membership(labels, 4)) for items in (x, y))
    ridged = [
        scatter.within + ridge * np.trace(scatter.within) / len(scatter.within) * np.eye(len(scatter.within))
        for scatter, ridge in ((image, 0.2), (text, 0.01))
    ]
    coupling = sum(np.mean(labels == c) * np.outer(image.class_means[c], text.class_means[c]) for c in range(4))
    weight = gamma or np.trace(ridged[0]) / np.trace(ridged[1])
    left = np.block([[image.between, alpha * coupling], [alpha * coupling.T, mu * text.between]])
    right = scipy.linalg.block_diag(ridged[0], weight * ridged[1])
    values, vectors = scipy.linalg.eigh(left, right)

    sides = []
    for scatter in (image, text):
        white = Whitened(scatter.within)
        sides.append(Side(white, white.vectors.T @ scatter.between @ white.vectors, white.vectors))
    found = multiview(
        *sides,
        sides[0].basis.T @ coupling @ sides[1].basis,
        alpha=alpha,
        mu=mu,
        gamma=gamma,
        image_ridge=0.2,
        text_ridge=0.01,
        n_components=3,
    )
    np.testing.assert_allclose(found.values, values[::-1][:3], rtol=1e-8)
    for k in range(3):
        ours = np.concatenate([found.image[:, k], found.text[:, k]])
        theirs = vectors[:, -1 - k]
        np.testing.assert_allclose(ours * np.sign(ours @ right @ theirs), theirs, atol=1e-7)


def test_principal_directions_stop_at_the_rank() -> None:
    x = np.random.default_rng(0).normal(size=(30, 4)) @ np.random.default_rng(1).normal(size=(4, 9))
    x -= x.mean(0)
    basis = principal(x, 100)
    assert basis.shape == (9, 4)
    np.testing.assert_allclose(x @ basis @ basis.T, x, atol=1e-8)
    assert principal(x, 2).shape == (9, 2)


def fitted(data: Any, **options: Any) -> GMA:
    module = GMA(**options)
    module.attach(data)
    module.fit_split(data.splits["train"], data.splits["val"])
    return module


@pytest.mark.parametrize("criterion", ["lda", "mfa"])
@pytest.mark.parametrize("n_classes", [0, 3])
def test_separates_easy_data(criterion: Any, n_classes: int, toy: Callable[..., Any]) -> None:
    data = toy(n_train=60, n_classes=n_classes)
    module = fitted(data, criterion=criterion)
    assert module.label_space == ("category" if n_classes else "identity")
    assert module.chosen["value"] > (0.9 if n_classes else 400)


def test_scale_of_the_features_does_not_matter(toy: Callable[..., Any]) -> None:
    data = toy(n_train=40)
    options: dict[str, Any] = {"alpha": 10, "image_ridge": 0.1, "text_ridge": 0.1, "n_components": 4}
    first = fitted(data, **options)
    spec = data.spec
    for split in data.splits.values():
        split.images.array[:] *= 30
    second = GMA(**options)
    second.build(spec)
    second.selection = data.selection
    second.fit_split(data.splits["train"], data.splits["val"])
    np.testing.assert_allclose(
        (second.image_projection * 30).abs().numpy(), (first.image_projection).abs().numpy(), rtol=2e-3
    )
    np.testing.assert_allclose((second.text_projection).abs().numpy(), (first.text_projection).abs().numpy(), rtol=2e-3)


def test_links_are_taken_from_part_of_a_large_split(toy: Callable[..., Any]) -> None:
    data = toy(n_train=60)
    module = fitted(data, criterion="mfa", graph_texts=30)
    images, texts = module._graph_rows(data.splits["train"])
    assert 10 <= len(images) <= 20
    assert set(data.splits["train"].image_of_text[texts]) == set(images.tolist())
    assert module.chosen["value"] > 0.9


@pytest.mark.parametrize("options", [{"alpha": -1}, {"image_ridge": -0.1}, {"pca": 0}, {"n_between": 0}])
def test_options_out_of_range_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=next(iter(options))):
        GMA(**options)
