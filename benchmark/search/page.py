"""The page of `cmr-bench search --html`: one file with thumbnails in it, for bright, dark, wide and narrow screens."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from cmr_bench.datamodules.images.photos import read_photo
from cmr_bench.search.answers import printable, short_name
from cmr_bench.support.errors import DataError

if TYPE_CHECKING:
    from cmr_bench.search.answers import Answer, Hit

_SIDE = 320  # pixels; twice what a card shows on most screens
_STYLE = """
:root { color-scheme: light dark; --back: #fafafa; --card: #fff; --text: #1b1b1f; --soft: #5c5c66; --line: #ddd; }
@media (prefers-color-scheme: dark) {
  :root { --back: #16161a; --card: #212127; --text: #ececf1; --soft: #a3a3ad; --line: #3a3a42; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 75rem; padding: 1rem; background: var(--back); color: var(--text);
  font: 1rem/1.45 system-ui, sans-serif; }
h1 { font-size: 1rem; font-weight: 500; color: var(--soft); margin: 0 0 1.5rem; }
h2 { font-size: 1.4rem; margin: 0 0 1rem; overflow-wrap: anywhere; }
h2 img { display: block; max-width: min(100%, 20rem); border-radius: .5rem; }
ol { list-style: none; margin: 0 0 2.5rem; padding: 0; display: grid; gap: .8rem; }
ol.photos { grid-template-columns: repeat(auto-fill, minmax(min(11rem, 45%), 1fr)); }
li { background: var(--card); border: 1px solid var(--line); border-radius: .5rem; overflow: hidden; }
li img { display: block; width: 100%; aspect-ratio: 1; object-fit: contain; background: #8882; }
li p { margin: 0; padding: .5rem .7rem; overflow-wrap: anywhere; }
small { color: var(--soft); display: block; font-variant-numeric: tabular-nums; }
footer { color: var(--soft); font-size: .9rem; }
"""


def page(title: str, answers: Sequence[Answer], photo: Path | None, folder: Path | None, note: str) -> str:
    """Return the page as HTML.

    Args:
        title: What searched.
        answers: The answers to every query.
        photo: The photograph that was the query; None where sentences were.
        folder: Folder that was searched; None where sentences were.
        note: What was searched and what was skipped.
    """
    parts = [_section(answer, photo, folder) for answer in answers]
    first = printable(answers[0].query) if answers else ""
    return (
        "<!doctype html>\n"
        f'<html lang="en"><head><meta charset="utf-8"><title>{escape(first)} – {escape(printable(title))}</title>\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<style>{_STYLE}</style></head>\n<body><h1>{escape(printable(title))}</h1>\n<main>\n"
        + "\n".join(parts)
        + f"\n</main>\n<footer>{escape(printable(note))}</footer></body></html>\n"
    )


def _section(answer: Answer, photo: Path | None, folder: Path | None) -> str:
    query = escape(printable(answer.query))
    head = query if photo is None else f'<img src="{_thumbnail(photo)}" alt="{query}">'
    kind = "photos" if folder is not None else "captions"
    cards = "\n".join(_card(hit, folder) for hit in answer.hits)
    return f'<section><h2>{head}</h2>\n<ol class="{kind}">\n{cards}\n</ol></section>'


def _card(hit: Hit, folder: Path | None) -> str:
    place = f"<small>{hit.rank} · {hit.score:.4f}</small>"
    if hit.file is None:
        return f"<li><p>{place}{escape(printable(hit.caption or ''))}</p></li>"
    name = escape(printable(short_name(hit.file, folder)))
    return f'<li><img src="{_thumbnail(Path(hit.file))}" alt="{name}" loading="lazy"><p>{place}{name}</p></li>'


def _thumbnail(file: Path) -> str:
    try:
        photo = read_photo(file, at_least=_SIDE)
    except DataError:  # removed since it was embedded
        photo = Image.new("RGB", (1, 1), (136, 136, 136))
    photo.thumbnail((_SIDE, _SIDE))
    stream = io.BytesIO()
    photo.save(stream, "JPEG", quality=82)
    return f"data:image/jpeg;base64,{base64.b64encode(stream.getvalue()).decode()}"
