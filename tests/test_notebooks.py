"""The notebooks run from the first cell to the last, on made-up data."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "docs" / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))


def test_there_are_two_without_stored_output() -> None:
    nbformat = pytest.importorskip("nbformat")
    assert [file.stem for file in NOTEBOOKS] == ["add_and_compare_a_method", "score_your_embeddings"]
    for file in NOTEBOOKS:
        notebook = nbformat.read(file, as_version=4)
        nbformat.validate(notebook)
        assert not any(cell.get("outputs") for cell in notebook.cells)


def test_the_method_of_the_notebook_is_that_of_the_page() -> None:
    nbformat = pytest.importorskip("nbformat")
    page = (FOLDER.parent / "add_a_method.md").read_text(encoding="utf-8")
    code = re.search(r"```python\n(.*?)```", page, flags=re.DOTALL)
    assert code is not None
    cells = nbformat.read(FOLDER / "add_and_compare_a_method.ipynb", as_version=4).cells
    (written,) = (cell.source for cell in cells if cell.source.startswith("%%writefile my_method.py"))
    assert written.partition("\n")[2].strip() == code[1].strip()


@pytest.mark.slow
@pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda file: file.stem)
def test_a_notebook_runs(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nbclient = pytest.importorskip("nbclient")
    nbformat = pytest.importorskip("nbformat")
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path / "runtime"))
    monkeypatch.setenv("PYTHONPATH", os.environ.get("PYTHONPATH", ""))
    notebook = nbformat.read(file, as_version=4)
    nbclient.NotebookClient(
        notebook, timeout=240, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    ).execute()
    printed = "".join(out.get("text", "") for cell in notebook.cells for out in cell.get("outputs", []))
    assert "rsum" in printed or "MyMethod" in printed
