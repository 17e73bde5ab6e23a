"""Copies between devices, as far as a machine without one can tell: the meta device stands in for an accelerator."""

from __future__ import annotations

import pytest
import torch

from cmr_bench.evaluation.scores import EmbeddingScores
from cmr_bench.support import transfer


def test_what_fits_is_copied_once_and_what_does_not_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    small, large = torch.zeros(4), torch.zeros(1000)
    device = torch.device("cuda", 0)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (2 * large.nbytes, 10**9))
    moved = []

    def pin(tensor: torch.Tensor) -> torch.Tensor:
        moved.append(tensor)
        return torch.empty(tensor.shape, device="meta")

    monkeypatch.setattr(transfer, "pinned", pin)
    monkeypatch.setattr(torch.Tensor, "to", lambda self, *_, **__: self)
    assert [one.device.type for one in transfer.resident([large], device)] == ["meta"]
    assert moved == [large]
    kept = transfer.resident([small, large], device)
    assert kept[0] is small
    assert kept[1] is large


def test_on_the_host_nothing_is_copied() -> None:
    tensor = torch.zeros(3)
    assert transfer.resident([tensor], torch.device("cpu"))[0] is tensor
    assert transfer.to_host(tensor) is tensor
    transfer.wait(torch.device("cpu"))


def test_scores_of_a_device_are_those_of_where_the_vectors_are() -> None:
    images, texts = torch.randn(3, 5), torch.randn(7, 5)
    there = EmbeddingScores(images, texts, device=torch.device("cpu"))
    plain = EmbeddingScores(images, texts)
    whole = slice(0, 3), slice(0, 7)
    assert torch.equal(there.block(*whole), plain.block(*whole))
    order = torch.randperm(7).numpy()
    assert there.take_texts(order).device == torch.device("cpu")
    assert torch.equal(there.take_texts(order).block(*whole), plain.take_texts(order).block(*whole))
