"""Stored features: every row is its own photo's, whatever interrupted the making of them."""

from __future__ import annotations

import errno
import json
import os
import pickle
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from filelock import FileLock
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import save_file

from cmr_bench import cli
from cmr_bench.datamodules.flickr8k import Flickr8k
from cmr_bench.datamodules.images import backbones
from cmr_bench.datamodules.images import extract as extract_module
from cmr_bench.datamodules.images.extract import Extraction, extract
from cmr_bench.datamodules.images.store import (
    FeatureStore,
    grid_boxes,
    missing,
    open_store,
    read_manifest,
    stored_view,
    write_manifest,
)
from cmr_bench.datamodules.split import Split
from cmr_bench.support.errors import DataError
from cmr_bench.support.places import cache_dir

ENCODER = "timm:test_efficientnet"
OPTIONS = Extraction(size=32, batch_size=3, workers=2, progress=False)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import timm

    torch.manual_seed(11)
    file = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    save_file(
        {key: value.contiguous() for key, value in timm.create_model("test_efficientnet").state_dict().items()}, file
    )
    return file


@pytest.fixture(scope="module")
def pool(weights: Path) -> backbones.Backbone:
    return backbones.load_backbone(ENCODER, weights)


@pytest.fixture(scope="module")
def grid(weights: Path) -> backbones.Backbone:
    return backbones.load_backbone(ENCODER, weights, "grid")


@pytest.fixture
def splits(tmp_path: Path, write_photo: Callable[..., Path]) -> dict[str, Split]:
    def split(name: str, first: int, count: int) -> Split:
        ids = [f"{name}{k}" for k in range(first, first + count)]
        files = [write_photo(tmp_path / "photos" / f"{i}.jpg", seed=first + k) for k, i in enumerate(ids)]
        return Split(name, ids, np.arange(count), ids, captions=ids, image_files=files)

    return {"train": split("train", 0, 7), "val": split("val", 10, 2), "test": split("test", 20, 2)}


def by_hand(file: Path, weights: Path, layer: str = "pool", size: int = 32) -> np.ndarray[Any, Any]:
    """The feature of one photo, from the libraries alone."""
    import timm
    from safetensors.torch import load_file

    net = timm.create_model("test_efficientnet").eval()
    net.load_state_dict(load_file(weights))
    pixels = np.asarray(Image.open(file).convert("RGB").resize((size, size), Image.Resampling.BICUBIC)) / 255.0
    config = net.pretrained_cfg
    pixels = (pixels - np.array(config["mean"])) / np.array(config["std"])
    with torch.no_grad():
        maps = net.forward_features(torch.tensor(pixels.transpose(2, 0, 1)[None], dtype=torch.float32))[0].numpy()
    if layer == "grid":
        return np.stack([maps[:, y, x] for y in range(maps.shape[1]) for x in range(maps.shape[2])])
    return np.asarray(maps.mean(axis=(1, 2)))


class Tap(torch.nn.Module):
    """Passes an encoder's calls on, counting photos, and calls ``before`` with the number of the call."""

    def __init__(self, encoder: backbones.Backbone, before: Callable[[int], None] = lambda call: None) -> None:
        super().__init__()
        self.encoder, self.before, self.calls, self.photos = encoder, before, 0, 0
        self.spec, self.mean = encoder.spec, encoder.mean
        self.output_shape, self.grid_shape = encoder.output_shape, encoder.grid_shape

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        self.before(self.calls)
        self.calls += 1
        self.photos += len(pixels)
        return self.encoder(pixels)


def make(encoder: Any, splits: Mapping[str, Split], folder: Path, **options: Any) -> FeatureStore:
    return extract(encoder, "fake", splits, folder, replace(OPTIONS, **options), "cmr-bench data features fake")


def test_every_row_is_that_of_its_photo(
    pool: backbones.Backbone, splits: dict[str, Split], weights: Path, tmp_path: Path
) -> None:
    store = make(pool, splits, tmp_path / "store")
    assert store.array.dtype == np.float32
    assert isinstance(store.array, np.memmap)
    for split in splits.values():
        rows = np.arange(split.n_images)[::-1].copy()
        vectors = stored_view(store, split).fetch(rows)["vector"].numpy()
        assert split.image_files is not None
        for row, vector in zip(rows, vectors, strict=True):
            np.testing.assert_allclose(vector, by_hand(split.image_files[row], weights), rtol=1e-4, atol=1e-5)


