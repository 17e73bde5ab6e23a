"""Training and evaluation of one method on one data set."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any, Literal

from cmr_bench import registry
from cmr_bench.api.options import arguments_named, dotted_names, words_of
from cmr_bench.api.runs import Run
from cmr_bench.datamodules.module import RetrievalDataModule
from cmr_bench.experiment import recipe, session
from cmr_bench.experiment.saved import stored_run
from cmr_bench.models.base import RetrievalModule
from cmr_bench.results.record import RESULT_FILE
from cmr_bench.support.errors import UsageError

Logger = Literal["csv", "tensorboard", "wandb"]


def train(
    method: str | type[RetrievalModule],
    data: str | RetrievalDataModule = "synthetic",
    *,
    runs: str | Path = "runs",
    variant: str = "",
    seed: int | None = None,
    logger: Logger = "csv",
    **options: Any,
) -> Run:
    """Train a method by its recipe, select the weights on validation, test once and store the result.

    The same as `cmr-bench run`: the run folder holds ``config.yaml``, ``result.json`` and the weights.

    Args:
        method: Short name from `cmr-bench list`, ``module:Class`` or ``FILE.py:Class``, or a class in a file.
        data: Name of a data set, or what :func:`load_data` returned, whose options the run takes over.
        runs: Folder of runs, in which the run gets a folder of its own.
        variant: Variant of the recipe.
        seed: Random seed; None takes the recipe's, else 0.
        logger: Experiment tracker; history.csv is always written.
        **options: Options of the method, the data set and the Trainer by their names, ``margin=0.3``,
            ``max_epochs=5``; where two parts have one of that name, by the dotted one: ``**{"model.lr": 1e-3}``.

    Raises:
        UsageError: For a name or option that there is not, or a value of the wrong type.
        DataError: If the data set is not there, or cannot deliver what the method reads.
        CmrBenchError: If training diverges or is interrupted.
    """
    if isinstance(method, type):
        method = _name_of(method)
    name, words = _chosen(data)
    registry.trust(method, name)
    known = recipe.option_names(recipe.option_parser(method, name))
    words += words_of(dotted_names(options, known, f"{method} on {name}"))
    config = recipe.resolve(method, name, words, variant=variant, seed=seed)
    recipe.check_files(config.dataset, config.data)
    folder, _ = session.start(config, Path(runs), logger)
    return Run(folder, trust=registry.is_own(method) or registry.is_own(name))


def resume(run: str | Path, *, trust: bool = False, logger: Logger = "csv") -> Run:
    """Finish an interrupted run from its last checkpoint, with the weights that it would have had.

    The same as `cmr-bench run --resume RUN`. A finished run is returned as it is.

    Args:
        run: Run folder ``runs/<data>/<method>/<run id>``, of :func:`train` or the command line.
        trust: Run the code of a class outside of the suite that the folder names.
        logger: Experiment tracker; history.csv is always written.

    Raises:
        UsageError: If it is no run, or names code that is not trusted.
        DataError: If the data set is not there, or a file leads out of the folder.
        CmrBenchError: If options or data differ from those that the run began with, another process works on it, or
            training diverges or is interrupted.
    """
    folder = Path(run).expanduser()
    if not (folder / RESULT_FILE).is_file():
        with arguments_named():
            config = stored_run(folder, trust)
        session.proceed(config, folder, logger)
    return Run(folder, trust=trust)


def _chosen(data: str | RetrievalDataModule) -> tuple[str, list[str]]:
    if isinstance(data, str):
        return data, []
    if data.chosen is None:
        raise UsageError(
            f"data: pass the name of a data set or what load_data returned, so that the run can be repeated; "
            f"{type(data).__name__} made otherwise trains by lightning.Trainer().fit(method, datamodule=data)"
        )
    name, words = data.chosen
    return name, list(words)


def _name_of(method: type) -> str:
    for name, entry in registry.METHODS.items():
        if entry.target == f"{method.__module__}:{method.__qualname__}":
            return name
    try:
        file = inspect.getsourcefile(method)
    except (TypeError, OSError):
        file = None
    if file is None or not Path(file).is_file():
        raise UsageError(
            f"method {method.__name__} is in no file, so that the run could not be repeated: write it to FILE.py and "
            f"pass 'FILE.py:{method.__name__}'"
        )
    return f"{file}:{method.__qualname__}"
