"""Stages: how epochs are divided, who may be selected, and weights of before stages had numbers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cmr_bench.experiment.callbacks import Best, History, Patience
from cmr_bench.experiment.trainer import quiet
from cmr_bench.models.common.stages import divided
from cmr_bench.models.interaction.mcitr import MCITR
from cmr_bench.models.pairwise.vsepp import VSEPP
from tests.support.trainers import make_trainer


@given(
    parts=st.lists(st.integers(0, 40), min_size=1, max_size=4).filter(any),
    epochs=st.none() | st.integers(1, 300),
)
def test_epochs_are_divided_without_a_rest(parts: list[int], epochs: int | None) -> None:
    found = divided(parts, epochs)
    total = sum(parts) if epochs is None else epochs
    assert sum(found) == total
    assert min(found) >= 0
    assert all(share == 0 for share, part in zip(found, parts, strict=True) if part == 0)
    assert [share for share, part in zip(found, parts, strict=True) if part][-1] >= 1
    if total == sum(parts):
        assert found == parts
    for share, part in zip(found, parts, strict=True):
        assert abs(share - total * part / sum(parts)) < 1 + 1e-9


def test_only_stages_that_can_be_selected_are_and_patience_waits_for_the_last(
    toy: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    data, module = toy(), MCITR(hidden=6, code_dim=4, stages=(3, 4, 0))
    module.attach(data)
    best, history, patience = Best(tmp_path), History(tmp_path / "history.csv"), Patience(50)
    waits, saved = [], []
    for callback, name, kept in (
        (best, "_should_skip_saving_checkpoint", saved),
        (patience, "_should_skip_check", waits),
    ):
        inner = getattr(callback, name)
        monkeypatch.setattr(
            callback, name, lambda t, inner=inner, kept=kept: kept.append((t.current_epoch, inner(t))) or kept[-1][1]
        )
    with quiet():
        trainer = make_trainer(7, enable_checkpointing=True, callbacks=[best, history, patience])
        module.prepare_training(data.splits["train"])
        trainer.fit(module, datamodule=data)
    for kept in (saved, waits):
        assert all(skipped for epoch, skipped in kept if epoch < 3)
        assert any(not skipped for epoch, skipped in kept if epoch >= 3)
    assert [row["stage"] for row in history.rows] == [1] * 3 + [2] * 4
    assert ["train/agreement" in row for row in history.rows] == [False] * 3 + [True] * 4


def test_weights_of_before_stages_had_numbers_are_loaded(toy: Callable[..., Any]) -> None:
    module = VSEPP(dim=4, word_dim=4)
    module.attach(toy())
    state = {name: value for name, value in module.state_dict().items() if name != "stage_number"}
    module.load_state(state)
    assert int(module.stage_number) == 0
