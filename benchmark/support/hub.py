"""Loading from the Hugging Face Hub without its waits and its noise."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from cmr_bench.support import environment
from cmr_bench.support.checksums import folder_checksum
from cmr_bench.support.errors import DataError, brief, first_line


def do_not_wait_for_hub() -> None:
    """Switch the hub's client to its cache where its host has no address: it retries for half a minute otherwise."""
    from huggingface_hub import constants

    if environment.behind_proxy():
        return
    try:
        socket.getaddrinfo(urlsplit(constants.ENDPOINT).hostname, 443)
    except OSError:
        constants.HF_HUB_OFFLINE = True


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Hide the loading bar and the report on tensors that are omitted on purpose, such as the text half of CLIP."""
    import transformers

    logging: Any = transformers.logging
    level = logging.get_verbosity()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        logging.enable_progress_bar()


def load_pretrained(load: Callable[..., Any], what: str, name: str) -> Any:
    """Load a part of a transformers model.

    Args:
        load: The ``from_pretrained`` of what is wanted.
        what: Its name, for the error.
        name: Name on the hub, or a local folder.

    Raises:
        DataError: If it is not there or cannot be read.
    """
    folder = Path(name).expanduser()
    local = bool(name) and folder.is_dir()
    if not local and (name.startswith((".", "/", "~")) or not name):
        raise DataError(f"no {what} '{name}': there is no such folder")
    if not local:
        do_not_wait_for_hub()
    try:
        with quiet_transformers():
            return load(str(folder) if local else name, local_files_only=local)
    except Exception as error:
        hint = (
            "the folder must contain the files of save_pretrained"
            if local
            else "pass a name on the Hugging Face Hub, reachable or cached, or a local folder"
        )
        raise DataError(f"no {what} '{name}': {hint} ({brief(first_line(error))})") from error


def model_checksum(name: str) -> str:
    """Return a checksum that tells a transformers model from another of the same name.

    Args:
        name: Name on the hub, or a local folder; ``hf:`` or ``st:`` may stand before it.

    Returns:
        Checksum of the files of the folder, or of the weights in the hub's cache; empty where neither is known.
    """
    library = next((known for known in ("hf:", "st:") if name.startswith(known)), "")
    path = name.removeprefix(library)
    folder = Path(path).expanduser()
    if folder.is_dir():
        return folder_checksum(folder)
    from huggingface_hub import try_to_load_from_cache

    # sentence-transformers finds its own models without their owner's name.
    path = f"sentence-transformers/{path}" if library == "st:" and "/" not in path else path
    try:
        found = (try_to_load_from_cache(path, file) for file in ("model.safetensors", "pytorch_model.bin"))
        weights = next((file for file in found if isinstance(file, str)), None)
    except ValueError:  # no name of the hub
        return ""
    # The hub's cache keeps a file under the name of its checksum, with a link to it.
    return "" if weights is None else Path(weights).resolve().name


def load_tokenizer(name: str) -> Any:
    """Load a transformers tokenizer by hub name or folder."""
    from transformers import AutoTokenizer

    return load_pretrained(AutoTokenizer.from_pretrained, "tokenizer", name)


def load_text_encoder(name: str) -> Any:
    """Load a transformers text encoder by hub name or folder: of CLIP the text half, of T5 the encoder."""
    from transformers import AutoModel

    model = load_pretrained(AutoModel.from_pretrained, "text encoder", name)
    model = getattr(model, "text_model", model)
    return model.get_encoder() if model.config.is_encoder_decoder else model
