"""A run from its configuration to its stored result: the folder, the lock, what is tidied up after a refusal."""

from __future__ import annotations

import contextlib
from pathlib import Path

from cmr_bench import registry
from cmr_bench.experiment import launch
from cmr_bench.experiment.recipe import RunConfig
from cmr_bench.experiment.run import run
from cmr_bench.results.record import Result
from cmr_bench.results.store import new_run_folder
from cmr_bench.support import environment
from cmr_bench.support.errors import CmrBenchError
from cmr_bench.tracking import runs as wandb_runs


def start(config: RunConfig, runs: Path, logger: str = "csv") -> tuple[Path, Result]:
    """Run a configuration in a new folder under ``runs``.

    Args:
        config: The resolved configuration.
        runs: Folder of runs.
        logger: csv, tensorboard or wandb.

    Returns:
        The run folder and the stored result.

    Raises:
        CmrBenchError: If the run cannot begin, which leaves no folder behind, or fails.
    """
    child = environment.value(environment.RUN_FOLDER)
    label = f"{config.variant}-s{config.seed}" if config.variant else f"s{config.seed}"
    short = [name.rpartition(":")[2] for name in (config.data_label, config.method)]
    folder = Path(child) if child else launch.agree(lambda: new_run_folder(runs, short[0], short[1], label))
    try:
        return folder, proceed(config, folder, logger)
    except CmrBenchError:
        if launch.rank() == 0 and not (folder / "checkpoints").is_dir():
            for name in ("config.yaml", launch.LOCK):
                (folder / name).unlink(missing_ok=True)
            with contextlib.suppress(OSError):
                folder.rmdir()
        raise


def proceed(config: RunConfig, folder: Path, logger: str = "csv") -> Result:
    """Run a configuration in its folder, alone; an unfinished run resumes from its last checkpoint.

    Raises:
        CmrBenchError: If it is interrupted, with the command that resumes it, or fails.
    """
    failed = True
    try:
        with environment.run_folder(folder), launch.sole_runner(folder):
            result = run(config, folder, logger)
        failed = False
    except KeyboardInterrupt:
        command = registry.resume_command(folder, config.method, config.dataset)
        raise CmrBenchError(f"interrupted; resume with `{command}`") from None
    finally:
        wandb_runs.finish(failed)
    return result
