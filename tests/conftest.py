"""Fixtures shared by all tests."""

from __future__ import annotations

import csv
import gzip
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import cmr_bench  # noqa: F401  (prepares torchvision before anything imports lightning)
from cmr_bench.support.errors import CmrBenchError


@pytest.fixture
def data_root() -> Path:
    """The folder with real data sets; the test is skipped where none is named."""
    root = os.environ.get("CMR_BENCH_DATA")
    if not root:
        pytest.skip("CMR_BENCH_DATA is not set: no real data to read")
    return Path(root)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CMR_BENCH_CACHE", str(tmp_path / "cache"))


@pytest.fixture(autouse=True)
def _no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Print as into a pipe, whatever the terminal that the tests were started from."""
    for name in ("COLUMNS", "LINES", "FORCE_COLOR", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def one_line() -> Callable[[Callable[[], Any]], Any]:
    """Call a function that may refuse its input: its result, or None after checking that the error is one line."""
    return _one_line


def _one_line(call: Callable[[], Any]) -> Any:
    try:
        return call()
    except CmrBenchError as error:
        message = str(error)
    assert len(message.splitlines()) == 1, message
    return None


@pytest.fixture
def write_photo() -> Callable[..., Path]:
    """Write a small JPEG whose content depends on ``seed``: ``write_photo(path, seed)``."""
    return _write_photo


def _write_photo(path: Path, seed: int = 0, size: tuple[int, int] = (40, 30)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    Image.fromarray(coarse).resize(size).save(path, quality=90)
    return path


@pytest.fixture(scope="session")
def write_bert() -> Callable[..., Path]:
    """Save a tiny BERT with random weights and a tokenizer of the words given: ``write_bert(folder, words)``."""
    return _write_bert


def _write_bert(folder: Path, words: Sequence[str], places: int = 12) -> Path:
    from transformers import BertConfig, BertModel, BertTokenizerFast

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]
    (folder / "vocab.txt").write_text("\n".join(words))
    BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder)
    torch.manual_seed(0)
    size = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    BertModel(BertConfig(vocab_size=len(words), max_position_embeddings=places, **size)).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def write_clip() -> Callable[..., Path]:
    """Save a tiny CLIP, or SigLIP, with random weights and a tokenizer: ``write_clip(folder, words, siglip=False)``."""
    return _write_clip


def _write_clip(folder: Path, words: Sequence[str], siglip: bool = False) -> Path:
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    text = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    vision = text | {"image_size": 32, "patch_size": 16}
    torch.manual_seed(0)
    if siglip:
        ids = {word: row for row, word in enumerate(["<unk>", "</s>", *words])}
        plain = Tokenizer(models.WordLevel(ids, unk_token="<unk>"))
        plain.pre_tokenizer = pre_tokenizers.Whitespace()
        plain.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
        names = {"unk_token": "<unk>", "pad_token": "</s>", "eos_token": "</s>"}
        tokenizer = transformers.PreTrainedTokenizerFast(
            tokenizer_object=plain, model_input_names=["input_ids"], model_max_length=16, **names
        )
        text |= {"vocab_size": len(ids), "max_position_embeddings": 16, "projection_size": 16, "pad_token_id": 1}
        model = transformers.SiglipModel(transformers.SiglipConfig(text_config=text, vision_config=vision))
        torch.nn.init.constant_(model.logit_scale, 1.0)
        torch.nn.init.constant_(model.logit_bias, -2.0)
    else:
        letters = "abcdefghijklmnopqrstuvwxyz"
        signs = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
        ids = {sign: row for row, sign in enumerate(signs)}
        tokenizer = transformers.CLIPTokenizer(vocab=ids, merges=[], model_max_length=48)
        text |= {"vocab_size": len(ids), "max_position_embeddings": 48}
        text |= {"bos_token_id": len(ids) - 2, "eos_token_id": len(ids) - 1}
        model = transformers.CLIPModel(
            transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=12)
        )
    tokenizer.save_pretrained(folder)
    model.save_pretrained(folder)
    return folder


@pytest.fixture
def write_karpathy() -> Callable[..., Path]:
    """Write a caption data set in Karpathy's layout and return its folder.

    ``write_karpathy(root, name="flickr8k", counts={"train": 8, "val": 4, "test": 4}, captions=5, ...)``.
    """
    return _write_karpathy


def _write_karpathy(
    root: Path,
    name: str = "flickr8k",
    counts: Mapping[str, int] | None = None,
    captions: int | Sequence[int] = 5,
    compressed: bool = False,
    photos: bool = True,
    images: str = "images",
    filepath: Mapping[str, str] | None = None,
) -> Path:
    """Write ``root/name/dataset_*.json`` and the photographs.

    Args:
        root: Folder of the data sets.
        name: flickr8k, flickr30k, mscoco or another.
        counts: Images of each part of the file (train, restval, val, test).
        captions: Sentences an image, or a list that is gone through again and again.
        compressed: Write ``.json.gz``.
        photos: Write the photographs too.
        images: Folder of the photographs.
        filepath: Folder of each part below ``images``, as MSCOCO has it.
    """
    folder = root / name
    folder.mkdir(parents=True, exist_ok=True)
    per_image = [captions] if isinstance(captions, int) else list(captions)
    entries: list[dict[str, Any]] = []
    sentid = 0
    for part, count in (counts or {"train": 8, "val": 4, "test": 4}).items():
        for _ in range(count):
            k = len(entries)
            filename = f"{part}_{k:05d}.jpg"
            below = (filepath or {}).get(part)
            sentences = []
            for j in range(per_image[k % len(per_image)]):
                words = [_COLOURS[k % 5], _THINGS[k // 5 % 5], "seen", "as", f"view{j}", "of", f"item{k}"]
                raw = " ".join(words) + " ."
                sentences.append({"raw": raw, "tokens": words, "imgid": k, "sentid": sentid})
                sentid += 1
            entry = {
                "filename": filename,
                "imgid": k,
                "split": part,
                "sentids": [s["sentid"] for s in sentences],
                "sentences": sentences,
            }
            entries.append(entry | ({"filepath": below} if below else {}))
            if photos:
                _write_photo(folder / images / (below or "") / filename, seed=k)
    stem = {"mscoco": "coco"}.get(name, name)
    content = json.dumps({"dataset": stem, "images": entries}).encode()
    file = folder / f"dataset_{stem}.json{'.gz' if compressed else ''}"
    file.write_bytes(gzip.compress(content) if compressed else content)
    return folder


@pytest.fixture
def write_precomputed() -> Callable[..., Path]:
    """Write a precomputed folder of the VSE++/SCAN lineage and return it.

    ``write_precomputed(folder, counts={"train": 8, "dev": 4, "test": 4}, dim=6, regions=0, repeat=False, ids=None)``.
    """
    return _write_precomputed


def _write_precomputed(
    folder: Path,
    counts: Mapping[str, int] | None = None,
    dim: int = 6,
    regions: int = 0,
    captions: int = 5,
    repeat: bool = False,
    ids: str | None = None,
) -> Path:
    """Write ``{prefix}_ims.npy`` and ``{prefix}_caps.txt``.

    Args:
        folder: Where to.
        counts: Images by prefix: train, dev, test, testall.
        dim: Width of a feature.
        regions: Regions an image; 0 writes one vector an image.
        captions: Captions an image.
        repeat: Repeat an image's row for each of its captions.
        ids: Write ``{prefix}_ids.txt`` with a line per ``image`` or per ``caption``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for prefix, count in (counts or {"train": 8, "dev": 4, "test": 4}).items():
        rng = np.random.default_rng(len(prefix))
        features = rng.normal(size=(count, regions, dim) if regions else (count, dim)).astype(np.float32)
        np.save(folder / f"{prefix}_ims.npy", features.repeat(captions, axis=0) if repeat else features)
        lines = [
            f"{_COLOURS[i % 5]} {_THINGS[i // 5 % 5]} view{j} of item{i}" for i in range(count) for j in range(captions)
        ]
        (folder / f"{prefix}_caps.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
        if ids is not None:
            each = captions if ids == "caption" else 1
            (folder / f"{prefix}_ids.txt").write_text("".join(f"{1000 + i}\n" * each for i in range(count)))
    return folder


@pytest.fixture
def write_table() -> Callable[..., Path]:
    """Write rows as ``.csv``, ``.tsv``, ``.jsonl`` or ``.parquet`` by the suffix: ``write_table(file, rows)``."""
    return _write_table


def _write_table(file: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    if file.suffix == ".jsonl":
        file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    elif file.suffix == ".parquet":
        pyarrow = pytest.importorskip("pyarrow")
        pytest.importorskip("pyarrow.parquet").write_table(pyarrow.Table.from_pylist(list(rows)), file)
    else:
        with file.open("w", encoding="utf-8", newline="") as stream:
            writer = csv.DictWriter(stream, list(rows[0]), delimiter="\t" if file.suffix == ".tsv" else ",")
            writer.writeheader()
            writer.writerows(rows)
    return file


_COLOURS = ("red", "green", "blue", "black", "white")
_THINGS = ("dog", "horse", "boat", "child", "tree")
