"""What a run decides about its evaluation reaches method and data by one call."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import FrozenInstanceError
from typing import Any

import pytest

from cmr_bench.evaluation.options import EvaluationOptions
from cmr_bench.experiment.recipe import TrainerOptions
from cmr_bench.experiment.trainer import quiet
from cmr_bench.models.pairwise.vsepp import VSEPP
from cmr_bench.models.subspace.cca import CCA
from tests.support.trainers import fit, make_trainer


def test_the_test_is_scored_as_the_run_says_and_validation_is_not(toy: Callable[..., Any]) -> None:
    data, module = toy(), CCA(n_components=4)
    module.attach(data, EvaluationOptions("map", bootstrap=7, postprocess="csls"))
    module.fit_split(data.splits["train"], data.splits["val"])
    trainer = make_trainer()
    with quiet():
        trainer.validate(module, datamodule=data, verbose=False)
        assert module.tested is None
        trainer.test(module, datamodule=data, verbose=False)
    assert module.tested is not None
    evaluation = module.tested.evaluation
    assert (evaluation.protocol.bootstrap, evaluation.protocol.postprocess) == (7, "csls")
    assert evaluation.record()["bootstrap"] == 7
    assert evaluation.flags == ("transductive",)
    assert module.tested.encode_seconds > 0
    assert module.tested.score_seconds > 0


@pytest.mark.parametrize("split", ["val", "test"])
def test_the_split_that_selects_is_the_one_that_is_validated(toy: Callable[..., Any], split: Any) -> None:
    data, module = toy(), VSEPP(dim=4)
    module.attach(data, EvaluationOptions("map", select_on=split))
    sizes = [len(loader.dataset) for loader in data.val_dataloader()]
    assert sizes == [data.splits[split].n_images, data.splits[split].n_texts]
    assert data.evaluation.flags == (("selected_on_test",) if split == "test" else ())


@pytest.mark.parametrize(("n_classes", "criterion"), [(3, "map"), (0, "rsum")])
def test_by_default_the_data_set_says_what_selects(toy: Callable[..., Any], n_classes: int, criterion: str) -> None:
    data, module = toy(n_classes=n_classes), VSEPP(dim=4)
    module.attach(data)
    assert data.evaluation == EvaluationOptions(criterion)  # type: ignore[arg-type]
    assert module.selection == criterion
    # Scripts that use Lightning alone build the method themselves.
    data, module = toy(n_classes=n_classes), VSEPP(dim=4)
    module.build(data.load(module.image_view, module.text_view))
    metrics = fit(module, data).callback_metrics
    assert metrics["val/selection"] == metrics[f"val/{criterion}"]


def test_options_of_the_trainer_become_those_of_the_evaluation() -> None:
    options = TrainerOptions(select_on="test", bootstrap=3, postprocess="csls").evaluation(EvaluationOptions("map"))
    assert options == EvaluationOptions("map", "test", 3, "csls", 10)
    with pytest.raises(FrozenInstanceError):
        options.bootstrap = 4  # type: ignore[misc]
