"""CLIP's temperature, schedule, photographs and prompt."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from PIL import Image

from cmr_bench.datamodules.images.photos import photo_bytes
from cmr_bench.datamodules.texts.words import SubwordView
from cmr_bench.experiment.trainer import quiet
from cmr_bench.models.pairwise.clip import CLIP, preparation
from cmr_bench.support.errors import UsageError

TOP = float(torch.tensor(math.log(100.0)))


def at_the_top(clip: Path, folder: Path) -> Path:
    """The tiny CLIP with the temperature from which OpenAI's checkpoints start."""
    from transformers import CLIPModel

    shutil.copytree(clip, folder)
    model = CLIPModel.from_pretrained(clip)
    torch.nn.init.constant_(model.logit_scale, math.log(100.0))
    model.save_pretrained(folder)
    return folder


class Temperatures(L.Callback):
    """Keeps the logarithm of the inverse temperature and the learning rate after every step."""

    def __init__(self) -> None:
        self.scales, self.rates = list[float](), list[float]()

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: Any, *args: Any) -> None:
        self.rates.append(trainer.optimizers[0].param_groups[0]["lr"])

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, *args: Any) -> None:
        self.scales.append(pl_module.log_scale.item())


def fitted(data: Any, epochs: int, **options: Any) -> Temperatures:
    torch.manual_seed(0)
    module, seen = CLIP(**options), Temperatures()
    module.build(data.load(module.image_view, module.text_view, module.tokenizer))
    module.selection = data.selection
    with quiet():
        trainer = L.Trainer(
            max_epochs=epochs,
            accelerator="cpu",
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            limit_val_batches=0,
            use_distributed_sampler=False,
            callbacks=[seen],
        )
        trainer.fit(module, datamodule=data)
    return seen


def test_temperature_leaves_its_bound_within_twenty_steps(clip: Path, tmp_path: Path, toy: Callable[..., Any]) -> None:
    assert float(torch.tensor(math.log(100.0)).exp()) > 100
    backbone = at_the_top(clip, tmp_path / "clip")
    seen = fitted(toy(), 4, backbone=str(backbone), mode="fine_tune", lr=1e-3)
    assert len(seen.scales) >= 20
    assert max(seen.scales) <= TOP
    assert seen.scales[0] < TOP
    assert all(later < earlier for earlier, later in zip(seen.scales[:19], seen.scales[1:20], strict=True))
    assert seen.scales[19] < TOP - 0.01


def test_a_step_beyond_the_bound_is_taken_back_and_the_next_one_counts(
    clip: Path, tmp_path: Path, toy: Callable[..., Any]
) -> None:
    data, module = toy(), CLIP(backbone=str(at_the_top(clip, tmp_path / "clip")), mode="fine_tune")
    module.build(data.load(module.image_view, module.text_view, module.tokenizer))
    optimizer = torch.optim.SGD([module.log_scale], lr=0.5)
    for gradient, expected in ((-1.0, TOP), (1.0, TOP - 0.5), (-2.0, TOP)):

        def closure(gradient: float = gradient) -> None:
            module.log_scale.grad = torch.tensor(gradient)

        module.optimizer_step(0, 0, optimizer, closure)
        assert module.log_scale.item() == pytest.approx(expected)


def test_siglip_has_no_such_bound(siglip: Path, toy: Callable[..., Any]) -> None:
    data, module = toy(), CLIP(backbone=str(siglip), mode="fine_tune")
    module.build(data.load(module.image_view, module.text_view, module.tokenizer))
    optimizer = torch.optim.SGD([module.log_scale], lr=10.0)

    def closure() -> None:
        module.log_scale.grad = torch.tensor(-1.0)

    module.optimizer_step(0, 0, optimizer, closure)
    assert module.log_scale.item() == pytest.approx(11.0)


