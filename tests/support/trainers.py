"""The Trainer of tests that train a method without a run folder."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

# First: it prepares torchvision before anything imports lightning, also in processes that a test starts.
from cmr_bench.experiment.trainer import quiet

if TYPE_CHECKING:
    import lightning as L


def make_trainer(epochs: int = 1, **options: Any) -> L.Trainer:
    """Return a Trainer on the CPU that writes and prints nothing; ``options`` are Lightning's own."""
    import lightning as L

    bare: dict[str, Any] = {
        "max_epochs": epochs,
        "accelerator": "cpu",
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
        "use_distributed_sampler": False,
    }
    with quiet():
        return L.Trainer(**bare | options)


def fit(module: Any, data: Any, epochs: int = 1, **options: Any) -> L.Trainer:
    """Train a method that is built for the data, and return the Trainer."""
    trainer = make_trainer(epochs, **options)
    with quiet():
        trainer.fit(module, datamodule=data)
    return trainer
