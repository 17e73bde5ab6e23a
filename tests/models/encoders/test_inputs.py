"""Pooling, standardising and optimiser groups."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cmr_bench.datamodules.batches import ImageBatch
from cmr_bench.datamodules.views import ArrayView, ViewSpec
from cmr_bench.models.encoders.inputs import (
    ImageInput,
    Standardise,
    fetch_vectors,
    pool_regions,
    standardiser,
    with_own_rates,
)


def test_only_real_regions_are_averaged() -> None:
    regions = torch.tensor([[[1.0], [3.0], [100.0]], [[2.0], [4.0], [6.0]]])
    mask = torch.tensor([[True, True, False], [True, True, True]])
    assert pool_regions(regions, mask).tolist() == [[2.0], [4.0]]
    assert pool_regions(regions[1:], None).tolist() == [[4.0]]


def test_image_input_reads_vectors_and_regions() -> None:
    random = np.random.default_rng(0).normal(size=(5, 4, 3)).astype(np.float32)
    regions, vectors = ArrayView(random, "r"), ArrayView(random.mean(1), "v")
    rows = np.arange(5)
    found = [
        ImageInput(view.spec)(ImageBatch(torch.from_numpy(rows), **view.fetch(rows))) for view in (regions, vectors)
    ]
    torch.testing.assert_close(found[0], found[1])
    torch.testing.assert_close(fetch_vectors(regions), found[0])
    torch.testing.assert_close(fetch_vectors(vectors, np.array([3, 1])), found[1][[3, 1]])


def test_standardise_learns_mean_and_deviation_and_leaves_constants() -> None:
    values = np.random.default_rng(0).normal(3, 5, (3000, 4)).astype(np.float32)
    values[:, 2] = 7
    scale = Standardise(4)
    assert torch.equal(scale(torch.ones(1, 4)), torch.ones(1, 4))
    scale.fit(ArrayView(values, "made up"))
    found = scale(torch.from_numpy(values))
    np.testing.assert_allclose(found.mean(0), 0, atol=1e-4)
    np.testing.assert_allclose(found.std(0, correction=0), [1, 1, 0, 1], atol=1e-4)
    scale.fit(ArrayView(values, "made up"), at_most=500)
    np.testing.assert_allclose(scale.deviation, values.std(0) + np.array([0, 0, 1, 0]), rtol=0.1)


def test_overall_scale_keeps_the_proportions_of_the_features() -> None:
    values = np.random.default_rng(0).normal(size=(500, 3)).astype(np.float32) * [1, 10, 0.1] + 4
    scale = Standardise(3, "overall")
    scale.fit(ArrayView(values.astype(np.float32), "made up"))
    found = scale(torch.from_numpy(values.astype(np.float32))).numpy()
    np.testing.assert_allclose(found.mean(0), 0, atol=1e-4)
    np.testing.assert_allclose(found.std(0) / found.std(0)[0], values.std(0) / values.std(0)[0], rtol=1e-4)
    assert np.square(found).mean() == pytest.approx(1, rel=1e-4)


def test_only_stored_features_are_standardised() -> None:
    assert isinstance(standardiser(ViewSpec("regions", (4, 3)), 3, "each"), Standardise)
    assert not isinstance(standardiser(ViewSpec("regions", (4, 3)), 3, "none"), Standardise)
    assert not isinstance(standardiser(ViewSpec("tokens", (9,)), 3, "each"), Standardise)


def test_optimiser_groups_hold_every_trained_parameter_once() -> None:
    net = torch.nn.ModuleDict({"a": torch.nn.Linear(2, 2), "b": torch.nn.Linear(2, 2)})
    groups = with_own_rates(net, (net["b"], 1e-5))
    assert [len(group["params"]) for group in groups] == [2, 2]
    assert groups[1]["lr"] == 1e-5
    three = torch.nn.ModuleDict({"rest": torch.nn.Linear(2, 3), "net": net})
    groups = with_own_rates(three, (net["a"], 1e-4), (net["b"], 1e-5))
    assert [group.get("lr") for group in groups] == [None, 1e-4, 1e-5]
    assert sorted(p.numel() for group in groups for p in group["params"]) == [2, 2, 3, 4, 4, 6]
    net["b"].requires_grad_(False)
    assert [len(group["params"]) for group in with_own_rates(net, (net["b"], 1e-5))] == [2]


@pytest.mark.parametrize("kind", ["vector", "regions"])
def test_width_comes_from_the_view(kind: str) -> None:
    shape = (7,) if kind == "vector" else (36, 7)
    assert ImageInput(ViewSpec(kind, shape)).dim == 7  # type: ignore[arg-type]