def test_grid_cells_carry_their_boxes(
    grid: backbones.Backbone, splits: dict[str, Split], weights: Path, tmp_path: Path
) -> None:
    store = make(grid, splits, tmp_path / "store", size=64)
    assert store.array.dtype == np.float16
    view = stored_view(store, splits["val"])
    fields = view.fetch(np.array([1, 0]))
    files = splits["val"].image_files
    assert files is not None
    expected = by_hand(files[1], weights, "grid", size=64)
    assert view.spec.kind == "regions"
    assert view.spec.shape == expected.shape
    np.testing.assert_allclose(fields["regions"][0].numpy(), expected, rtol=2e-3, atol=1e-3)
    np.testing.assert_array_equal(
        fields["boxes"][0].numpy(), [[0, 0, 0.5, 0.5], [0.5, 0, 1, 0.5], [0, 0.5, 0.5, 1], [0.5, 0.5, 1, 1]]
    )
    assert fields["mask"].all()


@given(st.integers(1, 9), st.integers(1, 9))
def test_boxes_tile_the_photo_row_by_row(rows: int, columns: int) -> None:
    boxes = grid_boxes(rows, columns)
    expected = [(x / columns, y / rows, (x + 1) / columns, (y + 1) / rows) for y in range(rows) for x in range(columns)]
    np.testing.assert_allclose(boxes, expected, rtol=1e-6)


def test_an_image_of_two_splits_is_encoded_once(
    pool: backbones.Backbone, splits: dict[str, Split], tmp_path: Path
) -> None:
    tap = Tap(pool)
    store = make(tap, {**splits, "again": splits["val"]}, tmp_path / "store")
    assert tap.photos == 11 == len(store.array)


def test_one_id_for_two_photos_is_refused(pool: backbones.Backbone, splits: dict[str, Split], tmp_path: Path) -> None:
    assert splits["val"].image_files is not None
    other = replace(splits["val"], image_files=splits["val"].image_files[::-1])
    with pytest.raises(DataError, match="image id val10 stands for"):
        make(pool, {**splits, "other": other}, tmp_path / "store")


@pytest.mark.parametrize("kill_at", [0, 1, 3])
@pytest.mark.parametrize("flush_seconds", [0.0, 1000.0])
def test_a_killed_extraction_goes_on_to_the_same_store(
    pool: backbones.Backbone,
    splits: dict[str, Split],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    kill_at: int,
    flush_seconds: float,
) -> None:
    monkeypatch.setattr(extract_module, "FLUSH_SECONDS", flush_seconds)

    def photograph_the_disk(call: int) -> None:
        # What a kill leaves behind is what is on disk at that moment.
        if call == kill_at:
            shutil.copytree(tmp_path / "whole", tmp_path / "killed", ignore=shutil.ignore_patterns(".lock"))

    whole = make(Tap(pool, photograph_the_disk), splits, tmp_path / "whole")
    done = read_manifest(tmp_path / "killed").rows_done
    assert done == (3 * kill_at if flush_seconds == 0 else 0)
    with pytest.raises(DataError, match=r"unfinished .* resume with `cmr-bench data features fake`"):
        FeatureStore(tmp_path / "killed")
    tap = Tap(pool)
    resumed = make(tap, splits, tmp_path / "killed")
    assert tap.photos == 11 - done
    assert (tmp_path / "killed" / "features.npy").read_bytes() == (tmp_path / "whole" / "features.npy").read_bytes()
    assert resumed.manifest == whole.manifest


def test_ctrl_c_keeps_what_is_done(pool: backbones.Backbone, splits: dict[str, Split], tmp_path: Path) -> None:
    def interrupt(call: int) -> None:
        if call == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make(Tap(pool, interrupt), splits, tmp_path / "store")
    assert read_manifest(tmp_path / "store").rows_done == 6
    tap = Tap(pool)
    np.testing.assert_array_equal(
        make(tap, splits, tmp_path / "store").array, make(pool, splits, tmp_path / "straight").array
    )
    assert tap.photos == 5


def test_stopped_between_the_last_two_steps(pool: backbones.Backbone, splits: dict[str, Split], tmp_path: Path) -> None:
    store = make(pool, splits, tmp_path / "store")
    write_manifest(tmp_path / "store", replace(store.manifest, complete=False))
    tap = Tap(pool)
    assert make(tap, splits, tmp_path / "store").manifest.complete
    assert tap.photos == 0


