"""Several processes train, encode and score like one, on sizes that do not divide."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
import torch.multiprocessing as mp

from cmr_bench.datamodules.batches import BatchSampler
from cmr_bench.experiment.trainer import quiet
from cmr_bench.models.base import RetrievalModule
from cmr_bench.models.interaction.pfan import PFAN
from cmr_bench.models.pairwise.drsl import DRSL
from tests.models.conftest import Toy
from tests.models.test_registry_methods import METHODS, SMALL, make
from tests.support.processes import free_ports
from tests.support.trainers import make_trainer

# 45 pairs in batches of 11: shares of 6 and 5, or 4, 4 and 3, and a last batch of one pair, which leaves all but one
# process without any. 12 validation images, 10 test images, 24 and 19 texts, encoded 7 at a time.
SIZES = {"n_train": 23, "batch": 11, "encoded": 7}
STEPS = 5
# Random numbers of one process and of the shares of several are never the same.
QUIET = {"dropout": 0.0, "input_dropout": 0.0, "image_dropout": 0.0}
# Other forms of a method, which share their batches in ways of their own.
FORMS: dict[str, tuple[str, dict[str, Any]]] = {
    "acmr_released": ("acmr", {"mining": "released", "linear_discriminator": True, "train_classes": False}),
    "drsl_released": ("drsl", {"network": "released", "relation": 8}),
    "camp_messages": ("camp", {"stages": [1, 1, 0]}),
    "mcitr_binary": ("mcitr", {"stages": [0, 1, 1]}),
    "vsepp_waiting": ("vsepp", {"image_view": "pixels", "fine_tune": True, "frozen_epochs": 2, "reduction": "sum"}),
}
# Of a single word the cosines are 1 or -1 by their sign. Summed over the pairs, the loss makes steps that blow up the
# last bits, so those of pfan are shorter: at .001, a step longer by a millionth ends 2 % away, at .0003 a millionth,
# and a share that counts half as much again 18 %. acmm sums such scores too: after steps longer by a millionth its
# weights, which move by .2, end 1e-5 away at .01 and 7e-4 at .003. The first stage of camp has the logarithm of cosines
# near 0, whose slope is as steep as their inverse. The directions that dcca and dccae fit at the end are eigenvectors,
# which the last bits of the features turn by as much more as two correlations lie closer.
LOOSE = ("pfan", "acmm", "camp_messages", "dcca.image_top", "dcca.text_top", "dccae.image_top", "dccae.text_top")
TOLERANCE = {part: {"rtol": 1e-3, "atol": 1e-4} for part in LOOSE}
FOUR = ["vsepp", "cmpm", "adv_subspace", "scan", "agnet"]


class Recorder(L.Callback):
    """Keeps the loss of every step and the rows that were encoded for the test."""

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.pairs: list[list[list[int]]] = []
        self.encoded: dict[str, list[int]] = {"images": [], "texts": []}

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.losses.append(float(outputs["loss"]) * trainer.accumulate_grad_batches)
        self.pairs.append([] if batch.stand_in else [batch.images.rows.tolist(), batch.texts.rows.tolist()])

    def on_test_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, *_: Any) -> None:
        self.encoded["images" if type(batch).__name__ == "ImageBatch" else "texts"] += batch.rows.tolist()


def work(name: str, start: Path | None, accumulate: int, world: int, **options: Any) -> dict[str, Any]:
    """Train a method from the weights given and score it, once as it starts and once as it ends."""
    data = Toy(n_train=SIZES["n_train"])
    data.batch_size, data.eval_batch_size = SIZES["batch"], SIZES["encoded"]
    L.seed_everything(3, workers=True, verbose=False)
    method, form = FORMS.get(name, (name, {}))
    module = make(method, **form, **options)
    module.attach(data)
    if module.closed_form:
        module.fit_split(data.splits["train"], data.splits["val"])
    else:
        module.prepare_training(data.splits["train"])
    if start is not None:
        module.load_state(torch.load(start, weights_only=True))
    first = {key: value.clone() for key, value in module.state_dict().items()}
    recorder = Recorder()
    trainer = make_trainer(
        2,
        devices=world,
        strategy="ddp" if world > 1 else "auto",
        accumulate_grad_batches=accumulate,
        callbacks=[recorder],
    )
    with quiet():
        trainer.test(module, datamodule=data, verbose=False)
        assert module.evaluation is not None
        metrics = dict(module.evaluation.metrics)
        encoded = {side: list(rows) for side, rows in recorder.encoded.items()}
        if not module.closed_form:
            trainer.fit(module, datamodule=data)
    return {
        "first": first,
        "metrics": metrics,
        "encoded": encoded,
        "losses": recorder.losses,
        "pairs": recorder.pairs,
        "logged": {k: float(v) for k, v in trainer.callback_metrics.items() if k.startswith("train/")},
        "last": dict(module.state_dict()),
    }


def known(name: str, options: dict[str, Any]) -> dict[str, Any]:
    from cmr_bench.experiment.recipe import option_names, option_parser

    there = option_names(option_parser(FORMS.get(name, (name,))[0], "flickr8k"))
    return {key: value for key, value in options.items() if f"model.{key}" in there}


def plain_steps(module: RetrievalModule) -> torch.optim.Optimizer:
    return torch.optim.SGD(module.parameter_groups(), lr=0.0003 if isinstance(module, PFAN) else 0.01)


def _process(rank: int, world: int, port: int, folder: str, jobs: list[tuple[str, int]], small: dict[str, Any]) -> None:
    os.environ |= {
        "LOCAL_RANK": str(rank),
        "NODE_RANK": "0",
        "WORLD_SIZE": str(world),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "GLOO_SOCKET_IFNAME": "lo",
    }
    torch.set_num_threads(1)
    SMALL.update(small)
    for name, accumulate in jobs:
        found = work(name, Path(folder) / f"{name}.pt", accumulate, world, **known(name, QUIET))
        torch.save(found, f"{folder}/{name}-{accumulate}-{world}-{rank}.pt")


def together(world: int, folder: Path, jobs: list[tuple[str, int]]) -> None:
    (port,) = free_ports(1)
    # Forked, they need not import everything again.
    mp.start_processes(_process, args=(world, port, str(folder), jobs, dict(SMALL)), nprocs=world, start_method="fork")


@pytest.fixture(autouse=True, scope="module")
def _local_models(bert: Path, clip: Path) -> None:
    SMALL["bert"], SMALL["backbone"], SMALL["word_vectors"] = str(bert), str(clip), str(bert)


def check(name: str, one: dict[str, Any], others: list[dict[str, Any]]) -> None:
    # Each test item is encoded by one process, and once.
    for side, rows in one["encoded"].items():
        assert sorted(rows) == sorted(row for other in others for row in other["encoded"][side])
        assert len(set(rows)) == len(rows)
    for other in others:
        assert other["metrics"] == one["metrics"]
        assert len(other["losses"]) == len(one["losses"])
        assert other["last"].keys() == one["last"].keys()
        parts = {part: (other[part], one[part]) for part in ("losses", "logged")}
        parts |= {key: (other["last"][key], expected) for key, expected in one["last"].items()}
        for part, (found, expected) in parts.items():
            torch.testing.assert_close(
                found,
                expected,
                **TOLERANCE.get(f"{name}.{part}", TOLERANCE.get(name, {"rtol": 1e-4, "atol": 1e-5})),
                msg=lambda told, part=part: f"{name}, {part}: {told}",
            )
    # The shares, in the order of the processes, are the batch of one process, in its order.
    for step, (images, texts) in enumerate(one["pairs"]):
        shares = [other["pairs"][step] for other in others if other["pairs"][step]]
        assert [row for share in shares for row in share[0]] == images
        assert [row for share in shares for row in share[1]] == texts


@pytest.mark.slow
@pytest.mark.parametrize("world", [2, 3])
def test_several_processes_follow_one(world: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Adam would hide a gradient that is too large by a factor, and blow up the last bits of one that is 0.
    monkeypatch.setattr(RetrievalModule, "make_optimizer", plain_steps)
    monkeypatch.setattr(DRSL, "make_optimizer", RetrievalModule.make_optimizer)
    names = [*METHODS, *FORMS] if world == 2 else [*FOUR, *FORMS]
    jobs = [(name, 1) for name in names] + [(name, 2) for name in ("vsepp", "cmpm")]
    alone = {}
    for name, accumulate in jobs:
        alone[name, accumulate] = work(name, None, accumulate, 1, **known(name, QUIET))
        torch.save(alone[name, accumulate]["first"], tmp_path / f"{name}.pt")
    together(world, tmp_path, jobs)
    for (name, accumulate), one in alone.items():
        files = [tmp_path / f"{name}-{accumulate}-{world}-{rank}.pt" for rank in range(world)]
        others = [torch.load(file, weights_only=True) for file in files]
        if one["losses"]:
            assert len(one["losses"]) == 2 * STEPS
            assert [] in others[-1]["pairs"]
            # Captions of one image meet in a batch and in different shares of it, where they are no negatives either.
            assert any(_shared_images([o["pairs"][step] for o in others]) for step in range(2 * STEPS))
        check(name, one, others)


def _shared_images(shares: list[list[list[int]]]) -> bool:
    images = [image for share in shares if share for image in set(share[0])]
    return len(set(images)) < len(images)


def everyone(n_items: int, size: int, seed: int | None, world: int) -> list[list[Any]]:
    return [list(BatchSampler(n_items, size, seed, rank, world)) for rank in range(world)]


@pytest.mark.parametrize("world", [1, 2, 3, 5])
@pytest.mark.parametrize(("n_items", "size"), [(45, 11), (10, 5), (7, 20), (1, 6)])
def test_shares_make_up_the_batches_of_one_process(world: int, n_items: int, size: int) -> None:
    (one,) = everyone(n_items, size, 4, 1)
    many = everyone(n_items, size, 4, world)
    for rank in range(world):
        assert len(many[rank]) == len(BatchSampler(n_items, size, 4, rank, world)) == len(one)
    for batch, *shares in zip(one, *many, strict=True):
        assert [row for share in shares if not share.stand_in for row in share] == batch
        assert {share.whole for share in shares} == {len(batch)}
        assert all(share for share in shares)


@pytest.mark.parametrize("world", [1, 2, 3, 5])
@pytest.mark.parametrize(("n_items", "size"), [(45, 11), (10, 5), (7, 20), (1, 6)])
def test_whole_batches_are_dealt_out(world: int, n_items: int, size: int) -> None:
    (one,) = everyone(n_items, size, None, 1)
    many = everyone(n_items, size, None, world)
    assert len({len(batches) for batches in many}) == 1
    dealt = [batch for turn in zip(*many, strict=True) for batch in turn if batch]
    assert dealt == one
