"""Models of open_clip and sentence-transformers give what their own libraries give, and are trained like the others."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cmr_bench import cli
from cmr_bench.datamodules.images.backbones import load_backbone
from cmr_bench.datamodules.images.photos import photo_bytes
from cmr_bench.datamodules.texts import vectors
from cmr_bench.datamodules.texts.words import SubwordView
from cmr_bench.models.encoders.towers import load_towers, preparation
from cmr_bench.results.record import read_result
from cmr_bench.results.store import result_files
from cmr_bench.support import openclip
from cmr_bench.support.errors import DataError, UsageError
from tests.support.networks import write_bert, write_clip, write_open_clip, write_sentence_clip

CAPTIONS = ["A dog runs on the beach.", "two dogs", "a man with a red hat & a very long way to go over many hills, too"]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    write_open_clip(folder / "open")
    write_open_clip(folder / "siglip", siglip=True)
    (folder / "clip").mkdir()
    write_clip(folder / "clip", ["a", "dog"])
    write_sentence_clip(folder / "sentence", folder / "clip")
    return folder


@pytest.fixture
def photo(tmp_path: Path, write_photo: Callable[..., Path]) -> Path:
    return write_photo(tmp_path / "photo.jpg", 3, (90, 61))


@pytest.mark.parametrize("kind", ["open", "siglip"])
def test_open_clip_reads_photographs_and_texts_as_its_library_does(models: Path, photo: Path, kind: str) -> None:
    open_clip = pytest.importorskip("open_clip")
    name = f"local-dir:{models / kind}"
    model, _, prepare = open_clip.create_model_and_transforms(name)
    model.eval()
    towers, prepared = (
        load_towers(f"open_clip:{models / kind}", fine_tune=False),
        preparation(f"open_clip:{models / kind}"),
    )
    assert prepared is not None
    pixels = photo_bytes(prepared.fit.read(photo)).float() / 255
    with Image.open(photo) as opened:
        expected = prepare(opened.convert("RGB"))
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (prepared.mean, prepared.std))
    # Two resizers of 8-bit pixels round some of them differently.
    assert float((((pixels - mean) / std - expected).abs() * std).max()) * 255 < 2.5
    view = SubwordView(CAPTIONS, f"open_clip:{models / kind}", 77)
    texts = view.fetch(np.arange(3))
    tokens = open_clip.get_tokenizer(name)(CAPTIONS)
    with torch.no_grad():
        normalised = ((pixels - mean) / std)[None]
        torch.testing.assert_close(towers.images(pixels[None]), model.encode_image(normalised))
        torch.testing.assert_close(towers.texts(texts["input_ids"], texts["attention_mask"]), model.encode_text(tokens))
        cut = SubwordView(CAPTIONS, f"open_clip:{models / kind}", 6).fetch(np.arange(3))
        short = torch.nn.functional.pad(open_clip.get_tokenizer(name)(CAPTIONS, context_length=6), (0, 10))
        torch.testing.assert_close(towers.texts(cut["input_ids"], cut["attention_mask"]), model.encode_text(short))
    assert texts["input_ids"].shape == (3, 16)
    assert (towers.temperature()[1] is not None) == (kind == "siglip")


def test_open_clip_gives_features(models: Path) -> None:
    pool, grid = (load_backbone(f"open_clip:{models / 'open'}", None, layer) for layer in ("pool", "grid"))
    pixels = torch.rand(2, 3, 32, 32)
    network = openclip.load(f"open_clip:{models / 'open'}").eval()
    with torch.no_grad():
        torch.testing.assert_close(pool(pixels), network.encode_image((pixels - pool.mean) / pool.std))
        cells = grid(pixels)
        # The pooled vector is the projection of the class token, so the cells are told from it by their width.
        assert cells.shape == (2, 4, 16)
        swapped = grid(torch.cat([pixels[:, :, :, 16:], pixels[:, :, :, :16]], dim=3))
    assert (pool.output_shape(32), pool.spec.size, pool.spec.fixed_size) == ((12,), 32, True)
    assert not torch.allclose(swapped, cells)
    assert load_backbone(f"open_clip:{models / 'open'}", models / "open" / "open_clip_model.safetensors").dim == 12


def test_a_clip_of_sentence_transformers_encodes_both_sides_as_its_library_does(models: Path, photo: Path) -> None:
    sentences = pytest.importorskip("sentence_transformers")
    name, model = f"st:{models / 'sentence'}", sentences.SentenceTransformer(str(models / "sentence"), device="cpu")
    towers, prepared = load_towers(name, fine_tune=False), preparation(name)
    assert prepared is not None
    texts = SubwordView(["a dog", "dog"], name, 40).fetch(np.arange(2))
    with torch.no_grad():
        found = towers.texts(texts["input_ids"], texts["attention_mask"])
        image = towers.images(photo_bytes(prepared.fit.read(photo))[None].float() / 255)
    np.testing.assert_allclose(found.numpy(), model.encode(["a dog", "dog"]), atol=1e-5)
    with Image.open(photo) as opened:
        expected = model.encode([opened.convert("RGB")])
    # The resizers round some pixels differently, see above.
    np.testing.assert_allclose(image.numpy(), expected, atol=0.05 * float(np.abs(expected).max()))


def test_sentence_transformers_make_text_vectors(models: Path, tmp_path: Path) -> None:
    sentences = pytest.importorskip("sentence_transformers")
    model, name = sentences.SentenceTransformer(str(models / "sentence"), device="cpu"), f"st:{models / 'sentence'}"
    texts = ["a dog", "dog\na dog"]
    found = vectors.text_vectors(name, [], texts, dim=0, seed=0, cache=tmp_path)
    lines = model.encode(["a dog", "dog", "a dog"])
    expected = np.stack([lines[0], lines[1:].mean(0)])
    np.testing.assert_allclose(found, expected / np.linalg.norm(expected, axis=1, keepdims=True), atol=1e-5)
    view = vectors.vector_view(name, [], texts, dim=0, seed=0, cache=tmp_path)
    assert view.content() != ""
    assert view.origin().settings["name"] == name


@pytest.mark.parametrize(
    ("name", "mode"),
    [("open_clip:open", "linear_probe"), ("open_clip:siglip", "fine_tune"), ("st:sentence", "zero_shot")],
)
def test_clip_runs_on_both_libraries(
    name: str, mode: str, models: Path, tmp_path: Path, write_karpathy: Callable[..., Path]
) -> None:
    write_karpathy(tmp_path / "data")
    library, _, folder = name.partition(":")
    backbone = f"{library}:{models / folder}"
    words = ["run", "--model", "clip", "--data", "flickr8k", "--data.root", str(tmp_path / "data")]
    words += ["--model.backbone", backbone, "--model.mode", mode, "--data.max_words", "16", "--data.batch_size", "8"]
    words += ["--trainer.max_epochs", "1", "--trainer.accelerator", "cpu", "--trainer.bootstrap", "0"]
    assert cli.main([*words, "--trainer.progress", "false", "--runs", str(tmp_path / "runs")]) == 0
    (file,) = result_files(tmp_path / "runs")
    result = read_result(file)
    assert result.options["model.backbone"] == f"{library}:{folder}"
    assert result.content["model.backbone"]
    assert np.isfinite(result.metrics["rsum"])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("open_clip:ViT-B-3/openai", "Did you mean 'ViT-B-32'"),
        ("open_clip:ViT-B-32", "with one of .*laion2b_s34b_b79k"),
        ("open_clip:ViT-B-32/laion2b_s34b_b79", "Did you mean 'laion2b_s34b_b79k'"),
        ("open_clip:/no/such/folder", "no such folder"),
        ("st:/no/such/folder", "no such folder"),
    ],
)
def test_unknown_models_are_one_line(name: str, message: str) -> None:
    pytest.importorskip("sentence_transformers" if name.startswith("st:") else "open_clip")
    with pytest.raises((UsageError, DataError), match=message):
        load_towers(name, fine_tune=False)


def test_weights_of_open_clip_that_cannot_be_had_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    open_clip = pytest.importorskip("open_clip")

    def offline(*words: object, **more: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr(open_clip, "create_model", offline)
    with pytest.raises(DataError, match=r"no network.*https://huggingface.co/laion/CLIP-ViT-B-32.*open_clip:FOLDER"):
        openclip.load("open_clip:ViT-B-32/laion2b_s34b_b79k")


def test_siglip2_reads_squares_as_its_processor_cuts_them(tmp_path: Path, write_photo: Callable[..., Path]) -> None:
    import transformers

    write_clip(tmp_path, ["a", "dog"], siglip=True, naflex=True)
    towers = load_towers(str(tmp_path), fine_tune=False)
    prepared = preparation(str(tmp_path))
    assert prepared is not None
    assert (prepared.fit.size, prepared.fit.resize, towers.size) == (32, "squash", 32)
    square = write_photo(tmp_path / "photo.png", 3, (32, 32))
    model = transformers.AutoModel.from_pretrained(tmp_path).eval()
    # Before version 5 the processor on Pillow had the plain name, and the features came as they are.
    kind = getattr(transformers, "Siglip2ImageProcessorPil", None) or transformers.Siglip2ImageProcessor
    processor = kind(patch_size=16, max_num_patches=4)
    with Image.open(square) as opened, torch.no_grad():
        inputs = processor(images=opened.convert("RGB"), return_tensors="pt")
        found = model.get_image_features(**inputs)
        expected = getattr(found, "pooler_output", found)
        pixels = photo_bytes(prepared.fit.read(square))[None].float() / 255
        torch.testing.assert_close(towers.images(pixels), expected)
        torch.testing.assert_close(load_backbone(f"hf:{tmp_path}")(pixels), expected)
        cells = load_backbone(f"hf:{tmp_path}", None, "grid")(pixels)
        parts = (inputs[part] for part in ("pixel_values", "pixel_attention_mask", "spatial_shapes"))
        torch.testing.assert_close(cells, model.vision_model(*parts).last_hidden_state)


def test_modernbert_makes_text_vectors_and_reads_subwords(tmp_path: Path) -> None:
    import transformers

    from cmr_bench.models.encoders.text import pretrained

    folder = write_bert(tmp_path, ["dog", "cat"])
    plain = transformers.AutoTokenizer.from_pretrained(folder, model_input_names=["input_ids", "attention_mask"])
    plain.save_pretrained(folder)  # ModernBERT knows no token types
    size = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
    signs = {"pad_token_id": 0, "cls_token_id": 2, "sep_token_id": 3, "bos_token_id": 2, "eos_token_id": 3}
    torch.manual_seed(0)
    config = transformers.ModernBertConfig(vocab_size=7, max_position_embeddings=24, **signs, **size)
    transformers.ModernBertModel(config).save_pretrained(folder)
    found = vectors.text_vectors(f"hf:{folder}", [], ["dog", "cat dog"], dim=0, seed=0, cache=tmp_path / "cache")
    network, width = pretrained(str(folder), 8)
    ids, mask = torch.tensor([[2, 5, 3, 0], [2, 6, 5, 3]]), torch.tensor([[1, 1, 1, 0], [1, 1, 1, 1]])
    states = network(input_ids=ids, attention_mask=mask).last_hidden_state
    means = torch.stack([states[0, :3].mean(0), states[1].mean(0)])
    expected = torch.nn.functional.normalize(means, dim=1)
    assert width == 16
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-5)