def test_cosine_schedule_rises_and_falls(clip: Path, toy: Callable[..., Any]) -> None:
    seen = fitted(toy(), 4, backbone=str(clip), mode="fine_tune", lr=1e-3, schedule="cosine", warmup=0.25)
    n, rates = len(seen.rates), np.array(seen.rates) / 1e-3
    rising = round(n / 4)
    expected = [(step + 1) / rising for step in range(rising)]
    expected += [(1 + math.cos(math.pi * step / (n - rising))) / 2 for step in range(n - rising)]
    assert rates == pytest.approx(np.array(expected))
    assert seen.rates == sorted(seen.rates[:rising]) + sorted(seen.rates[rising:], reverse=True)
    plain = fitted(toy(), 1, backbone=str(clip), mode="fine_tune", lr=1e-3)
    assert set(plain.rates) == {1e-3}
    for options in ({"warmup": 0.1}, {"warmup": 1.0, "schedule": "cosine"}):
        with pytest.raises(UsageError, match=r"--model\.warmup"):
            CLIP(backbone=str(clip), **options)  # type: ignore[arg-type]


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    noise = np.random.default_rng(0).integers(0, 256, (23, 31, 3), dtype=np.uint8)
    Image.fromarray(noise).resize((155, 115), Image.Resampling.BICUBIC).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def with_processor(source: Path, folder: Path, **changes: Any) -> Path:
    """A copy of a model with a processor of its own and, where asked for, another size of its tower."""
    from transformers import CLIPModel, SiglipModel

    shutil.copytree(source, folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(changes))
    side = changes.get("crop_size", changes["size"])
    side = side if isinstance(side, int) else next(iter(side.values()))
    kind = SiglipModel if "siglip" in str(source) else CLIPModel
    config = kind.config_class.from_pretrained(source)
    config.vision_config.image_size = side
    kind(config).save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    "changes",
    [
        {"size": {"shortest_edge": 48}, "crop_size": {"height": 48, "width": 48}, "resample": 3},
        {"size": {"shortest_edge": 64}, "crop_size": {"height": 48, "width": 48}, "resample": 2},
        {"size": 64, "crop_size": 64, "resample": 3, "image_mean": [0.1, 0.2, 0.3], "image_std": [0.9, 0.8, 0.7]},
    ],
)
def test_photographs_become_what_the_models_processor_makes(
    clip: Path, tmp_path: Path, photo: Path, changes: dict[str, Any]
) -> None:
    from transformers import AutoImageProcessor

    kind = {"image_processor_type": "CLIPImageProcessor", "do_resize": True, "do_center_crop": True}
    folder = with_processor(clip, tmp_path / "clip", **kind, **changes)
    prepared, module = preparation(str(folder)), CLIP(backbone=str(folder))
    assert prepared is not None
    assert module.photo_fit == prepared.fit
    processor = AutoImageProcessor.from_pretrained(folder)
    with Image.open(photo) as opened:
        expected = processor(images=opened.convert("RGB"), return_tensors="pt")["pixel_values"][0]
    pixels = photo_bytes(prepared.fit.read(photo)).float() / 255
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (prepared.mean, prepared.std))
    found = (pixels - mean) / std
    assert found.shape == expected.shape
    # Two resizers of 8-bit pixels, Pillow's and torchvision's, round some pixels differently.
    assert float((found - expected).abs().max() * std.max()) * 255 < 2.5
    squashed = CLIP(backbone=str(folder), photographs="squash").photo_fit
    assert squashed is not None
    assert (squashed.resize, squashed.size) == ("squash", prepared.fit.size)
    assert float((photo_bytes(squashed.read(photo)).float() / 255 - pixels).abs().mean()) > 0.02


def test_siglip_squashes_and_a_model_without_a_processor_takes_the_usual(
    clip: Path, siglip: Path, bert: Path, tmp_path: Path
) -> None:
    kind = {"image_processor_type": "SiglipImageProcessor", "do_resize": True, "resample": 2}
    folder = with_processor(siglip, tmp_path / "siglip", **kind, size={"height": 48, "width": 48})
    found = preparation(str(folder))
    assert found is not None
    assert (found.fit.size, found.fit.resize, found.fit.interpolation) == (48, "squash", "bilinear")
    for name, resize, mean in ((clip, "crop", 0.48145466), (siglip, "squash", 0.5)):
        usual = preparation(str(name))
        assert usual is not None
        assert (usual.fit.size, usual.fit.resize, usual.mean[0]) == (32, resize, mean)
    assert preparation(str(bert)) is None


def test_a_run_reads_photographs_of_the_towers_size(
    clip: Path, tmp_path: Path, write_karpathy: Callable[..., Path]
) -> None:
    from cmr_bench.datamodules.flickr8k import Flickr8k

    kind = {"image_processor_type": "CLIPImageProcessor", "do_resize": True, "do_center_crop": True}
    folder = with_processor(clip, tmp_path / "clip", **kind, size={"shortest_edge": 48}, crop_size=48)
    write_karpathy(tmp_path)
    module = CLIP(backbone=str(folder))
    data = Flickr8k(root=str(tmp_path), max_words=48)
    spec = data.load(module.image_view, module.text_view, module.tokenizer, photo_fit=module.photo_fit)
    assert spec.image.shape == (3, 48, 48)
    module.build(spec)
    assert module.towers.size == 48
    batch = next(iter(data.test_dataloader()[0]))
    with torch.no_grad():
        assert module.encode_images(batch).shape == (4, 12)


def test_prompt_goes_around_every_text(clip: Path, bert: Path) -> None:
    plain = SubwordView(["a photo of red dog"], str(clip), 48)
    found = SubwordView(["red dog"], str(clip), 48, "a photo of {}")
    rows = np.arange(1)
    assert found.fetch(rows)["input_ids"].equal(plain.fetch(rows)["input_ids"])
    assert found.origin().settings["prompt"] == "a photo of {}"
    assert SubwordView(["red"], str(bert), 12).origin().settings["prompt"] == ""
    for wrong in ("a photo of", "{} and {}"):
        with pytest.raises(UsageError, match=r"--data\.prompt"):
            SubwordView(["red dog"], str(clip), 48, wrong)
