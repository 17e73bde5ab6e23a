"""The relation network scores every pair as the plain network would, without holding them all."""

from __future__ import annotations

import pytest
import torch

from cmr_bench.datamodules.batches import ImageBatch, TextBatch
from cmr_bench.datamodules.views import DataSpec, ViewSpec
from cmr_bench.models.pairwise import drsl
from cmr_bench.models.pairwise.drsl import DRSL, relate


def test_similarity_is_the_network_on_the_concatenation() -> None:
    torch.manual_seed(0)
    module = DRSL(hidden=8, dim=6, relation=7)
    module.build(DataSpec(ViewSpec("vector", (5,)), ViewSpec("vector", (4,)), 0, False, 3, 3))
    images, texts = torch.randn(3, 5), torch.randn(4, 4)
    found = module.similarity(
        module.encode_images(ImageBatch(torch.arange(3), vector=images)),
        module.encode_texts(TextBatch(torch.arange(4), vector=texts)),
    )
    for i in range(3):
        for j in range(4):
            both = torch.cat([module.image_net(images[i]), module.text_net(texts[j])])
            torch.testing.assert_close(found[i, j], module.score(module.relation(both).relu())[0])


@pytest.mark.parametrize("kept", [10**9, 0])
@pytest.mark.parametrize("piece", [1, 7, 13, 40, 10**6])
def test_pieces_of_any_size_give_the_same_scores_and_gradients(
    piece: int, kept: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drsl, "_KEPT", kept)
    torch.manual_seed(0)
    given = [torch.randn(*shape, dtype=torch.float32) for shape in ((5, 6), (7, 6), (6,), (1,))]
    whole, parts = ([value.clone().requires_grad_() for value in given] for _ in range(2))
    images, texts, weight, bias = whole
    expected = (images[:, None] + texts[None]).relu() @ weight + bias
    expected.square().sum().backward()
    found = relate(*parts, piece=piece)
    torch.testing.assert_close(found, expected)
    found.square().sum().backward()
    for mine, other in zip(parts, whole, strict=True):
        torch.testing.assert_close(mine.grad, other.grad)


def test_scores_do_not_saturate_into_ties() -> None:
    images, texts = torch.full((1, 2), 50.0), torch.tensor([[10.0, 0], [20.0, 0]])
    scores = relate(images, texts, torch.ones(2), torch.zeros(1))
    assert float(scores[0, 0]) < float(scores[0, 1])
    assert torch.equal(*scores.sigmoid().T)
