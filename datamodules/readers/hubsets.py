"""Data sets of the Hugging Face library ``datasets``: a folder that it saved, or a name on the hub."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from cmr_bench.datamodules.readers.columnar import photo_of
from cmr_bench.datamodules.readers.unpacking import unpacking
from cmr_bench.support.errors import DataError, first_line
from cmr_bench.support.hub import do_not_wait_for_hub

_SAVED = ("dataset_dict.json", "state.json")


class HubSet:
    """A data set with its splits; photographs in it are unpacked into the cache once.

    Args:
        given: Folder written by ``save_to_disk``, or ``OWNER/NAME`` on the hub, perhaps with ``:CONFIGURATION``.

    Attributes:
        name: Name for messages and caches.
        parts: The splits by their names; under the name None where there are none.

    Raises:
        DataError: If ``datasets`` is not installed, or there is no such data set.
    """

    def __init__(self, given: str) -> None:
        self.name = Path(given).name if _is_path(given) else given
        self.parts: Mapping[str | None, Any] = _opened(given)

    def image_column(self, part: Any, wanted: str | None) -> str | None:
        """Return the column with the photographs: the one asked for, else the only one that holds pictures."""
        if wanted is not None:
            return wanted
        pictures = [name for name, feature in part.features.items() if type(feature).__name__ == "Image"]
        if len(pictures) > 1:
            raise DataError(f"{self.name}: {', '.join(pictures)} hold pictures; pass --data.image_column NAME")
        return pictures[0] if pictures else None

    def rows(self, name: str | None, image: str | None) -> Iterator[tuple[str, dict[str, Any]]]:
        """Read a split, a row at a time.

        Args:
            name: Name of the split.
            image: Column with the photographs.

        Yields:
            What to name in an error, and the row by column; categories by their names.
        """
        part = self.parts[name]
        where = f"{self.name} {name}" if name else self.name
        names = {
            column: feature.names for column, feature in part.features.items() if type(feature).__name__ == "ClassLabel"
        }
        if image is None or type(part.features.get(image)).__name__ != "Image":
            yield from self._plain(part, names, where)
            return
        part = part.cast_column(image, type(part.features[image])(decode=False))
        key = re.sub(r"[^\w.-]", "-", f"{where}-{part._fingerprint}")
        with unpacking(Path(where), key[-80:]) as photos:
            for number, (told, row) in enumerate(self._plain(part, names, where)):
                yield told, {**row, image: photo_of(row[image], number, photos)}

    def _plain(self, part: Any, names: Mapping[str, list[str]], where: str) -> Iterator[tuple[str, dict[str, Any]]]:
        for number, row in enumerate(part):
            yield f"{where}, row {number}", {column: _named(value, names.get(column)) for column, value in row.items()}


def _named(value: Any, names: list[str] | None) -> Any:
    return names[value] if names is not None and isinstance(value, int) and 0 <= value < len(names) else value


def _is_path(given: str) -> bool:
    return given.startswith((".", "/", "~")) or Path(given).expanduser().is_dir()


def _opened(given: str) -> Mapping[str | None, Any]:
    try:
        import datasets
    except ModuleNotFoundError as error:
        raise DataError(f"--data.hub {given} needs an extra: pip install 'cmr-bench[datasets]'") from error
    datasets.disable_progress_bars()
    try:
        if _is_path(given):
            folder = Path(given).expanduser()
            if not any((folder / name).is_file() for name in _SAVED):
                raise DataError(f"--data.hub {given}: not a folder of save_to_disk, no {' or '.join(_SAVED)} in it")
            found: Any = datasets.load_from_disk(str(folder))
        else:
            do_not_wait_for_hub()
            name, _, configuration = given.partition(":")
            found = datasets.load_dataset(name, configuration or None)
    except DataError:
        raise
    except Exception as error:  # the library raises errors of many kinds
        raise DataError(
            f"--data.hub {given}: {first_line(error)[:300]}; pass a folder of save_to_disk, or a name on the hub, "
            "reachable or cached"
        ) from error
    return dict(found) if isinstance(found, datasets.DatasetDict) else {None: found}
