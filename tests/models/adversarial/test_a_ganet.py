"""Graph attention against a loop over nodes, and who hears whom."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F

from cmr_bench.datamodules.images.store import grid_boxes
from cmr_bench.models.adversarial.a_ganet import GraphAttention, near_words, nearest_boxes


def test_graph_attention_by_its_definition() -> None:
    torch.manual_seed(0)
    layer = GraphAttention(5, 6, heads=2)
    nodes = torch.randn(2, 4, 5)
    edges = (torch.rand(2, 4, 4) > 0.5) | torch.eye(4, dtype=torch.bool)
    found = layer(nodes, edges)
    with torch.no_grad():
        for b in range(2):
            values = (layer.layer.weight @ nodes[b].T).T.view(4, 2, 3)
            for i in range(4):
                heads = []
                for h in range(2):
                    near = [j for j in range(4) if edges[b, i, j]]
                    scores = [float(layer.own[h] @ values[i, h] + layer.other[h] @ values[j, h]) for j in near]
                    weights = np.exp([s if s > 0 else 0.2 * s for s in scores])
                    weights /= weights.sum()
                    heads.append(sum(w * values[j, h] for w, j in zip(weights.tolist(), near, strict=True)))
                torch.testing.assert_close(found[b, i], F.elu(torch.cat(heads)))


def test_inner_cells_hear_the_eight_around_them_and_padding_nobody() -> None:
    boxes = torch.from_numpy(grid_boxes(7, 7))[None]
    boxes = torch.cat([boxes, torch.zeros(1, 2, 4)], dim=1)
    mask = torch.ones(1, 51, dtype=torch.bool)
    mask[:, 49:] = False
    edges = nearest_boxes(boxes, mask, 8)[0]
    assert edges[24].nonzero().flatten().tolist() == [16, 17, 18, 23, 24, 25, 30, 31, 32]
    assert edges[49].nonzero().flatten().tolist() == [49]
    assert not edges[:49, 49:].any()
    shuffled = torch.randperm(49, generator=torch.Generator().manual_seed(0))
    again = nearest_boxes(boxes[:, shuffled], mask[:, :49], 8)[0]
    assert torch.equal(again, edges[:49, :49][shuffled][:, shuffled])
    assert nearest_boxes(boxes, mask, 0)[0, :49, :49].all()


def test_words_hear_those_around_them() -> None:
    edges = near_words(torch.tensor([[True] * 4 + [False]]), 2)[0]
    assert edges[0].tolist() == [True, True, True, False, False]
    assert edges[2].tolist() == [True, True, True, True, False]
    assert edges[4].tolist() == [False] * 4 + [True]
