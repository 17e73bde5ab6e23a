"""Files that somebody else may have made: what is opened, how much of it is read, and how deep it may be nested."""

from __future__ import annotations

import gzip
import io
import json
import math
import stat
import zipfile
import zlib
from collections.abc import Iterator
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import yaml

from cmr_bench.support.errors import DataError, first_line, one_line

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MOST_DEPTH = 64
CONFIG_BYTES = 2**20
RECORD_BYTES = 64 * 2**20
ANNOTATION_BYTES = 2**30
# What is compressed may grow to the first whatever its size, and beyond that by the second: text and numbers shrink to
# a tenth or twentieth, zeros to a thousandth.
_FREE_BYTES, _RATIO = 256 * 2**20, 100
_MAT_COMPRESSED = 15
_MOST_NODES = 100_000
_NESTING = (dict, list)
_LARGE_PICTURE = 50_000_000  # pixels
_KINDS = {
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFDIR: "a folder",
}


def checked(path: Path, most: int | None = None, within: Path | None = None) -> Path:
    """Return a path if it leads to a plain file that may be opened.

    Args:
        path: The file. What lies in ``/dev`` is the user's own (``<(command)`` of a shell) and may be a pipe.
        most: Largest size in bytes; None for any.
        within: Folder that the file must lie in, symbolic links followed; None for anywhere.

    Raises:
        DataError: If it is a pipe, a socket, a device or a folder, too large, or outside of the folder.
        OSError: If there is no such file.
    """
    found = path.stat()
    kind = stat.S_IFMT(found.st_mode)
    if kind != stat.S_IFREG and not str(path).startswith("/dev/"):
        raise DataError(f"{path} is {_KINDS.get(kind, 'no file')}, not a plain file; remove or replace it")
    if within is not None and not path.resolve().is_relative_to(within.resolve()):
        raise DataError(f"{path} is a link to {path.resolve()}, outside of {within}; put the file itself there")
    if most is not None and found.st_size > most:
        raise _too_large(path, most)
    return path


def check_folder(folder: Path) -> None:
    """Refuse a run folder in which something leads out of it by a symbolic link, or is neither file nor folder.

    What lies below ``wandb/`` is passed over: nothing of it is read back, and W&B links its own logs there.

    Raises:
        DataError: For the first such entry.
    """
    for path in folder.rglob("*"):
        if path.relative_to(folder).parts[0] == "wandb" and path.parent != folder:
            continue
        if path.is_symlink() and not path.resolve().is_relative_to(folder.resolve()):
            raise DataError(f"{path} is a link to {path.resolve()}, outside of {folder}; put the file itself there")
        if path.exists() and not path.is_dir():
            checked(path)


def read_bytes(path: Path, most: int, within: Path | None = None) -> bytes:
    """Read a file of at most ``most`` bytes; arguments and errors as for :func:`checked`."""
    with checked(path, most, within).open("rb") as stream:
        content = stream.read(most + 1)
    if len(content) > most:
        raise _too_large(path, most)
    return content


def read_text(path: Path, most: int, within: Path | None = None, errors: str = "strict") -> str:
    """Read UTF-8 text of at most ``most`` bytes.

    Args:
        path: The file.
        most: Largest size in bytes.
        within: As for :func:`checked`.
        errors: What becomes of bytes that are no UTF-8, as for :meth:`bytes.decode`.

    Raises:
        DataError: As for :func:`checked`, and for what is not UTF-8.
        OSError: If there is no such file.
    """
    try:
        return io.TextIOWrapper(io.BytesIO(read_bytes(path, most, within)), encoding="utf-8", errors=errors).read()
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text: {error}") from error


def _too_large(path: Path | str, most: int) -> DataError:
    return DataError(f"{path} is larger than the {most / 2**20:,.0f} MiB that are read of such a file")


def parse_json(content: str | bytes, where: object, depth: int = MOST_DEPTH) -> Any:
    """Parse JSON that is nested at most ``depth`` deep.

    Raises:
        DataError: If it is nested deeper, or no JSON.
    """
    try:
        value = json.loads(content)
    except RecursionError:
        raise DataError(f"{where} is nested more than {depth} deep") from None
    except ValueError as error:
        raise DataError(f"{where} is not JSON: {one_line(error)}") from None
    if _deeper(value, depth):
        raise DataError(f"{where} is nested more than {depth} deep")
    return value


def read_json(path: Path, most: int = RECORD_BYTES, within: Path | None = None) -> Any:
    """Read a JSON file.

    Raises:
        DataError: As for :func:`checked` and :func:`parse_json`.
        OSError: If there is no such file.
    """
    return parse_json(read_bytes(path, most, within), path)


def _deeper(value: Any, most: int) -> bool:
    level = [value] if isinstance(value, _NESTING) else []
    for _ in range(most):
        if not level:
            break
        level = [
            child
            for one in level
            for child in (one.values() if isinstance(one, dict) else one)
            if isinstance(child, _NESTING)
        ]
    return bool(level)


def parse_yaml(text: str, where: object) -> Any:
    """Parse YAML of plain values; repetition by aliases counts as if it was written out.

    Raises:
        DataError: If it is no YAML, nested deeper than ``MOST_DEPTH``, or has more than 100,000 values.
    """
    kind: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        # Events come one by one. A tree is built by recursion, in C without a limit, so the depth is looked at before.
        open_ = 0
        for event in yaml.parse(text, kind):
            open_ += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if open_ > MOST_DEPTH:
                raise DataError(f"{where} is nested more than {MOST_DEPTH} deep")
        loader = kind(text)
        try:
            node = loader.get_single_node()
            if node is None:
                return None
            size, depth = _written_out(node, {})
            if size > _MOST_NODES or depth > MOST_DEPTH + 1:
                raise DataError(
                    f"{where} has more than {_MOST_NODES:,} values, or is nested more than {MOST_DEPTH} deep, with its "
                    "aliases written out"
                )
            return loader.construct_document(node)
        finally:
            loader.dispose()
    except (yaml.YAMLError, ValueError, ArithmeticError, RecursionError, AttributeError) as error:
        raise DataError(f"{where} is not YAML: {one_line(error)}") from error


