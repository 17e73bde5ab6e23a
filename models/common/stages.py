"""Stages: phases of training with an optimiser, parameters, a learning rate, a loss and a length of their own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import StepLR

from cmr_bench.datamodules.batches import PairBatch
from cmr_bench.models.base import RetrievalModule
from cmr_bench.models.distributed import world_size

Groups = list[dict[str, Any]]


@dataclass(frozen=True)
class Stage:
    """One phase of training.

    Attributes:
        name: What the stage is called; a loss or similarity that differs between stages asks for it.
        epochs: Length; 0 skips the stage, None lasts until the end of training, as the last stage always does.
        lr: Learning rate of the parameters without one of their own.
        lr_decay_every: Epochs between decays of the learning rate, counted from the start of the stage; 0 disables.
        waiting: Names of submodules that do not learn in this stage: they get no gradient and are in evaluation mode.
        optimizer: Makes the optimiser; None takes the method's own.
        selectable: Whether a checkpoint of this stage can be selected on validation; the last stage always can.
    """

    name: str
    epochs: int | None
    lr: float
    lr_decay_every: int = 0
    waiting: tuple[str, ...] = ()
    optimizer: Callable[[Groups], Optimizer] | None = None
    selectable: bool = True


class StagedModule(RetrievalModule):
    """A method that trains in stages, one after the other in one run.

    A method overrides :meth:`stages` and inherits from this class first. Every stage starts with a fresh optimiser and
    schedule. The number of the stage is stored with the weights, so that a resumed run goes on in its stage and loaded
    weights are scored by the similarity of the stage they come from.
    """

    stage_number: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.register_buffer("stage_number", torch.zeros((), dtype=torch.long))
        self._stopped: set[str] = set()

    def stages(self) -> tuple[Stage, ...]:
        """Return the stages in their order; none where training has one stage, that of the base class."""
        return ()

    @property
    def stage(self) -> Stage | None:
        """The stage of the current weights."""
        stages = self.stages()
        return stages[int(self.stage_number)] if stages else None

    @property
    def in_last_stage(self) -> bool:
        """True in the stage that lasts until the end of training."""
        stages = self.stages()
        return not stages or int(self.stage_number) == _last(stages)

    @property
    def selectable(self) -> bool:
        """True if the current weights can be selected on validation."""
        stage = self.stage
        return stage is None or stage.selectable or self.in_last_stage

    @property
    def epochs_in_stage(self) -> int:
        """Epochs since the stage of the current epoch began."""
        earlier = self.stages()[: int(self.stage_number)]
        return self.current_epoch - sum(stage.epochs or 0 for stage in earlier)

    def run_epochs(self) -> int | None:
        """Return the number of epochs of the run; None outside of training or where it has no limit."""
        epochs = None if self._trainer is None else self.trainer.max_epochs
        return epochs if epochs and epochs > 0 else None

    def parameter_groups(self) -> Groups:
        """Return the parameter groups of the stage."""
        groups, stage = super().parameter_groups(), self.stage
        if stage is None:
            return groups
        waiting = {id(parameter) for name, parameter in self.named_parameters() if _is_in(name, stage.waiting)}
        for group in groups:
            group["params"] = [parameter for parameter in group["params"] if id(parameter) not in waiting]
            if stage.lr != self.lr:
                group.setdefault("lr", stage.lr)
        return [group for group in groups if group["params"]]

    def make_optimizer(self) -> Optimizer:
        """Return the optimiser of the stage."""
        make = None if self.stage is None else self.stage.optimizer
        return super().make_optimizer() if make is None else make(self.parameter_groups())

    def configure_optimizers(self) -> Any:
        """Configure the optimiser of the stage, with step decay from the start of the stage."""
        if self.stage is not None and self.stage.epochs == 0:
            # A run that skips its first stage begins in a later one.
            self.stage_number.fill_(_number_at(self.stages(), 0))
        stage = self.stage
        if stage is None:
            return super().configure_optimizers()
        optimizer = self.make_optimizer()
        if not stage.lr_decay_every:
            return optimizer
        return {"optimizer": optimizer, "lr_scheduler": StepLR(optimizer, stage.lr_decay_every, self.lr_decay)}

    def on_train_epoch_start(self) -> None:
        """Enter the stage of the epoch, and put what waits in it into evaluation mode."""
        super().on_train_epoch_start()
        stages = self.stages()
        if not stages:
            return
        number = _number_at(stages, self.current_epoch)
        self._let_learn()
        if number != int(self.stage_number):
            self.stage_number.fill_(number)
            self.trainer.strategy.setup_optimizers(self.trainer)
            # The next rows of the history would repeat the last values of terms that this stage does not have.
            metrics = self.trainer.callback_metrics
            for name in [name for name in metrics if name.startswith("train/")]:
                del metrics[name]
        self.train()
        for name in stages[number].waiting:
            self.get_submodule(name).eval()
        # DDP counts the gradients of the parameters that it found at the start; there, see zero_of_waiting.
        if world_size() == 1:
            for name, parameter in self._waiting():
                parameter.requires_grad_(False)
                self._stopped.add(name)

    def on_fit_end(self) -> None:
        """Give every parameter its gradient back."""
        super().on_fit_end()
        self._let_learn()

    def training_step(self, batch: PairBatch, batch_idx: int) -> Tensor:
        """Compute the loss as the base class does."""
        loss = super().training_step(batch, batch_idx)
        return loss if world_size() == 1 else loss + self.zero_of_waiting()

    def zero_of_waiting(self) -> Tensor:
        """Return 0 with the gradient 0 for every waiting parameter, as DDP expects a gradient of each."""
        zero = torch.zeros((), device=self.device)
        return zero + 0.0 * sum((parameter.sum() for _, parameter in self._waiting()), start=zero)

    def _waiting(self) -> list[tuple[str, torch.nn.Parameter]]:
        names = () if self.stage is None else self.stage.waiting
        return [(name, p) for name, p in self.named_parameters() if p.requires_grad and _is_in(name, names)]

    def _let_learn(self) -> None:
        for name in self._stopped:
            self.get_parameter(name).requires_grad_(True)
        self._stopped.clear()

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        # Weights that were stored before stages had numbers.
        state_dict.setdefault(f"{prefix}stage_number", self.stage_number.clone())
        super()._load_from_state_dict(state_dict, prefix, *rest)


def divided(parts: Sequence[int], epochs: int | None) -> list[int]:
    """Divide the epochs of a run between stages in the ratio of ``parts``; the last stage gets what is left over.

    Args:
        parts: Epochs of each stage in a run of their sum; a stage with 0 is skipped.
        epochs: Epochs of the run; None stands for the sum of the parts.

    Returns:
        Epochs of each stage, at least 1 of them in the last stage that has a part.
    """
    total = sum(parts)
    ends = [(total if epochs is None else epochs) * sum(parts[: k + 1]) // total for k in range(len(parts))]
    return [end - start for start, end in zip([0, *ends], ends, strict=False)]


def _is_in(name: str, modules: tuple[str, ...]) -> bool:
    return any(name == module or name.startswith(f"{module}.") for module in modules)


def _last(stages: Sequence[Stage]) -> int:
    return max(number for number, stage in enumerate(stages) if stage.epochs != 0)


def _number_at(stages: Sequence[Stage], epoch: int) -> int:
    end = 0
    for number, stage in enumerate(stages):
        if stage.epochs is None:
            return number
        end += stage.epochs
        if epoch < end:
            return number
    return _last(stages)
