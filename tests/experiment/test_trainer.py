"""What a run silences is still said by the libraries, and nothing else is said."""

from __future__ import annotations

import re
import warnings
from pathlib import Path

import lightning.fabric
import lightning.pytorch
import pytest
import torch.utils._pytree

from cmr_bench.cli import main
from cmr_bench.experiment import trainer

OWN_OPTIONS = ("--data.batch_size", "60", "--trainer.max_epochs", "2", "--trainer.bootstrap", "0")


@pytest.fixture(scope="module")
def sources() -> str:
    """The source of everything that warns, without the seams of strings that run over several lines."""
    parts = (lightning.pytorch, lightning.fabric)
    files = [file for part in parts for file in Path(str(part.__file__)).parent.rglob("*.py")]
    files.append(Path(torch.utils._pytree.__file__))
    return "\n".join(re.sub(r'"\n\s*f?"', "", file.read_text(encoding="utf-8")) for file in files)


@pytest.mark.parametrize("pattern", trainer.SILENCED)
def test_what_is_silenced_is_said_by_the_installed_libraries(pattern: str, sources: str) -> None:
    if "LeafSpec" in pattern and tuple(map(int, torch.__version__.split(".")[:2])) < (2, 13):
        pytest.skip("a version of torch before the deprecation")
    assert re.search(pattern, sources), f"no library says {pattern} any more: remove it"
    assert len(trainer.SILENCED[pattern].split()) > 3


def test_a_run_says_nothing_of_its_own(own: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert main([*own, "--runs", "here"]) == 0
    assert capsys.readouterr().err == ""


def test_other_warnings_are_heard() -> None:
    with pytest.warns(UserWarning, match="heard"), trainer.quiet():
        warnings.warn("heard", stacklevel=1)


def test_silence_ends_with_the_run() -> None:
    with trainer.quiet():
        pass
    with pytest.warns(UserWarning, match="GPU available"):
        warnings.warn("GPU available but not used.", stacklevel=1)
