"""Full disks, damaged files, two runs at once, too little memory: one message, and nothing lost or half-written."""

from __future__ import annotations

import ast
import errno
import os
import pickle
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from filelock import FileLock
from torch import Tensor
from torch.utils.data import DataLoader

import cmr_bench
from cmr_bench.cli import main
from cmr_bench.datamodules.batches import Items, shared
from cmr_bench.datamodules.images.photos import PixelView
from cmr_bench.datamodules.texts.vectors import text_vectors
from cmr_bench.evaluation.protocol import Protocol, evaluate
from cmr_bench.evaluation.ranks import EmbeddingScores
from cmr_bench.experiment import launch
from cmr_bench.experiment.recipe import TrainerOptions
from cmr_bench.results.record import read_result
from cmr_bench.support.errors import CmrBenchError, DataError, UsageError
from tests.support.runs import ROOT, own_command

OWN_OPTIONS = ("--data.batch_size", "60", "--trainer.max_epochs", "2", "--trainer.bootstrap", "0")
WRITTEN = ("config.yaml", "last.ckpt", "best.ckpt", "history.csv", "examples.json", "result.json")


def run_folder(root: Path) -> Path:
    (folder,) = root.glob("runs/*/*/*")
    return folder


def told(capsys: pytest.CaptureFixture[str]) -> str:
    error = capsys.readouterr().err.strip()
    assert len(error.splitlines()) == 1, error
    return error


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was stopped in its second epoch."""
    root = tmp_path_factory.mktemp("begun")
    words = [*own_command(root), *OWN_OPTIONS, "--model.stop_at", "1", "--data.batch_size", "30"]
    patch = pytest.MonkeyPatch()
    patch.chdir(root)
    patch.setenv("STOP", "1")
    assert main(words) == 1
    patch.undo()
    return run_folder(root)


@pytest.fixture
def stopped(begun: Path, own: list[str], tmp_path: Path) -> Path:
    folder = tmp_path / "runs" / "Toy" / "Linear" / begun.name
    shutil.copytree(begun, folder)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("name", WRITTEN)
def test_a_full_disk_is_told_and_the_run_goes_on_later(
    name: str, own: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    flush, kept = os.fsync, {"writes": 0}

    def full(handle: int) -> None:
        if f".{name}." in os.readlink(f"/proc/self/fd/{handle}"):  # noqa: PTH115
            kept["writes"] += 1
            if kept["writes"] == 1 + (name == "last.ckpt"):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        flush(handle)

    if not Path("/proc/self/fd").is_dir():
        pytest.skip("needs /proc to know which file is written")
    monkeypatch.setattr(os, "fsync", full)
    assert main(own) == 1
    error = told(capsys)
    assert f"{name}: No space left on device" in error
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    assert not list(tmp_path.rglob("*.tmp"))
    assert not list(tmp_path.rglob("result.json"))
    if name == "config.yaml":
        assert not list(tmp_path.glob("runs/*/*/*"))
        return
    folder = run_folder(tmp_path)
    assert main(["run", "--resume", str(folder), "--trust"]) == 0
    assert main([*own, "--runs", "whole"]) == 0
    (whole,) = tmp_path.glob("whole/*/*/*")
    assert read_result(folder / "result.json").metrics == read_result(whole / "result.json").metrics


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_write_that_the_system_cuts_short(own: list[str], tmp_path: Path) -> None:
    child = os.fork()
    if child == 0:
        code = 99
        try:
            # Python would leave the compiled modules of the package cut off.
            sys.dont_write_bytecode = True
            resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))
            with (tmp_path / "said").open("w") as said:
                sys.stderr = said
                code = main(own)
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 1
    error = (tmp_path / "said").read_text().strip()
    assert "last.ckpt: File too large" in error
    assert len(error.splitlines()) == 1
    left = [file for file in tmp_path.rglob("*") if file.is_file() and "__pycache__" not in file.parts]
    assert {file.name for file in left} <= {"own.py", "said", "config.yaml", ".lock"}


@pytest.mark.slow
def test_a_disk_that_is_really_full(own: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    disk = tmp_path / "runs"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24k", "tmpfs", str(disk)], capture_output=True)
    if mounted.returncode:
        pytest.skip("cannot mount a small disk here")
    try:
        assert main(own) == 1
        assert "No space left on device" in told(capsys)
        assert not list(disk.rglob("*.tmp"))
        assert not list(disk.rglob("result.json"))
        subprocess.run(["mount", "-o", "remount,size=4m", str(disk)], check=True)
        folders = [file.parent for file in disk.glob("*/*/*/config.yaml")]
        assert main(["run", "--resume", str(folders[0]), "--trust"] if folders else own) == 0
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_full_disk_keeps_no_text_vectors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    captions = ["a red dog", "a blue cat", "two dogs"]

    def vectors() -> Any:
        return text_vectors("tfidf", captions, captions, dim=4, seed=0, cache=tmp_path)

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(CmrBenchError, match=r"cannot write .*tfidf.*: No space left on device"):
        vectors()
    assert not [file for file in tmp_path.rglob("*") if file.suffix in (".npy", ".json", ".tmp")]
    monkeypatch.undo()
    whole = np.array(vectors())
    (file,) = tmp_path.rglob("*.npy")
    for damaged in (file.read_bytes()[:-3], b"", b"\x93NUMPY", os.urandom(300)):
        file.write_bytes(damaged)
        np.testing.assert_array_equal(vectors(), whole)
    for manifest in (b"", b"[]", b"{}", b'{"shape": [3]}', b"\xff"):
        file.with_suffix(".json").write_bytes(manifest)
        np.testing.assert_array_equal(vectors(), whole)


def test_a_cache_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="CMR_BENCH_CACHE"):
        text_vectors("tfidf", ["a dog"], ["a dog"], dim=2, seed=0, cache=tmp_path / "file")


def test_data_workers_without_shared_memory(
    own: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(tensor: Tensor) -> Tensor:
        raise RuntimeError(
            "unable to allocate shared memory(shm) for file </torch_1_2_3>: No space left on device (28)"
        )

    monkeypatch.setattr(Tensor, "share_memory_", full)
    assert main([*own, "--data.num_workers", "2"]) == 1
    error = told(capsys)
    assert error.startswith("cmr-bench run: error: a data worker has no shared memory for a batch of ")
    assert "unable to allocate shared memory(shm): No space left on device (28)" in error
    assert "--data.num_workers 0" in error


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("unshare") is None, reason="needs unshare")
@pytest.mark.parametrize("size", ["4k", "64k"])
def test_a_small_shared_memory(size: str, own: list[str], tmp_path: Path) -> None:
    words = " ".join([sys.executable, "-m", "cmr_bench.cli", *own, "--data.num_workers", "2", "--data.n", "2000"])
    words = words.replace("--data.batch_size 60", "--data.batch_size 1000")
    script = f"mount -t tmpfs -o size={size} tmpfs /dev/shm || exit 77; exec {words}"
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=200, check=False
    )
    if done.returncode == 77 or "unshare" in done.stderr:
        pytest.skip("a file system can be mounted by root only")
    assert done.returncode == 1
    assert "shared memory" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_error_of_a_data_worker_is_its_own_line(tmp_path: Path, write_photo: Callable[..., Path]) -> None:
    files = [write_photo(tmp_path / f"{row}.jpg", row) for row in range(4)]
    files[2].write_bytes(files[2].read_bytes()[:200])
    view = PixelView(files, 16, augment=False, seed=0)
    loader = DataLoader(Items(4, lambda rows: view.fetch(np.asarray(rows))), 2, num_workers=1, collate_fn=shared)
    with pytest.raises(DataError) as caught:
        list(loader)
    assert str(caught.value).startswith(f"cannot decode image {files[2]}")


def test_two_runs_in_one_folder(stopped: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {file: file.read_bytes() for file in stopped.rglob("*") if file.is_file()}
    with FileLock(stopped / launch.LOCK):
        assert main(["run", "--resume", str(stopped), "--trust"]) == 1
    assert "is locked by another process" in told(capsys)
    assert all(file.read_bytes() == content for file, content in before.items())
    assert main(["run", "--resume", str(stopped), "--trust"]) == 0


class Bomb:
    """Leaves a file behind wherever it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return Path.touch, (self.mark,)


