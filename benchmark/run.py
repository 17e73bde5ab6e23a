"""One experiment: configure, fit, select on validation, test, store."""

from __future__ import annotations

import argparse
import contextlib
import csv
import importlib.metadata
import logging
import os
import platform
import resource
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback, EarlyStopping, ModelCheckpoint, RichProgressBar
from lightning.pytorch.loggers import Logger, TensorBoardLogger, WandbLogger
from lightning.pytorch.utilities import rank_zero_warn
from rich.console import Console
from rich.table import Table

from cmr_bench import __version__, launch, recipe, registry, wandb_runs
from cmr_bench.callbacks import Alarm, History, Resume, Stops
from cmr_bench.checkpoints import Checkpoints
from cmr_bench.datamodules import raw
from cmr_bench.datamodules.base import RetrievalDataModule
from cmr_bench.errors import CmrBenchError, UsageError
from cmr_bench.evaluation.per_query import RANKS_FILE, per_query
from cmr_bench.examples import examples, store_examples
from cmr_bench.files import write_atomic
from cmr_bench.models.base import RetrievalModule
from cmr_bench.recipe import RunConfig, TrainerOptions
from cmr_bench.results import RESULT_FILE, Result, new_run_folder, read_result, write_result

RUN_FOLDER_VARIABLE = "CMR_BENCH_RUN_FOLDER"


def seconds_trained(path: Path) -> float:
    """Sum the seconds of every epoch in ``history.csv``, those before an interruption included."""
    if not path.is_file():
        return 0.0
    with path.open(newline="", encoding="utf-8") as file:
        return sum(float(row["seconds"]) for row in csv.DictReader(file))


@contextlib.contextmanager
def quiet(silent: bool = True) -> Iterator[None]:
    """Hide advice of the libraries that a user of the suite can do nothing about."""
    names = ("lightning.pytorch", "lightning.fabric", "lightning.pytorch.utilities.rank_zero")
    levels = [logging.getLogger(name).level for name in names]
    with warnings.catch_warnings():
        if silent:
            for text in (
                ".*does not have many workers.*",
                ".*Consider increasing the value of the `num_workers`.*",
                ".*The number of training batches.*",
                ".*is a wandb run already in progress.*",
                ".*Checkpoint directory.*exists and is not empty.*",
                ".*`training_step` returned `None`.*",
                ".*You are using `torch.load` with `weights_only=False`.*",
                ".*No `test_dataloader.*",
                ".*configure_optimizers.*",
                ".*isn't a known.*",
                ".*GPU available but not used.*",
                ".*could not find the monitored key.*",
                ".*sync_dist=True.*",
                ".*in eval mode at the start of training.*",
                ".*treespec.*",
                ".*LeafSpec.*",
                ".*Trying to infer the `batch_size`.*",
            ):
                warnings.filterwarnings("ignore", message=text)
            for name in names:
                logging.getLogger(name).setLevel(logging.ERROR)
        try:
            yield
        finally:
            for name, level in zip(names, levels, strict=True):
                logging.getLogger(name).setLevel(level)


def make_logger(kind: str, folder: Path, config: RunConfig, family: str) -> Logger | bool:
    """Return the extra logger of a run; ``csv`` needs none, as ``history.csv`` is always written."""
    if kind == "csv":
        return False
    if kind == "tensorboard":
        try:
            return TensorBoardLogger(save_dir=folder, name="tensorboard", version="")
        except ModuleNotFoundError as error:
            raise CmrBenchError("--logger tensorboard needs it: pip install 'cmr-bench[tensorboard]'") from error
    import wandb

    if launch.rank() != 0:
        return WandbLogger()
    named = wandb_runs.labels(config.method, config.dataset, config.seed, config.variant, family)
    try:
        begun = wandb.init(
            **wandb_runs.arguments(folder), **named, config={**config.__dict__, "family": family}, allow_val_change=True
        )
    except wandb.errors.Error as error:
        raise wandb_runs.refused(error) from error
    wandb_runs.keep_identity(folder, begun)
    return WandbLogger(experiment=begun)


def device_name(module: L.LightningModule, trainer: L.Trainer) -> str:
    """Name what the run ran on, with the number of devices."""
    if trainer.strategy.root_device.type == "cuda":
        name = torch.cuda.get_device_name(trainer.strategy.root_device)
    else:
        name = platform.processor() or platform.machine()
    return f"{trainer.world_size} x {name}"


