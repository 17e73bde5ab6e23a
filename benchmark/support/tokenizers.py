"""Tokenizers by the name of their model: of transformers, open_clip and sentence-transformers."""

from __future__ import annotations

from typing import Any

from cmr_bench.support import hub, openclip, sentences


def load_tokenizer(name: str) -> Any:
    """Load the tokenizer of a model: NAME_OR_FOLDER of transformers, ``open_clip:NAME`` or ``st:NAME``."""
    if name.startswith(openclip.PREFIX):
        return openclip.Tokenizer(name)
    if name.startswith(sentences.PREFIX):
        return sentences.readers(name).tokenizer
    return hub.load_tokenizer(name)
