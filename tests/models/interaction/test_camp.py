"""Messages, gates and scores of CAMP against the equations written out pair by pair, and the pairs its loss counts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from cmr_bench.models.interaction import camp
from cmr_bench.models.interaction.camp import CAMP, counted, matching_loss
from cmr_bench.support.errors import UsageError

Array = npt.NDArray[np.float64]
KINDS = ["gated", "plain", "none"]


def made(kind: Any, later: bool, dim: int = 6, seed: int = 0) -> CAMP:
    """Return a module with its own layers only, in double precision."""
    torch.manual_seed(seed)
    module = CAMP(dim=dim, messages=kind)
    sides = () if kind == "none" else ("images", "texts")
    module.attention = nn.ModuleDict({side: camp.Attention(dim) for side in sides})
    module.matching = nn.ModuleDict({side: camp.Fusion(dim, 3, kind) for side in ("images", "texts")})
    module.matching["score"] = nn.Sequential(nn.Linear(2 * dim, dim), nn.ReLU(), nn.Linear(dim, 1))
    module.stage_number.fill_(int(later))
    return module.double()


def items(seed: int, sizes: tuple[int, int, int, int], dim: int = 6) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    n_images, n_texts, n_regions, longest = sizes
    generator = torch.Generator().manual_seed(seed)
    mask = torch.rand(n_images, n_regions, generator=generator) > 0.3
    mask[:, int(torch.randint(n_regions, (), generator=generator))] = True
    lengths = torch.randint(1, longest + 1, (n_texts,), generator=generator)
    regions = 2 * torch.randn(n_images, n_regions, dim, generator=generator, dtype=torch.float64)
    return regions, mask, 2 * torch.randn(n_texts, longest, dim, generator=generator, dtype=torch.float64), lengths


def softmax(x: Array) -> Array:
    e = np.exp(x - x.max(-1, keepdims=True))
    return np.asarray(e / e.sum(-1, keepdims=True))


def array(layer: Any) -> Array:
    return np.asarray(layer.weight.detach().numpy())


def attend(q: Array, k: Array, x: Array) -> Array:
    return softmax(q @ k.T / np.sqrt(q.shape[1])) @ x


def slow_score(module: CAMP, v: Array, t: Array) -> float:
    """Score one image (R, d) and one text (W, d) without padding, as the released program computes it."""
    kind, sides = module.messages, []
    for own, other, mine, theirs in ((v, t, "images", "texts"), (t, v, "texts", "images")):
        refined = own
        if kind != "none":
            asks, told = module.attention[mine], module.attention[theirs]
            m = attend(own @ array(asks.query).T, other @ array(told.key).T, other)
            refined = attend(m @ array(told.refine_query).T, m @ array(told.refine_key).T, m)
        if not module.matches:
            mean = refined.mean(0)
            sides.append(mean / np.linalg.norm(mean))
            continue
        fusion: Any = module.matching[mine]
        fused = own
        if kind != "none":
            unit = refined / (np.linalg.norm(refined, axis=1, keepdims=True) + 1e-8)
            gate = 1 / (1 + np.exp(-(own * unit).sum(1, keepdims=True))) if kind == "gated" else 1.0
            both = np.concatenate([array(fusion.own), array(fusion.sent)], axis=1)
            fused = np.maximum((gate * np.concatenate([own, unit], axis=1)) @ both.T, 0) + own
        first, _, second = fusion.summary
        hidden = np.maximum(fused @ array(first).T + first.bias.detach().numpy(), 0)
        heads = hidden @ array(second).T + second.bias.detach().numpy()
        x = sum(softmax(heads[:, h]) @ fused for h in range(heads.shape[1])) / heads.shape[1]
        sides.append(x / np.linalg.norm(x))
    if not module.matches:
        return float(sides[0] @ sides[1])
    first, _, second = module.matching["score"]  # type: ignore[misc]
    hidden = np.maximum(array(first) @ np.concatenate(sides) + first.bias.detach().numpy(), 0)
    return float((array(second) @ hidden + second.bias.detach().numpy())[0])


def slow(module: CAMP, regions: Array, mask: Any, words: Array, lengths: Any) -> Array:
    return np.array(
        [
            [slow_score(module, image[real], text[:n]) for text, n in zip(words, lengths, strict=True)]
            for image, real in zip(regions, mask, strict=True)
        ]
    )


@given(
    seed=st.integers(0, 10**6),
    sizes=st.tuples(*(st.integers(1, most) for most in (4, 4, 5, 6))),
    kind=st.sampled_from(KINDS),
    later=st.booleans(),
    padding=st.integers(0, 3),
    piece=st.sampled_from([1, 2**22]),
)
@settings(max_examples=50, deadline=None)
def test_scores_are_those_of_the_loop_over_pairs(
    seed: int, sizes: tuple[int, int, int, int], kind: str, later: bool, padding: int, piece: int
) -> None:
    module = made(kind, later)
    regions, mask, words, lengths = items(seed, sizes)
    expected = slow(module, regions.numpy(), mask.numpy(), words.numpy(), lengths.tolist())
    # What stands in the padding is not read.
    regions = torch.cat([regions, torch.full((len(regions), padding, 6), 7.0, dtype=torch.float64)], dim=1)
    mask = torch.cat([mask, torch.zeros(len(mask), padding, dtype=torch.bool)], dim=1)
    words = torch.cat([words, torch.full((len(words), padding, 6), -3.0, dtype=torch.float64)], dim=1)
    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        patch.setattr(camp, "_PIECE", {"cpu": piece, "other": piece})
        found = module.similarity((regions, mask), (words, lengths))
        one = module.similarity((regions[:1], mask[:1]), (words[-1:], lengths[-1:]))
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-7, atol=1e-9)
    torch.testing.assert_close(one[0, 0], found[0, -1])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("later", [False, True])
def test_gradient_is_that_of_all_pairs_of_the_batch(kind: str, later: bool) -> None:
    module = made(kind, later)
    regions, mask, words, lengths = items(5, (6, 6, 4, 5))
    identity = torch.tensor([0, 1, 2, 0, 3, 4])
    siblings = identity[:, None] == identity[None, :]

    def loss(fragments: Tensor, whole: bool) -> Tensor:
        images, texts = module.prepared_images((fragments, mask)), module.prepared_texts((words, lengths))
        scores = module.score(images, texts, camp.EVERY)
        rows, columns, weights = counted(scores.detach(), siblings)
        if whole:
            return matching_loss(scores[rows, columns], weights, later)
        return matching_loss(module.score(images.take(rows), texts.take(columns), camp.ONE_EACH), weights, later)

    gradients = []
    for whole in (False, True):
        given = regions.clone().requires_grad_()
        loss(given, whole).backward()
        assert given.grad is not None
        assert given.grad[mask].abs().sum() > 0
        assert not given.grad[~mask].any()
        gradients.append(given.grad)
    torch.testing.assert_close(gradients[0], gradients[1])
    # And the one of the equations, by finite differences of the loop over pairs along a direction.
    direction = torch.randn(regions.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)

    def by_loop(fragments: Tensor) -> float:
        scores = slow(module, fragments.numpy(), mask.numpy(), words.numpy(), lengths.tolist())
        return slow_loss(1 / (1 + np.exp(-scores)) if later else scores, siblings.numpy())

    step = 1e-5
    slope = (by_loop(regions + step * direction) - by_loop(regions - step * direction)) / (2 * step)
    assert float((gradients[0] * direction).sum()) == pytest.approx(slope, rel=1e-4, abs=1e-6)


def slow_loss(scores: Array, siblings: npt.NDArray[np.bool_]) -> float:
    """The loss as it is written, of scores between 0 and 1."""
    c, n, total = np.clip(scores, 1e-6, 1 - 1e-6), len(scores), 0.0
    for k in range(n):
        total -= 2 * np.log(c[k, k])
        others = [j for j in range(n) if j != k and not siblings[k, j]]
        if others:
            total -= np.log(1 - max(c[k, j] for j in others)) + np.log(1 - max(c[j, k] for j in others))
    return float(total)


@given(n=st.integers(1, 7), seed=st.integers(0, 10**6), ties=st.booleans(), logits=st.booleans())
@settings(max_examples=50, deadline=None)
def test_loss_by_its_equation(n: int, seed: int, ties: bool, logits: bool) -> None:
    generator = torch.Generator().manual_seed(seed)
    scores = 3 * torch.randn(n, n, generator=generator, dtype=torch.float64) * (1 if logits else 0.3)
    if ties:
        scores = scores.round()
    identity = torch.randint(0, n, (n,), generator=generator)
    siblings = identity[:, None] == identity[None, :]
    rows, columns, weights = counted(scores, siblings)
    assert not (siblings[rows, columns] & (weights < 0)).any()
    found = matching_loss(scores[rows, columns], weights, logits)
    expected = slow_loss((scores.sigmoid() if logits else scores).numpy(), siblings.numpy())
    assert float(found) == pytest.approx(expected, rel=1e-6)


def test_every_negative_has_its_turn_in_the_warm_up(monkeypatch: pytest.MonkeyPatch) -> None:
    module = made("none", True)
    assert module.warming
    siblings = torch.eye(5, dtype=torch.bool)
    siblings[0, 3] = siblings[3, 0] = True
    seen = set()
    for step in range(5):
        monkeypatch.setattr(CAMP, "global_step", step)
        rows, columns, weights = counted(module._in_turn(siblings), siblings)
        assert len(rows) == 15
        seen |= {(i, t) for i, t, w in zip(rows.tolist(), columns.tolist(), weights.tolist(), strict=True) if w < 0}
    assert seen == {(i, t) for i in range(5) for t in range(5) if not siblings[i, t]}


def test_loss_from_logits_does_not_saturate() -> None:
    scores = torch.tensor([-60.0, 60.0], requires_grad=True)
    matching_loss(scores, torch.tensor([2.0, -1.0]), True).backward()
    torch.testing.assert_close(scores.grad, torch.tensor([-2.0, 1.0]))


def test_stages_are_divided_and_each_has_its_own_parameters(toy: Callable[..., Any]) -> None:
    module = CAMP(dim=8, word_dim=4, stages=(2, 1, 3), lr=1e-3, match_lr=1e-2)
    module.attach(toy())
    assert [stage.epochs for stage in module.stages()] == [2, 1, 3]
    learning = []
    for number, stage in enumerate(module.stages()):
        module.stage_number.fill_(number)
        optimizer = module.make_optimizer()
        rates = {group["lr"] for group in optimizer.param_groups}
        assert rates == {1e-2 if number else 1e-3}
        assert isinstance(optimizer, torch.optim.SGD if number else torch.optim.Adam)
        assert module.selectable == (number > 0), stage.name
        learning.append({id(p) for group in optimizer.param_groups for p in group["params"]})
    assert learning[0].isdisjoint(learning[1])
    assert learning[0] | learning[1] == learning[2] == {id(p) for p in module.parameters()}


@pytest.mark.parametrize("stages", [(1, 2), (0, 0, 0), (1, -1, 1)])
def test_impossible_stages_are_refused(stages: Any) -> None:
    with pytest.raises(UsageError, match="three stages"):
        CAMP(stages=stages)
