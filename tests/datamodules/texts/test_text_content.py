"""Text vectors and vocabularies belong to the encoder and the captions that they were made from."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from cmr_bench.datamodules import raw
from cmr_bench.datamodules.custom import Custom
from cmr_bench.datamodules.split import SPLITS
from cmr_bench.datamodules.texts import vectors
from cmr_bench.datamodules.views import View
from cmr_bench.support.errors import DataError


def test_an_encoder_replaced_in_its_folder_gives_new_vectors_and_is_told(
    tmp_path: Path, write_bert: Callable[..., Path]
) -> None:
    """Size and time of the files stay as they were; only the content tells."""
    (tmp_path / "bert").mkdir()
    copy = write_bert(tmp_path / "bert", ["a", "dog", "runs", "cat"])
    weights = copy / "model.safetensors"
    texts, train = ["a dog runs"], ["a cat"]

    def view() -> View:
        return vectors.vector_view(f"hf:{copy}", train, texts, dim=0, seed=0, cache=tmp_path / "cache")

    before, content, origin = view().fetch(np.arange(1))["vector"], view().content(), view().origin()
    assert origin is not None
    raw.text_reader(origin)
    state, values = weights.stat(), load_file(weights)
    save_file(
        {name: value + 0.25 if value.is_floating_point() else value for name, value in values.items()},
        weights,
        {"format": "pt"},
    )
    os.utime(weights, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert weights.stat().st_size == state.st_size
    assert not torch.allclose(view().fetch(np.arange(1))["vector"], before)
    assert view().content() != content
    with pytest.raises(DataError, match=r"the text encoder .* put that encoder back"):
        raw.text_reader(origin)


def test_the_words_of_data_that_was_read_before_are_not_kept(tmp_path: Path) -> None:
    rows = [f"{k}.jpg,{word} here,{part}" for k, (word, part) in enumerate(zip("abc", SPLITS, strict=True))]
    data = Custom(root=str(tmp_path), min_count=1)
    for letter in "az":
        table = "\n".join(["image,caption,split", *rows]).replace("a here", f"{letter} here")
        (tmp_path / "table.csv").write_text(table)
        for k in range(3):
            (tmp_path / f"{k}.jpg").touch()
        data.load("pixels", "tokens")
        assert data.vocabulary is not None
        assert data.vocabulary.words == sorted([letter, "here"])
