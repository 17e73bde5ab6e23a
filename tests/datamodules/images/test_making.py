"""Features that are named by what makes them: found, made once, and the same by both of their names."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from cmr_bench.datamodules.flickr8k import Flickr8k
from cmr_bench.datamodules.images import backbones, extract, making
from cmr_bench.datamodules.images.store import read_manifest
from cmr_bench.experiment.identity import essence
from cmr_bench.support.encoders import FeatureName, canonical, feature_name, same_features
from cmr_bench.support.errors import CmrBenchError, DataError, Notice
from cmr_bench.support.places import cache_dir, stores_in, without_folders

NAME = "timm:test_efficientnet/pool/32"


@pytest.fixture
def root(tmp_path: Path, write_karpathy: Callable[..., Path]) -> Path:
    write_karpathy(tmp_path / "data")
    return tmp_path / "data"


def data(root: Path, name: str = NAME, weights: str | None = "random", **options: object) -> Flickr8k:
    return Flickr8k(root=str(root), image_features=name, image_weights=weights, min_count=1, **options)  # type: ignore[arg-type]


def stores() -> list[str]:
    return [folder.name for folder in stores_in([cache_dir("flickr8k") / "features"])]


@pytest.mark.parametrize(
    ("value", "expected", "store"),
    [
        ("torchvision:vgg19", FeatureName("torchvision:vgg19", "fc7"), "vgg19-fc7"),
        ("torchvision:vgg19/pool", FeatureName("torchvision:vgg19", "pool"), "vgg19-pool"),
        ("timm:net/grid/352", FeatureName("timm:net", "grid", 352), "net-grid-352"),
        ("hf:someone/net/grid", FeatureName("hf:someone/net", "grid"), "net-grid"),
        ("hf:/models/mine/", FeatureName("hf:/models/mine/", "pool"), "mine-pool"),
        ("open_clip:ViT-B-32/laion2b/pool", FeatureName("open_clip:ViT-B-32/laion2b", "pool"), "ViT-B-32-laion2b-pool"),
        ("vgg19-fc7", None, "vgg19-fc7"),
        ("features.npz:img", None, "features.npz:img"),
        ("C:/mine/features.npz", None, "C:/mine/features.npz"),
        ("/mine/store", None, "/mine/store"),
    ],
)
def test_names_of_features(value: str, expected: FeatureName | None, store: str) -> None:
    assert feature_name(value) == expected
    assert canonical(value) == store
    assert same_features(value, store)
    if expected is not None:
        assert feature_name(str(expected)) == expected
    assert not same_features(value, f"{store}-other")


def test_a_name_in_a_record_keeps_its_layer_and_loses_its_folders() -> None:
    assert without_folders("hf:/models/mine/grid/224") == "hf:mine/grid/224"
    assert without_folders("hf:someone/net/pool") == "hf:someone/net/pool"


def test_both_names_make_the_same_run() -> None:
    by_encoder = essence(
        {"data": {"image_features": NAME, "make_features": True, "image_weights": "/w.pth"}, "seed": 0}
    )
    by_store = essence({"data": {"image_features": "test_efficientnet-pool-32"}, "seed": 0})
    assert by_encoder == by_store


def test_features_are_made_where_they_are_not_stored(root: Path) -> None:
    before = torch.get_rng_state()
    with pytest.warns(Notice, match="making features 'timm:test_efficientnet/pool/32' of the"):
        spec = data(root).load("vector", "tokens")
    assert torch.equal(torch.get_rng_state(), before)
    assert stores() == ["test_efficientnet-pool-32"]
    by_store = data(root, "test_efficientnet-pool-32").load("vector", "tokens")
    assert spec.image == by_store.image
    assert data(root, make_features=False).load("vector", "tokens").image == spec.image


def test_features_are_those_of_the_command(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = data(root)
    made.load("vector", "tokens")
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        encoder = backbones.load_backbone("timm:test_efficientnet", "random")
    options = extract.Extraction(size=32, progress=False)
    store = extract.extract(encoder, "flickr8k", made.read(), cache_dir("flickr8k") / "features" / "by-hand", options)
    assert np.array_equal(store.array, made.feature_store().array)


def test_two_that_ask_at_once_make_them_once(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded, failed = [], []
    real = backbones.load_backbone

    def load(*words: object) -> backbones.Backbone:
        loaded.append(words)
        return real(*words)  # type: ignore[arg-type]

    def run(module: Flickr8k) -> None:
        try:
            making.provide(module, module.read())
        except CmrBenchError as error:
            failed.append(error)

    monkeypatch.setattr(backbones, "load_backbone", load)
    threads = [threading.Thread(target=run, args=[data(root)]) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(loaded) == 1
    assert failed == []
    assert stores() == ["test_efficientnet-pool-32"]


def test_an_interrupted_extraction_is_resumed(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    real = extract.encode_pixels

    def stop(encoder: backbones.Backbone, pixels: torch.Tensor, dtype: str) -> object:
        calls.append(len(pixels))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(encoder, pixels, dtype)

    monkeypatch.setattr(extract, "encode_pixels", stop)
    monkeypatch.setattr(making, "BATCH", 4)
    with pytest.raises(KeyboardInterrupt):
        data(root).load("vector", "tokens")
    folder = cache_dir("flickr8k") / "features" / "test_efficientnet-pool-32"
    begun = read_manifest(folder)
    assert (begun.complete, begun.rows_done) == (False, 4)
    data(root).load("vector", "tokens")
    assert sum(calls) == calls[1] + len(read_manifest(folder).ids)


def test_the_error_names_the_command_where_nothing_may_be_made(root: Path) -> None:
    with pytest.raises(DataError, match=r"no features 'timm:test_efficientnet/pool/32'.*there are none") as error:
        data(root, make_features=False).load("vector", "tokens")
    command = f"cmr-bench data features flickr8k --data.root {root}"
    assert f"{command} --encoder timm:test_efficientnet --layer pool --size 32 --weights random`" in str(error.value)
    assert stores() == []


def test_other_weights_and_sizes_make_other_stores(root: Path, tmp_path: Path) -> None:
    import timm

    torch.manual_seed(11)
    tensors = {key: value.contiguous() for key, value in timm.create_model("test_efficientnet").state_dict().items()}
    save_file(tensors, tmp_path / "w.safetensors")
    data(root).load("vector", "tokens")
    trained = data(root, weights=str(tmp_path / "w.safetensors"))
    trained.load("vector", "tokens")
    first, second = sorted(stores())
    assert first == "test_efficientnet-pool-32"
    assert second.startswith("test_efficientnet-pool-32-")
    assert trained.feature_store().folder.name == second
    # Without a choice, trained weights are taken and never the random ones.
    assert data(root, weights=None).feature_store().folder.name == second
    assert making.find(data(root), FeatureName("timm:test_efficientnet", "pool")) is None


def test_a_missing_photograph_is_named_before_an_encoder_is_loaded(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (root / "flickr8k" / "images" / "train_00003.jpg").unlink()
    with monkeypatch.context() as patched:
        patched.setattr(backbones, "load_backbone", None)
        with pytest.raises(DataError, match=r"1 of .*train_00003.jpg; pass --data.skip_missing true"):
            data(root).load("vector", "tokens")
    module = data(root, skip_missing=True)
    module.load("vector", "tokens")
    assert module.skipped == {"train": ["train_00003.jpg"]}


def test_without_photographs_the_error_says_where_they_should_be(root: Path) -> None:
    (root / "flickr8k" / "images").rename(root / "elsewhere")
    with pytest.raises(DataError, match=r"none of the .* is there, e\.g\. .*images.*--data\.images"):
        data(root).load("vector", "tokens")


def test_weights_that_cannot_be_had_are_named_with_what_is_there(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import timm

    data(root, "timm:test_vit/pool").load("vector", "tokens")

    def offline(*words: object, **more: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(DataError) as error:
        data(root, weights=None).load("vector", "tokens")
    text = str(error.value)
    assert "https://huggingface.co/timm/test_efficientnet.r160_in1k/resolve/main/model.safetensors" in text
    assert "--data.image_weights FILE" in text
    assert "there are test_vit-pool for flickr8k" in text