def _altered(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path, Path], None]:
    def damage(file: Path, mark: Path) -> None:
        content = torch.load(file, weights_only=True)
        torch.save(change(content), file)

    return damage


def _without_mark(content: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in content.items() if key != "cmr_bench"}


def _marked(**changes: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda content: {**content, "cmr_bench": {**content["cmr_bench"], **changes}}


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda file, mark: file.write_bytes(file.read_bytes()[:-700]), "cannot read checkpoint"),
        (lambda file, mark: file.write_bytes(b""), "cannot read checkpoint"),
        (lambda file, mark: torch.save(Bomb(mark), file), "cannot read checkpoint"),
        (lambda file, mark: file.write_bytes(pickle.dumps(Bomb(mark))), "cannot read checkpoint"),
        (
            _altered(lambda content: {**content, "state_dict": 3, "cmr_bench": 4}),
            "by another program or an older version",
        ),
        (_altered(lambda content: [content["epoch"]]), "by another program or an older version"),
        (_altered(_without_mark), "by another program or an older version"),
        (_altered(_marked(format=9, version="7.0")), "it has format 9 of cmr-bench 7.0, this one reads 1"),
        (_altered(_marked(method="vsepp")), "it is of vsepp, not of own.py:Linear"),
        (_altered(_marked(model={"dim": 9})), "it was trained with --model.dim 9, not 8"),
    ],
)
def test_a_checkpoint_that_is_not_of_this_run(
    damage: Callable[[Path, Path], None],
    message: str,
    stopped: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file = stopped / "checkpoints" / "last.ckpt"
    damage(file, tmp_path / "executed")
    assert main(["run", "--resume", str(stopped), "--trust"]) == 1
    error = told(capsys)
    assert message in error
    assert str(file) in error
    assert not (tmp_path / "executed").exists()
    assert file.is_file()


def test_a_damaged_checkpoint_can_be_deleted_as_advised(stopped: Path) -> None:
    (stopped / "checkpoints" / "last.ckpt").unlink()
    assert main(["run", "--resume", str(stopped), "--trust"]) == 0


def test_a_result_of_a_future_schema_is_told(stopped: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--resume", str(stopped), "--trust"]) == 0
    file = stopped / "result.json"
    file.write_text(file.read_text().replace('"schema": 1', '"schema": 99'))
    capsys.readouterr()
    assert main(["run", "--resume", str(stopped), "--trust"]) == 1
    assert "schema 99, newer than" in capsys.readouterr().err
    main(["leaderboard"])
    assert "schema 99, newer than" in capsys.readouterr().err


def test_nothing_is_written_beside_the_data(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    write_karpathy: Callable[..., Path],
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    root = tmp_path / "data"
    folder = write_karpathy(root, counts={"train": 8, "val": 4, "test": 4}, captions=2)
    before = {file: file.stat().st_mtime_ns for file in root.rglob("*")}
    folder.chmod(0o555)
    encoder = ["--encoder", "timm:test_efficientnet", "--weights", "random", "--size", "32"]
    assert main(["data", "features", "flickr8k", *encoder, "--data.root", str(root), "--name", "tiny"]) == 0
    main(["data", "check", "flickr8k", "--data.root", str(root)])
    assert "4 images and 8 texts" in capsys.readouterr().out
    words = ["--data", "flickr8k", "--data.root", str(root), "--data.image_features", "tiny", "--data.min_count", "1"]
    words += ["--trainer.max_epochs", "1", "--trainer.progress", "false", "--trainer.accelerator", "cpu"]
    assert main(["run", "--model", "cca", *words, "--data.text_features", "tfidf", "--data.text_dim", "10"]) == 0
    assert {file: file.stat().st_mtime_ns for file in root.rglob("*")} == before
    folder.chmod(0o755)


class Small(EmbeddingScores):
    """Has room for so many scores at once."""

    def __init__(self, images: Tensor, texts: Tensor, room: int, failure: Exception) -> None:
        super().__init__(images, texts)
        self.room, self.failure = room, failure

    def block(self, images: slice, texts: slice) -> Tensor:
        if (images.stop - images.start) * (texts.stop - texts.start) > self.room:
            raise self.failure
        return super().block(images, texts)


OUT = "[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."


@pytest.mark.parametrize("failure", [MemoryError(), torch.cuda.OutOfMemoryError("CUDA"), RuntimeError(OUT)])
@pytest.mark.parametrize("room", [1, 7, 40])
def test_too_little_memory_to_score_is_told_and_smaller_blocks_are_tried(failure: Exception, room: int) -> None:
    generator = torch.Generator().manual_seed(0)
    images, texts = (torch.randn(n, 5, generator=generator) for n in (12, 24))
    owner, labels = np.arange(24) // 2, np.arange(12) % 3
    protocol = Protocol(bootstrap=5, folds=3)
    whole = evaluate(EmbeddingScores(images, texts), owner, labels, protocol=protocol)
    with pytest.warns(UserWarning, match="trying smaller blocks"):
        found = evaluate(Small(images, texts, room, failure), owner, labels, protocol=protocol)
    assert found.metrics == whole.metrics


def test_no_memory_at_all_is_told_in_one_line() -> None:
    source = Small(torch.ones(2, 3), torch.ones(2, 3), 0, MemoryError())
    with pytest.warns(match="smaller"), pytest.raises(CmrBenchError, match="not enough memory to score one image"):
        evaluate(source, np.arange(2), None)


def test_another_error_of_a_score_is_not_taken_for_little_memory() -> None:
    with pytest.raises(RuntimeError, match="shapes"):
        evaluate(Small(torch.ones(2, 3), torch.ones(2, 3), 0, RuntimeError("shapes")), np.arange(2), None)


SRUN = {"SLURM_STEP_NUM_TASKS": "4", "SLURM_NTASKS": "4", "SLURM_PROCID": "0"}


@pytest.mark.parametrize(
    ("environment", "options", "told"),
    [
        ({}, {"num_nodes": 2}, "torchrun or srun"),
        ({"TORCHELASTIC_RUN_ID": "x", "WORLD_SIZE": "4", "RANK": "1"}, {"devices": 2}, "the product must be 4"),
        (SRUN | {"SLURM_NTASKS_PER_NODE": "4"}, {"devices": 1}, "4 processes"),
        (SRUN, {"devices": 4}, "ntasks-per-node"),
        ({"SLURM_NTASKS": "4", "SLURM_PROCID": "0"}, {"devices": 1}, ""),
        ({"TORCHELASTIC_RUN_ID": "x", "WORLD_SIZE": "4", "RANK": "1"}, {"devices": 2, "num_nodes": 2}, ""),
        ({"TORCHELASTIC_RUN_ID": "x", "WORLD_SIZE": "4", "RANK": "1"}, {"devices": "auto"}, ""),
    ],
)
def test_devices_that_do_not_fit_the_processes(
    environment: dict[str, str], options: dict[str, Any], told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    if not told:
        launch.check_devices(TrainerOptions(**options))
        return
    with pytest.raises(UsageError, match=told):
        launch.check_devices(TrainerOptions(**options))


def test_nothing_in_the_package_loads_what_could_execute_code() -> None:
    files = [file for part in ("benchmark", "models", "datamodules") for file in (ROOT / part).rglob("*.py")]
    assert len(files) > 60
    assert Path(cmr_bench.__file__).exists()
    problems = []
    for file in files:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = {getattr(node, "module", None) or "", *(alias.name for alias in node.names)}
                if names & {"pickle", "dill", "joblib", "cloudpickle", "marshal", "shelve"}:
                    problems.append(f"{file}:{node.lineno} imports {names}")
            if isinstance(node, ast.Call):
                problems += [f"{file}:{node.lineno} {problem}" for problem in _risks(node)]
    assert not problems


def _risks(call: ast.Call) -> Iterator[str]:
    name = ast.unparse(call.func)
    given = {word.arg: ast.unparse(word.value) for word in call.keywords}
    if name in ("eval", "exec") or name.endswith(("read_pickle", "unsafe_load")):
        yield name
    if name == "torch.load" and given.get("weights_only") != "True":
        yield "torch.load without weights_only=True"
    if name in ("np.load", "numpy.load") and given.get("allow_pickle") != "False":
        yield "np.load without allow_pickle=False"
    if name == "yaml.load" and "SafeLoader" not in ast.unparse(call):
        yield "yaml.load without a safe loader"
    if "trust_remote_code" in given and given["trust_remote_code"] != "False":
        yield "trust_remote_code"
