"""Ten thousand malformed inputs: every reader reads what it is given, or refuses it in one line and soon."""

from __future__ import annotations

import contextlib
import json
import math
import random
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from cmr_bench.datamodules.cuhk_pedes import CUHKPedes
from cmr_bench.datamodules.custom import Custom
from cmr_bench.datamodules.flickr8k import Flickr8k
from cmr_bench.datamodules.images.store import FeatureStore
from cmr_bench.datamodules.module import RetrievalDataModule
from cmr_bench.datamodules.pascal import Pascal
from cmr_bench.datamodules.recipe1m import Recipe1M
from cmr_bench.datamodules.wikipedia import Wikipedia
from cmr_bench.evaluation.brought import read_array
from cmr_bench.experiment import recipe
from cmr_bench.experiment.checkpoints import Checkpoints
from cmr_bench.experiment.recipe import RunConfig
from cmr_bench.regression import expected
from cmr_bench.results import published, record
from cmr_bench.suites import plan
from cmr_bench.support.errors import CmrBenchError
from tests.support import layouts
from tests.support.damage import Change, as_json, as_json_lines, as_yaml, bytewise, header, linewise, structural
from tests.support.runs import OLDEST_RESULT


@dataclass
class Reader:
    """A reader, the files that it reads, and how they are damaged.

    Attributes:
        write: Writes good files into a folder.
        read: Reads them; checks what it got.
        changes: Ways to damage the files whose name matches, besides bytewise.
        examples: Damaged inputs in the whole run.
    """

    write: Callable[[Path], Any]
    read: Callable[[Path], Any]
    changes: Mapping[str, Change]
    examples: int
    untouched: tuple[str, ...] = field(default=())


def sound(data: RetrievalDataModule, root: Path, *views: Any) -> None:
    """Read a data set, and look at all that it gives."""
    if views:
        data.load(*views)
        splits = data.splits
    else:
        splits = dict(data.read())
    for split in splits.values():
        split.fingerprint()
        assert len(set(split.image_ids)) == split.n_images
        assert all(caption.strip() for caption in split.captions or ["x"])
        assert all(file.resolve().is_relative_to(root.resolve()) for file in split.image_files or ())
        if split.labels is not None and len(split.labels):
            assert split.labels.min() >= 0
            assert (split.labels.max() if split.labels.ndim == 1 else split.labels.shape[1] - 1) < len(
                split.class_names
            )
        for view, n in ((split.images, split.n_images), (split.texts, split.n_texts)):
            if view is not None:
                fields = view.fetch(np.arange(n))
                assert all(len(values) == n for values in fields.values())
                assert all(bool(torch.isfinite(values).all()) for values in fields.values())


def read_wikipedia(root: Path) -> None:
    sound(Wikipedia(root=str(root), image_features="I", text_features="T"), root, "vector", "vector")
    sound(Wikipedia(root=str(root), image_features="img_cnnpca128", text_features="T"), root, "vector", "vector")


TABLE = [
    {"image": f"p/{k}.jpg", "caption": f"thing {k}, seen", "split": part, "label": "ab"[k % 2]}
    for k, part in enumerate(["train", "train", "val", "test"])
]


def a_recipe() -> dict[str, Any]:
    return {
        "method": "vsepp",
        "dataset": "synthetic",
        "model": {"margin": 0.3, "negatives": "mean", "lr": 1e-3},
        "data": {"batch_size": 32},
        "trainer": {"max_epochs": 3},
        "seed": 1,
        "fidelity": "paper",
    }


def read_recipe(root: Path) -> None:
    content = recipe.read_yaml(root / "recipe.yaml")
    made = recipe.resolve("vsepp", "synthetic", config=content)
    assert isinstance(made.seed, int)
    assert recipe.resolve("vsepp", "synthetic", config=yaml.safe_load(made.to_yaml())).model == made.model


def write_result(root: Path) -> None:
    shutil.copy(OLDEST_RESULT, root / "result.json")


def read_result(root: Path) -> None:
    found = record.read_result(root / "result.json")
    assert found.metrics
    assert all(math.isfinite(value) for value in found.metrics.values())
    assert json.loads(found.to_json())["metrics"] == found.metrics


