"""Where a run keeps its example queries."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from cmr_bench.support import foreign
from cmr_bench.support.errors import DataError

EXAMPLES_FILE = "examples.json"
THUMBNAILS = "examples"
_MOST_BYTES = 2**20
_JPEG_MAGIC = b"\xff\xd8\xff"


def thumbnail_name(image_id: str) -> str:
    """Return the name of an image's thumbnail: a hash, as an id may hold what no file name can."""
    return f"{hashlib.sha256(image_id.encode(errors='surrogatepass')).hexdigest()[:20]}.jpg"


def read_thumbnail(file: Path) -> bytes | None:
    """Read a thumbnail of a run folder; None where it is missing, no JPEG, too large or a link out of the folder."""
    try:
        content = foreign.read_bytes(file, _MOST_BYTES, within=file.parents[1])
    except (OSError, DataError):
        return None
    return content if content.startswith(_JPEG_MAGIC) else None


def image_ids(found: dict[str, Any]) -> list[str]:
    """List the ids of the images that examples speak of, each once."""
    queries = (entry["query"]["id"] for entry in found["i2t"])
    matches = (entry["query"]["match"]["id"] for entry in found["t2i"])
    answers = (answer["id"] for entry in found["t2i"] for answer in entry["answers"])
    return list(dict.fromkeys([*queries, *matches, *answers]))
