"""Where a run keeps its example queries."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    pass


EXAMPLES_FILE = "examples.json"
THUMBNAILS = "examples"


def thumbnail_name(image_id: str) -> str:
    """Return the name of an image's thumbnail: a hash, as an id may hold what no file name can."""
    return f"{hashlib.sha256(image_id.encode(errors='surrogatepass')).hexdigest()[:20]}.jpg"


def image_ids(found: dict[str, Any]) -> list[str]:
    """List the ids of the images that examples speak of, each once."""
    queries = (entry["query"]["id"] for entry in found["i2t"])
    matches = (entry["query"]["match"]["id"] for entry in found["t2i"])
    answers = (answer["id"] for entry in found["t2i"] for answer in entry["answers"])
    return list(dict.fromkeys([*queries, *matches, *answers]))
