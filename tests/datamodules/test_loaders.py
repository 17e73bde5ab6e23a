"""Lightning's own way: the data set sets itself up, and a Trainer takes method and data set without the command."""

from __future__ import annotations

from pathlib import Path

import lightning as L
import pytest

from cmr_bench.datamodules.custom import Custom
from cmr_bench.datamodules.flickr8k import Flickr8k
from cmr_bench.datamodules.synthetic.module import Synthetic
from cmr_bench.models.common.stages import StagedModule
from cmr_bench.models.pairwise.cmpm import CMPM
from cmr_bench.models.pairwise.vsepp import VSEPP
from cmr_bench.models.subspace.cca import CCA
from cmr_bench.support.errors import CmrBenchError, UsageError


def small() -> Synthetic:
    return Synthetic(n_train=40, n_val=12, n_test=12, batch_size=20, min_count=1)


def trainer(**options: object) -> L.Trainer:
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "accelerator": "cpu"}
    return L.Trainer(**{**quiet, "enable_model_summary": False, "max_epochs": 1, **options})  # type: ignore[arg-type]


def test_setup_gives_loaders_without_a_trainer() -> None:
    data = small()
    data.setup("fit")
    batch = next(iter(data.train_dataloader()))
    assert batch.images.vector is not None
    assert batch.texts.tokens is not None
    assert len(batch) == 20
    before = data.splits
    data.setup("test")
    assert data.splits is before
    assert [len(loader.dataset) for loader in data.test_dataloader()] == [12, data.splits["test"].n_texts]


@pytest.mark.filterwarnings("ignore:.*does not have many workers")
@pytest.mark.parametrize("loaded", [False, True])
def test_a_trainer_takes_method_and_data_as_they_are(loaded: bool) -> None:
    data, method = small(), VSEPP(dim=16, word_dim=8)
    if loaded:
        data.load_usual("regions")  # not the view that the method reads
    one = trainer()
    one.fit(method, datamodule=data)
    found, *_ = one.test(method, datamodule=data, verbose=False)
    assert found["test/rsum"] > 0
    assert data.reading is not None
    assert data.reading[:2] == ("vector", "tokens")


@pytest.mark.filterwarnings("ignore:.*does not have many workers")
def test_staged_methods_and_standardised_features_train_so_too() -> None:
    data, method = small(), CMPM(dim=16, standardise="feature")
    assert isinstance(method, StagedModule)
    trainer(limit_train_batches=1).fit(method, datamodule=data)
    assert float(method.image_scale.deviation.std()) > 0


def test_a_closed_form_says_who_solves_it() -> None:
    with pytest.raises(UsageError, match=r"cmr_bench\.train"):
        trainer().fit(CCA(), datamodule=small())


def test_the_first_problem_of_missing_files_is_told(tmp_path: Path) -> None:
    with pytest.raises(CmrBenchError, match="flickr8k not found"):
        Flickr8k(root=tmp_path).setup("fit")


def test_paths_may_be_paths(tmp_path: Path) -> None:
    data = Custom(root=tmp_path, file=tmp_path / "a.csv", images=tmp_path, image_weights=tmp_path / "w.pth")
    assert data.root == str(tmp_path)
    assert data.file == str(tmp_path / "a.csv")
    assert data.image_weights == str(tmp_path / "w.pth")
    assert VSEPP(cnn_weights=tmp_path / "w.pth").cnn_weights == str(tmp_path / "w.pth")
