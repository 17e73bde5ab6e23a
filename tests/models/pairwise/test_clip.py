"""CLIP and SigLIP give what transformers computes, train what they should, and run offline from a folder."""

from __future__ import annotations

import socket
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from cmr_bench.cli import main
from cmr_bench.datamodules.batches import TextBatch
from cmr_bench.datamodules.views import ArrayView
from cmr_bench.models.losses import info_nce, sigmoid_pairs
from cmr_bench.models.pairwise.clip import CLIP
from cmr_bench.results.record import read_result
from cmr_bench.support.errors import UsageError
from tests.support.trainers import fit

KINDS = ["clip", "siglip"]


@pytest.fixture(params=KINDS)
def backbone(request: pytest.FixtureRequest, clip: Path, siglip: Path) -> Path:
    return clip if request.param == "clip" else siglip


def pairs(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(2)
    images, texts = (3 * torch.randn(6, 5, generator=generator, dtype=torch.float64) for _ in range(2))
    identity = torch.tensor([0, 1, 0, 2, 3, 1])
    return images.to(dtype), texts.to(dtype), identity[:, None] == identity[None]


def slow_logits(images: Tensor, texts: Tensor, scale: float) -> Any:
    x, z = images.numpy(), texts.numpy()
    return np.array([[scale * (a @ b) / np.sqrt((a @ a) * (b @ b)) for b in z] for a in x])


def test_info_nce_equals_its_definition() -> None:
    images, texts, positive = pairs()
    logits = slow_logits(images, texts, 7.0)
    total = 0.0
    for k in range(6):
        for line in (logits[k], logits[:, k]):
            rivals = [np.exp(line[j]) for j in range(6) if j == k or not positive[k, j]]
            total -= np.log(np.exp(line[k]) / sum(rivals)) / 2
    assert float(info_nce(images, texts, torch.tensor(7.0), positive)) == pytest.approx(total / 6, rel=1e-5)


def test_sigmoid_pairs_equals_its_definition() -> None:
    images, texts, positive = pairs()
    logits = slow_logits(images, texts, 7.0) - 3.0
    total = 0.0
    for i in range(6):
        for j in range(6):
            if i == j or not positive[i, j]:
                total -= np.log(1 / (1 + np.exp(-logits[i, j] * (1 if i == j else -1))))
    found = sigmoid_pairs(images, texts, torch.tensor(7.0), torch.tensor(-3.0), positive)
    assert float(found) == pytest.approx(total / 6, rel=1e-5)


@pytest.mark.parametrize("loss", [info_nce, sigmoid_pairs])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_losses_stay_finite_and_leave_captions_of_the_same_image_alone(
    loss: Callable[..., Tensor], dtype: torch.dtype
) -> None:
    images, texts, positive = pairs(dtype)
    images, texts = images.requires_grad_(), texts.requires_grad_()
    rest = [torch.tensor(100.0, requires_grad=True)]
    if loss is sigmoid_pairs:
        rest.append(torch.tensor(-10.0, requires_grad=True))
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        value = loss(images, texts, *rest, positive)
    value.backward()
    assert value.dtype == torch.float32
    for tensor in (images, texts, *rest):
        assert tensor.grad is not None
        assert bool(torch.isfinite(tensor.grad).all())
    everything = torch.ones(6, 6, dtype=torch.bool)
    rest = [value.detach() for value in rest]
    alone = loss(images.detach(), images.detach(), *rest, everything)
    assert float(alone) == pytest.approx(0.0, abs=1e-6)


def loaded(data: Any, **options: Any) -> CLIP:
    module = CLIP(**options)
    module.attach(data)
    return module


def encoded(module: CLIP, data: Any) -> tuple[Tensor, Tensor]:
    module.eval()
    images, texts = (next(iter(loader)) for loader in data.test_dataloader())
    with torch.no_grad():
        return module.encode_images(images), module.encode_texts(texts)


def test_zero_shot_scores_are_those_of_transformers(backbone: Path, toy: Callable[..., Any]) -> None:
    from transformers import AutoModel, AutoTokenizer

    data = toy()
    module = loaded(data, backbone=str(backbone))
    model, tokenizer = AutoModel.from_pretrained(backbone).eval(), AutoTokenizer.from_pretrained(backbone)
    siglip = model.config.model_type == "siglip"
    mean, std = ((0.5,) * 3, (0.5,) * 3) if siglip else (
        (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
    )  # fmt: skip
    pixels = next(iter(data.test_dataloader()[0])).pixels
    shape = (1, 3, 1, 1)
    words = tokenizer(list(data.splits["test"].captions), padding="max_length" if siglip else True, return_tensors="pt")
    with torch.no_grad():
        output = model(pixel_values=(pixels - torch.tensor(mean).view(shape)) / torch.tensor(std).view(shape), **words)
        expected = output.logits_per_image
        if siglip:
            expected = expected - model.logit_bias
        expected = expected / model.logit_scale.exp()
    torch.testing.assert_close(module.similarity(*encoded(module, data)), expected, rtol=1e-4, atol=1e-5)
    assert module.state_dict() == {}
    assert not [p for p in module.parameters() if p.requires_grad]


def test_texts_do_not_depend_on_the_padding_of_the_batch(backbone: Path, toy: Callable[..., Any]) -> None:
    data = toy()
    module = loaded(data, backbone=str(backbone)).eval()
    texts = next(iter(data.test_dataloader()[1]))
    longest = int(texts.attention_mask.sum(1).argmax())
    shortest = int(texts.attention_mask.sum(1).argmin())
    with torch.no_grad():
        both = module.encode_texts(texts)
        real = texts.attention_mask[shortest].bool()
        ids, mask = texts.input_ids[shortest][real][None], torch.ones(1, int(real.sum()), dtype=torch.long)
        alone = module.encode_texts(TextBatch(torch.tensor([0]), input_ids=ids, attention_mask=mask))
    assert int(texts.attention_mask[longest].sum()) > int(real.sum())
    torch.testing.assert_close(both[shortest], alone[0], rtol=1e-4, atol=1e-5)


def test_probe_starts_at_zero_shot_reads_every_item_once_and_leaves_the_towers(
    backbone: Path, toy: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = toy()
    module = loaded(data, backbone=str(backbone), mode="linear_probe", lr=1e-2)
    other = toy()
    torch.testing.assert_close(
        encoded(module, data), encoded(loaded(other, backbone=str(backbone)), other), rtol=1e-4, atol=1e-5
    )
    before = {name: value.clone() for name, value in module.towers.model.state_dict().items()}
    read = {"images": 0, "texts": 0}
    for what in read:
        inner = getattr(module.towers, what)

        def counted(*arguments: Tensor, what: str = what, inner: Callable[..., Tensor] = inner) -> Tensor:
            read[what] += len(arguments[0])
            return inner(*arguments)

        monkeypatch.setattr(module.towers, what, counted)
    fit(module, data, epochs=3)
    splits = [data.splits[name] for name in ("train", "val")]
    assert read == {"images": sum(s.n_images for s in splits), "texts": sum(s.n_texts for s in splits)}
    for name, value in module.towers.model.state_dict().items():
        assert torch.equal(value, before[name])
    assert {name.split(".")[0] for name in module.state_dict()} <= {"image_layer", "text_layer", "log_scale", "bias"}
    assert not torch.equal(module.image_layer.weight, torch.eye(len(module.image_layer.weight)))
    assert not isinstance(data.splits["test"].images, ArrayView)


def test_fine_tuning_trains_every_weight_that_counts(backbone: Path, toy: Callable[..., Any]) -> None:
    data = toy()
    module = loaded(data, backbone=str(backbone), mode="fine_tune")
    module.train()
    module.loss(next(iter(data.train_dataloader())))["loss"].backward()
    still = [name for name, p in module.named_parameters() if p.requires_grad and p.grad is None]
    assert still == []
    assert "towers.encoder.logit_scale" in module.state_dict()
    assert {group.get("weight_decay") for group in module.parameter_groups()} == {None, 0.0}


def test_pictures_of_another_size_are_scaled(clip: Path, toy: Callable[..., Any]) -> None:
    module = loaded(toy(), backbone=str(clip)).eval()
    flat = torch.full((1, 3, 50, 40), 0.3)
    with torch.no_grad():
        torch.testing.assert_close(module.towers.images(flat), module.towers.images(flat[..., :32, :32]))


def test_what_is_no_clip_is_refused(bert: Path, toy: Callable[..., Any]) -> None:
    with pytest.raises(UsageError, match="does not encode images and texts"):
        loaded(toy(), backbone=str(bert))


def test_text_beyond_the_model_is_refused(clip: Path, toy: Callable[..., Any]) -> None:
    data = toy()
    module = CLIP(backbone=str(clip))
    spec = data.load("pixels", "subwords", str(clip))
    with pytest.raises(UsageError, match=r"reads 48 subwords and a text has 49: --data\.max_words 48"):
        module.build(replace(spec, text=replace(spec.text, shape=(49,))))


@pytest.mark.parametrize("mode", ["zero_shot", "linear_probe", "fine_tune"])
def test_runs_from_the_command_line_without_network(
    mode: str, backbone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_address(*_: object) -> None:
        raise OSError

    monkeypatch.setattr(socket, "getaddrinfo", no_address)
    command = [
        "run", "--model", "clip", "--data", "synthetic", "--model.backbone", str(backbone), "--model.mode", mode,
        "--runs", str(tmp_path / "runs"), "--data.n_train", "24", "--data.n_val", "8", "--data.n_test", "8",
        "--data.batch_size", "32", "--trainer.max_epochs", "1", "--trainer.progress", "false",
        "--trainer.bootstrap", "0", "--trainer.accelerator", "cpu",
    ]  # fmt: skip
    assert main(command) == 0
    (folder,) = (tmp_path / "runs").glob("*/*/*")
    result = read_result(folder / "result.json")
    assert result.views["image"]["kind"] == "pixels"
    assert result.views["text"]["kind"] == "subwords"
    assert result.label_space == "none"
    assert (result.selection["epoch"] is None) == (mode == "zero_shot")
    stored = torch.load(folder / "checkpoints" / "best.ckpt", weights_only=True)["state_dict"]
    assert any(name.startswith("towers.") for name in stored) == (mode == "fine_tune")


def test_without_the_hub_one_line_says_what_to_pass(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from huggingface_hub import constants

    def no_address(*_: object) -> None:
        raise OSError

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(socket, "getaddrinfo", no_address)
    for key in ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(key, raising=False)
    command = ["run", "--model", "clip", "--data", "synthetic", "--runs", str(tmp_path), "--data.n_train", "8"]
    assert main([*command, "--model.backbone", "cmr-bench/none"]) != 0
    said = capsys.readouterr().err
    assert "'cmr-bench/none': pass a name on the Hugging Face Hub" in said
    assert len(said.strip().splitlines()) == 1
