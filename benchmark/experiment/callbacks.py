"""What watches over a training run: history, exact resume, stops by signal, alarms."""

from __future__ import annotations

import csv
import io
import json
import math
import random
import signal
import threading
import time
from pathlib import Path
from types import FrameType
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback, EarlyStopping, ModelCheckpoint

from cmr_bench.models.base import RetrievalModule
from cmr_bench.models.common.stages import StagedModule
from cmr_bench.models.distributed import everywhere
from cmr_bench.results.record import FAILURE_FILE
from cmr_bench.support.errors import CmrBenchError
from cmr_bench.support.files import write_atomic

# Signals that end a run in order: Ctrl-C, and those by which SLURM announces a time limit or preemption.
_STOPS = ("SIGINT", "SIGTERM", "SIGUSR1")
# Looking at the loss makes a GPU wait; one that is not finite stays so, as it makes every weight the same.
_LOOK_EVERY = 10
# Part of unit length that must be left when the mean embedding is taken away, and fraction of the collapse value within
# which a loss counts as stuck. Methods that learn are orders of magnitude away from both after their first epoch.
_LEAST_SPREAD = 1e-4
_STUCK = 1e-3


class History(Callback):
    """Keeps ``history.csv`` in the run folder: one row per epoch with losses, validation metrics and learning rate.

    Of a method that trains in stages, a row also has the number of the stage, counted from 1.

    Args:
        path: The file; rows of a run that is resumed are kept up to the epoch it resumes from.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: list[dict[str, float]] = []
        self._started = 0.0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Read back what an interrupted run wrote."""
        if trainer.current_epoch and self.path.is_file():
            with self.path.open(newline="", encoding="utf-8") as file:
                rows = [{k: float(v) for k, v in row.items() if v} for row in csv.DictReader(file)]
            self.rows = [row for row in rows if row["epoch"] < trainer.current_epoch]

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock of the epoch."""
        self._started = time.perf_counter()

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Add the epoch's row."""
        row = {"epoch": float(trainer.current_epoch), "seconds": time.perf_counter() - self._started}
        row["lr"] = float(trainer.optimizers[0].param_groups[0]["lr"])
        if isinstance(pl_module, StagedModule) and pl_module.stage is not None:
            row["stage"] = float(pl_module.stage_number) + 1
        logged = {name: value for name, value in row.items() if name != "epoch"}
        row |= {k: float(v) for k, v in trainer.callback_metrics.items() if k.startswith(("train/", "val/"))}
        self.rows.append(row)
        for logger in trainer.loggers:
            logger.log_metrics(logged, step=trainer.global_step)
        if trainer.is_global_zero:
            columns = list(dict.fromkeys(name for entry in self.rows for name in entry))
            text = io.StringIO(newline="")
            writer = csv.DictWriter(text, columns, lineterminator="\n")
            writer.writeheader()
            writer.writerows(self.rows)
            write_atomic(self.path, text.getvalue())


class Best(ModelCheckpoint):
    """Selects the checkpoint on validation, also after the run folder was moved.

    Args:
        folder: Where ``best.ckpt`` goes.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, filename="best", monitor="val/selection", mode="max", enable_version_counter=False)

    @property
    def state_key(self) -> str:
        """Name of its state in a checkpoint, that of Lightning's own class."""
        return super().state_key.replace(type(self).__qualname__, ModelCheckpoint.__qualname__, 1)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the best score, which Lightning drops when the path of the folder has changed."""

        def here(path: str) -> str:
            return str(Path(self.dirpath or "", Path(path).name)) if path else path

        paths = ("best_model_path", "kth_best_model_path", "last_model_path")
        models = {here(path): score for path, score in state_dict["best_k_models"].items()}
        state = state_dict | {name: here(state_dict[name]) for name in paths}
        super().load_state_dict(state | {"dirpath": self.dirpath, "best_k_models": models})

    def _should_skip_saving_checkpoint(self, trainer: L.Trainer) -> bool:
        module = trainer.lightning_module
        apart = isinstance(module, StagedModule) and not module.selectable
        return apart or super()._should_skip_saving_checkpoint(trainer)


class Patience(EarlyStopping):
    """Stops a run that no longer gets better; of a method that trains in stages, in the last one only.

    Args:
        validations: Validations without a better score after which training stops.
    """

    def __init__(self, validations: int) -> None:
        super().__init__("val/selection", mode="max", patience=validations)

    @property
    def state_key(self) -> str:
        """Name of its state in a checkpoint, that of Lightning's own class."""
        return super().state_key.replace(type(self).__qualname__, EarlyStopping.__qualname__, 1)

    def _should_skip_check(self, trainer: L.Trainer) -> bool:
        module = trainer.lightning_module
        early = isinstance(module, StagedModule) and not module.in_last_stage
        return early or super()._should_skip_check(trainer)


