"""Models of sentence-transformers by name on the Hugging Face Hub or by folder, ``st:all-MiniLM-L6-v2``."""

from __future__ import annotations

import functools
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cmr_bench.support.errors import DataError, UsageError, brief, first_line
from cmr_bench.support.hub import do_not_wait_for_hub, quiet_transformers

PREFIX = "st:"


def load(name: str) -> Any:
    """Load a model, on the CPU and in float32.

    Args:
        name: Name on the hub, where sentence-transformers/ may be left out, or a folder.

    Raises:
        UsageError: If the package is not installed.
        DataError: If the model is not there or cannot be read.
    """
    name = name.removeprefix(PREFIX)
    try:
        import sentence_transformers
    except ImportError as error:
        raise UsageError("st: models need the package: pip install 'cmr-bench[sentences]'") from error
    folder = Path(name).expanduser()
    local = folder.is_dir()
    if not local and name.startswith((".", "/", "~")):
        raise DataError(f"no sentence-transformers model '{name}': there is no such folder")
    if not local:
        do_not_wait_for_hub()
    logging.getLogger("sentence_transformers").setLevel(logging.WARNING)
    try:
        with quiet_transformers():
            model = sentence_transformers.SentenceTransformer(
                str(folder) if local else name, device="cpu", local_files_only=local
            )
    except Exception as error:  # the hub, transformers and torch each raise their own
        hint = "the folder must be one of `save`" if local else "pass one that is reachable or cached, or a folder"
        raise DataError(f"no sentence-transformers model '{name}': {hint} ({brief(first_line(error))})") from error
    return model.float().eval()


def pair_network(name: str) -> Any:
    """Return the transformers model of images and texts in a model that has nothing else but a normalisation.

    Raises:
        UsageError: If it does not encode images and texts, or does more.
    """
    model = load(name)
    first, *rest = list(model)
    network = getattr(first, "auto_model", None) or getattr(first, "model", None)
    if not (hasattr(network, "get_image_features") and hasattr(network, "get_text_features")):
        raise UsageError(f"{PREFIX}{name.removeprefix(PREFIX)} does not encode images and texts; pass a CLIP model")
    more = [type(module).__name__ for module in rest if type(module).__name__ != "Normalize"]
    if more:
        raise UsageError(f"{PREFIX}{name.removeprefix(PREFIX)} has layers that are not read here: {', '.join(more)}")
    return network


@dataclass(frozen=True)
class Readers:
    """What a model reads photographs and texts with.

    Attributes:
        tokenizer: Tokenizer of transformers.
        image_processor: Image processor of transformers, if it has one.
        config: Configuration of its first transformers model, if it has one.
    """

    tokenizer: Any
    image_processor: Any
    config: Any


@functools.lru_cache(maxsize=4)
def readers(name: str) -> Readers:
    """Return how a model reads; the weights are let go."""
    first = load(name)[0]
    processor = getattr(first, "processor", None)
    tokenizer = getattr(processor, "tokenizer", None) or first.tokenizer
    network = getattr(first, "auto_model", None)
    return Readers(tokenizer, getattr(processor, "image_processor", None), getattr(network, "config", None))


def pair_config(name: str) -> Any:
    """Return the configuration of a model of images and texts; None for other models."""
    config = readers(name).config
    return config if hasattr(config, "vision_config") else None
