"""How fast SCAN scores a batch: Gram matrices, against a loop over the captions, beside the bare matrix product.

    python benchmarks/scan_similarity.py                  128 images x 128 captions, 36 regions, 1,024 dimensions
    python benchmarks/scan_similarity.py --bf16           the same under autocast, on processors that have bfloat16

The loop takes one caption at a time, repeats it for every image and forms the attended vectors, as the released program
of the paper does. Every row is timed in turn and the median of its rounds counts. A second table scores a gallery as
evaluation does, where every thread takes images of its own, beside one call whose operations the threads share.
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

from cmr_bench.models.common.attention import CrossAttention, cross_attention
from cmr_bench.models.interaction.scan import SCAN

VARIANTS = {
    "t2i_lse": CrossAttention("t2i", "lse", 9.0, 6.0, "leaky"),
    "t2i_avg": CrossAttention("t2i", "avg", 9.0, 6.0, "leaky"),
    "i2t_lse": CrossAttention("i2t", "lse", 4.0, 5.0, "leaky"),
    "i2t_avg": CrossAttention("i2t", "avg", 4.0, 5.0, "leaky"),
}


def caption_by_caption(regions: Tensor, words: Tensor, lengths: Tensor, how: CrossAttention) -> Tensor:
    """Score all images (n, R, d) with one caption after the other, (n_images, n_texts)."""
    columns = []
    for caption, length in zip(words, lengths.tolist(), strict=True):
        repeated = caption[:length].expand(len(regions), -1, -1)
        queries, context = (repeated, regions) if how.words_ask else (regions, repeated)
        clipped = F.leaky_relu(torch.bmm(context, queries.transpose(1, 2)), 0.1)
        scaled = clipped / (clipped.square().sum(2, keepdim=True).sqrt() + 1e-8)
        weights = (how.lambda_softmax * scaled.transpose(1, 2)).softmax(2)
        relevance = F.cosine_similarity(queries, torch.bmm(weights, context), dim=2)
        if how.pool == "avg":
            columns.append(relevance.mean(1))
        else:
            columns.append((how.lambda_lse * relevance).logsumexp(1) / how.lambda_lse)
    return torch.stack(columns, dim=1)


def batch(args: argparse.Namespace, images: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(args.shortest, args.longest + 1, (args.texts,), generator=generator)
    regions, words = (
        F.normalize(torch.randn(n, fragments, args.dim, generator=generator), dim=-1)
        for n, fragments in ((images, args.regions), (args.texts, int(lengths.max())))
    )
    return regions, words, lengths


def trained(score: Callable[[Tensor, Tensor], Tensor], regions: Tensor, words: Tensor) -> list[Tensor]:
    """Return scores, and the parts of the gradients that normalising the inputs lets through."""
    first, second = (value.clone().requires_grad_() for value in (regions, words))
    scores = score(first, second)
    scores.square().sum().backward()
    assert first.grad is not None
    assert second.grad is not None
    return [
        scores.detach(),
        *(g - (g * v).sum(-1, keepdim=True) * v for g, v in ((first.grad, regions), (second.grad, words))),
    ]


def gallery(args: argparse.Namespace) -> Table:
    """Time the scores of a gallery, without gradients, in both ways of sharing them among threads."""
    regions, words, lengths = batch(args, args.gallery)
    sides = (regions, torch.ones(regions.shape[:2], dtype=torch.bool)), (words, lengths)
    packed = torch.cat([text[:length] for text, length in zip(words, lengths.tolist(), strict=True)])
    table = Table(title=f"a gallery of {args.gallery} images x {args.texts} captions, {args.threads} threads")
    for title in ("", "s", "CPU s", "of the product", "largest difference"):
        table.add_column(title, justify="left" if not title else "right", no_wrap=not title)
    for name in args.variant or VARIANTS:
        module = SCAN(attention=VARIANTS[name].attention, pool=VARIANTS[name].pool)
        blocks = slice(0, args.gallery), slice(0, args.texts)
        rows: dict[str, Callable[[], Tensor]] = {
            "matrix product": lambda: packed @ regions.flatten(0, 1).T,
            f"{name}, images divided among threads": partial(module.scores(*sides).block, *blocks),
            f"{name}, operations divided among threads": partial(module.similarity, *sides),
        }
        with torch.inference_mode():
            times, found = in_turn(rows, args.rounds)
        apart = float((found[[*rows][1]] - found[[*rows][2]]).abs().max())
        for row, (wall, cpu) in times.items():
            difference = f"{apart:.0e}" if "images" in row else ""
            figures = f"{wall:.3f}", f"{cpu:.3f}", f"{wall / times['matrix product'].wall:.2f}"
            table.add_row(row, *figures, difference)
        table.add_section()
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=128)
    parser.add_argument("--texts", type=int, default=128)
    parser.add_argument("--regions", type=int, default=36)
    parser.add_argument("--shortest", type=int, default=6, help="words of the shortest caption")
    parser.add_argument("--longest", type=int, default=20, help="words of the longest caption")
    parser.add_argument("--dim", type=int, default=1024)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--gallery", type=int, default=512, help="images of the second table")
    parser.add_argument("--variant", choices=VARIANTS, action="append", help="default: all four")
    parser.add_argument("--bf16", action="store_true", help="time under autocast; differences stay in float32")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    regions, words, lengths = batch(args, args.images)
    mask = torch.ones(regions.shape[:2], dtype=torch.bool)
    packed = torch.cat([text[:length] for text, length in zip(words, lengths.tolist(), strict=True)])

    def product(first: Tensor, second: Tensor) -> Tensor:
        return second @ first.flatten(0, 1).T

    table = Table(
        title=f"{args.images} images x {args.texts} captions, {len(packed)} words, {args.regions} regions, "
        f"{args.dim} dimensions, {args.threads} threads{', bfloat16' if args.bf16 else ''}"
    )
    for title in ("", "forward s", "with backward s", "CPU s", "of the product", "times ours", "largest difference"):
        table.add_column(title, justify="left" if not title else "right", no_wrap=not title)
    for name in args.variant or VARIANTS:
        how = VARIANTS[name]

        def ours(first: Tensor, second: Tensor, how: CrossAttention = how) -> Tensor:
            return cross_attention(first, mask, second, lengths, how)

        def loop(first: Tensor, second: Tensor, how: CrossAttention = how) -> Tensor:
            return caption_by_caption(first, second, lengths, how)

        rows = {"matrix product": (product, packed), f"{name}, ours": (ours, words)}
        rows[f"{name}, caption by caption"] = (loop, words)
        work: dict[tuple[str, bool], Callable[[], object]] = {}
        for row, (function, texts) in rows.items():
            work[row, False] = partial(torch.no_grad()(function), regions, texts)
            work[row, True] = partial(trained, function, regions, texts)
        with torch.autocast("cpu", torch.bfloat16, enabled=args.bf16):
            times, _ = in_turn(work, args.rounds, keep=lambda _: None)
        differences = [
            float((mine - other).abs().max())
            for mine, other in zip(trained(ours, regions, words), trained(loop, regions, words), strict=True)
        ]
        for row in rows:
            wall, cpu = times[row, True]
            table.add_row(
                row,
                f"{times[row, False].wall:.3f}",
                f"{wall:.3f}",
                f"{cpu:.3f}",
                f"{wall / times['matrix product', True].wall:.1f}",
                f"{wall / times[f'{name}, ours', True].wall:.1f}",
                f"{differences[0]:.0e}, gradient {max(differences[1:]):.1e}" if row.endswith("ours") else "",
            )
        table.add_section()
    console = Console()
    console.print(table)
    console.print(gallery(args))


if __name__ == "__main__":
    main()
