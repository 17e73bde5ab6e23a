"""Several runs as one: the mean of their score matrices on their common test split."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cmr_bench.datamodules.module import RetrievalDataModule
from cmr_bench.evaluation.options import EvaluationOptions
from cmr_bench.evaluation.per_query import RANKS_FILE, per_query
from cmr_bench.evaluation.protocol import Evaluation, Protocol, evaluate
from cmr_bench.evaluation.scores import ScoreSource, reorder_texts, take
from cmr_bench.experiment.examples import examples, store_examples
from cmr_bench.experiment.slices import caption_lengths, slices
from cmr_bench.results.provenance import commit, library_versions, peak_memory
from cmr_bench.results.record import RESULT_FILE, Result, read_result, write_result
from cmr_bench.results.store import new_run_folder
from cmr_bench.search.export import encoded_again
from cmr_bench.support.errors import DataError, UsageError
from cmr_bench.support.files import write_atomic

# What a member's own post-processing says of its result, and not of its scores.
_OF_THE_EVALUATION = ("transductive", "uses_test_groups")
_FIDELITIES = ("paper", "code", "reconstruction")


class MeanScores:
    """The mean of several sources of scores.

    Args:
        sources: The sources, of equal sizes.
    """

    def __init__(self, sources: Sequence[ScoreSource]) -> None:
        self.sources = sources
        self.n_images, self.n_texts = sources[0].n_images, sources[0].n_texts

    def block(self, images: slice, texts: slice) -> Tensor:
        """Return the scores of the two slices, ``(len(images), len(texts))``, in float64."""
        # In one order whatever the order of the members, so that the same ensemble has the same bits.
        tiles = torch.stack([source.block(images, texts).double().cpu() for source in self.sources])
        return tiles.sort(dim=0).values.sum(0) / len(tiles)

    def take_texts(self, order: NDArray[np.int64]) -> MeanScores:
        """Return the source whose text ``j`` is this source's text ``order[j]``."""
        return MeanScores([reorder_texts(source, order) for source in self.sources])

    def take(self, images: NDArray[np.int64], texts: NDArray[np.int64]) -> MeanScores:
        """Return the source of this source's images ``images`` and texts ``texts``, in their order."""
        return MeanScores([take(source, images, texts) for source in self.sources])


def ensemble(
    folders: Sequence[Path],
    runs: Path,
    postprocess: str | None = None,
    bootstrap: int = 1000,
    device: str = "cpu",
    trust: bool = False,
) -> tuple[Result, Path]:
    """Score the mean of the matrices of finished runs and store the result like that of a run.

    Args:
        folders: Run folders, two at least.
        runs: Folder of runs, in which the result is stored.
        postprocess: Post-processing of the mean.
        bootstrap: Bootstrap resamples of the test queries.
        device: Where the methods run.
        trust: Run the code of classes outside of the suite that the folders name.

    Returns:
        The result, flagged ``ensemble``, and its folder.

    Raises:
        UsageError: If there are fewer than two runs, one comes twice, or they are of different data or splits.
        DataError: If a run is not finished, has no weights, or its data set is not there as it was.
    """
    members = read_members(folders)
    started = time.perf_counter()
    data, scores, parameters = _encoded(folders, members, device, trust)
    encoded, split = time.perf_counter(), data.splits["test"]
    protocol = Protocol(
        folds=data.folds,
        subsets=data.evaluation.subsets,
        category=split.labels is not None,
        bootstrap=bootstrap,
        postprocess=postprocess,
    )
    evaluation = evaluate(scores, split.image_of_text, split.labels, identity=split.identity, protocol=protocol)
    cost = {
        "parameters": float(parameters),
        "train_seconds": sum(member.cost.get("train_seconds", 0.0) for member in members),
        "encode_seconds": encoded - started,
        "score_seconds": time.perf_counter() - encoded,
        "peak_memory_bytes": float(peak_memory()),
    }
    result = replace(
        joined(members, evaluation), cost=cost, slices=slices(data, evaluation), device=device, commit=commit()
    )
    folder = new_run_folder(runs, result.data.rpartition(":")[2], result.method.replace(":", "_"), "ensemble")
    result.run_id = folder.name
    write_atomic(folder / RANKS_FILE, per_query(evaluation, split.image_of_text, caption_lengths(data)).to_bytes())
    store_examples(folder, examples(scores, split, evaluation.ranks), data, split)
    write_result(folder, result)
    return result, folder


def _encoded(
    folders: Sequence[Path], members: Sequence[Result], device: str, trust: bool
) -> tuple[RetrievalDataModule, MeanScores, int]:
    """Return the data of the first run, the mean of the scores of all, and the number of their parameters."""
    found, sources, parameters = [], [], 0
    for folder, member in zip(folders, members, strict=True):
        config, module, data, _, source = encoded_again(folder, device, trust)
        if data.splits["test"].fingerprint() != member.fingerprint:
            raise DataError(f"the test split of {folder} is no longer the one that it was scored on")
        data.evaluation = EvaluationOptions(
            few_shot_below=int(config.trainer.get("few_shot_below") or 0),
            subsets=data.test_subsets(config.trainer.get("subsets")),
        )
        found.append(data)
        sources.append(source)
        parameters += sum(p.numel() for p in module.parameters())
    return found[0], MeanScores(sources), parameters


