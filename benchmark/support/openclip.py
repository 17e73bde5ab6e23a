"""Models of open_clip: by architecture and weights, ``ViT-B-32/laion2b_s34b_b79k``, from the hub or from a folder."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cmr_bench.support.errors import CmrBenchError, DataError, UsageError, brief, did_you_mean, first_line
from cmr_bench.support.hub import do_not_wait_for_hub

PREFIX = "open_clip:"


def library() -> Any:
    """Return the package; raises UsageError where it is not installed."""
    try:
        import open_clip
    except ImportError as error:
        raise UsageError("open_clip: models need the package: pip install 'cmr-bench[open_clip]'") from error
    return open_clip


def place(name: str) -> tuple[str, str | None]:
    """Return what open_clip calls a model, and the tag of its weights.

    Args:
        name: ``ARCHITECTURE/TAG``, ``hf-hub:OWNER/NAME`` or a folder with ``open_clip_config.json``.

    Raises:
        UsageError: If there is no such architecture or tag.
        DataError: If there is no such folder.
    """
    name = name.removeprefix(PREFIX)
    folder = Path(name).expanduser()
    if folder.is_dir():
        return f"local-dir:{folder}", None
    if name.startswith("hf-hub:"):
        return name, None
    if name.startswith((".", "/", "~")):
        raise DataError(f"{PREFIX}{name}: no such folder; pass one with open_clip_config.json and its weights")
    package = library()
    architecture, _, tag = name.partition("/")
    known = package.list_models()
    if architecture not in known:
        raise UsageError(f"open_clip has no model '{architecture}'.{did_you_mean(architecture, known)}")
    tags = package.list_pretrained_tags_by_model(architecture)
    if tag not in tags:
        raise UsageError(
            f"open_clip has no weights '{tag}' of {architecture}: choose {PREFIX}{architecture}/TAG with one of "
            f"{', '.join(tags)}.{did_you_mean(tag, tags)}"
        )
    return architecture, tag


def source(name: str) -> str:
    """Return where the weights of a model are fetched from."""
    model, tag = place(name)
    if tag is None:
        return f"https://huggingface.co/{model.removeprefix('hf-hub:')}"
    config = library().get_pretrained_cfg(model, tag)
    hub = str(config.get("hf_hub") or "").rstrip("/")
    return f"https://huggingface.co/{hub}" if hub else str(config.get("url", ""))


def load(name: str, weights: bool = True) -> Any:
    """Load a model in float32.

    Args:
        name: As for :func:`place`.
        weights: Load its weights; random ones otherwise.

    Raises:
        UsageError: If there is no such model.
        DataError: If its weights cannot be had.
    """
    package, (model, tag) = library(), place(name)
    local = model.startswith("local-dir:")
    if not local and weights:
        do_not_wait_for_hub()
    quick = bool(tag and package.get_pretrained_cfg(model, tag).get("quick_gelu"))
    options = {} if tag is None else {"force_quick_gelu": quick}
    try:
        with _quiet():
            return package.create_model(
                model,
                pretrained=tag if weights else None,
                load_weights=weights,
                require_pretrained=weights,
                pretrained_text=False,
                **options,
            )
    except CmrBenchError:
        raise
    except Exception as error:  # the hub, urllib and torch each raise their own
        if local:
            raise DataError(f"cannot load {PREFIX}{name.removeprefix(PREFIX)}: {brief(first_line(error))}") from error
        raise DataError(
            f"cannot download the weights of {PREFIX}{name.removeprefix(PREFIX)} ({brief(first_line(error))}); without "
            f"network, fetch {source(name)} elsewhere and pass a folder with open_clip_config.json and the weights as "
            f"{PREFIX}FOLDER"
        ) from error


def preprocessing(name: str) -> dict[str, Any]:
    """Return how a model wants photographs: size, mean, std, interpolation and resize_mode; no weights are loaded."""
    package, (model, tag) = library(), place(name)
    found: dict[str, Any] = {"interpolation": "bicubic", "resize_mode": "shortest"}
    found |= {"mean": package.OPENAI_DATASET_MEAN, "std": package.OPENAI_DATASET_STD}
    if tag is not None:
        config, own = package.get_model_config(model), package.get_pretrained_cfg(model, tag)
    else:
        whole = _stored_config(model)
        config, own = whole["model_cfg"], whole.get("preprocess_cfg", {})
    found |= {key: own[key] for key in found if own.get(key) is not None}
    return found | {"size": _side(config["vision_cfg"].get("image_size", own.get("size", 224)))}


def _side(size: Any) -> int:
    return int(size[0] if isinstance(size, list | tuple) else size)


def _stored_config(model: str) -> dict[str, Any]:
    folder, name = model.removeprefix("local-dir:"), "open_clip_config.json"
    try:
        if model.startswith("local-dir:"):
            file = Path(folder) / name
        else:
            from huggingface_hub import hf_hub_download

            do_not_wait_for_hub()
            file = Path(hf_hub_download(model.removeprefix("hf-hub:"), name))
        whole: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        whole["model_cfg"]["vision_cfg"]
    except Exception as error:  # as above
        raise DataError(f"cannot read {name} of {PREFIX}{model}: {brief(first_line(error))}") from error
    return whole


@contextmanager
def _quiet() -> Iterator[None]:
    """Hide what open_clip logs while it loads; errors are raised."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)


class Tokenizer:
    """A tokenizer of open_clip with the part of the interface of transformers that is needed here.

    Args:
        name: As for :func:`place`.

    Attributes:
        pad_token_id: What texts are filled up with.
        model_max_length: Length of all texts that the model reads.
    """

    def __init__(self, name: str) -> None:
        package, (model, _) = library(), place(name)
        try:
            with _quiet():
                self._encode = package.get_tokenizer(model)
        except Exception as error:  # as above
            raise DataError(f"no tokenizer of {PREFIX}{model}: {brief(first_line(error))}") from error
        inner = getattr(self._encode, "tokenizer", None)
        self.pad_token_id = int(getattr(inner, "pad_token_id", None) or 0)
        self.model_max_length = int(self._encode.context_length)
        self._size = len(inner) if inner is not None else int(self._encode.vocab_size)

    def __len__(self) -> int:
        return self._size

    def __call__(
        self, texts: Sequence[str], truncation: bool = True, max_length: int = 77
    ) -> dict[str, list[list[int]]]:
        """Encode texts, cut to a length, each without what it is filled up with."""
        rows = self._encode(list(texts), context_length=max_length).tolist()
        return {"input_ids": [_without_end(row, self.pad_token_id) for row in rows]}


def _without_end(row: list[int], pad: int) -> list[int]:
    end = len(row)
    while end > 1 and row[end - 1] == pad:
        end -= 1
    return row[:end]
