"""LMDB files: photographs or feature arrays by key."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cmr_bench.datamodules.readers.finder import PhotoFinder, without_suffix
from cmr_bench.datamodules.readers.unpacking import Unpacking
from cmr_bench.support.errors import DataError, one_line

_DATA = "data.mdb"
_OPEN: dict[Path, tuple[tuple[int, int], Any]] = {}


def is_lmdb(path: Path) -> bool:
    """Whether a path is an LMDB file, or a folder with one."""
    return (path / _DATA).is_file() or (path.suffix.lower() in (".lmdb", ".mdb") and path.is_file())


def open_lmdb(path: Path) -> Any:
    """Open an LMDB file for reading; LMDB allows it once a process, so it stays open.

    Raises:
        DataError: If lmdb is not installed, or the file is something else.
    """
    try:
        import lmdb
    except ImportError:
        raise DataError(f"reading {path} needs lmdb: pip install 'cmr-bench[lmdb]'") from None
    stat = content_of(path).stat()
    place, state = path.resolve(), (stat.st_ino, stat.st_mtime_ns)
    known, environment = _OPEN.get(place, (None, None))
    if known == state:
        return environment
    if environment is not None:
        environment.close()
    try:
        environment = lmdb.open(str(path), subdir=path.is_dir(), readonly=True, lock=False, readahead=False)
    except lmdb.Error as error:
        raise DataError(f"cannot read {path} as LMDB: {one_line(error)}") from None
    _OPEN[place] = state, environment
    return environment


def content_of(path: Path) -> Path:
    """Return the file with the data of an LMDB folder, or the file itself."""
    return path / _DATA if path.is_dir() else path


def value_of(path: Path, key: str) -> bytes:
    """Return what stands under a key that is there."""
    with open_lmdb(path).begin(buffers=True) as view:
        return bytes(view.get(key.encode()))


def keys_of(path: Path) -> list[str]:
    """Return the keys of an LMDB file, in their order; what is not UTF-8 is not listed."""
    with open_lmdb(path).begin() as view:
        names = []
        for key in view.cursor().iternext(keys=True, values=False):
            try:
                names.append(bytes(key).decode())
            except UnicodeDecodeError:
                continue
        return names


class LmdbFinder(PhotoFinder):
    """Finds photographs in an LMDB file by their path, their name, or their name without suffix.

    They are unpacked into the cache once.

    Args:
        path: The LMDB file, or its folder.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._number = {key: number for number, key in enumerate(keys_of(path))}
        self._photos = Unpacking(content_of(path))

    def find(self, path: str) -> Path:
        """Return where a photograph has been unpacked; a path that does not exist if it is not in the file."""
        name = path.rpartition("/")[2]
        for key in (path, name, without_suffix(path), without_suffix(name)):
            number = self._number.get(key)
            if number is None:
                continue
            place = self._photos.place(number)
            if not place.is_file():
                try:
                    self._photos.write(number, value_of(self.images, key))
                except OSError as error:
                    raise DataError(f"cannot unpack photographs into {place.parent}: {error.strerror}") from error
            return place
        return self.images.parent / "not in the file" / name
