"""ACMM's scores against a slow version with every vector written out, with padding, and their gradients."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from cmr_bench.datamodules.views import DataSpec, ViewSpec
from cmr_bench.models.attributes import acmm
from cmr_bench.models.attributes.acmm import ACMM

Array = npt.NDArray[np.float64]
DIM = 5


def made(memory: int, seed: int = 0) -> ACMM:
    torch.manual_seed(seed)
    module = ACMM(dim=DIM, word_dim=4, memory=memory)
    module.build(DataSpec(ViewSpec("regions", (3, 6), "made up"), ViewSpec("tokens", (4,), "words", 9), 0, False, 4, 4))
    return module.double().eval()


def soft(values: Array) -> Array:
    weights = np.exp(values - values.max())
    return weights / weights.sum()


def attend(queries: Array, context: Array, inverse: float) -> Array:
    """Return the weights (queries, context) of SCAN."""
    positive = np.maximum(queries @ context.T, 0)
    scaled = positive / (np.sqrt((positive**2).sum(0, keepdims=True)) + 1e-8)
    return np.stack([soft(inverse * line) for line in scaled])


def slow(module: ACMM, v: Array, e: Array) -> float:
    def weight(layer: Any) -> tuple[Array, Array]:
        whole = layer.weight.detach().numpy()
        return whole[:DIM], whole[DIM:]

    own_v, other_v = weight(module.of_region)
    own_e, other_e = weight(module.of_word)
    k_v = v @ own_v.T + attend(v, e, 4.0) @ e @ other_e.T
    k_e = e @ own_e.T + attend(e, v, 9.0) @ v @ other_v.T
    z: list[Array] = []
    for fragments, keys, name in ((v, k_v, "region_gate"), (e, k_e, "word_gate")):
        if not module.memory:
            z.append(keys)
            continue
        items, gate = module.items.detach().numpy(), getattr(module, name)
        unit = items / np.linalg.norm(items, axis=1, keepdims=True)
        read = [soft(unit @ key / np.linalg.norm(key) / 0.1) @ items for key in keys]
        g, bias = gate.weight[0].detach().numpy(), float(gate.bias.detach())
        kept = [1 / (1 + np.exp(-(g @ np.r_[x, m] + bias))) for x, m in zip(fragments, read, strict=True)]
        z.append(np.stack([s * x + (1 - s) * m for s, x, m in zip(kept, fragments, read, strict=True)]))
    regions, words = (part / np.linalg.norm(part, axis=1, keepdims=True) for part in z)
    attended = attend(words, regions, 9.0) @ regions
    return float(np.mean([w @ a / np.linalg.norm(a) for w, a in zip(words, attended, strict=True)]))


def fragments(counts: list[int], padding: int, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    width = max(counts) + padding
    values = F.normalize(torch.randn(len(counts), width, DIM, dtype=torch.float64, generator=generator), dim=-1)
    return values, torch.arange(width) < torch.tensor(counts)[:, None]


@given(
    n_regions=st.lists(st.integers(1, 4), min_size=1, max_size=3),
    n_words=st.lists(st.integers(1, 4), min_size=1, max_size=3),
    padding=st.integers(0, 3),
    memory=st.sampled_from([0, 1, 7]),
    block=st.sampled_from([1, 100, 2**23]),
    seed=st.integers(0, 10**6),
)
@settings(deadline=None, max_examples=60)
def test_scores_by_their_definition(
    n_regions: list[int], n_words: list[int], padding: int, memory: int, block: int, seed: int
) -> None:
    module = made(memory, seed)
    v, mask = fragments(n_regions, padding, seed)
    e, _ = fragments(n_words, padding, seed + 1)
    expected = [
        [slow(module, one[:r].numpy(), other[:w].numpy()) for other, w in zip(e, n_words, strict=True)]
        for one, r in zip(v, n_regions, strict=True)
    ]
    held, acmm._BLOCK = acmm._BLOCK, block
    try:
        with torch.no_grad():
            found = module.similarity((v, mask), (e, torch.tensor(n_words))).numpy()
    finally:
        acmm._BLOCK = held
    # Normalising vanishing vectors is rounding, so equality holds to what the smallest norms leave.
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("memory", [0, 7])
def test_gradients_agree_with_finite_differences(memory: int) -> None:
    module = made(memory)
    v, mask = fragments([3, 2], 1, 5)
    e, _ = fragments([1, 3], 0, 6)

    def scores(a: Tensor, b: Tensor) -> Tensor:
        return module.similarity((a, mask), (b, torch.tensor([1, 3])))

    v.requires_grad_()
    e.requires_grad_()
    assert torch.autograd.gradcheck(scores, (v, e), atol=1e-4)


def test_nothing_is_written_into_the_memory_at_test() -> None:
    module = made(7)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    v, mask = fragments([3, 2], 0, 5)
    e, _ = fragments([1, 3], 0, 6)
    with torch.no_grad():
        first = module.similarity((v, mask), (e, torch.tensor([1, 3])))
        again = module.similarity((v.flip(0), mask.flip(0)), (e, torch.tensor([1, 3]))).flip(0)
    torch.testing.assert_close(first, again)
    for name, value in module.state_dict().items():
        assert torch.equal(value, before[name])