def test_a_finished_store_is_opened_as_it_is(
    pool: backbones.Backbone, splits: dict[str, Split], tmp_path: Path
) -> None:
    make(pool, splits, tmp_path / "store")
    tap = Tap(pool)
    make(tap, splits, tmp_path / "store", batch_size=5)
    assert tap.photos == 0
    make(tap, splits, tmp_path / "store", overwrite=True)
    assert tap.photos == 11


def test_other_weights_do_not_go_on_in_the_same_folder(
    pool: backbones.Backbone, splits: dict[str, Split], tmp_path: Path
) -> None:
    make(pool, splits, tmp_path / "store")
    other = backbones.load_backbone(ENCODER, "random")
    with pytest.raises(DataError, match=r"differ in weights, weights_sha256\): pass --overwrite"):
        make(other, splits, tmp_path / "store")
    with pytest.raises(DataError, match="preprocessing"):
        make(pool, splits, tmp_path / "store", resize="crop")
    assert make(other, splits, tmp_path / "store", overwrite=True).manifest.weights == "random"


def test_missing_photos_are_named_or_left_out(
    pool: backbones.Backbone, splits: dict[str, Split], tmp_path: Path
) -> None:
    assert splits["train"].image_files is not None
    splits["train"].image_files[2].unlink()
    with pytest.raises(DataError, match=r"1 of 11 images missing, e\.g\. .*train2\.jpg; pass --skip-missing"):
        make(pool, splits, tmp_path / "store")
    store = make(pool, splits, tmp_path / "store", skip_missing=True)
    assert store.manifest.skipped == ["train2"]
    assert missing(store, splits["train"]).tolist() == [False, False, True, False, False, False, False]
    assert not missing(store, splits["val"]).any()
    with pytest.raises(DataError, match=r"train: 1 images have no row .* train2"):
        stored_view(store, splits["train"])


@pytest.mark.parametrize("broken", [["train0"], ["train1", "train2", "test20"], ["val10", "test21"]])
def test_broken_photos_are_named_or_left_out(
    pool: backbones.Backbone, splits: dict[str, Split], weights: Path, tmp_path: Path, broken: list[str]
) -> None:
    for name in broken:
        file = tmp_path / "photos" / f"{name}.jpg"
        file.write_bytes(file.read_bytes()[:200])
    with pytest.raises(DataError, match=rf"cannot decode image .*{broken[0]}\.jpg.*--skip-missing") as caught:
        make(pool, splits, tmp_path / "store")
    assert "\n" not in str(caught.value)
    store = make(pool, splits, tmp_path / "store", skip_missing=True)
    assert store.manifest.skipped == broken
    assert len(store.array) == 11 - len(broken)
    assert sorted(p.name for p in (tmp_path / "store").iterdir() if p.name != ".lock") == [
        "features.npy",
        "manifest.json",
    ]
    for split in splits.values():
        assert split.image_files is not None
        for name, file in zip(split.image_ids, split.image_files, strict=True):
            if name not in broken:
                np.testing.assert_allclose(
                    store.array[store.row_of[name]], by_hand(file, weights), rtol=1e-4, atol=1e-5
                )
    tap = Tap(pool)
    make(tap, splits, tmp_path / "store", skip_missing=True)
    assert tap.photos == 0