class Resume(Callback):
    """Saves the whole state at the start of every epoch, so that a killed run repeats at most one epoch, bit for bit.

    Args:
        path: The checkpoint.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._stored: list[dict[str, Any]] = []

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Restore the random state of a resumed run, then save."""
        # Where there are more processes than before, none of the states is theirs.
        if trainer.global_rank < len(self._stored):
            _set_random_state(self._stored[trainer.global_rank])
        self._stored = []
        # Lightning counts the batches of the last epoch until the loop over the new one begins; stored like that, a
        # resumed run would take this epoch for done.
        trainer.fit_loop.epoch_loop.batch_progress.reset_on_run()
        trainer.save_checkpoint(self.path)

    def state_dict(self) -> dict[str, Any]:
        """Return the state of every random generator of every process."""
        return {"processes": everywhere([_random_state()])}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep the states until the epoch starts."""
        self._stored = state_dict["processes"]


class Stops(Callback):
    """Ends a run in order on Ctrl-C, SIGTERM and SIGUSR1; it can go on from the start of the epoch, which is saved.

    While batches run, a stop waits for the next one: an exception out of the blue would now and then fall into a
    finaliser, where Python drops it. A second signal does not wait.
    """

    def __init__(self) -> None:
        self.pressed = False
        self._in_batches = False
        self._before: dict[int, Any] = {}

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Listen from now on to the signals that are at their defaults, where this is the main thread."""
        if threading.current_thread() is not threading.main_thread():
            return
        for name in _STOPS:
            number = getattr(signal, name, None)
            if number is not None and signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
                self._before[number] = signal.signal(number, self._press)

    def _press(self, number: int, frame: FrameType | None) -> None:
        waits = self._in_batches and not self.pressed
        self.pressed = True
        if not waits:
            raise KeyboardInterrupt

    def _stop(self, *args: Any, **kwargs: Any) -> None:
        self._in_batches = True
        if self.pressed:
            raise KeyboardInterrupt

    on_train_batch_start = on_train_batch_end = _stop
    on_validation_batch_start = on_test_batch_start = _stop

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Give the signals back."""
        self._in_batches = False
        for number, handler in self._before.items():
            if signal.getsignal(number) == self._press:
                signal.signal(number, handler)
        self._before = {}


class Alarm(Callback):
    """Fails a run that has diverged or collapsed, within the epoch, and leaves the reason in ``failed.json``.

    A loss that is not finite, embeddings of a modality that are all the same, and a loss that stays at the value it
    has when all scores are equal (``RetrievalModule.collapse_loss``). Such a run never becomes a result.

    Args:
        folder: The run folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Forget the failure of an earlier attempt."""
        if trainer.is_global_zero:
            (self.folder / FAILURE_FILE).unlink(missing_ok=True)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Look at the loss now and then."""
        loss = outputs.get("loss") if isinstance(outputs, dict) else outputs
        if loss is not None and batch_idx % _LOOK_EVERY == 0:
            self._check_finite(trainer, float(loss))

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Look at the mean loss of the epoch and at the spread of what was last encoded."""
        assert isinstance(pl_module, RetrievalModule)
        mean = trainer.callback_metrics.get("train/loss")
        if mean is not None:
            self._check_finite(trainer, float(mean))
            stuck, pair = pl_module.collapse_loss(), trainer.callback_metrics.get("train/pair", mean)
            if stuck is not None and abs(float(pair) - stuck) < _STUCK * abs(stuck):
                self._fail(
                    trainer,
                    f"the loss per pair is stuck at {float(pair):.4f}, its value when all scores are equal ({stuck:g})",
                    "train the first epochs on the mean over negatives (--model.warmup_epochs 2), lower --model.lr or "
                    "standardise the image features",
                )
        for side, spread in pl_module.spread.items():
            if spread < _LEAST_SPREAD:
                self._fail(
                    trainer,
                    f"all {side} collapsed to one embedding (spread {spread:.1e})",
                    "lower --model.lr, standardise the features, or raise --model.warmup_epochs if available",
                )

    def _check_finite(self, trainer: L.Trainer, loss: float) -> None:
        if not math.isfinite(loss):
            self._fail(
                trainer,
                f"the loss is {loss}",
                "lower --model.lr, set --trainer.gradient_clip 2 or --trainer.precision 32-true, and look at the "
                "features with `cmr-bench data check`",
            )

    def _fail(self, trainer: L.Trainer, what: str, advice: str) -> None:
        where = {"epoch": trainer.current_epoch, "step": trainer.global_step}
        if trainer.is_global_zero:
            record = {"schema": 1, "reason": what, "advice": advice, **where}
            write_atomic(self.folder / FAILURE_FILE, json.dumps(record, indent=1) + "\n")
        raise CmrBenchError(
            f"training failed in epoch {where['epoch']}, step {where['step']}: {what}; try: {advice}. "
            f"No result is stored in {self.folder}"
        )


def _random_state() -> dict[str, Any]:
    kind, keys, position, has_gauss, cached = np.random.get_state(legacy=True)  # noqa: NPY002
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "numpy": [str(kind), np.asarray(keys).tolist(), int(position), int(has_gauss), float(cached)],
        "python": random.getstate(),
    }


def _set_random_state(state: dict[str, Any]) -> None:
    torch.set_rng_state(state["torch"])
    if state["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda"])
    kind, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((kind, np.asarray(keys, dtype=np.uint32), position, has_gauss, cached))  # noqa: NPY002
    random.setstate(state["python"])
