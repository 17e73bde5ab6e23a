"""What a run says before it imports torch, and what it never imports."""

from __future__ import annotations

import gzip
import subprocess
import sys
from pathlib import Path

import pytest

from cmr_bench.experiment import opening, recipe
from cmr_bench.support import devices
from tests.support import layouts
from tests.support.layouts import made_up, write_store

# Parts of the installation that a run of vsepp on the built-in data has no use for. What torch.optim (torch._dynamo,
# sympy) and lightning (all of torchmetrics, with torchvision, scipy and transformers) import themselves is not here.
UNUSED = (
    *("timm", "wandb", "gensim", "sklearn", "plotly", "tensorboard", "pandas", "matplotlib", "nltk", "faiss"),
    *("pyarrow", "h5py", "lmdb", "open_clip", "sentence_transformers", "torchvision.transforms.v2", "onnx"),
    "torch._inductor.compile_fx",
    *("transformers.modeling_utils", "cmr_bench.leaderboard", "cmr_bench.dashboard"),
    *("cmr_bench.search", "cmr_bench.regression", "cmr_bench.suites", "cmr_bench.models.interaction"),
    *("cmr_bench.models.subspace", "cmr_bench.datamodules.doctor", "cmr_bench.datamodules.readers.karpathy"),
)
RUN = ["run", "--model", "vsepp", "--trainer.accelerator", "cpu", "--runs", "r"]


def python(code: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=folder, timeout=240)


def test_the_opening_line_comes_before_torch(tmp_path: Path) -> None:
    code = f"import sys; sys.modules['torch'] = None\nfrom cmr_bench.cli import main\nmain({RUN!r})"
    told = python(code, tmp_path)
    assert told.stdout.startswith("vsepp on synthetic: CPU ("), told.stderr
    assert "torch" in told.stderr


@pytest.mark.parametrize(("options", "said"), [([], True), (["--data.skip_missing", "true"], False)])
@pytest.mark.parametrize("name", ["of_all", "timm:x/pool"])
@pytest.mark.parametrize("compressed", [False, True])
def test_an_image_without_a_row_is_told_before_torch(
    tmp_path: Path, compressed: bool, name: str, options: list[str], said: bool
) -> None:
    folder = layouts.write_karpathy(tmp_path, counts={"train": 4, "restval": 2, "val": 2, "test": 2}, photos=False)
    if compressed:
        file = folder / "dataset_flickr8k.json"
        (folder / f"{file.name}.gz").write_bytes(gzip.compress(file.read_bytes()))
        file.unlink()
    ids = [f"train_{k:05d}.jpg" for k in range(4)] + ["restval_00004.jpg"]
    ids += [f"{part}_{k:05d}.jpg" for k, part in ((6, "val"), (7, "val"), (8, "test"), (9, "test"))]
    command = "cmr-bench data features flickr8k --encoder timm:x"
    write_store(folder / "features" / "of_all", ids, made_up(0, len(ids), 3), weights="pretrained", command=command)
    words = ["--data", "flickr8k", "--data.root", str(tmp_path), "--data.image_features", name, *options]
    code = (
        f"import sys; sys.modules['torch'] = None\nfrom cmr_bench.cli import main\nmain({[*RUN, *words]!r})\n"
        "assert 'lightning' not in sys.modules"
    )
    told = python(code, tmp_path)
    expected = (
        f"cmr-bench run: error: flickr8k train: 1 of 6 images have no row in features '{name}', e.g. "
        "restval_00005.jpg; pass --data.skip_missing true to skip them\n"
    )
    assert (told.stderr == expected) is said, told.stderr
    assert told.stdout.startswith("vsepp on flickr8k") is not said


@pytest.mark.parametrize(
    "options",
    [
        ["--data.restval", "false"],
        ["--data.image_features", "elsewhere"],
        ["--model.image_view", "pixels"],
    ],
)
def test_what_the_names_of_files_do_not_tell_is_left_to_the_run(tmp_path: Path, options: list[str]) -> None:
    counts = {"train": 2, "restval": 2, "val": 2, "test": 2}
    folder = layouts.write_karpathy(tmp_path, "mscoco", counts=counts, photos=False)
    ids = ["train_00000.jpg", "train_00001.jpg", *(f"{p}_{k:05d}.jpg" for k, p in ((4, "val"), (5, "val")))]
    ids += ["test_00006.jpg", "test_00007.jpg"]
    write_store(folder / "features" / "of_all", ids, made_up(0, len(ids), 3), data="mscoco")
    words = ["--data", "mscoco", "--data.root", str(tmp_path), "--data.image_features", "of_all", *options]
    told = python(
        f"import sys; sys.modules['torch'] = None\nfrom cmr_bench.cli import main\nmain({[*RUN, *words]!r})", tmp_path
    )
    assert told.stdout.startswith("vsepp on mscoco"), told.stderr


@pytest.mark.parametrize("extra", [[], ["--model.margin", "0.3"]])
def test_the_help_of_a_method_imports_no_torch(tmp_path: Path, extra: list[str]) -> None:
    code = (
        f"import sys\nfrom cmr_bench.cli import main\nassert main({[*RUN, *extra, '--help']!r}) == 0\n"
        "assert not {'torch', 'numpy', 'lightning', 'rich'} & set(sys.modules)"
    )
    told = python(code, tmp_path)
    assert told.returncode == 0, told.stderr


@pytest.mark.slow
def test_a_run_imports_nothing_that_it_does_not_use(tmp_path: Path) -> None:
    small = ["--trainer.max_epochs", "1", "--data.n_train", "40", "--data.n_val", "10", "--data.n_test", "10"]
    code = (
        f"import sys\nfrom cmr_bench.cli import main\nassert main({[*RUN, *small]!r}) == 0\n"
        f"found = [name for name in {UNUSED!r} if name in sys.modules]\nassert not found, found"
    )
    told = python(code, tmp_path)
    assert told.returncode == 0, told.stderr
    first, second, *_ = told.stdout.splitlines()
    assert first.endswith("up to 1 epochs, batches of 128, seed 0")
    assert second.startswith("train 40 images, ")


@pytest.mark.parametrize(
    ("accelerator", "number", "gpus", "told"),
    [
        ("auto", 1, "0,1", "1 x GPU"),
        ("auto", "auto", "0, 1", "2 x GPU"),
        ("auto", 1, "", "CPU (4 cores)"),
        ("auto", 1, "-1", "CPU (4 cores)"),
        ("cpu", 2, "0", "2 processes on CPU (4 cores)"),
    ],
)
def test_the_device_in_words(
    accelerator: str, number: int | str, gpus: str, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", gpus)
    monkeypatch.setattr(devices, "cores", lambda: 4)
    monkeypatch.setattr(devices.platform, "system", lambda: "Linux")
    assert devices.device_in_words(accelerator, number) == told


def test_the_driver_is_asked_where_nothing_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(devices, "_DRIVER", tmp_path / "none")
    assert devices.visible_gpus() == []
    for name in ("0000:07:00.0", "0000:08:00.0"):
        (tmp_path / name).mkdir()
    monkeypatch.setattr(devices, "_DRIVER", tmp_path)
    assert devices.visible_gpus() == ["0", "1"]


def test_the_opening_names_variant_and_seed() -> None:
    config = recipe.resolve("vsepp", "synthetic", ["--trainer.accelerator=cpu"], seed=7)
    assert opening.opening(config).endswith("seed 7")
    assert opening.sizes({"train": (1000, 5000)}) == "train 1,000 images, 5,000 texts"
