"""Copies between devices, as far as a machine without one can tell: the meta device stands in for an accelerator."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cmr_bench.evaluation.scores import EmbeddingScores, slices
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


@given(n_items=st.integers(1, 40), tile=st.integers(1, 15), passes=st.integers(1, 3))
def test_a_device_without_room_gets_the_next_slice_ahead(n_items: int, tile: int, passes: int) -> None:
    parts = torch.arange(n_items), torch.rand(n_items, 2)
    copied: list[int] = []
    waited: list[int] = []

    class Stream:
        def wait_stream(self, _: object) -> None:
            waited.append(len(copied))

    def pin(part: torch.Tensor) -> torch.Tensor:
        copied.append(int(part[0]) if part.ndim == 1 else -1)
        return part

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cuda, "Stream", lambda _: Stream())
        patch.setattr(torch.cuda, "stream", lambda _: nullcontext())
        patch.setattr(torch.cuda, "current_stream", lambda _: Stream())
        patch.setattr(transfer, "pinned", pin)
        patch.setattr(torch.Tensor, "to", lambda self, *_, **__: self)
        patch.setattr(torch.Tensor, "record_stream", lambda *_: None)
        side = transfer.Side(parts, torch.device("cuda", 0))
        tiles = slices(n_items, tile)
        for rows in tiles * passes:
            for _ in range(2):
                taken = side.take(rows)
                assert all(torch.equal(found, part[rows]) for found, part in zip(taken, parts, strict=True))
                # The copies of shorter slices, which reach one item further, hold the one after next too.
                assert tile < 3 or copied[-2] == (rows.stop % n_items if len(tiles) > 1 else 0)
        picked = torch.tensor([n_items - 1, 0])
        assert torch.equal(side.take(picked)[0], parts[0][picked])
    # No tile waits for the copy of the next.
    assert len(tiles) == 1 or len(waited) == len(set(waited))
    # Each tile is copied once a pass, the first of a pass that does not come once more.
    assert tile < 3 or len(copied) == 2 * (len(tiles) * passes + 1 if len(tiles) > 1 else 1)


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
