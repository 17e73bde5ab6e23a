"""The model card of a repository of runs, with its metrics in the form that the hub shows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import yaml

from cmr_bench.results.record import Result

_SHOWN = ("i2t_r1", "i2t_r5", "i2t_r10", "t2i_r1", "t2i_r5", "t2i_r10", "rsum", "i2t_map", "t2i_map", "map")


def model_card(name: str, runs: Sequence[tuple[Path, Result]]) -> str:
    """Return ``README.md`` of a repository.

    Args:
        name: Name of the repository.
        runs: Folder below it, and result, of each run.
    """
    from huggingface_hub.repocard_data import EvalResult, eval_results_to_model_index

    found = [
        EvalResult(
            task_type="image-text-retrieval",
            task_name="Image-text retrieval",
            dataset_type=result.data,
            dataset_name=result.data,
            dataset_split="test",
            dataset_args={"fingerprint": result.fingerprint, "run": place.as_posix()},
            metric_type=metric,
            metric_name=f"{metric} ({result.units.get(metric, '')})" if result.units.get(metric) else metric,
            metric_value=result.metrics[metric],
        )
        for place, result in runs
        for metric in _SHOWN
        if metric in result.metrics
    ]
    head = {
        "library_name": "cmr-bench",
        "tags": ["image-text-retrieval", "cross-modal-retrieval", *sorted({result.method for _, result in runs})],
        "model-index": eval_results_to_model_index(name, found),
    }
    rows = [_row(place, result) for place, result in runs]
    columns = [metric for metric in _SHOWN if any(metric in result.metrics for _, result in runs)]
    table = [
        f"| run | method | data | fidelity | seed | {' | '.join(columns)} |",
        f"| --- | --- | --- | --- | --- |{' ---: |' * len(columns)}",
        *(f"{row} {' | '.join(_figure(result, metric) for metric in columns)} |" for row, (_, result) in zip(
            rows, runs, strict=True
        )),
    ]  # fmt: skip
    first = runs[0][0].as_posix() if runs else "<data>/<method>/<run>"
    return (
        f"---\n{yaml.safe_dump(head, sort_keys=False, allow_unicode=True)}---\n\n# {name}\n\n"
        "Runs of [cmr-bench](https://pypi.org/project/cmr-bench/): result, configuration and weights of each.\n\n"
        + "\n".join(table)
        + f"\n\n```sh\ncmr-bench pull hf://{name}\ncmr-bench leaderboard\n```\n\n"
        f'```python\nimport cmr_bench\n\nrun = cmr_bench.load_run("hf://{name}/{first}")\n```\n'
    )


def _row(place: Path, result: Result) -> str:
    method = f"{result.method} ({result.variant})" if result.variant else result.method
    return f"| {place.name} | {method} | {result.data} | {result.fidelity} | {result.seed} |"


def _figure(result: Result, metric: str) -> str:
    if metric not in result.metrics:
        return ""
    return (
        f"{result.metrics[metric]:.3f}" if result.units.get(metric) == "fraction" else f"{result.metrics[metric]:.1f}"
    )
