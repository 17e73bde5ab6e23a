"""Tar files of samples, as WebDataset, img2dataset and CLIP Benchmark write them."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cmr_bench.datamodules.readers.cells import Embedded
from cmr_bench.datamodules.readers.finder import PHOTO_SUFFIXES
from cmr_bench.datamodules.readers.report import Report
from cmr_bench.datamodules.readers.unpacking import Unpacking, unpacking
from cmr_bench.support import foreign
from cmr_bench.support.errors import DataError, one_line
from cmr_bench.support.files import is_leftover

_TEXTS = (".txt", ".text", ".caption")
_LARGEST = 256 << 20  # bytes of one member


def shard_rows(file: Path, report: Report) -> Iterator[tuple[str, dict[str, Any]]]:
    """Read a shard, a sample at a time; nothing is written to where its members' names say.

    Neighbouring members with the same name up to the first dot make a sample: a photograph, captions in ``.txt`` (a
    line each) or in ``.json`` beside other columns, a category in ``.cls``.

    Args:
        file: The tar file, not compressed.
        report: Takes samples that cannot be read.

    Yields:
        What to name in an error, and the sample by column; its photograph, unpacked into the cache, as ``image``.

    Raises:
        DataError: If it is not a tar file, or cut short.
    """
    try:
        with tarfile.open(foreign.checked(file), "r:") as archive, unpacking(file) as photos:
            sample: dict[str, Any] = {}
            last, number = None, 0
            for member in archive:
                path = Path(member.name)
                if not member.isfile() or is_leftover(path):
                    continue
                key = member.name[: len(member.name) - len(path.name)] + path.name.partition(".")[0]
                if key != last and sample:
                    yield f"{file}, sample {last}", sample
                    sample = {}
                last = key
                try:
                    _add(sample, archive, member, number, photos)
                except DataError as problem:
                    report.invalid(f"{file}, {member.name}: {problem}")
                number += 1
            if sample:
                yield f"{file}, sample {last}", sample
    except tarfile.TarError as error:
        raise DataError(f"cannot read {file} as a tar file that is not compressed: {one_line(error)}") from None


def _add(
    sample: dict[str, Any], archive: tarfile.TarFile, member: tarfile.TarInfo, number: int, photos: Unpacking
) -> None:
    suffix = Path(member.name).suffix.lower()
    is_photo = suffix in PHOTO_SUFFIXES
    if is_photo and photos.complete:
        sample["image"] = Embedded(member.name, photos.place(number))
        return
    if not is_photo and suffix not in (*_TEXTS, ".json", ".cls"):
        return
    if member.size > _LARGEST:
        raise DataError(f"{member.size:,} bytes, more than a photograph or text has")
    stream = archive.extractfile(member)
    assert stream is not None
    content = stream.read()
    if is_photo:
        sample["image"] = Embedded(member.name, photos.write(number, content))
        return
    try:
        text = content.decode("utf-8-sig")
        if suffix in _TEXTS:
            sample["caption"] = [line for line in text.splitlines() if line.strip()]
        elif suffix == ".cls":
            sample["label"] = text.strip()
        else:
            entries = foreign.parse_json(text, "the text")
            if not isinstance(entries, dict):
                raise DataError("not an object with the columns as keys")
            sample.update({name: value for name, value in entries.items() if name not in sample})
    except (ValueError, DataError) as error:
        raise DataError(f"cannot be read: {error}") from None
