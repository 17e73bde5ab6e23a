"""Loading from the Hugging Face hub without its waits and its noise."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit


def do_not_wait_for_hub() -> None:
    """Switch the hub's client to its cache where its host has no address: it retries for half a minute otherwise."""
    from huggingface_hub import constants

    if any(key.lower() in ("https_proxy", "all_proxy") for key in os.environ):
        return
    try:
        socket.getaddrinfo(urlsplit(constants.ENDPOINT).hostname, 443)
    except OSError:
        constants.HF_HUB_OFFLINE = True


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Hide the loading bar and the report on tensors that are left out on purpose, such as the text half of CLIP."""
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
