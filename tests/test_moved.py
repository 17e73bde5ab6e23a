"""What user code imported under the old names of modules is what the new ones hold."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator

import pytest

from cmr_bench.moved import MOVED


@pytest.fixture(autouse=True)
def forgotten() -> Iterator[None]:
    yield
    for name in MOVED:
        sys.modules.pop(name, None)


@pytest.mark.parametrize("name", MOVED)
def test_an_old_name_leads_to_what_has_moved(name: str) -> None:
    with pytest.warns(DeprecationWarning, match=f"{name} has moved"):
        old = importlib.import_module(name)
    for place in MOVED[name]:
        new = importlib.import_module(place)
        own = [word for word, value in vars(new).items() if getattr(value, "__module__", "") == place]
        assert own
        for word in own:
            assert getattr(old, word).__module__.startswith("cmr_bench.")


@pytest.mark.filterwarnings("ignore:.*has moved:DeprecationWarning")
def test_classes_are_the_same_and_unknown_names_an_import_error() -> None:
    from cmr_bench.datamodules.split import Split

    assert importlib.import_module("cmr_bench.datamodules.base").Split is Split
    with pytest.raises(ImportError, match="nothing_like_this"):
        exec("from cmr_bench.datamodules.base import nothing_like_this")
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("cmr_bench.never_there")