def read_yaml(path: Path | Traversable, within: Path | None = None) -> Any:
    """Read a YAML file of at most 1 MiB.

    Raises:
        DataError: As for :func:`checked` and :func:`parse_yaml`.
        OSError: If there is no such file.
    """
    if isinstance(path, Path):
        return parse_yaml(read_text(path, CONFIG_BYTES, within), path)
    return parse_yaml(path.read_text(encoding="utf-8"), path)


def _written_out(node: yaml.Node, known: dict[int, tuple[float, float]]) -> tuple[float, float]:
    """Return how many values a node has and how deep they are nested, aliases written out."""
    if id(node) not in known:
        known[id(node)] = (math.inf, math.inf)  # what holds itself has no end
        below = [_written_out(child, known) for child in _children(node)]
        known[id(node)] = (1 + sum(size for size, _ in below), 1 + max((depth for _, depth in below), default=0))
    return known[id(node)]


def _children(node: yaml.Node) -> Iterator[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        for pair in node.value:
            yield from pair
    elif isinstance(node, yaml.SequenceNode):
        yield from node.value


def gunzip(content: bytes, where: object) -> bytes:
    """Decompress a gzip file.

    Raises:
        DataError: If it grows to more than 256 MiB and a hundred times its size.
        OSError, EOFError, zlib.error: If it is damaged.
    """
    most = max(_FREE_BYTES, _RATIO * len(content))
    parts, size = [], 0
    with gzip.GzipFile(fileobj=io.BytesIO(content)) as stream:
        while part := stream.read(2**24):
            size += len(part)
            if size > most:
                raise _bomb(where)
            parts.append(part)
    return b"".join(parts)


def check_zip(path: Path) -> None:
    """Refuse an archive (``.npz``, a checkpoint) whose content would be a hundred times its size and over 256 MiB.

    Raises:
        DataError: If it would be.
        OSError, zipfile.BadZipFile: If it cannot be read.
    """
    with zipfile.ZipFile(path) as archive:
        size = sum(entry.file_size for entry in archive.infolist())
    check_growth(size, path.stat().st_size, path)


def check_growth(size: int, stored: int, where: object) -> None:
    """Refuse what would grow to more than 256 MiB and a hundred times what is stored; raises DataError."""
    if size > max(_FREE_BYTES, _RATIO * stored):
        raise _bomb(where)


def check_dataset(node: Any, where: object) -> None:
    """Refuse an HDF5 data set that is kept in other files, or would grow a hundredfold.

    Args:
        node: The ``h5py.Dataset``.
        where: What to name in the error.

    Raises:
        DataError: If it would read another file, whose content would pass for numbers, or grow to over 256 MiB.
    """
    if node.external or node.is_virtual:
        raise DataError(f"{where}: '{node.name}' lies in other files, which are not opened; store it in this one")
    check_growth(node.nbytes, node.id.get_storage_size(), f"{where}: '{node.name}'")


def check_mat(path: Path) -> None:
    """Refuse a MATLAB file (version 5 to 7) with an array that would be a hundred times its size and over 256 MiB.

    Raises:
        DataError: If it has one.
        OSError: If it cannot be read.
    """
    with path.open("rb") as stream:
        order: Literal["little", "big"] = "little" if stream.read(128)[126:128] == b"IM" else "big"
        while len(head := stream.read(8)) == 8:
            kind, size = (int.from_bytes(head[at : at + 4], order) for at in (0, 4))
            if kind == _MAT_COMPRESSED:
                # Compressed or not, an element begins with the size of its content.
                start = stream.read(min(size, 64))
                inner = zlib.decompressobj().decompress(start, 8)
                check_growth(int.from_bytes(inner[4:8], order), size, path)
                size -= len(start)
            stream.seek(size, io.SEEK_CUR)


def _bomb(where: object) -> DataError:
    return DataError(
        f"{where} would grow to more than {_RATIO} times its size when it is decompressed, as no data does; it is not "
        "read. If it is sound, store it without compression"
    )


def read_npz(path: Path, within: Path | None = None) -> dict[str, NDArray[np.generic]]:
    """Read every array of an ``.npz`` file; nothing in it is executed.

    Raises:
        DataError: As for :func:`checked` and :func:`check_zip`, and for what cannot be read.
    """
    import numpy as np

    try:
        check_zip(checked(path, within=within))
        with np.load(path, allow_pickle=False) as file:
            return {name: np.asarray(file[name]) for name in file.files}
    except DataError:
        raise
    except Exception as error:  # a damaged archive can fail in any way
        raise DataError(f"{path} cannot be read: {first_line(error)}") from error


def check_picture(size: tuple[int, int], n_bytes: int) -> None:
    """Refuse a picture that is large only when it is decoded: a few thousand bytes of one colour that fill the memory.

    Args:
        size: Width and height in pixels.
        n_bytes: Size of its file.

    Raises:
        ValueError: If it has more than 50 million pixels, and five hundred bytes of colour for each byte of the file.
    """
    pixels = size[0] * size[1]
    if pixels > _LARGE_PICTURE and 3 * pixels > 500 * n_bytes:
        raise ValueError(f"{size[0]} x {size[1]} pixels in {n_bytes:,} bytes are no photograph")
