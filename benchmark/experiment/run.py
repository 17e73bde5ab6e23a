"""One experiment: configure, fit, select on validation, test, store."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities import rank_zero_warn

from cmr_bench import registry
from cmr_bench.datamodules import raw
from cmr_bench.datamodules.delivery import unknown_words
from cmr_bench.datamodules.module import RetrievalDataModule
from cmr_bench.evaluation.per_query import RANKS_FILE, per_query
from cmr_bench.experiment import launch, recipe
from cmr_bench.experiment.examples import examples, store_examples
from cmr_bench.experiment.fidelity import other_sizes
from cmr_bench.experiment.identity import file_content
from cmr_bench.experiment.opening import sizes
from cmr_bench.experiment.recipe import RunConfig, TrainerOptions
from cmr_bench.experiment.selection import Selection, fit
from cmr_bench.experiment.slices import caption_lengths, slices
from cmr_bench.experiment.trainer import device_name, interruptible, make_logger, make_trainer, quiet
from cmr_bench.models.base import RetrievalModule
from cmr_bench.results.provenance import Cost, commit, library_versions
from cmr_bench.results.record import Result, write_result
from cmr_bench.support.errors import CmrBenchError
from cmr_bench.support.files import write_atomic
from cmr_bench.tracking import runs as wandb_runs


@dataclass(frozen=True)
class Experiment:
    """A configured run.

    Attributes:
        config: The resolved configuration.
        folder: The run folder.
        module: The method, built for the data.
        data: The data set, loaded in the views of the method.
        options: The Trainer's options.
        content: Checksums of what it reads, see ``Result.content``.
    """

    config: RunConfig
    folder: Path
    module: RetrievalModule
    data: RetrievalDataModule
    options: TrainerOptions
    content: Mapping[str, str]

    @property
    def family(self) -> str:
        """Family of the method."""
        return registry.family(self.config.method)


def run(config: RunConfig, folder: Path, logger: str = "csv") -> Result:
    """Run one experiment in its folder; an unfinished one resumes from its last checkpoint.

    Args:
        config: The resolved configuration.
        folder: The run folder.
        logger: csv, tensorboard or wandb.

    Returns:
        The stored result.
    """
    one = configure(config, folder)
    if launch.rank() == 0:
        print(sizes({name: (split.n_images, split.n_texts) for name, split in one.data.splits.items()}), flush=True)
    with quiet():
        trainer = make_trainer(
            one.options, folder, make_logger(logger, folder, config, one.family), config, one.content
        )
        selection = fit(trainer, one.module, one.data, folder, config.seed)
        with interruptible(trainer):
            trainer.test(one.module, datamodule=one.data, verbose=False)
    result = make_result(one, selection, device_name(trainer))
    if trainer.is_global_zero:
        _store(one, result, trainer)
    return result


def configure(config: RunConfig, folder: Path) -> Experiment:
    """Write the configuration into the run folder, make method and data of it and attach them to each other."""
    if launch.rank() == 0:
        write_atomic(folder / "config.yaml", config.to_yaml())
    L.seed_everything(config.seed, workers=True, verbose=False)
    if config.data.get("seed") is None:
        config.data["seed"] = config.seed
    module, data, options = recipe.instantiate(config)
    assert isinstance(module, RetrievalModule)
    assert isinstance(data, RetrievalDataModule)
    launch.check_devices(options)
    data.show_progress, data.making_device = options.progress, "cpu" if options.accelerator == "cpu" else "auto"
    module.attach(data, options.evaluation(data.usual_evaluation(options.subsets)))
    if options.compile:
        # Widths of texts differ from batch to batch.
        module.loss = torch.compile(module.loss, dynamic=True)  # type: ignore[method-assign]
    content = data.content(module.image_view, module.text_view, module.tokenizer) | file_content(config)
    return Experiment(config, folder, module, data, options, content)


def make_result(run: Experiment, selection: Selection, device: str) -> Result:
    """Put the record of a tested run together.

    Args:
        run: The run.
        selection: How its weights were chosen.
        device: What it ran on, in words.
    """
    config, module, data, tested = run.config, run.module, run.data, run.module.tested
    assert tested is not None
    assert data.spec is not None
    evaluation = tested.evaluation
    cost = Cost.of(module, selection.train_seconds, tested.encode_seconds, tested.score_seconds)
    sizes = {name: (split.n_images, split.n_texts) for name, split in data.splits.items()}
    other_splits = other_sizes(sizes, data.expected_counts(), {name: len(ids) for name, ids in data.skipped.items()})
    # A closed form has no epochs to be cut short of.
    shortened = ["shortened"] if config.shortened and not module.closed_form else []
    return Result(
        method=config.method_label,
        data=config.data_label,
        metrics=dict(evaluation.metrics),
        run_id=run.folder.name,
        variant=config.variant,
        family=run.family,
        fidelity="reconstruction" if other_splits else config.fidelity,
        units=evaluation.units,
        intervals=dict(evaluation.intervals),
        curves=evaluation.curves,
        split_sizes={name: list(size) for name, size in sizes.items()},
        fingerprint=data.splits["test"].fingerprint(),
        views=data.spec.record(),
        protocol=evaluation.record() | _unseen(data),
        tie_rate=evaluation.tie_rate,
        selection=selection.record(),
        seed=config.seed,
        batch_size=data.batch_size,
        label_space=module.label_space,
        cost=cost.record(),
        versions=library_versions(),
        device=device,
        code=registry.checksums(config.method, config.dataset),
        commit=commit(),
        flags=[*evaluation.flags, *data.evaluation.flags, *(["unseen_classes"] if _unseen(data) else []), *shortened],
        skipped={name: len(ids) for name, ids in data.skipped.items()},
        invalid_rows=data.report.count,
        unknown_words=unknown_words(data.splits),
        options=recipe.settings(config),
        slices=slices(data, evaluation),
        content=dict(run.content),
        deviations=[*config.deviations, *other_splits],
        changes=config.changes,
    )


def _unseen(data: RetrievalDataModule) -> dict[str, Any]:
    """Return the classes that are tested on and not trained on, where that was asked for."""
    return {"unseen_classes": list(data.splits["test"].class_names)} if data.unseen_classes else {}


def _store(run: Experiment, result: Result, trainer: L.Trainer) -> None:
    """Write what a finished run leaves, the result last: where that is, the run is whole."""
    folder, test, tested = run.folder, run.data.splits["test"], run.module.tested
    assert tested is not None
    ranks = tested.evaluation.ranks
    outcomes = per_query(tested.evaluation, test.image_of_text, caption_lengths(run.data))
    write_atomic(folder / RANKS_FILE, outcomes.to_bytes())
    store_examples(folder, examples(tested.scores, test, ranks), run.data, test)
    _save_inputs(folder, run.data)
    write_result(folder, result)
    if isinstance(trainer.logger, WandbLogger):
        wandb_runs.report(trainer.logger.experiment, result, folder)
        wandb_runs.keep_identity(folder, trainer.logger.experiment, uploaded=result.created)
    (folder / "checkpoints" / "last.ckpt").unlink(missing_ok=True)


def _save_inputs(folder: Path, data: RetrievalDataModule) -> None:
    """Keep what `cmr-bench search` needs; a result is worth more than that, so trouble here does not stop it."""
    try:
        raw.save(folder, raw.describe(data))
    except CmrBenchError as error:
        rank_zero_warn(f"`cmr-bench search` will need the data set of this run: {error}")