A_SUITE = """
about: a try
seeds: [0, 1]
options: {trainer.max_epochs: 1}
runs:
  - {method: [vsepp, scan], data: synthetic}
  - {method: cca, data: synthetic, seeds: 2, options: {data.batch_size: 8}}
tables:
  - {data: synthetic, rows: [{method: vsepp}]}
"""


def read_suite(root: Path) -> None:
    content = plan.read_suite(str(root / "suite.yaml"))
    for job in plan.jobs(content, None, []):
        assert job.title


def write_expected(root: Path) -> None:
    row = {
        "method": "vsepp", "data": "synthetic", "variant": "", "seeds": [0, 1], "options": {}, "fingerprint": "x",
        "test_size": [4, 8], "views": {"image": "a", "text": "b"},
        "metrics": {"rsum": {"mean": 100.0, "sd": 1.0, "n": 2, "tolerance": 3.0}},
    }  # fmt: skip
    content = {"schema": 1, "suite": "ci", "false_alarms": 0.01, "recorded": {"when": "now"}, "rows": [row]}
    (root / "expected.yaml").write_text(yaml.safe_dump(content | {"digest": expected._digest(content)}))


def signed(content: bytes, rng: random.Random) -> bytes:
    """Change the content and make its checksum right again."""
    changed = structural(yaml.safe_load(content), rng)
    if isinstance(changed, dict):
        with contextlib.suppress(TypeError, ValueError):
            changed["digest"] = expected._digest(changed)
    return yaml.safe_dump(changed).encode("utf-8", "surrogatepass")


def write_published(root: Path) -> None:
    content = {
        "sources": {"a": "A paper"},
        "tests": {"synthetic": {"images": 4, "texts": 8}},
        "recall": [{"method": "m", "data": "d", "source": "a", "i2t": [1.0, 2, 3], "t2i": [1, 2, None]}],
        "map": [{"method": "m", "data": "d", "source": "a", "i2t": 0.5, "t2i": 0.4, "protocol": "5x1k"}],
        "seed_spread": [{"method": "m", "data": "d", "source": "a", "i2t_map": [0.5, 0.1], "seeds": 3}],
    }
    (root / "published.yaml").write_text(yaml.safe_dump(content))


def read_published(root: Path) -> None:
    for row in published.read_published(root / "published.yaml").rows:
        assert all(math.isfinite(value) for value in row.metrics.values())


def read_store(root: Path) -> None:
    store = FeatureStore(root)
    assert len(store.row_of) == len(store.array)
    assert store.source


CONFIG = RunConfig("vsepp", "synthetic", {"dim": 4})


def write_checkpoint(root: Path) -> None:
    content = {"state_dict": {"weight": torch.ones(2, 2)}, "epoch": 1, "optimizer_states": [{"state": {}}]}
    Checkpoints(CONFIG).save_checkpoint(content, root / "last.ckpt")


def read_checkpoint(root: Path) -> None:
    found = Checkpoints(CONFIG).load_checkpoint(root / "last.ckpt")
    assert found["state_dict"]["weight"].tolist() == [[1, 1], [1, 1]]
    assert found["epoch"] == 1


def write_arrays(root: Path) -> None:
    np.save(root / "scores.npy", np.ones((2, 4), dtype=np.float32))


