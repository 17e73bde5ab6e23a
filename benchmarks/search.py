"""Time of one query among a million vectors: faiss against torch, chunk by chunk.

    python benchmarks/search.py [--items 1000000] [--dim 512] [--queries 5]

Both are exact and are timed in the same process on the same vectors, one query at a time as a user asks them, and both
must name the same items.
"""

from __future__ import annotations

import argparse
import statistics
import time

import numpy as np
import torch

from cmr_bench.search.index import has_faiss, nearest


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--queries", type=int, default=5)
    args = parser.parse_args()
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((args.items, args.dim), dtype=np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    queries = rng.standard_normal((args.queries, args.dim), dtype=np.float32)
    print(f"{args.items:,} vectors of {args.dim}, {vectors.nbytes / 2**30:.2f} GiB, {torch.get_num_threads()} threads")
    found: dict[str, list[np.ndarray]] = {}
    for name in ("torch", *(["faiss"] if has_faiss() else [])):
        nearest(vectors[:1000], queries[:1], 10, name == "faiss")
        seconds, found[name] = [], []
        for query in queries:
            started = time.perf_counter()
            found[name].append(nearest(vectors, query[None], 10, name == "faiss")[1])
            seconds.append(time.perf_counter() - started)
        print(f"{name:<6} median {statistics.median(seconds):.3f} s a query, least {min(seconds):.3f} s")
    if "faiss" in found:
        assert all(np.array_equal(*pair) for pair in zip(found["torch"], found["faiss"], strict=True))
        print("the same ten items each time")


if __name__ == "__main__":
    main()
