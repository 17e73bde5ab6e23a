"""Image features that are named by what makes them: found where they are stored, made where they are not."""

from __future__ import annotations

import hashlib
import os
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

from cmr_bench.datamodules.images.store import Manifest, read_manifest
from cmr_bench.datamodules.split import Split
from cmr_bench.support.devices import choose_device
from cmr_bench.support.encoders import RANDOM, FeatureName, feature_name, require_weights
from cmr_bench.support.errors import DataError, Notice
from cmr_bench.support.places import MANIFEST, stores_in

# Photographs that an encoder reads at once.
BATCH = 32

if TYPE_CHECKING:
    from cmr_bench.datamodules.module import RetrievalDataModule


def find(data: RetrievalDataModule, name: FeatureName) -> Path | None:
    """Return the folder of stored features of this name, complete or not; None where there are none.

    Without ``--data.image_weights`` those of any trained weights are taken; a store says which.
    """
    return find_in(data.store_places(), name, data.image_weights)


def find_in(places: Sequence[Path], name: FeatureName, weights: str | None) -> Path | None:
    """Return the folder of stored features of this name, made with these weights, in some places, see :func:`find`."""
    usual = [folder for place in places if ((folder := place / name.store) / MANIFEST).is_file()]
    checksum = _checksum(weights) if usual or stores_in(places) else ""
    for folder in [*usual, *(folder for folder in stores_in(places) if folder not in usual)]:
        try:
            manifest = read_manifest(folder)
        except DataError:
            if folder in usual:
                raise
            continue
        if _is_made_by(manifest, name, weights, checksum):
            return folder
    return None


def _is_made_by(manifest: Manifest, name: FeatureName, weights: str | None, checksum: str) -> bool:
    if (manifest.encoder, manifest.layer) != (name.encoder, name.layer):
        return False
    prepared = manifest.preprocessing
    # Of an encoder's own size a store says only that no other was asked for.
    own_size = "--size" not in manifest.command.split()
    if (prepared.get("size") != name.size if name.size else not own_size) or prepared.get("resize") == "crop":
        return False
    if weights is None or weights == RANDOM:
        return (manifest.weights == RANDOM) == (weights == RANDOM)
    return manifest.weights_sha256 == checksum


def _checksum(weights: str | None) -> str:
    file = None if weights is None else require_weights(weights)
    if file is None:
        return ""
    from cmr_bench.datamodules.images.weights import file_sha256

    return file_sha256(file)


def command(data: RetrievalDataModule, name: FeatureName, store: str = "") -> str:
    """Return the command that makes features of this name, and reads what the data set reads.

    Args:
        data: The data set.
        name: The features.
        store: Name of the store; empty for the usual one.
    """
    words = name.words()
    words += [] if data.image_weights is None else ["--weights", data.image_weights]
    words += ["--name", store] if store not in ("", name.store) else []
    words += ["--skip-missing"] if data.skip_missing else []
    return f"cmr-bench data features {data.data_name}{data.given()} {shlex.join(words)}"


def found(data: RetrievalDataModule, name: FeatureName) -> Path:
    """Return the folder of stored features of this name; raises DataError, with the command that makes them."""
    folder = find(data, name)
    if folder is None:
        raise DataError(
            f"no features '{name}' for {data.data_name}: looked in {_looked_in(data)}; {_there(data)}. Make them with "
            f"`{command(data, name)}`{'' if data.make_features else ', or pass --data.make_features true'}"
        )
    return folder


def _looked_in(data: RetrievalDataModule) -> str:
    return ", ".join(map(str, data.store_places()))


def _there(data: RetrievalDataModule) -> str:
    names = list(dict.fromkeys(folder.name for folder in stores_in(data.store_places())))
    return f"there are {', '.join(names)}" if names else "there are none"


