"""Tiny networks with random weights, saved as transformers saves them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch


def write_bert(folder: Path, words: Sequence[str], places: int = 12) -> Path:
    """Save a tiny BERT with random weights and a tokenizer of the words given."""
    from transformers import BertConfig, BertModel, BertTokenizerFast

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]
    (folder / "vocab.txt").write_text("\n".join(words))
    BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder)
    torch.manual_seed(0)
    size = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    BertModel(BertConfig(vocab_size=len(words), max_position_embeddings=places, **size)).save_pretrained(folder)
    return folder


def write_clip(folder: Path, words: Sequence[str], siglip: bool = False, naflex: bool = False) -> Path:
    """Save a tiny CLIP, SigLIP or SigLIP 2 with native aspect ratios, with random weights and a tokenizer."""
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
        if naflex:
            vision = {**vision, "num_patches": 4}
            del vision["image_size"]
            model = transformers.Siglip2Model(transformers.Siglip2Config(text_config=text, vision_config=vision))
        else:
            model = transformers.SiglipModel(transformers.SiglipConfig(text_config=text, vision_config=vision))
        torch.nn.init.constant_(model.logit_scale, 1.0)
        torch.nn.init.constant_(model.logit_bias, -2.0)
    else:
        letters = "abcdefghijklmnopqrstuvwxyz"
        signs = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
        ids = {sign: row for row, sign in enumerate(signs)}
        # From files, as the argument of the vocabulary has another name in each major version.
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "vocab.json").write_text(json.dumps(ids))
        (folder / "merges.txt").write_text("#version: 0.2\n")
        tokenizer = transformers.CLIPTokenizer.from_pretrained(folder, model_max_length=48)
        text |= {"vocab_size": len(ids), "max_position_embeddings": 48}
        text |= {"bos_token_id": len(ids) - 2, "eos_token_id": len(ids) - 1}
        model = transformers.CLIPModel(
            transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=12)
        )
    tokenizer.save_pretrained(folder)
    model.save_pretrained(folder)
    return folder


def write_open_clip(folder: Path, siglip: bool = False) -> Path:
    """Save a tiny model of open_clip with random weights; its tokenizer comes with the package."""
    open_clip = pytest.importorskip("open_clip")
    from safetensors.torch import save_file

    vision = {"image_size": 32, "patch_size": 16, "width": 16, "head_width": 8, "layers": 2}
    text = {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}
    config = {"embed_dim": 12, "vision_cfg": vision, "text_cfg": text}
    wanted = {"mean": [0.4, 0.5, 0.6], "std": [0.2, 0.3, 0.4], "interpolation": "bicubic", "resize_mode": "shortest"}
    torch.manual_seed(0)
    options = {"init_logit_bias": -2.0} if siglip else {}
    model = open_clip.CLIP(**config, **options)
    folder.mkdir(parents=True, exist_ok=True)
    whole = {"model_cfg": config | options, "preprocess_cfg": wanted | ({"resize_mode": "squash"} if siglip else {})}
    (folder / "open_clip_config.json").write_text(json.dumps(whole))
    save_file(
        {key: value.contiguous() for key, value in model.state_dict().items()}, folder / "open_clip_model.safetensors"
    )
    return folder


def write_sentence_clip(folder: Path, clip: Path) -> Path:
    """Save a CLIP of transformers, with its processor, as a model of sentence-transformers."""
    import transformers

    sentences = pytest.importorskip("sentence_transformers")
    size = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
    images = transformers.CLIPImageProcessorPil(**size)
    transformers.CLIPProcessor(images, transformers.AutoTokenizer.from_pretrained(clip)).save_pretrained(clip)
    sentences.SentenceTransformer(str(clip), device="cpu").save(str(folder))
    return folder
