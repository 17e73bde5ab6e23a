"""The first lines of a run: what it trains, on what and where, told before torch is imported."""

from __future__ import annotations

from collections.abc import Mapping

from cmr_bench.experiment.recipe import RunConfig
from cmr_bench.support.devices import device_in_words


def opening(config: RunConfig) -> str:
    """Return one line with method, data set, device, length and batch of a run, as far as its options tell them."""
    trainer = config.trainer
    variant = f" ({config.variant})" if config.variant else ""
    device = device_in_words(str(trainer.get("accelerator", "auto")), trainer.get("devices", 1))
    length = [f"up to {trainer['max_epochs']} epochs"] if trainer.get("max_epochs") else []
    batch = [f"batches of {config.data['batch_size']}"] if config.data.get("batch_size") else []
    parts = [device, *length, *batch, f"seed {config.seed}"]
    return f"{config.method_label}{variant} on {config.data_label}: {', '.join(parts)}"


def sizes(splits: Mapping[str, tuple[int, int]]) -> str:
    """Return one line with the number of images and texts of every split."""
    return "; ".join(f"{name} {images:,} images, {texts:,} texts" for name, (images, texts) in splits.items())