def test_nothing_to_encode_is_an_error(pool: backbones.Backbone, splits: dict[str, Split], tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no images"):
        make(pool, {"train": replace(splits["train"], image_files=None)}, tmp_path / "store")
    for file in (tmp_path / "photos").iterdir():
        file.write_bytes(b"")
    with pytest.raises(DataError, match="none of 11 images can be decoded"):
        make(pool, splits, tmp_path / "store", skip_missing=True)
    for file in (tmp_path / "photos").iterdir():
        file.unlink()
    with pytest.raises(DataError, match="none of 11 images exists"):
        make(pool, splits, tmp_path / "store", skip_missing=True)


def test_values_that_are_not_finite_name_photo_and_weights(splits: dict[str, Split], tmp_path: Path) -> None:
    encoder = backbones.load_backbone(ENCODER, "random")
    with torch.no_grad():
        next(encoder.net.parameters()).fill_(float("nan"))
    with pytest.raises(DataError, match=r"NaN or infinity for .*train0\.jpg; check the weights \(random\)"):
        make(encoder, splits, tmp_path / "store")


def test_values_too_large_for_half_precision_are_refused(
    pool: backbones.Backbone, splits: dict[str, Split], tmp_path: Path
) -> None:
    class Large(Tap):
        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            return torch.full((len(pixels), 256), 1e5)

    with pytest.raises(DataError, match=r"reach 1e\+05, too large for float16; pass --dtype float32"):
        make(Large(pool), splits, tmp_path / "store", dtype="float16")
    assert make(Large(pool), splits, tmp_path / "other").array.max() == 1e5


def test_a_full_disk_is_one_line_and_resumable(
    pool: backbones.Backbone, splits: dict[str, Split], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []

    def full(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) > 3:
            raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(extract_module, "FLUSH_SECONDS", 0.0)
        patch.setattr(os, "fsync", full)
        with pytest.raises(DataError, match="No space left"):
            make(pool, splits, tmp_path / "store")
    tap = Tap(pool)
    assert len(make(tap, splits, tmp_path / "store").array) == 11
    assert tap.photos == 8


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root writes everywhere")
def test_a_folder_that_cannot_be_written_is_one_line(
    pool: backbones.Backbone, splits: dict[str, Split], tmp_path: Path
) -> None:
    (tmp_path / "closed").mkdir(mode=0o500)
    with pytest.raises(DataError, match="cannot write features in"):
        make(pool, splits, tmp_path / "closed" / "store")


def test_two_writers_do_not_meet(pool: backbones.Backbone, splits: dict[str, Split], tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    with FileLock(tmp_path / "store" / ".lock"), pytest.raises(DataError, match="another process is making"):
        make(pool, splits, tmp_path / "store")


def test_stores_are_found_beside_the_data_then_in_the_cache(
    pool: backbones.Backbone, splits: dict[str, Split], tmp_path: Path
) -> None:
    root = tmp_path / "root"
    cached = cache_dir("fake") / "features" / "mine"
    make(pool, splits, cached)
    assert open_store("mine", "fake", root).folder == cached
    assert open_store("mine", "fake").folder == cached
    for place in (root / "features" / "mine", root / "fake" / "features" / "mine"):
        shutil.copytree(cached, place)
        assert open_store("mine", "fake", root).folder == place
    assert open_store(str(cached), "fake", root).folder == cached
    with pytest.raises(DataError) as caught:
        open_store("nine", "fake", root)
    message = str(caught.value)
    assert "\n" not in message
    for part in (
        "'nine'",
        str(root / "fake" / "features"),
        "there are mine",
        "Did you mean 'mine'?",
        "data features fake",
    ):
        assert part in message
    with pytest.raises(DataError, match="there are none"):
        open_store("mine", "other")


@pytest.mark.parametrize("damage", ["array cut", "array gone", "array of other shape", "manifest cut", "newer"])
def test_damaged_stores_are_one_line(
    pool: backbones.Backbone, splits: dict[str, Split], tmp_path: Path, damage: str
) -> None:
    make(pool, splits, tmp_path / "store")
    array, manifest = tmp_path / "store" / "features.npy", tmp_path / "store" / "manifest.json"
    if damage == "array cut":
        array.write_bytes(array.read_bytes()[:-100])
    elif damage == "array gone":
        array.unlink()
    elif damage == "array of other shape":
        np.save(array, np.zeros((4, 256), np.float32))
    elif damage == "manifest cut":
        manifest.write_text(manifest.read_text()[:-20])
    else:
        manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"schema": 99}))
    with pytest.raises(DataError) as caught:
        open_store(str(tmp_path / "store"), "fake")
    assert "\n" not in str(caught.value)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.recursive(st.none() | st.integers() | st.text(max_size=3), lambda s: st.lists(s, max_size=3)), st.data())
def test_any_manifest_is_read_or_refused_in_one_line(
    one_line: Callable[..., Any], value: Any, data: st.DataObject
) -> None:
    good: dict[str, Any] = {
        "data": "fake",
        "encoder": "timm:x",
        "layer": "pool",
        "weights": "x",
        "weights_sha256": "0",
        "preprocessing": {},
        "ids": ["a"],
        "shape": [1, 2],
        "dtype": "float32",
    }
    content = (
        value if data.draw(st.booleans()) else good | {data.draw(st.sampled_from([*good, "schema", "what"])): value}
    )
    folder = cache_dir("manifests")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "manifest.json").write_text(json.dumps(content))
    one_line(lambda: read_manifest(folder))


