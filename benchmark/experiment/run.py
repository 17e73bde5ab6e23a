"""One experiment: configure, fit, select on validation, test, store."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities import rank_zero_warn

from cmr_bench import registry
from cmr_bench.datamodules import raw
from cmr_bench.datamodules.module import RetrievalDataModule
from cmr_bench.evaluation.per_query import RANKS_FILE, per_query
from cmr_bench.experiment import launch, recipe
from cmr_bench.experiment.examples import examples, store_examples
from cmr_bench.experiment.recipe import RunConfig
from cmr_bench.experiment.selection import fit, seconds_trained
from cmr_bench.experiment.trainer import device_name, interruptible, make_logger, make_trainer, quiet
from cmr_bench.models.base import RetrievalModule
from cmr_bench.results.provenance import commit, library_versions, peak_memory
from cmr_bench.results.record import Result, write_result
from cmr_bench.support.errors import CmrBenchError
from cmr_bench.support.files import write_atomic
from cmr_bench.tracking import runs as wandb_runs


def run(config: RunConfig, folder: Path, logger: str = "csv") -> Result:
    """Run one experiment in its folder; an unfinished one goes on from its last checkpoint.

    Args:
        config: The resolved configuration.
        folder: The run folder.
        logger: csv, tensorboard or wandb.

    Returns:
        The stored result.
    """
    if launch.rank() == 0:
        write_atomic(folder / "config.yaml", config.to_yaml())
    L.seed_everything(config.seed, workers=True, verbose=False)
    family = registry.family(config.method)
    if config.data.get("seed") is None:
        config.data["seed"] = config.seed
    module, data, options = recipe.instantiate(config)
    assert isinstance(module, RetrievalModule)
    assert isinstance(data, RetrievalDataModule)
    launch.check_devices(options)
    module.build(data.load(module.image_view, module.text_view, module.tokenizer))
    module.bootstrap, module.postprocess = options.bootstrap, options.postprocess
    module.selection = data.selection
    data.select_on = options.select_on
    with quiet():
        trainer = make_trainer(options, folder, make_logger(logger, folder, config, family), config)
        selection = fit(trainer, module, data, folder, config.seed)
        fit_seconds = selection.pop("fit_seconds", None)
        with interruptible(trainer):
            trainer.test(module, datamodule=data, verbose=False)
    evaluation = module.evaluation
    assert evaluation is not None
    train_seconds = seconds_trained(folder / "history.csv") if fit_seconds is None else fit_seconds
    result = Result(
        method=config.method,
        data=config.dataset,
        metrics=dict(evaluation.metrics),
        run_id=folder.name,
        variant=config.variant,
        family=family,
        fidelity=config.fidelity,
        units=evaluation.units,
        intervals=dict(evaluation.intervals),
        curves=evaluation.curves,
        split_sizes={name: [split.n_images, split.n_texts] for name, split in data.splits.items()},
        fingerprint=data.splits["test"].fingerprint(),
        views=_views(data),
        protocol={
            "folds": evaluation.protocol.folds,
            "bootstrap": evaluation.protocol.bootstrap,
            "postprocess": evaluation.protocol.postprocess,
            "definitions": evaluation.definitions,
            "excluded": evaluation.excluded,
        },
        tie_rate=evaluation.tie_rate,
        selection=selection,
        seed=config.seed,
        batch_size=data.batch_size,
        label_space=module.label_space,
        cost={
            "parameters": float(sum(p.numel() for p in module.parameters())),
            "train_seconds": train_seconds,
            "encode_seconds": module.test_seconds.get("encode", 0.0),
            "score_seconds": module.test_seconds.get("score", 0.0),
            "peak_memory_bytes": float(peak_memory()),
        },
        versions=library_versions(),
        device=device_name(module, trainer),
        commit=commit(),
        flags=[*evaluation.flags, *(["selected_on_test"] if options.select_on == "test" else [])],
        skipped={name: len(ids) for name, ids in data.skipped.items()},
        options=recipe.settings(config),
    )
    if trainer.is_global_zero:
        test = data.splits["test"]
        write_atomic(folder / RANKS_FILE, per_query(evaluation, test.image_of_text).to_bytes())
        assert module.test_scores is not None
        store_examples(folder, examples(module.test_scores, test, evaluation.ranks), data, test)
        _save_inputs(folder, data)
        write_result(folder, result)
        if isinstance(trainer.logger, WandbLogger):
            wandb_runs.report(trainer.logger.experiment, result, folder)
            wandb_runs.keep_identity(folder, trainer.logger.experiment, uploaded=result.created)
        (folder / "checkpoints" / "last.ckpt").unlink(missing_ok=True)
    return result


def _save_inputs(folder: Path, data: RetrievalDataModule) -> None:
    """Keep what `cmr-bench search` needs; a result is worth more than that, so trouble here does not stop it."""
    try:
        raw.save(folder, raw.describe(data))
    except CmrBenchError as error:
        rank_zero_warn(f"`cmr-bench search` will need the data set of this run: {error}")


def _views(data: RetrievalDataModule) -> dict[str, Any]:
    assert data.spec is not None
    return {
        side: {"kind": spec.kind, "source": spec.source, "shape": list(spec.shape)}
        for side, spec in (("image", data.spec.image), ("text", data.spec.text))
    }