PARTS = {"train": 2, "restval": 1, "val": 1, "test": 1}
READERS = {
    "karpathy": Reader(
        lambda root: layouts.write_karpathy(
            root, counts=PARTS, captions=2, photos=False, filepath=dict.fromkeys(PARTS, "val")
        ),
        lambda root: sound(Flickr8k(root=str(root)), root),
        {"*.json": as_json},
        2000,
    ),
    "precomputed": Reader(
        lambda root: layouts.write_precomputed(root, {"train": 4, "dev": 2, "test": 2}, dim=3, captions=2, ids="image"),
        lambda root: sound(Flickr8k(root=str(root), min_count=1), root, "vector", "tokens"),
        {"*.npy": header, "*.txt": linewise},
        1500,
    ),
    "wikipedia": Reader(
        lambda root: layouts.write_wikipedia(root, 8, 6, compressed=False), read_wikipedia, {"*.list": linewise}, 1000
    ),
    "pascal": Reader(
        lambda root: layouts.write_pascal(root, 3, photos=False, lists={"train": [0], "val": [1], "test": [2]}),
        lambda root: sound(Pascal(root=str(root)), root),
        {"*.txt": linewise},
        800,
    ),
    "cuhk_pedes": Reader(
        lambda root: layouts.write_cuhk_pedes(root, {"train": 2, "val": 1, "test": 1}, photos=False),
        lambda root: sound(CUHKPedes(root=str(root)), root),
        {"*.json": as_json},
        500,
    ),
    "recipe1m": Reader(
        lambda root: layouts.write_recipe1m(root, {"train": 2, "val": 1, "test": 1}, photos=False),
        lambda root: sound(Recipe1M(root=str(root), train_images=2), root),
        {"*.json": as_json},
        700,
    ),
    "csv": Reader(
        lambda root: layouts.write_table(root / "t.csv", TABLE),
        lambda root: sound(Custom(root=str(root)), root),
        {"*": linewise},
        1200,
    ),
    "jsonl": Reader(
        lambda root: layouts.write_table(root / "t.jsonl", TABLE),
        lambda root: sound(Custom(root=str(root)), root),
        {"*": as_json_lines},
        800,
    ),
    "recipe": Reader(
        lambda root: (root / "recipe.yaml").write_text(yaml.safe_dump(a_recipe())) and None,
        read_recipe,
        {"*": as_yaml},
        200,
    ),
    "result": Reader(write_result, read_result, {"*": as_json}, 1000),
    "suite": Reader(lambda root: (root / "suite.yaml").write_text(A_SUITE) and None, read_suite, {"*": as_yaml}, 150),
    "expected": Reader(write_expected, lambda root: expected.read_expected(root / "expected.yaml"), {"*": signed}, 400),
    "published": Reader(write_published, read_published, {"*": as_yaml}, 300),
    "features": Reader(
        lambda root: layouts.write_store(root, ["a", "b"], np.ones((2, 3), dtype=np.float32)),
        read_store,
        {"*.json": as_json, "*.npy": header},
        500,
    ),
    "checkpoint": Reader(write_checkpoint, read_checkpoint, {}, 300),
    "array": Reader(write_arrays, lambda root: read_array(root / "scores.npy", "--similarity"), {"*": header}, 300),
}


def test_ten_thousand_inputs_in_all() -> None:
    assert sum(reader.examples for reader in READERS.values()) >= 10_000


def damaged(reader: Reader, good: Mapping[Path, bytes], rng: random.Random) -> tuple[Path, bytes]:
    file = rng.choice(sorted(good))
    fitting = [change for pattern, change in reader.changes.items() if file.match(pattern)]
    change = rng.choice([bytewise, *fitting, *fitting])
    content = change(good[file], rng)
    return file, bytewise(content, rng) if rng.random() < 0.1 else content


@pytest.mark.timeout(600)
@pytest.mark.parametrize("share", [pytest.param(0.02, id="few"), pytest.param(1.0, id="all", marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", READERS)
def test_damaged_input_is_read_or_refused_in_one_line(name: str, share: float, tmp_path: Path) -> None:
    reader, root, seen = READERS[name], tmp_path / "root", 0
    root.mkdir()
    reader.write(root)
    reader.read(root)
    good = {file: file.read_bytes() for file in root.rglob("*") if file.is_file()}

    @settings(
        max_examples=math.ceil(reader.examples * share),
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(st.integers(0, 2**64))
    def try_one(seed: int) -> None:
        nonlocal seen
        seen += 1
        rng = random.Random(seed)
        file, content = damaged(reader, good, rng)
        file.write_bytes(content)
        try:
            reader.read(root)
        except CmrBenchError as error:
            message = str(error)
            assert message
            assert len(message.splitlines()) == 1
            message.encode()
        finally:
            file.write_bytes(good[file])

    try_one()
    assert seen >= math.ceil(reader.examples * share)
    assert {file: file.read_bytes() for file in root.rglob("*") if file.is_file()} == good