def test_a_view_travels_to_workers_without_the_array(
    pool: backbones.Backbone, splits: dict[str, Split], tmp_path: Path
) -> None:
    view = stored_view(make(pool, splits, tmp_path / "store"), splits["train"])
    packed = pickle.dumps(view)
    assert len(packed) < 2500
    rows = np.arange(7)
    assert torch.equal(pickle.loads(packed).fetch(rows)["vector"], view.fetch(rows)["vector"])


def test_the_command_makes_features_that_a_data_set_uses(
    tmp_path: Path, write_karpathy: Callable[..., Path], weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "data"
    folder = write_karpathy(root)
    (folder / "images" / "train_00003.jpg").unlink()
    words = ["data", "features", "flickr8k", "--data.root", str(root), "--encoder", ENCODER, "--weights", str(weights)]
    assert cli.main(words) == 1
    assert "train_00003.jpg; pass --skip-missing" in capsys.readouterr().err
    assert cli.main([*words, "--skip-missing", "--size", "32", "--batch-size", "4", "--device", "cpu"]) == 0
    assert "--data.image_features test_efficientnet-pool-32" in capsys.readouterr().out
    manifest = open_store("test_efficientnet-pool-32", "flickr8k", root).manifest
    assert manifest.command.endswith("--size 32 --skip-missing")
    assert manifest.weights_sha256 == open_store("test_efficientnet-pool-32", "flickr8k", root).manifest.weights_sha256
    module = Flickr8k(root=str(root), image_features="test_efficientnet-pool-32", skip_missing=True, min_count=1)
    assert module.load("vector", "tokens").image.shape == (256,)
    assert module.skipped == {"train": ["train_00003.jpg"]}
    batch = next(iter(module.train_dataloader()))
    assert batch.images.vector.shape[1:] == (256,)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--encoder", "tim:x"], "pass timm:NAME"),
        (["--encoder", "timm:test_efficientne"], "Did you mean 'test_efficientnet"),
        (["--encoder", ENCODER, "--layer", "fc8"], "invalid choice"),
        (["--encoder", ENCODER, "--layer", "fc7", "--weights", "random"], "no layer fc7"),
        (["--encoder", ENCODER, "--weights", "nowhere.pth"], "nowhere.pth not found"),
        (["--encoder", ENCODER, "--weights", "random", "--device", "cuda:77"], "cannot be used here"),
        (["--encoder", ENCODER, "--batch-size", "0"], "--batch-size must be at least 1"),
        (["--encoder", ENCODER, "--data.rot", "x"], "Did you mean '--data.root'?"),
        (["--encoder", ENCODER, "--oat", "x"], "unknown option '--oat'"),
        ([], "required: --encoder"),
    ],
)
def test_wrong_usage_is_one_line(
    tmp_path: Path,
    write_karpathy: Callable[..., Path],
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    message: str,
) -> None:
    write_karpathy(tmp_path)
    code = cli.main(["data", "features", "flickr8k", "--data.root", str(tmp_path), *words])
    error = capsys.readouterr().err
    assert code == (1 if "nowhere" in message else 2)
    assert message in error
    assert len(error.strip().splitlines()) == 1


@pytest.mark.real_data
def test_published_weights_encode_real_photos(data_root: Path, tmp_path: Path) -> None:
    weights = data_root / "weights" / "tf_efficientnet_lite0.safetensors"
    photos = sorted((data_root / "pascal" / "dataset").glob("*/*.jpg"))[::50]
    if not weights.is_file() or not photos:
        pytest.skip("no EfficientNet-Lite0 weights or Pascal photographs under CMR_BENCH_DATA")
    ids = [f"{file.parent.name}/{file.stem}" for file in photos]
    split = Split("train", ids, np.arange(len(ids)), ids, image_files=photos)
    encoder = backbones.load_backbone("timm:tf_efficientnet_lite0", weights, "grid")
    store = make(encoder, {"train": split}, tmp_path / "store", size=0)
    assert store.array.shape == (len(photos), 49, 1280)
    # One photo of each category: a network with its real weights tells them apart, a wrongly loaded one does not.
    pooled = store.array.astype(np.float32).mean(axis=1)
    unit = (pooled - pooled.mean(0)) / np.linalg.norm(pooled - pooled.mean(0), axis=1, keepdims=True)
    similar = unit @ unit.T - np.eye(len(unit))
    assert similar.max() < 0.75
    assert 0.2 < (pooled > 0.01).mean() < 1
