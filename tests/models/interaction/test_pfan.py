"""Where a region lies: lists of blocks by slow counting, and position features by the program's formula."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cmr_bench.datamodules.images.store import grid_boxes
from cmr_bench.models.interaction.pfan import PFAN, largest_blocks


def slow_blocks(box: list[float]) -> tuple[list[int], list[float]]:
    found = []
    for column in range(16):
        for row in range(16):
            wide = min(box[2], (column + 1) / 16) - max(box[0], column / 16)
            high = min(box[3], (row + 1) / 16) - max(box[1], row / 16)
            area = round(max(0.0, wide) * max(0.0, high), 7)
            if area > 0:
                found.append((-area, 16 * column + row))
    found.sort()
    found = found[:15]
    total = sum(-area for area, _ in found)
    index = [number for _, number in found] + [256] * (15 - len(found))
    share = [-area / total for area, _ in found] + [0.0] * (15 - len(found))
    return index, share


# Fractions that are exact in binary: others have overlaps that are equal but for rounding, and their order is open.
@given(corners=st.lists(st.integers(0, 1023), min_size=4, max_size=4))
@settings(deadline=None)
def test_blocks_by_counting(corners: list[int]) -> None:
    x0, x1 = sorted(corners[:2])
    y0, y1 = sorted(corners[2:])
    box = [x0 / 1024, y0 / 1024, (x1 + 1) / 1024, (y1 + 1) / 1024]
    index, share = largest_blocks(torch.tensor([box], dtype=torch.float64))
    expected_index, expected_share = slow_blocks(box)
    assert index[0].tolist() == expected_index
    np.testing.assert_allclose(share[0].numpy(), expected_share, atol=1e-5)


def test_cells_of_a_grid_meet_nine_to_sixteen_blocks_in_a_defined_order() -> None:
    index, share = largest_blocks(torch.from_numpy(grid_boxes(7, 7)))
    met = (index < 256).sum(1)
    assert met[0] == 9
    assert met[24] == 15
    np.testing.assert_allclose(share.sum(1).numpy(), 1, atol=1e-5)
    again, _ = largest_blocks(torch.from_numpy(grid_boxes(7, 7)).double())
    assert torch.equal(index, again)


def test_position_feature_by_its_formula() -> None:
    torch.manual_seed(0)
    module = PFAN(dim=8, position_dim=5, word_dim=4)
    module.blocks = torch.nn.Embedding(257, 5)
    module.position_query = torch.nn.Linear(6, 5)
    regions, boxes = torch.randn(2, 3, 6), torch.rand(2, 3, 4).sort(dim=-1).values[..., [0, 1, 2, 3]]
    with torch.no_grad():
        found = module.positions(regions, boxes)
        index, share = largest_blocks(boxes)
        for i in range(2):
            for r in range(3):
                blocks = [module.blocks.weight[int(n)] for n in index[i, r]]
                query = module.position_query.weight @ regions[i, r] + module.position_query.bias
                p = torch.stack([torch.tanh(query @ b) for b in blocks])
                p = p.exp() / p.exp().sum()
                gamma = (share[i, r] * p).exp()
                gamma = gamma / gamma.sum()
                slow = sum(g * b for g, b in zip(gamma, blocks, strict=True))
                torch.testing.assert_close(found[i, r], slow)
