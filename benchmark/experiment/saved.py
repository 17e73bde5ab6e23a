"""The configuration that a run folder keeps; read before anything heavy is imported."""

from __future__ import annotations

from pathlib import Path

from cmr_bench import registry
from cmr_bench.experiment import recipe
from cmr_bench.experiment.recipe import RunConfig
from cmr_bench.support import foreign
from cmr_bench.support.errors import UsageError


def stored_run(folder: Path, trust: bool = False) -> RunConfig:
    """Return the configuration of a run folder, to go on with it.

    Args:
        folder: The run folder.
        trust: Run the code of a class outside of the suite that the folder names.

    Raises:
        UsageError: If it is no run folder.
        DataError: If something in it leads out of it.
    """
    if not (folder / "config.yaml").is_file():
        raise UsageError(f"no run in {folder}: it has no config.yaml; pass runs/<data>/<method>/<run id>")
    foreign.check_folder(folder)
    saved = recipe.read_yaml(folder / "config.yaml")
    if trust:
        registry.trust(saved.get("method"), saved.get("dataset"))
    config = recipe.resolve(str(saved.get("method")), str(saved.get("dataset")), config=saved)
    recipe.check_files(config.dataset, config.data)
    return config
