"""Gathering across processes equals one process on the whole batch, forward and backward."""

from __future__ import annotations

import os
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from cmr_bench.models.common.attention import CrossAttention, cross_attention
from cmr_bench.models.distributed import gather

SHARES = [(3, 4), (1, 2), (0, 3)]


def whole_loss(rows: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return ((rows @ weight).logsumexp(0) * torch.arange(1.0, weight.shape[1] + 1)).sum()


def inputs() -> tuple[list[torch.Tensor], torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    shares = [torch.randn(b, 5, generator=generator) for b, _ in SHARES]
    return shares, torch.randn(5, 3, generator=generator)


def fragments() -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Words (b, W, 5), whose number differs between processes, and how many of each text are real."""
    generator = torch.Generator().manual_seed(1)
    return [
        (torch.randn(b, w, 5, generator=generator), torch.randint(1, w + 1, (b,), generator=generator))
        for b, w in SHARES
    ]


def attended(words: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    real = torch.arange(words.shape[1]) < lengths[:, None]
    unit = torch.nn.functional.normalize(words, dim=-1)
    scores = cross_attention(unit, real, unit, lengths, CrossAttention("t2i", "avg", 9.0, 6.0))
    return (scores * torch.arange(1.0, scores.numel() + 1).view_as(scores)).sum()


def _worker(rank: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=len(SHARES))
    shares, weight = inputs()
    first = torch.eye(5).requires_grad_()
    loss = whole_loss(gather(shares[rank] @ first), weight)
    loss.backward()
    assert first.grad is not None
    dist.all_reduce(first.grad)
    words = torch.full((SHARES[rank][0], SHARES[rank][1]), rank + 1)
    found = {"loss": loss.detach(), "grad": first.grad / len(SHARES), "words": gather(words)}
    second = torch.eye(5).requires_grad_()
    mine, lengths = fragments()[rank]
    loss = attended(gather(mine @ second), gather(lengths))
    loss.backward()
    assert second.grad is not None
    dist.all_reduce(second.grad)
    found |= {"attended": loss.detach(), "attended_grad": second.grad / len(SHARES)}
    found["mask"] = gather(torch.arange(mine.shape[1]) < lengths[:, None])
    torch.save(found, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_gathered_loss_and_gradient_equal_one_process(tmp_path: Path) -> None:
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    mp.spawn(_worker, args=(str(tmp_path),), nprocs=len(SHARES))
    shares, weight = inputs()
    first = torch.eye(5).requires_grad_()
    loss = whole_loss(torch.cat(shares) @ first, weight)
    loss.backward()
    longest = max(w for _, w in SHARES)
    whole = torch.cat([torch.nn.functional.pad(part, (0, 0, 0, longest - part.shape[1])) for part, _ in fragments()])
    lengths = torch.cat([length for _, length in fragments()])
    second = torch.eye(5).requires_grad_()
    score = attended(whole @ second, lengths)
    score.backward()
    for rank in range(len(SHARES)):
        found = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        torch.testing.assert_close(found["loss"], loss.detach())
        torch.testing.assert_close(found["grad"], first.grad)
        assert found["words"].tolist() == [[1, 1, 1, 1]] * 3 + [[2, 2, 0, 0]]
        torch.testing.assert_close(found["attended"], score.detach())
        torch.testing.assert_close(found["attended_grad"], second.grad)
        assert found["mask"].equal(torch.arange(longest) < lengths[:, None])
