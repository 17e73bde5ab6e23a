"""torchvision starts beside a CPU-only torch, and nothing is declared where it needs no help."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

from cmr_bench import compat
from tests.support.fresh import python


@pytest.mark.slow
def test_torchvision_and_lightning_import_after_cmr_bench_in_a_fresh_process() -> None:
    out = python(
        "import sys, cmr_bench, torch\n"
        "from cmr_bench.compat import _TorchvisionFinder as Finder\n"
        "there = lambda: any(isinstance(finder, Finder) for finder in sys.meta_path)\n"
        "assert there()\n"
        "import torchvision\n"
        "assert not there()\n"
        "from torchvision.transforms import v2\n"
        "import torchvision.models, lightning, torchmetrics\n"
        "assert v2.functional.resize(torch.zeros(3, 8, 8), [4, 4]).shape == (3, 4, 4)\n"
        "print('well')"
    )
    assert out == "well\n"


def test_importing_the_package_alone_imports_no_library() -> None:
    heavy = ("torch", "torchvision", "lightning", "numpy", "rich", "yaml", "jsonargparse")
    assert python(f"import sys, cmr_bench; print([name for name in {heavy} if name in sys.modules])") == "[]\n"


class Recorder:
    """Stands in for torch.library.Library and keeps what is declared."""

    made: ClassVar[list[Recorder]] = []

    def __init__(self, namespace: str, kind: str) -> None:
        self.namespace, self.kind, self.schemas = namespace, kind, list[str]()
        Recorder.made.append(self)

    def define(self, schema: str) -> None:
        self.schemas.append(schema)


@pytest.fixture
def declared(monkeypatch: pytest.MonkeyPatch) -> list[Recorder]:
    monkeypatch.setattr(Recorder, "made", [])
    monkeypatch.setattr(torch.library, "Library", Recorder)
    monkeypatch.setattr(compat, "_declared", [])
    monkeypatch.setattr(torch.version, "cuda", None)
    return Recorder.made


def binaries(folder: Path) -> Path:
    (folder / "_C.so").write_bytes(b"")
    return folder


def test_beside_a_torch_built_for_cuda_nothing_is_declared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, declared: list[Recorder]
) -> None:
    monkeypatch.setattr(torch.version, "cuda", "12.6")
    assert not compat.declare_missing_operators(binaries(tmp_path))
    assert declared == []


def test_where_the_library_loads_nothing_is_declared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, declared: list[Recorder]
) -> None:
    loaded: list[Any] = []
    monkeypatch.setattr(torch.ops, "load_library", loaded.append)
    assert not compat.declare_missing_operators(binaries(tmp_path))
    assert loaded == [tmp_path / "_C.so"]
    assert declared == []


def test_where_the_library_does_not_load_its_schemas_are_declared_and_kept_alive(
    tmp_path: Path, declared: list[Recorder]
) -> None:
    assert compat.declare_missing_operators(binaries(tmp_path))
    (library,) = declared
    assert (library.namespace, library.kind) == ("torchvision", "DEF")
    assert [schema.partition("(")[0] for schema in library.schemas] == ["nms", "qnms"]
    assert compat._declared == [library]


def test_an_installation_without_binaries_is_helped_too(tmp_path: Path, declared: list[Recorder]) -> None:
    assert compat.declare_missing_operators(tmp_path)
    assert len(declared) == 1


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """A meta_path of this test alone, as in a process that has not imported torchvision."""
    path: list[Any] = [finder for finder in sys.meta_path if not isinstance(finder, compat._TorchvisionFinder)]
    monkeypatch.setattr(sys, "meta_path", path)
    monkeypatch.delitem(sys.modules, "torchvision", raising=False)
    return path


def hooks(path: list[Any]) -> list[Any]:
    return [finder for finder in path if isinstance(finder, compat._TorchvisionFinder)]


def test_the_hook_is_put_in_place_once(fresh: list[Any]) -> None:
    compat.install()
    compat.install()
    assert len(hooks(fresh)) == 1


def test_the_hook_lets_other_imports_pass_and_leaves_with_the_first_of_torchvision(
    fresh: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Path] = []
    monkeypatch.setattr(compat, "declare_missing_operators", asked.append)
    compat.install()
    (hook,) = hooks(fresh)
    assert hook.find_spec("torchvision.models") is None
    assert hooks(fresh) == [hook]
    assert hook.find_spec("torchvision") is None
    assert hooks(fresh) == []
    assert [path.name for path in asked] == ["torchvision"]


def test_the_hook_stays_away_where_torchvision_is_imported_or_absent(
    fresh: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torchvision", sys)
    compat.install()
    assert hooks(fresh) == []
    monkeypatch.delitem(sys.modules, "torchvision")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    compat.install()
    assert hooks(fresh) == []
