"""The Lightning Trainer of a run: callbacks, logger, silenced advice of the libraries, interrupts."""

from __future__ import annotations

import contextlib
import logging
import platform
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback, RichProgressBar
from lightning.pytorch.loggers import Logger, TensorBoardLogger, WandbLogger

from cmr_bench.experiment import launch
from cmr_bench.experiment.callbacks import Alarm, Best, History, Patience, Resume, Stops
from cmr_bench.experiment.checkpoints import Checkpoints
from cmr_bench.experiment.recipe import RunConfig, TrainerOptions
from cmr_bench.support.errors import CmrBenchError
from cmr_bench.tracking import runs as wandb_runs

# Loggers through which Lightning announces devices, tips and limits reached.
_ANNOUNCERS = ("lightning.pytorch", "lightning.fabric", "lightning.pytorch.utilities.rank_zero")

# Warnings of the libraries that a user of the suite can do nothing about, each with its reason.
SILENCED: dict[str, str] = {
    ".*does not have many workers.*": "arrays in memory are read faster than workers start; `--data.num_workers` is "
    "there for photographs",
    ".*The number of training batches.*": "short epochs are common here, and `history.csv` has a row for each",
    ".*Checkpoint directory.*exists and is not empty.*": "a resumed run continues in its own folder",
    ".*GPU available but not used.*": "`--trainer.accelerator cpu` was asked for",
    ".*sync_dist=True.*": "losses and metrics are of the whole batch or split on every process; an average of equal "
    "numbers would only round them",
    ".*in eval mode at the start of training.*": "a frozen encoder stays in eval mode on purpose, for its batch norm",
    ".*`srun` command is available on your system but is not used.*": "on a login node a run may well be one process",
    ".*isinstance\\(treespec, LeafSpec\\).*": "Lightning calls a part of torch that is deprecated",
}


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence warnings of the libraries that a user of the suite can do nothing about, see ``SILENCED``."""
    levels = [logging.getLogger(name).level for name in _ANNOUNCERS]
    with warnings.catch_warnings():
        for text in SILENCED:
            warnings.filterwarnings("ignore", message=text)
        for name in _ANNOUNCERS:
            logging.getLogger(name).setLevel(logging.ERROR)
        try:
            yield
        finally:
            for name, level in zip(_ANNOUNCERS, levels, strict=True):
                logging.getLogger(name).setLevel(level)


def make_logger(kind: str, folder: Path, config: RunConfig, family: str) -> Logger | bool:
    """Return the extra logger of a run; False for ``csv``, as ``history.csv`` is always written."""
    if kind == "csv":
        return False
    if kind == "tensorboard":
        try:
            return TensorBoardLogger(save_dir=folder, name="tensorboard", version="")
        except ModuleNotFoundError as error:
            raise CmrBenchError("--logger tensorboard needs an extra: pip install 'cmr-bench[tensorboard]'") from error
    import wandb

    if launch.rank() != 0:
        return WandbLogger()
    named = wandb_runs.labels(config.method_label, config.data_label, config.seed, config.variant, family)
    try:
        begun = wandb.init(
            **wandb_runs.arguments(folder), **named, config={**config.__dict__, "family": family}, allow_val_change=True
        )
    except wandb.errors.Error as error:
        raise wandb_runs.refused(error) from error
    wandb_runs.keep_identity(folder, begun)
    return WandbLogger(experiment=begun)


def device_name(trainer: L.Trainer) -> str:
    """Return the name and number of the run's devices."""
    if trainer.strategy.root_device.type == "cuda":
        name = torch.cuda.get_device_name(trainer.strategy.root_device)
    else:
        name = platform.processor() or platform.machine()
    return f"{trainer.world_size} x {name}"


def make_trainer(
    options: TrainerOptions, folder: Path, logger: Logger | bool, config: RunConfig, content: Mapping[str, str]
) -> L.Trainer:
    """Make the Lightning Trainer of a run; ``content`` is what it reads, see ``Result.content``."""
    checkpoints = folder / "checkpoints"
    callbacks: list[Callback] = [
        Best(checkpoints),
        Resume(checkpoints / "last.ckpt"),
        Stops(),
        Alarm(folder),
        History(folder / "history.csv"),
    ]
    if options.patience:
        callbacks.append(Patience(options.patience))
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
        plugins=[Checkpoints(config, content)],
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
    """Raise KeyboardInterrupt where Lightning turns it into an exit."""
    try:
        yield
    except SystemExit as stop:
        if trainer.interrupted:
            raise KeyboardInterrupt from stop
        raise
