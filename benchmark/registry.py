"""Short names of methods and data sets; importing this imports none of them."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cmr_bench.errors import UsageError, did_you_mean

if TYPE_CHECKING:
    from cmr_bench.datamodules.base import RetrievalDataModule
    from cmr_bench.models.base import RetrievalModule

FAMILIES = ("pairwise", "adversarial", "interaction", "attributes", "subspace")


@dataclass(frozen=True)
class Method:
    """A method of the suite.

    Attributes:
        target: Where the class is, ``module:Class``.
        family: Family of the survey, one of :data:`FAMILIES`.
        paper: The paper, as one would cite it in a table.
        views: Image and text views it reads, for `cmr-bench list`.
    """

    target: str
    family: str
    paper: str
    views: str


@dataclass(frozen=True)
class DataSet:
    """A data set of the suite.

    Attributes:
        target: Where the class is, ``module:Class``.
        about: One line.
    """

    target: str
    about: str


METHODS: dict[str, Method] = {
    "vsepp": Method(
        "cmr_bench.models.pairwise.vsepp:VSEPP",
        "pairwise",
        "Faghri et al., BMVC 2018",
        "pixels|vector|regions, tokens",
    ),
    "adv_subspace": Method(
        "cmr_bench.models.adversarial.adv_subspace:AdvSubspace",
        "adversarial",
        "Ma et al., JAIMLD 2023",
        "vector, vector",
    ),
    "cca": Method("cmr_bench.models.subspace.cca:CCA", "subspace", "Hotelling, Biometrika 1936", "vector, vector"),
}

DATASETS: dict[str, DataSet] = {
    "synthetic": DataSet("cmr_bench.datamodules.synthetic:Synthetic", "drawn objects with captions, no files needed"),
    "flickr8k": DataSet("cmr_bench.datamodules.flickr8k:Flickr8k", "6,000 / 1,000 / 1,000 photographs"),
    "flickr30k": DataSet("cmr_bench.datamodules.flickr30k:Flickr30k", "29,000 / 1,014 / 1,000 photographs"),
    "mscoco": DataSet("cmr_bench.datamodules.mscoco:MSCOCO", "113,287 / 5,000 / 5,000 photographs"),
    "wikipedia": DataSet("cmr_bench.datamodules.wikipedia:Wikipedia", "2,173 / 231 / 462 articles, 10 categories"),
    "pascal": DataSet("cmr_bench.datamodules.pascal:Pascal", "800 / 100 / 100 photographs, 20 categories"),
    "custom": DataSet("cmr_bench.datamodules.custom:Custom", "your own images and captions"),
}


def _load(target: str) -> type:
    module, _, name = target.partition(":")
    if module.endswith(".py"):
        path = Path(module)
        if not path.is_file():
            raise UsageError(f"{module} is not a file; pass FILE.py:Class or a name from `cmr-bench list`")
        spec = importlib.util.spec_from_file_location(path.stem, path)
        assert spec is not None
        assert spec.loader is not None
        loaded = importlib.util.module_from_spec(spec)
        sys.modules[path.stem] = loaded
        spec.loader.exec_module(loaded)
    else:
        loaded = importlib.import_module(module)
    found = getattr(loaded, name, None)
    if not isinstance(found, type):
        raise UsageError(f"{module} holds no class '{name}'{did_you_mean(name, vars(loaded))}")
    return found


def method_entry(name: str) -> Method:
    """Return the registry entry of a method, made up for a user's own ``FILE.py:Class``."""
    if name in METHODS:
        return METHODS[name]
    if ":" in name:
        return Method(name, "own", "", "")
    raise UsageError(f"no method '{name}'.{did_you_mean(name, METHODS)} `cmr-bench list` shows all.")


def method(name: str) -> type[RetrievalModule]:
    """Import the class of a method by short name, ``module:Class`` or ``FILE.py:Class``."""
    return _load(method_entry(name).target)


def dataset(name: str) -> type[RetrievalDataModule]:
    """Import the class of a data set by short name, ``module:Class`` or ``FILE.py:Class``."""
    if name in DATASETS:
        return _load(DATASETS[name].target)
    if ":" in name:
        return _load(name)
    raise UsageError(f"no data set '{name}'.{did_you_mean(name, DATASETS)} `cmr-bench list` shows all.")


def family(name: str) -> str:
    """Return the family of a method; a user's own class may say it as class attribute ``family``."""
    entry = method_entry(name)
    return str(getattr(_load(entry.target), "family", entry.family)) if entry.family == "own" else entry.family