def commit() -> str:
    """Return the commit of the code where it runs from a checkout, else an empty string."""
    here = Path(__file__).resolve().parent
    answer = subprocess.run(["git", "-C", str(here), "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    return answer.stdout.strip() if answer.returncode == 0 else ""


def library_versions() -> dict[str, str]:
    """Return the versions that a number can depend on."""
    names = ("torch", "torchvision", "lightning", "transformers", "timm", "gensim", "numpy", "scikit-learn")
    return {"cmr-bench": __version__, "python": platform.python_version()} | {
        name: importlib.metadata.version(name) for name in names
    }


def make_trainer(options: TrainerOptions, folder: Path, logger: Logger | bool, config: RunConfig) -> L.Trainer:
    """Make the Lightning Trainer of a run."""
    checkpoints = folder / "checkpoints"
    callbacks: list[Callback] = [
        ModelCheckpoint(
            checkpoints,
            filename="best",
            monitor="val/selection",
            mode="max",
            enable_version_counter=False,
        ),
        Resume(checkpoints / "last.ckpt"),
        Stops(),
        Alarm(folder),
        History(folder / "history.csv"),
    ]
    if options.patience:
        callbacks.append(EarlyStopping("val/selection", mode="max", patience=options.patience))
    if options.progress:
        callbacks.append(RichProgressBar(leave=False))
    return L.Trainer(
        max_epochs=options.max_epochs,
        accelerator=options.accelerator,
        devices=options.devices,
        num_nodes=options.num_nodes,
        strategy=options.strategy,
        precision=options.precision,
        gradient_clip_val=options.gradient_clip or None,
        accumulate_grad_batches=options.accumulate,
        check_val_every_n_epoch=options.val_every,
        deterministic=options.deterministic or None,
        limit_train_batches=options.limit_train_batches or None,
        callbacks=callbacks,
        plugins=[Checkpoints(config)],
        logger=logger,
        num_sanity_val_steps=0,
        enable_progress_bar=options.progress,
        enable_model_summary=False,
        use_distributed_sampler=False,
        default_root_dir=folder,
        log_every_n_steps=10,
    )


@contextlib.contextmanager
def interruptible(trainer: L.Trainer) -> Iterator[None]:
    """Give back the interrupt that Lightning turns into an exit."""
    try:
        yield
    except SystemExit as stop:
        if trainer.interrupted:
            raise KeyboardInterrupt from stop
        raise


def fit(
    trainer: L.Trainer, module: RetrievalModule, data: RetrievalDataModule, folder: Path, seed: int
) -> dict[str, Any]:
    """Train or fit a method, choose its weights on validation and load them.

    Returns:
        The record of the selection: split, criterion, value and epoch.
    """
    selection: dict[str, Any] = {"split": data.select_on, "criterion": data.selection}
    best = folder / "checkpoints" / "best.ckpt"
    if module.closed_form:
        started = time.perf_counter()
        module.fit_split(data.splits["train"], data.splits[data.select_on])
        seconds = time.perf_counter() - started
        metrics = trainer.validate(module, datamodule=data, verbose=False)[0]
        trainer.save_checkpoint(best, weights_only=True)
        return selection | {"value": float(metrics["val/selection"]), "epoch": None, "fit_seconds": seconds}
    module.prepare_training(data.splits["train"])
    if trainer.global_rank:
        # With the random numbers of the first process, dropout would take the same units from every share.
        L.seed_everything(seed + trainer.global_rank, workers=True, verbose=False)
    last = folder / "checkpoints" / "last.ckpt"
    with interruptible(trainer):
        trainer.fit(module, datamodule=data, ckpt_path=last if last.is_file() else None, weights_only=True)
    keeper = trainer.checkpoint_callback
    assert isinstance(keeper, ModelCheckpoint)
    if not best.is_file() or keeper.best_model_score is None:
        raise CmrBenchError(
            "no epoch was validated, so no weights were selected: "
            "lower --trainer.val_every or raise --trainer.max_epochs"
        )
    stored = trainer.strategy.checkpoint_io.load_checkpoint(best)
    module.load_state(stored["state_dict"])
    return selection | {"value": float(keeper.best_model_score), "epoch": int(stored["epoch"])}


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
            "peak_memory_bytes": float(_peak_memory()),
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


def _peak_memory() -> int:
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def result_table(result: Result) -> Table:
    """Return the one table that a run prints."""
    title = f"{result.method}{f' ({result.variant})' if result.variant else ''} on {result.data}, seed {result.seed}"
    table = Table(title=title, title_justify="left")
    columns = {"R@1": "r1", "R@5": "r5", "R@10": "r10", "MedR": "medr", "mAP": "map"}
    shown = {head: key for head, key in columns.items() if f"i2t_{key}" in result.metrics}
    table.add_column("direction")
    for head in shown:
        table.add_column(head, justify="right")
    for direction in ("i2t", "t2i"):
        cells = []
        for key in shown.values():
            value = result.metrics[f"{direction}_{key}"]
            cells.append(f"{value:.3f}" if key == "map" else f"{value:.1f}")
        table.add_row(direction, *cells)
    whole = [f"rsum {result.metrics['rsum']:.1f}", f"mR {result.metrics['mr']:.1f}"] if "rsum" in result.metrics else []
    if "map" in result.metrics:
        whole.append(f"mAP {result.metrics['map']:.3f}")
    if "fold5_rsum" in result.metrics:
        whole.append(f"rsum of 5x1K {result.metrics['fold5_rsum']:.1f}")
    table.caption = ", ".join(whole)
    table.caption_justify = "left"
    return table


def main(args: argparse.Namespace, overrides: list[str]) -> int:
    """Run `cmr-bench run`; ``overrides`` are the dotted options."""
    console = Console()
    if args.resume is not None:
        return _resume(args, overrides, console)
    saved = recipe.read_yaml(args.config) if args.config is not None else None
    method = args.model or (saved or {}).get("method")
    dataset = args.data or (saved or {}).get("dataset") or "synthetic"
    if not method:
        names = ", ".join(registry.METHODS)
        raise UsageError(f"--model is missing: pass one of {names}, e.g. `cmr-bench run --model vsepp`")
    config = recipe.resolve(method, dataset, overrides, config=saved, variant=args.variant, seed=args.seed)
    if args.print_config:
        print(config.to_yaml(), end="")
        return 0
    child = os.environ.get(RUN_FOLDER_VARIABLE)
    label = f"{config.variant}-s{config.seed}" if config.variant else f"s{config.seed}"
    short = [name.rpartition(":")[2] for name in (dataset, method)]
    folder = Path(child) if child else launch.agree(lambda: new_run_folder(args.runs, short[0], short[1], label))
    try:
        return _go(config, folder, args.logger, console)
    except CmrBenchError:
        if launch.rank() == 0 and not (folder / "checkpoints").is_dir():
            for name in ("config.yaml", launch.LOCK):
                (folder / name).unlink(missing_ok=True)
            with contextlib.suppress(OSError):
                folder.rmdir()
        raise


def _resume(args: argparse.Namespace, overrides: list[str], console: Console) -> int:
    folder: Path = args.resume
    if overrides or args.model or args.data or args.config or args.variant or args.seed is not None:
        raise UsageError("--resume goes on with the run's own configuration and takes no other options of it")
    if (folder / RESULT_FILE).is_file():
        console.print(f"{folder} is finished.")
        console.print(result_table(read_result(folder / RESULT_FILE)))
        return 0
    if not (folder / "config.yaml").is_file():
        raise UsageError(f"{folder} is no run folder: it has no config.yaml")
    saved = recipe.read_yaml(folder / "config.yaml")
    config = recipe.resolve(str(saved.get("method")), str(saved.get("dataset")), config=saved)
    return _go(config, folder, args.logger, console)


def _go(config: RunConfig, folder: Path, logger: str, console: Console) -> int:
    os.environ[RUN_FOLDER_VARIABLE] = str(folder)
    failed = True
    try:
        with launch.sole_runner(folder):
            result = run(config, folder, logger)
        failed = False
    except KeyboardInterrupt:
        raise CmrBenchError(f"interrupted; go on with `cmr-bench run --resume {folder}`") from None
    finally:
        wandb_runs.finish(failed)
        os.environ.pop(RUN_FOLDER_VARIABLE, None)
    if launch.rank() == 0:
        console.print(result_table(result))
        console.print(f"stored in {folder}", soft_wrap=True)
    return 0