def provide(data: RetrievalDataModule, splits: Mapping[str, Split]) -> None:
    """Make the image features that a data set is asked for, where they are named by their encoder and not stored.

    Processes that ask for the same at the same time make it once: the others wait. An interrupted one is resumed.

    Args:
        data: The data set, whose ``image_features`` names the features.
        splits: What it read.

    Raises:
        DataError: If no photograph is there, one is missing or broken, or the encoder's weights cannot be had.
    """
    name = feature_name(data.image_features)
    if name is None or not data.make_features or any(split.image_files is None for split in splits.values()):
        return
    if is_stored(data):
        return
    _require_photographs(data, name, splits)
    folder = _place(data, name)
    with _alone(folder, name):
        if not is_stored(data):
            _make(data, name, splits, folder)


def is_stored(data: RetrievalDataModule) -> bool:
    """Tell whether the features that a data set names by their encoder are stored, all of them."""
    name = feature_name(data.image_features)
    folder = None if name is None else find(data, name)
    return folder is not None and read_manifest(folder).complete


def _place(data: RetrievalDataModule, name: FeatureName) -> Path:
    """Return where to make features: where an earlier attempt stopped, or a folder that holds no others."""
    begun = find(data, name)
    folder = data.cache() / "features" / name.store
    if begun is not None:
        return begun
    if not (folder / MANIFEST).is_file():
        return folder
    made_by = hashlib.sha256(f"{name} {_checksum(data.image_weights)} {data.image_weights == RANDOM}".encode())
    return folder.with_name(f"{name.store}-{made_by.hexdigest()[:8]}")


def _require_photographs(data: RetrievalDataModule, name: FeatureName, splits: Mapping[str, Split]) -> None:
    files = {file: None for split in splits.values() for file in split.image_files or ()}
    absent = [file for file in files if not file.is_file()]
    if len(absent) == len(files):
        example = f", e.g. {absent[0]}" if absent else ""
        raise DataError(
            f"no features '{name}' for {data.data_name}: looked in {_looked_in(data)}; {_there(data)}. They are made "
            f"from the images, and none of the {len(files):,} is there{example}: pass --data.images DIR where the data "
            "set has that option, or name other features by --data.image_features NAME or FILE"
        )
    if absent and not data.skip_missing:
        raise DataError(
            f"{data.data_name}: {len(absent):,} of {len(files):,} images missing, e.g. {absent[0]}; "
            "pass --data.skip_missing true to skip them"
        )


@contextmanager
def _alone(folder: Path, name: FeatureName) -> Iterator[None]:
    """Wait until no other process makes these features."""
    from lightning.pytorch.utilities import rank_zero_warn  # takes seconds, and few look for features to make some

    lock = FileLock(folder.with_name(f".{folder.name}.lock"))
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            rank_zero_warn(f"waiting for another process that makes features '{name}'", category=Notice)
            lock.acquire()
    except OSError as error:
        raise DataError(
            f"cannot write features in {folder.parent}: {error.strerror or error}; "
            "set another folder by CMR_BENCH_CACHE"
        ) from error
    try:
        yield
    finally:
        lock.release()


def _make(data: RetrievalDataModule, name: FeatureName, splits: Mapping[str, Split], folder: Path) -> None:
    import torch
    from lightning.pytorch.utilities import rank_zero_warn

    from cmr_bench.datamodules.images import backbones, extract

    # A run whose features are made first draws the same numbers as one that finds them.
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)  # for random weights, so that a resumed extraction uses the same network
        try:
            encoder = backbones.load_backbone(name.encoder, data.image_weights, name.layer)
        except DataError as error:
            raise DataError(
                f"{error}. Or name other features by --data.image_features: the store, the file or the encoder "
                f"(library:name/layer) that you have ({_there(data)} for {data.data_name})"
            ) from error
        n_images = len({image for split in splits.values() for image in split.image_ids})
        said = f"making features '{name}' of the {n_images:,} images of {data.data_name} in {folder}, once"
        rank_zero_warn(said, category=Notice)
        options = extract.Extraction(
            size=name.size,
            batch_size=BATCH,
            workers=min(8, os.cpu_count() or 1),
            device=choose_device(data.making_device),
            skip_missing=data.skip_missing,
            progress=data.show_progress,
            skip_option="--data.skip_missing true",
            wait=True,
        )
        extract.extract(encoder, data.data_name, splits, folder, options, command(data, name, folder.name))
