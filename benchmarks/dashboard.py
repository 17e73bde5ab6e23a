"""How long the dashboard of 500 made-up runs takes to build: ``python benchmarks/dashboard.py [N_RUNS]``."""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from cmr_bench.dashboard.site import build
from cmr_bench.evaluation.per_query import PerQuery
from cmr_bench.results.published import load_published
from cmr_bench.results.record import Result

_METHODS = (
    ("vsepp", "pairwise"),
    ("scan", "interaction"),
    ("adv_subspace", "adversarial"),
    ("agnet", "attributes"),
    ("cca", "subspace"),
)
_DATA = (("flickr30k", 1000, 5000, False), ("pascal", 100, 100, True), ("synthetic", 250, 1100, True))


def made_up_runs(runs: Path, n_runs: int, seeds: int = 4, resamples: int = 0) -> None:
    """Write run folders with everything that a run leaves but its weights.

    Args:
        runs: Folder of runs.
        n_runs: Number of runs, spread over data sets, methods, settings and seeds.
        seeds: Runs that differ in the seed alone.
        resamples: Resamples that the results claim for their intervals.
    """
    fidelities = ("paper", "code", "reconstruction")
    for number in range(n_runs):
        experiment, seed = divmod(number, seeds)
        data, n_images, n_texts, labelled = _DATA[experiment % len(_DATA)]
        method, family = _METHODS[experiment // len(_DATA) % len(_METHODS)]
        rng = np.random.default_rng([number, 1])
        strength = 0.25 + 0.5 * np.random.default_rng(experiment).random()
        outcomes = _outcomes(rng, strength, n_images, n_texts, labelled)
        metrics = {name: float(np.mean(values)) for name, values in outcomes.columns().items()}
        recalls = [value for name, value in metrics.items() if "_r" in name]
        metrics |= {"rsum": sum(recalls), "mr": sum(recalls) / 6}
        if labelled:
            metrics["map"] = (metrics["i2t_map"] + metrics["t2i_map"]) / 2
        folder = runs / data / method / f"20260101-{number:06d}-s{seed}"
        folder.mkdir(parents=True)
        levels = np.linspace(0, 1, 11)
        result = Result(
            method,
            data,
            metrics,
            run_id=folder.name,
            family=family,
            fidelity=fidelities[experiment % 3],
            deviations=["the learning rate halves every ten epochs"] * (experiment % 3 == 2),
            intervals={name: (value * 0.95, value * 1.05) for name, value in metrics.items()},
            curves={"recall": levels.tolist(), "i2t_precision": (1 - strength * levels).tolist(),
                    "t2i_precision": (0.9 - strength * levels).tolist()} if labelled else {},
            split_sizes={"train": [1000, 1000], "val": [100, 500], "test": [n_images, n_texts]},
            fingerprint=f"{len(data):064x}",
            views={"image": {"kind": "vector", "source": "timm:lite0/pool", "shape": [1280]},
                   "text": {"kind": "tokens", "source": "words", "shape": [30]}},
            protocol={"folds": None, "bootstrap": resamples, "postprocess": None, "definitions": {}},
            selection={"split": "val", "criterion": "map" if data == "pascal" else "rsum", "value": 1.0, "epoch": 3},
            seed=seed,
            batch_size=128,
            cost={"parameters": 10.0 ** (5 + experiment % 3), "train_seconds": 50 * strength * (1 + experiment % 7),
                  "encode_seconds": 0.4, "score_seconds": 0.1, "peak_memory_bytes": 6e8},
            versions={"python": "3.11.7", "torch": "2.13.0"},
            device="1 x made up",
            options={"model.margin": 0.1 + experiment // (len(_DATA) * len(_METHODS)) / 100},
            created="2026-01-01T00:00:00+00:00",
        )  # fmt: skip
        (folder / "result.json").write_text(result.to_json())
        (folder / "config.yaml").write_text(f"method: {method}\ndataset: {data}\nseed: {seed}\n")
        (folder / "ranks.npz").write_bytes(outcomes.to_bytes())
        losses = [f"{e},{2.0},{4 * 0.9**e + rng.random() / 9},{300 - 200 * 0.9**e}" for e in range(30)]
        (folder / "history.csv").write_text("\n".join(["epoch,seconds,train/loss,val/rsum", *losses]) + "\n")
        (folder / "examples.json").write_text(json.dumps(_examples(rng, outcomes)))


def _outcomes(rng: np.random.Generator, strength: float, n_images: int, n_texts: int, labelled: bool) -> PerQuery:
    owner = np.sort(np.concatenate([np.arange(n_images), np.arange(n_texts - n_images) % n_images]))
    return PerQuery(
        owner,
        i2t=np.ceil(rng.pareto(2 * strength, n_images) + 0.01).clip(1, n_texts),
        t2i=np.ceil(rng.pareto(1.6 * strength, n_texts) + 0.01).clip(1, n_images),
        words=np.random.default_rng(n_texts).poisson(8, n_texts) + 4,
        i2t_map=rng.beta(2, 2, n_images if labelled else 0),
        t2i_map=rng.beta(2, 2, n_texts if labelled else 0),
    )


def _examples(rng: np.random.Generator, outcomes: PerQuery) -> dict[str, list[object]]:
    sides = {"i2t": (outcomes.i2t, outcomes.t2i, "image", "text"), "t2i": (outcomes.t2i, outcomes.i2t, "text", "image")}
    found: dict[str, list[object]] = {}
    for way, (queries, gallery, asked, answered) in sides.items():
        found[way] = [
            {
                "query": _item(asked, row) | {"rank": float(queries[row]), "match": _item(answered, row)},
                "answers": [
                    _item(answered, int(item)) | {"score": 0.9, "match": bool(place == queries[row])}
                    for place, item in enumerate(rng.integers(0, len(gallery), 5), 1)
                ],
            }
            for row in np.linspace(0, len(queries) - 1, 24).astype(int).tolist()
        ]
    return found


def _item(kind: str, row: int) -> dict[str, object]:
    item: dict[str, object] = {"id": f"{kind}{row}"}
    if kind == "text":
        item["caption"] = f"a made-up caption number {row}"
    return item


def main() -> None:
    n_runs = int(sys.argv[1]) if len(sys.argv) > 1 else 500
    with tempfile.TemporaryDirectory() as folder:
        runs, site = Path(folder) / "runs", Path(folder) / "site"
        made_up_runs(runs, n_runs)
        started = time.perf_counter()
        build(runs, site, load_published())
        seconds = time.perf_counter() - started
        size = sum(file.stat().st_size for file in site.rglob("*") if file.is_file())
        print(f"{n_runs} runs: {seconds:.1f} s, {size / 1e6:.1f} MB in {sum(1 for _ in site.rglob('*'))} files")


if __name__ == "__main__":
    main()
