"""How fast BFAN, PFAN, CAMP and MTFN score images with captions, against the loops of their released programs.

    python benchmarks/survey_scores.py                    48 images x 96 captions, 36 regions, 1,024 dimensions
    python benchmarks/survey_scores.py --dim 256          narrower

A loop takes one caption at a time, repeats it for every image and forms every attended vector or message, as the
programs do. Both are timed in turn; the median of the rounds is scaled to 1,000 images and 5,000 captions.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from timing import in_turn
from torch import Tensor

from cmr_bench.datamodules.views import DataSpec, ViewSpec
from cmr_bench.models.base import RetrievalModule
from cmr_bench.models.interaction.bfan import BFAN
from cmr_bench.models.interaction.camp import CAMP
from cmr_bench.models.interaction.mtfn_rr import MTFNRR
from cmr_bench.models.interaction.pfan import PFAN
from cmr_bench.models.scoring import Encoded

Sides = tuple[Encoded, Encoded]


def attended(queries: Tensor, context: Tensor, scale: float, focal: bool) -> tuple[Tensor, Tensor]:
    """Cosines of queries (n, Q, d) with what they attend to in context (n, C, d), (n, Q), and the weights (n, Q, C)."""
    clipped = F.leaky_relu(torch.bmm(context, queries.transpose(1, 2)), 0.1)
    clipped = clipped / (clipped.square().sum(2, keepdim=True).sqrt() + 1e-8)
    weights = (scale * clipped.transpose(1, 2)).softmax(2)
    kept = weights
    if focal:
        root = weights.sqrt()
        worth = weights * root.sum(2, keepdim=True) - (weights * root).sum(2, keepdim=True)
        kept = torch.where(worth > 0, weights, 0.0)
        kept = kept / kept.sum(2, keepdim=True)
    return F.cosine_similarity(queries, torch.bmm(kept, context), dim=2), weights


def bfan(_: BFAN, images: Encoded, texts: Encoded) -> Tensor:
    """Focal attention in both directions, caption by caption."""
    (regions, _mask), (words, lengths) = images, texts
    columns = []
    for caption, length in zip(words, lengths.tolist(), strict=True):
        repeated = caption[:length].expand(len(regions), -1, -1)
        by_words, _weights = attended(repeated, regions, 20.0, True)
        by_regions, _weights = attended(regions, repeated, 20.0, True)
        columns.append(by_words.mean(1) + by_regions.mean(1))
    return torch.stack(columns, 1)


def pfan(_: PFAN, images: Encoded, texts: Encoded) -> Tensor:
    """Attention of words to regions and the largest weight of each word, caption by caption."""
    (regions, _mask), (words, lengths) = images, texts
    columns = []
    for caption, length in zip(words, lengths.tolist(), strict=True):
        cosines, weights = attended(caption[:length].expand(len(regions), -1, -1), regions, 9.0, False)
        columns.append(cosines.mean(1) + 0.5 * weights.amax(2).mean(1))
    return torch.stack(columns, 1)


def camp(module: CAMP, images: Encoded, texts: Encoded) -> Tensor:
    """Messages, gates, fused fragments and the classifier, caption by caption."""
    (regions, _mask), (words, lengths) = images, texts
    columns = []
    for caption, length in zip(words, lengths.tolist(), strict=True):
        repeated = caption[:length].expand(len(regions), -1, -1)
        sides = []
        for own, other, mine, theirs in (
            (regions, repeated, "images", "texts"),
            (repeated, regions, "texts", "images"),
        ):
            asks, told = module.attention[mine], module.attention[theirs]
            message = _attend(asks.query(own), told.key(other), other)  # type: ignore[operator]
            message = _attend(told.refine_query(message), told.refine_key(message), message)  # type: ignore[operator]
            message = message / (message.norm(dim=2, keepdim=True) + 1e-8)
            fusion = module.matching[mine]
            gate = (own * message).sum(2, keepdim=True).sigmoid()
            both = torch.cat([fusion.own.weight, fusion.sent.weight], dim=1)  # type: ignore[union-attr, list-item]
            fused = F.linear(gate * torch.cat([own, message], dim=2), both).relu() + own
            heads = fusion.summary(fused).softmax(1).mean(2, keepdim=True)  # type: ignore[operator]
            sides.append(F.normalize((heads * fused).sum(1), dim=1))
        columns.append(module.matching["score"](torch.cat(sides, 1)).squeeze(1))
    return torch.stack(columns, 1)


def _attend(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    attended: Tensor = (queries @ keys.transpose(1, 2) / queries.shape[2] ** 0.5).softmax(2) @ values
    return attended


def mtfn_rr(module: MTFNRR, images: Encoded, texts: Encoded) -> Tensor:
    """Tensor fusion of every pair, caption by caption."""
    assert isinstance(images, Tensor)
    assert isinstance(texts, Tensor)
    columns = []
    for text in texts:
        fused = module.image_factors(images) * module.text_factors(text.expand(len(images), -1))
        columns.append(module.output(fused.unflatten(1, (module.rank, module.dim)).sum(1)).squeeze(1))
    return torch.stack(columns, 1)


Loop = Callable[[RetrievalModule, Encoded, Encoded], Tensor]
METHODS: dict[str, tuple[Callable[[int], RetrievalModule], Loop]] = {
    "bfan": (lambda dim: BFAN(dim=dim), bfan),  # type: ignore[dict-item]
    "pfan": (lambda dim: PFAN(dim=dim), pfan),  # type: ignore[dict-item]
    "camp": (lambda dim: CAMP(dim=dim), camp),  # type: ignore[dict-item]
    "mtfn_rr": (lambda dim: MTFNRR(dim=dim, text_view="tokens"), mtfn_rr),  # type: ignore[dict-item]
}


def made(name: str, dim: int) -> RetrievalModule:
    """Return a method of its first weights, built for bottom-up regions and words."""
    torch.manual_seed(0)
    module = METHODS[name][0](dim)
    image = ViewSpec("vector" if name == "mtfn_rr" else "regions", (2048,) if name == "mtfn_rr" else (36, 2048))
    module.build(DataSpec(image, ViewSpec("tokens", (20,), vocab_size=1000), 0, False, 100, 500))
    if isinstance(module, CAMP):
        module.stage_number.fill_(2)
    return module.eval()


def encoded(name: str, args: argparse.Namespace) -> Sides:
    """Return made-up encodings: fragments of unit length and captions of 6 to 16 words, or a vector an item."""
    generator = torch.Generator().manual_seed(0)

    def unit(*shape: int) -> Tensor:
        return F.normalize(torch.randn(*shape, args.dim, generator=generator), dim=-1)

    if name == "mtfn_rr":
        return unit(args.images), unit(args.texts)
    lengths = torch.randint(6, 17, (args.texts,), generator=generator)
    words = unit(args.texts, int(lengths.max()))
    words[torch.arange(words.shape[1]) >= lengths[:, None]] = 0
    regions = unit(args.images, args.regions)
    return (regions, torch.ones(regions.shape[:2], dtype=torch.bool)), (words, lengths)


def ours(module: RetrievalModule, images: Encoded, texts: Encoded) -> Tensor:
    """Score through the source of scores that evaluation reads."""
    source = module.scores(images, texts)
    everything = slice(0, source.n_images), slice(0, source.n_texts)
    return source.block(*everything)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=48)
    parser.add_argument("--texts", type=int, default=96)
    parser.add_argument("--regions", type=int, default=36)
    parser.add_argument("--dim", type=int, default=1024)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--method", choices=METHODS, action="append", help="default: all four")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    table = Table(title=f"1,000 images x 5,000 captions, {args.dim} dimensions, {args.threads} thread(s)")
    for title in ("", "ours", "loop", "times ours", "largest difference"):
        table.add_column(title, justify="left" if not title else "right")
    scale = 1000 * 5000 / (args.images * args.texts)
    for name in args.method or METHODS:
        module, sides = made(name, args.dim), encoded(name, args)
        rows = {"ours": partial(ours, module, *sides), "loop": partial(METHODS[name][1], module, *sides)}
        with torch.inference_mode():
            times, results = in_turn(rows, args.rounds)
        mine, other = (scale * times[row].wall for row in ("ours", "loop"))
        difference = float((results["ours"] - results["loop"]).abs().max())
        table.add_row(name, f"{mine:,.1f} s", f"{other:,.1f} s", f"{other / mine:.1f}", f"{difference:.0e}")
    Console().print(table)


if __name__ == "__main__":
    main()
