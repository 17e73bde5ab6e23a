"""Image features that the runs of a suite read, made once before the first of them."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterable

from cmr_bench.experiment import recipe
from cmr_bench.experiment.recipe import RunConfig
from cmr_bench.suites.plan import Job
from cmr_bench.support.encoders import feature_name
from cmr_bench.support.errors import CmrBenchError

# What says which photographs are read and what is made of them; other options that all data sets share do not.
_MATTERS = {"root", "image_features", "image_weights", "make_features", "skip_missing", "skip_invalid"}


def provide_features(jobs: Iterable[Job]) -> list[str]:
    """Make the image features that runs name by their encoder and that are not stored yet, each once.

    Args:
        jobs: The runs.

    Returns:
        Why the features of each run cannot be made, an empty text where nothing is wrong.
    """
    problems: list[str] = []
    tried: dict[str, str] = {}
    for job in jobs:
        config = job.config
        if feature_name(config.data.get("image_features")) is None or config.model.get("image_view") == "pixels":
            problems.append("")
            continue
        others = _shared_options() - _MATTERS
        read = {name: value for name, value in config.data.items() if name not in others}
        key = json.dumps([config.dataset, read], sort_keys=True, default=str)
        if key not in tried:
            tried[key] = _provide(config)
        problems.append(tried[key])
    return problems


def _shared_options() -> set[str]:
    # Imported where features are named: a suite that makes none need not wait for lightning.
    from cmr_bench.datamodules.module import RetrievalDataModule

    return set(inspect.signature(RetrievalDataModule.__init__).parameters)


def _provide(config: RunConfig) -> str:
    """Make the features of one run; return why that cannot be done, or an empty string."""
    from cmr_bench.datamodules.images import making
    from cmr_bench.datamodules.module import RetrievalDataModule

    try:
        module, data, options = recipe.instantiate(config)
        if isinstance(data, RetrievalDataModule) and module.image_view != "pixels" and not making.is_stored(data):
            data.making_device = "cpu" if options.accelerator == "cpu" else "auto"
            data.provide(module.image_view)
    except CmrBenchError as error:
        return str(error)
    return ""
