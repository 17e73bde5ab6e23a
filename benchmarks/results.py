"""Seconds that a leaderboard and a dashboard of 2,000 made-up runs take: ``python benchmarks/results.py [--runs N]``.

The leaderboard is timed without the index of results, as it was before there was one, with it and after one run in a
hundred was made again; rounds interleave, medians are printed with the processor's seconds beside those of the clock.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import shutil
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

from dashboard import made_up_runs
from timing import Seconds, median, spent

from cmr_bench import cli
from cmr_bench.dashboard.site import build
from cmr_bench.results.published import load_published


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        runs, cache, site = (Path(place) / name for name in ("runs", "cache", "site"))
        os.environ["CMR_BENCH_CACHE"] = str(cache)
        made_up_runs(runs, args.runs)
        time.sleep(2.5)  # what changed within two seconds is not indexed
        taken: dict[str, list[Seconds]] = defaultdict(list)

        def timed(what: str, work: Callable[[], object]) -> None:
            taken[what].append(spent(work)[0])

        def leaderboard() -> None:
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                assert cli.main(["leaderboard", "--runs", str(runs)]) == 0

        leaderboard()  # imports
        for _ in range(args.rounds):
            shutil.rmtree(cache, ignore_errors=True)
            timed("leaderboard, no index", leaderboard)
            timed("leaderboard, index", leaderboard)
            for file in sorted(runs.glob("*/*/*/result.json"))[::100]:
                os.utime(file)
            timed("leaderboard, index, 1 % made again", leaderboard)
            timed("dashboard", lambda: build(runs, site, load_published()))
        for what, each in taken.items():
            wall, cpu = median(each)
            print(f"{args.runs:,} runs, {what:<36} {wall:7.2f} s   {cpu:7.2f} s of processor")


if __name__ == "__main__":
    main()
