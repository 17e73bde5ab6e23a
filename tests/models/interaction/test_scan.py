"""SCAN: encodings, variants, warm-up, scoring in blocks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from cmr_bench.models.common.attention import cross_attention
from cmr_bench.models.interaction.scan import SCAN
from cmr_bench.models.losses import hinge_ranking, same
from cmr_bench.models.scoring import PairScores, assemble
from cmr_bench.support.errors import UsageError


def built(toy: Callable[..., Any], **options: Any) -> tuple[SCAN, Any]:
    torch.manual_seed(0)
    data, module = toy(), SCAN(dim=8, word_dim=4, **options)
    module.build(data.load(module.image_view, module.text_view))
    return module, data


def test_lambdas_are_the_papers_unless_given() -> None:
    def lambdas(**options: Any) -> tuple[float, float]:
        how = SCAN(**options).how
        return how.lambda_softmax, how.lambda_lse

    assert lambdas(attention="t2i") == (9, 6)
    assert lambdas(attention="i2t") == (4, 5)
    assert lambdas(attention="i2t", lambda_lse=20.0) == (4, 20)
    assert lambdas(lambda_softmax=20.0) == (20, 6)


@pytest.mark.parametrize("options", [{"lambda_softmax": 41.0}, {"lambda_softmax": -1.0}, {"lambda_lse": -1.0}])
def test_impossible_lambdas_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(UsageError, match="must be"):
        SCAN(**options)  # type: ignore[arg-type]


def test_words_and_regions_have_unit_length_and_padding_is_told(toy: Callable[..., Any]) -> None:
    module, data = built(toy)
    batch = next(iter(data.train_dataloader()))
    regions, mask = module.encode_images(batch.images)
    words, lengths = module.encode_texts(batch.texts)
    assert mask.equal(batch.images.mask)
    assert not mask.all()
    torch.testing.assert_close(regions.norm(dim=-1), torch.ones(regions.shape[:2]))
    real = torch.arange(words.shape[1]) < lengths[:, None]
    torch.testing.assert_close(words.norm(dim=-1), real.float())


def test_warm_up_takes_the_mean_and_then_the_hardest(toy: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    module, data = built(toy, warmup_epochs=2)
    batch = next(iter(data.train_dataloader()))
    scores = module.similarity(module.encode_images(batch.images), module.encode_texts(batch.texts))
    for epoch, kind in ((0, "mean"), (1, "mean"), (2, "hardest")):
        monkeypatch.setattr(SCAN, "current_epoch", epoch)
        expected = hinge_ranking(scores, same(batch.identity), module.margin, kind)  # type: ignore[arg-type]
        terms = module.loss(batch)
        torch.testing.assert_close(terms["pair"], expected)
        torch.testing.assert_close(terms["loss"], expected * len(batch))


@pytest.mark.parametrize("attention", ["t2i", "i2t"])
def test_scored_in_blocks_from_assembled_batches(toy: Callable[..., Any], attention: Any) -> None:
    module, data = built(toy, attention=attention, pool="lse")
    data.eval_batch_size = 3
    sides = []
    with torch.no_grad():
        for loader, encode, n in zip(
            data.test_dataloader(),
            (module.encode_images, module.encode_texts),
            (data.splits["test"].n_images, data.splits["test"].n_texts),
            strict=True,
        ):
            sides.append(assemble([(batch.rows, encode(batch)) for batch in loader], n, "items"))
        whole = cross_attention(*sides[0], *sides[1], module.how)
    scores = PairScores(module, *sides)
    torch.testing.assert_close(scores.block(slice(2, 7), slice(3, 11)), whole[2:7, 3:11])


@pytest.mark.parametrize("threads", [2, 3])
def test_scores_have_the_same_bits_for_any_number_of_threads(threads: int, toy: Callable[..., Any]) -> None:
    module, _ = built(toy, attention="t2i", pool="lse")
    generator = torch.Generator().manual_seed(0)
    regions, words = (F.normalize(torch.randn(n, 4, 16, generator=generator), dim=2) for n in (200, 30))
    lengths = torch.randint(1, 5, (30,), generator=generator)
    sides = (regions, torch.ones(200, 4, dtype=torch.bool)), (words, lengths)
    before = torch.get_num_threads()
    try:
        found = []
        for number in (1, threads):
            torch.set_num_threads(number)
            found.append(PairScores(module, *sides).block(slice(0, 200), slice(0, 30)))
            assert torch.get_num_threads() == number
    finally:
        torch.set_num_threads(before)
    assert torch.equal(*found)
    torch.testing.assert_close(found[0], module.similarity(*sides).detach())


def test_a_failure_in_a_thread_reaches_the_caller(toy: Callable[..., Any]) -> None:
    module, _ = built(toy)
    regions = torch.ones(200, 4, 16), torch.ones(200, 4, dtype=torch.bool)
    words = torch.ones(3, 4, 8), torch.ones(3, dtype=torch.long)
    with pytest.raises(RuntimeError, match="shapes"):
        PairScores(module, regions, words).block(slice(0, 200), slice(0, 3))


def test_regions_are_standardised_one_by_one(toy: Callable[..., Any]) -> None:
    module, data = built(toy, standardise="each")
    train = data.splits["train"]
    module.prepare_training(train)
    fields = train.images.fetch(torch.arange(train.n_images).numpy())
    real = fields["regions"][fields["mask"]]
    torch.testing.assert_close(module.image_scale(real).mean(0), torch.zeros(12), rtol=0, atol=1e-5)
    torch.testing.assert_close(module.image_scale(real).std(0, correction=0), torch.ones(12))


def test_cells_of_the_feature_map_are_the_regions_of_pixels(toy: Callable[..., Any]) -> None:
    options = {"image_view": "pixels", "cnn": "timm:test_efficientnet", "cnn_weights": "random"}
    module, data = built(toy, **options, fine_tune=True, cnn_lr=1e-6)
    batch = next(iter(data.train_dataloader()))
    regions, mask = module.encode_images(batch.images)
    assert regions.shape[:2] == mask.shape
    assert bool(mask.all())
    module.loss(batch)["loss"].backward()
    assert any(p.grad is not None and bool(p.grad.any()) for p in module.image_input.parameters())
    assert [group["lr"] for group in module.configure_optimizers().param_groups] == [module.lr, 1e-6]
