"""Example queries: the answers of runs on one test split to the same captions and images."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from cmr_bench.dashboard.collect import DIRECTIONS, StoredRun, slug
from cmr_bench.leaderboard.naming import label_of
from cmr_bench.results.examples import THUMBNAILS, read_thumbnail, thumbnail_name

# Documents stand in some data sets in place of captions; this much of one tells what it is about.
_LONGEST = 400


def split_key(run: StoredRun) -> str:
    """Name the test split of a run in files and addresses."""
    return slug((run.result.data, run.result.fingerprint))


class _Items:
    """Numbers items in the order of their first appearance."""

    def __init__(self) -> None:
        self.rows: dict[str, int] = {}
        self.captions: dict[str, str] = {}

    def number(self, item: dict[str, Any]) -> int:
        name = item["id"]
        if name not in self.captions and isinstance(item.get("caption"), str):
            self.captions[name] = item["caption"]
        return self.rows.setdefault(name, len(self.rows))


def split_data(runs: Sequence[StoredRun], thumbnails: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Arrange the examples of runs on one test split, and copy the thumbnails that they name, each once.

    Args:
        runs: Runs of one fingerprint.
        thumbnails: Folder to which thumbnails go, below one for the split.

    Returns:
        What the runs share (items, queries, list of runs), and by slug the answers of each run: for each query of each
        direction the rank of its match, or None, and the answers as number, score, match and related.
    """
    images, texts = _Items(), _Items()
    matches: dict[str, dict[int, int | None]] = {way: {} for way in DIRECTIONS}
    answers: dict[str, Any] = {}
    for run in runs:
        own: dict[str, list[Any]] = {}
        for way, asked, answered in (("i2t", images, texts), ("t2i", texts, images)):
            own[way] = []
            for entry in run.examples[way]:
                query = asked.number(entry["query"])
                match = entry["query"].get("match")
                if match is not None or query not in matches[way]:
                    matches[way][query] = None if match is None else answered.number(match)
                found = [_answer(item, answered) for item in entry["answers"]]
                own[way].append([query, _figure(entry["query"].get("rank")), found])
        answers[run.slug] = own
    key = split_key(runs[0])
    pictures = _copy_thumbnails(images.rows, runs, thumbnails / key)
    first = runs[0].result
    sizes = [*first.split_sizes.get("test", []), 0, 0][:2]
    content = {
        "title": f"{first.data}: {sizes[0]:,} images and {sizes[1]:,} texts",
        "images": [[name, picture] for name, picture in zip(images.rows, pictures, strict=True)],
        "texts": [_cut(texts.captions.get(name, name)) for name in texts.rows],
        "queries": {way: list(pairs.items()) for way, pairs in matches.items()},
        "runs": [
            {
                "slug": run.slug,
                "label": label_of(run.result),
                "method": run.result.method,
                "variant": run.result.variant,
                "seed": run.result.seed,
                "run_id": run.result.run_id,
                "score": run.result.metrics.get("rsum", run.result.metrics.get("map", 0.0)),
            }
            for run in runs
        ],
    }
    return content, answers


def _answer(item: dict[str, Any], items: _Items) -> list[Any]:
    related = item.get("related")
    return [
        items.number(item),
        _figure(item.get("score")),
        int(bool(item.get("match"))),
        None if related is None else int(bool(related)),
    ]


def _figure(value: object) -> float | None:
    return float(f"{value:.6g}") if isinstance(value, int | float) and math.isfinite(value) else None


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST].rsplit(' ', 1)[0]} …"


def _copy_thumbnails(images: Iterable[str], runs: Sequence[StoredRun], folder: Path) -> list[str]:
    """Copy the thumbnail of each image from a run that has it; return their addresses, empty where none has."""
    there = {file.name: file for run in runs for file in (run.folder / THUMBNAILS).glob("*.jpg")}
    addresses = []
    for image in images:
        source = there.get(thumbnail_name(image))
        content = None if source is None else read_thumbnail(source)
        if source is not None and content is not None:
            folder.mkdir(exist_ok=True)
            (folder / source.name).write_bytes(content)
        addresses.append(f"{folder.name}/{source.name}" if source is not None and content is not None else "")
    return addresses