def read_members(folders: Sequence[Path]) -> list[Result]:
    """Read the results of the runs of an ensemble and check that they belong together.

    Raises:
        UsageError: If there are fewer than two, one comes twice, or they are of different data or splits.
        DataError: If a run is not finished.
    """
    if len(folders) < 2:
        raise UsageError("an ensemble needs two runs at least: pass RUN RUN …")
    if len({folder.resolve() for folder in folders}) < len(folders):
        raise UsageError("an ensemble needs different runs, and one is named twice")
    members = []
    for folder in folders:
        if not (folder / RESULT_FILE).is_file():
            raise DataError(f"{folder} has no {RESULT_FILE}: pass folders of finished runs, runs/<data>/<method>/<id>")
        members.append(read_result(folder / RESULT_FILE))
    first = members[0]
    for folder, member in zip(folders[1:], members[1:], strict=True):
        facts = {
            "data set": (first.data, member.data),
            "test split": (first.fingerprint, member.fingerprint),
            "size of the splits": (first.split_sizes, member.split_sizes),
            "number of folds": (first.protocol.get("folds"), member.protocol.get("folds")),
            "list of subsets": (first.protocol.get("subsets"), member.protocol.get("subsets")),
        }
        facts |= {
            f"{part} split": (first.content[part], member.content[part])
            for part in ("train", "val")
            if part in first.content and part in member.content
        }
        for what, (one, other) in facts.items():
            if one != other:
                raise UsageError(
                    f"{folder} cannot be joined with {folders[0]}: the {what} is {_short(other)}, not {_short(one)}"
                )
    return members


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 80 else f"{text[:12]}…"


def joined(members: Sequence[Result], evaluation: Evaluation) -> Result:
    """Return the record of an ensemble without what it cost: what its members have in common, or a list of it."""
    first = members[0]
    seeds = {member.seed for member in members}
    found = [[flag for flag in member.flags if flag not in _OF_THE_EVALUATION] for member in members]
    flags = [*evaluation.flags, *(flag for own in found for flag in own), "ensemble"]
    criteria = {str(member.selection.get("criterion", "")) for member in members}
    options = _of_each([{"method": member.method, "variant": member.variant, **member.options} for member in members])
    content = _of_each([member.content for member in members])
    return Result(
        method=_together(member.method for member in members),
        data=first.data,
        metrics=dict(evaluation.metrics),
        variant=_together(member.variant for member in members),
        family=first.family if len({member.family for member in members}) == 1 else "",
        fidelity=max((member.fidelity for member in members), key=_fidelity),
        units=evaluation.units,
        intervals=dict(evaluation.intervals),
        curves=evaluation.curves,
        split_sizes=first.split_sizes,
        fingerprint=first.fingerprint,
        views={side: _views([member.views.get(side, {}) for member in members]) for side in ("image", "text")},
        protocol=evaluation.record(),
        tie_rate=evaluation.tie_rate,
        selection={"split": str(first.selection.get("split", "")), "criterion": criteria.pop()}
        if len(criteria) == 1
        else {},
        seed=first.seed if len(seeds) == 1 else None,
        label_space=_together(member.label_space for member in members),
        versions=library_versions(),
        code={file: value for member in members for file, value in member.code.items()},
        flags=list(dict.fromkeys(flags)),
        skipped=first.skipped,
        invalid_rows=first.invalid_rows,
        options=options,
        changes=_of_each([member.changes or {} for member in members]),
        deviations=list(dict.fromkeys(line for member in members for line in member.deviations)),
        content=content,
        members={
            f"{member.method}/{member.run_id}": {
                "method": member.method,
                "variant": member.variant,
                "seed": member.seed,
                "created": member.created,
            }
            for member in members
        },
    )


def _of_each(tables: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Put tables together: what all have alike under its name, the rest with the number of the member before it."""
    first = tables[0]
    alike = {name: value for name, value in first.items() if all(name in t and t[name] == value for t in tables)}
    return alike | {
        f"{number}.{name}": value
        for number, table in enumerate(tables, start=1)
        for name, value in table.items()
        if name not in alike
    }


def _together(names: Any) -> str:
    """Return what all have in common, or all of them in order with a plus between."""
    found = list(names)
    return found[0] if len(set(found)) == 1 else "+".join(name or "default" for name in found)


def _fidelity(name: str) -> int:
    return _FIDELITIES.index(name) if name in _FIDELITIES else len(_FIDELITIES)


def _views(views: Sequence[Any]) -> dict[str, Any]:
    first = dict(views[0])
    if all(view == first for view in views):
        return first
    return first | {"source": " + ".join(dict.fromkeys(str(view.get("source") or view.get("kind")) for view in views))}
