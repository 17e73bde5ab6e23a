"""GVSE's uncommon similarity and gate by their formulas, and the pretrained vectors that it needs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from cmr_bench.datamodules.batches import ImageBatch, TextBatch
from cmr_bench.datamodules.split import Split
from cmr_bench.datamodules.texts.words import TokenView, Vocabulary
from cmr_bench.datamodules.views import DataSpec, ViewSpec
from cmr_bench.models.attributes.gvse import GVSE
from cmr_bench.models.common.attention import cross_attention
from cmr_bench.models.encoders.pretrained_words import WordVectors
from cmr_bench.support.errors import DataError, UsageError

Array = npt.NDArray[np.float64]
CAPTIONS = ["a red dog", "a dog", "a red red boat"]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "vectors.txt"
    path.write_text("3 2\nred 1 2\ndog -1 .5\nxylophone 0 0.25\n", encoding="utf-8")
    return path


def made(file: Path, **options: Any) -> tuple[GVSE, TokenView]:
    torch.manual_seed(0)
    view = TokenView(CAPTIONS, Vocabulary.fit(CAPTIONS, 1), 9)
    module = GVSE(dim=8, word_dim=4, word_vectors=str(file), **options)
    module.build(DataSpec(ViewSpec("regions", (3, 6), "made up"), view.spec, 0, False, 3, 3))
    split = Split("train", ["0", "1", "2"], np.arange(3), ["0", "1", "2"], captions=CAPTIONS)
    split.texts = view
    module.prepare_training(split)
    return module.eval(), view


def number(layer: Any) -> tuple[Array, Array]:
    return layer.weight.detach().numpy().astype(np.float64), layer.bias.detach().numpy().astype(np.float64)


def soft(values: Array) -> Array:
    weights = np.exp(values - values.max())
    return weights / weights.sum()


def heard(layer: Any, nodes: Array) -> Array:
    weight, bias = layer.in_proj_weight.detach().numpy(), layer.in_proj_bias.detach().numpy()
    q, k, v = (nodes @ weight[8 * n : 8 * n + 8].T + bias[8 * n : 8 * n + 8] for n in range(3))
    heads = []
    for head in range(4):
        at = slice(2 * head, 2 * head + 2)
        heads.append(np.stack([soft(k[:, at] @ one / np.sqrt(2)) @ v[:, at] for one in q[:, at]]))
    out, shift = number(layer.out_proj)
    return nodes + np.concatenate(heads, axis=1) @ out.T + shift


def mean(nodes: Array, weights: Array) -> Array:
    found = weights @ nodes
    return found / np.linalg.norm(found)


@pytest.mark.parametrize("padding", [0, 2])
def test_gated_similarity_by_its_formula(file: Path, padding: int) -> None:
    module, view = made(file)
    tokens = view.fetch(np.arange(3))
    texts = TextBatch(torch.arange(3), torch.nn.functional.pad(tokens["tokens"], (0, padding)), tokens["lengths"])
    regions = torch.randn(2, 3 + padding, 6)
    counts = [3, 1]
    mask = torch.arange(3 + padding) < torch.tensor(counts)[:, None]
    images = ImageBatch(torch.arange(2), regions=regions, mask=mask)
    with torch.no_grad():
        encoded, words = module.encode_images(images), module.encode_texts(texts)
        gated, common, uncommon = (part.numpy() for part in module.parts(encoded, words))
        alone = cross_attention(encoded[0], encoded[1], words[0], words[1], module.how)
    np.testing.assert_allclose(common, alone.numpy(), rtol=1e-6)
    # In how many of the three captions each word stands; "a" and "boat" have no vector.
    idf = {"a": np.log(4 / 4), "red": np.log(4 / 3), "dog": np.log(4 / 3), "boat": np.log(4 / 2)}
    vectors = {"red": [1.0, 2.0], "dog": [-1.0, 0.5]}
    weight, bias = number(module.word_layer)
    region_weight, region_bias = number(module.uncommon_region_layer)
    salience, shift = number(module.salience)
    gate, gate_bias = number(module.gate)
    for t, caption in enumerate(CAPTIONS):
        spelled = caption.split()
        nodes = np.array([vectors.get(word, [0.0, 0.0]) for word in spelled]) @ weight.T + bias
        rare = np.array([idf[word] for word in spelled])
        text = mean(heard(module.word_relation, nodes), soft(rare))
        for i, count in enumerate(counts):
            nodes = regions[i, :count].numpy().astype(np.float64) @ region_weight.T + region_bias
            nodes = heard(module.region_relation, nodes)
            image = mean(nodes, soft(nodes @ salience[0] + shift))
            assert uncommon[i, t] == pytest.approx(image @ text, abs=1e-5)
            g = 1 / (1 + np.exp(-(gate[0] @ [common[i, t], image @ text, rare.mean()] + gate_bias[0])))
            assert gated[i, t] == pytest.approx(g * common[i, t] + (1 - g) * (image @ text), abs=1e-5)


@pytest.mark.parametrize("padding", [0, 2])
def test_gradients_agree_with_finite_differences(file: Path, padding: int) -> None:
    module, view = made(file)
    module.double()
    tokens = view.fetch(np.arange(3))
    texts = TextBatch(torch.arange(3), torch.nn.functional.pad(tokens["tokens"], (0, padding)), tokens["lengths"])
    mask = torch.arange(3 + padding) < torch.tensor([3, 1])[:, None]
    regions = torch.randn(2, 3 + padding, 6, dtype=torch.float64, requires_grad=True)
    layers = [module.gate.weight, module.salience.weight, module.word_layer.weight, module.region_relation.in_proj_bias]

    def gated(regions: Tensor, *_: Tensor) -> Tensor:
        images = module.encode_images(ImageBatch(torch.arange(2), regions=regions, mask=mask))
        return module.parts(images, module.encode_texts(texts))[0]

    assert torch.autograd.gradcheck(gated, (regions, *layers), atol=1e-4)
    gated(regions).sum().backward()
    assert regions.grad is not None
    assert not regions.grad[1, 1:].any(), "padding takes no gradient"


def test_pretrained_vectors_are_frozen_and_travel_with_the_weights(file: Path) -> None:
    module, _ = made(file)
    assert not any(name == "vectors" for name, _ in module.named_parameters())
    fresh, _ = made(file)
    fresh.vectors.zero_()
    fresh.load_state(module.state_dict())
    assert torch.equal(fresh.vectors, module.vectors)
    assert module.vectors.any()


def test_without_vectors_it_is_refused_and_without_what_is_uncommon_it_is_scan(file: Path) -> None:
    spec = DataSpec(ViewSpec("regions", (3, 6), "made up"), ViewSpec("tokens", (3,), "words", 6), 0, False, 3, 3)
    with pytest.raises(UsageError, match=r"--model\.word_vectors is missing: gvse needs pretrained"):
        GVSE(dim=8).build(spec)
    plain = GVSE(dim=8, uncommon=False)
    plain.build(spec)
    names = {name.split(".")[0] for name in plain.state_dict()}
    assert names == {"image_layer", "text_encoder"}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "holds no word vectors"),
        ("word\nother\n", "holds no word vectors"),
        ("red 1 2\ndog 1\n", "line 2: not a word and 2 numbers"),
        ("red 1 2\ndog 1 nan\n", "line 2: not a word and 2 numbers"),
        ("green 1 2\n", "none of the 2 words"),
    ],
)
def test_files_that_hold_no_vectors_are_told(tmp_path: Path, content: str, said: str) -> None:
    path = tmp_path / "vectors.txt"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(DataError, match=said):
        WordVectors(str(path)).of(["red", "dog"])


def test_a_word_of_a_transformers_encoder_is_the_mean_of_its_subwords(bert: Path) -> None:
    vectors = WordVectors(str(bert))
    found: Tensor = vectors.of(["cat", "dog"])
    embedding = vectors.encoder.get_input_embeddings()  # type: ignore[union-attr]
    words = (bert / "vocab.txt").read_text(encoding="utf-8").split()
    torch.testing.assert_close(found, embedding.weight[[words.index("cat"), words.index("dog")]].detach())
    with pytest.raises(DataError):
        WordVectors("./no-such-file")
