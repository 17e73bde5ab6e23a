"""What a trained run needs to read photographs and sentences that no data set holds.

While a run has its data set at hand, :func:`describe` asks the views of the test split how they are made of raw files;
the answer is one safetensors file without code in it. :func:`photo_reader` and :func:`text_reader` turn it back into
functions: the stored features' own encoder, the fitted tf-idf or Doc2Vec, the vocabulary.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cmr_bench.datamodules.images import extract, store
from cmr_bench.datamodules.images.photos import Photo, PhotoFit, fit_photo, photo_bytes, read_photo
from cmr_bench.datamodules.module import RetrievalDataModule
from cmr_bench.datamodules.synthetic import filters, module, scenes
from cmr_bench.datamodules.texts import fitting, words
from cmr_bench.datamodules.views import ArrayView, DataSpec, Origin, View, ViewSpec
from cmr_bench.support.errors import CmrBenchError, DataError
from cmr_bench.support.files import write_atomic
from cmr_bench.support.hub import model_checksum

INPUTS_FILE = "inputs.safetensors"
_SCHEMA = 1


@dataclass(frozen=True)
class Inputs:
    """What a run reads.

    Attributes:
        spec: The views that the layers were built for.
        image: How its image view is made of photographs; None where they do not give it.
        text: How its text view is made of sentences; None where they do not give it.
        content: Checksums of what the run read, see ``Result.content``; empty in files of earlier versions.
    """

    spec: DataSpec
    image: Origin | None
    text: Origin | None
    content: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class PhotoReader:
    """Turns photographs into what a method reads, in two steps, of which only the first can meet a broken file.

    Attributes:
        read: Decodes a photograph to uint8, (3, H, W), all of one size; raises DataError.
        fields: Turns decoded photographs (b, 3, H, W) into fields of an image batch.
    """

    read: Callable[[Photo], Tensor]
    fields: Callable[[Tensor], dict[str, Tensor]]


def describe(data: RetrievalDataModule) -> Inputs:
    """Return what is needed to make the views of a loaded data set of raw files."""
    split = data.splits["test"]
    assert data.spec is not None
    assert split.images is not None
    assert split.texts is not None
    content = data.content(data.spec.image.kind, data.spec.text.kind)
    return Inputs(data.spec, split.images.origin(), split.texts.origin(), content)


def save(folder: Path, inputs: Inputs) -> None:
    """Write the inputs of a run into its folder."""
    settings: dict[str, Any] = {"schema": _SCHEMA, "spec": dataclasses.asdict(inputs.spec)}
    settings["content"] = dict(inputs.content)
    arrays: dict[str, Any] = {}
    for side, origin in (("image", inputs.image), ("text", inputs.text)):
        settings[side] = None if origin is None else {"kind": origin.kind, "settings": dict(origin.settings)}
        arrays |= {} if origin is None else {f"{side}.{name}": value for name, value in origin.arrays.items()}
    write_atomic(folder / INPUTS_FILE, Origin("inputs", settings, arrays).to_bytes())


def load(folder: Path) -> Inputs | None:
    """Read the inputs of a run; None where its folder holds none.

    Raises:
        DataError: If the file is damaged or from a newer version.
    """
    file = folder / INPUTS_FILE
    if not file.is_file():
        return None
    try:
        stored = Origin.from_bytes(file.read_bytes())
        schema = stored.settings["schema"]
        if schema > _SCHEMA:
            raise DataError(f"{file} has schema {schema}, newer than {_SCHEMA}: update cmr-bench to read it")
        spec = dict(stored.settings["spec"])
        for side in ("image", "text"):
            spec[side] = ViewSpec(**{**spec[side], "shape": tuple(spec[side]["shape"])})
        content = {str(part): str(value) for part, value in stored.settings.get("content", {}).items()}
        return Inputs(DataSpec(**spec), _side(stored, "image"), _side(stored, "text"), content)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"cannot read {file}: {error}; remove it to rebuild it from the data set") from error


def _side(stored: Origin, side: str) -> Origin | None:
    part = stored.settings[side]
    if part is None:
        return None
    arrays = {name.partition(".")[2]: value for name, value in stored.arrays.items() if name.startswith(f"{side}.")}
    return Origin(part["kind"], part["settings"], arrays)


def photo_reader(origin: Origin, weights: Path | None, device: torch.device) -> PhotoReader:
    """Return what turns photographs into the image view of a run.

    Args:
        origin: How the view is made.
        weights: Weights file of the encoder of stored features; where not given it is looked for where it was.
        device: Where that encoder runs.

    Raises:
        DataError: If the weights are missing or are not those that the features were made with.
    """
    if origin.kind == "features":
        return _feature_reader(store.Manifest(**origin.settings), weights, device)
    if weights is not None:
        raise DataError("--weights is for runs on stored features; this run needs no encoder weights")
    if origin.kind == "drawn":
        return _drawn_reader(origin)
    return PhotoReader(functools.partial(_fitted, fit=PhotoFit(**origin.settings)), _pixels)


def _fitted(file: Photo, fit: PhotoFit) -> Tensor:
    return photo_bytes(fit.read(file))


def _square(file: Photo, size: int) -> Tensor:
    return photo_bytes(fit_photo(read_photo(file, at_least=size), size))


def _pixels(photos: Tensor) -> dict[str, Tensor]:
    return {"pixels": photos.float().div_(255)}


def _drawn_reader(origin: Origin) -> PhotoReader:
    kind = origin.settings["view"]

    def fields(photos: Tensor) -> dict[str, Tensor]:
        pictures = photos.permute(0, 2, 3, 1).contiguous().numpy()
        view: View
        if kind == "pixels":
            view = module.PictureView(pictures, origin.settings["size"])
        else:
            view = module.DrawnView(filters.FEATURES[kind](pictures), kind, **origin.arrays)
        return view.fetch(np.arange(len(view)))

    return PhotoReader(functools.partial(_square, size=scenes.SIDE), fields)


def _feature_reader(manifest: store.Manifest, weights: Path | None, device: torch.device) -> PhotoReader:
    from cmr_bench.datamodules.images.backbones import load_backbone

    file = weights or _weights_used(manifest)
    # The seed with which `cmr-bench data features --weights random` begins.
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        encoder = load_backbone(manifest.encoder, file, manifest.layer)
    if encoder.spec.sha256 != manifest.weights_sha256:
        raise DataError(
            f"the weights {file or 'that are downloaded'} of {manifest.encoder} have checksum "
            f"{encoder.spec.sha256[:12]}, the features of the run were extracted with {manifest.weights}, "
            f"{manifest.weights_sha256[:12]}; pass that file as --weights FILE"
        )
    encoder = encoder.to(device)
    boxes = None if manifest.grid is None else store.grid_boxes(*manifest.grid)

    def fields(photos: Tensor) -> dict[str, Tensor]:
        view = ArrayView(extract.encode_pixels(encoder, photos, manifest.dtype), manifest.encoder, boxes=boxes)
        return view.fetch(np.arange(len(view)))

    return PhotoReader(functools.partial(extract.read_pixels, preprocessing=manifest.preprocessing), fields)


def _weights_used(manifest: store.Manifest) -> str | Path | None:
    """Return the weights as the encoder takes them: a file where it was when the features were made."""
    if manifest.weights in ("pretrained", "random"):
        return None if manifest.weights == "pretrained" else manifest.weights
    words = shlex.split(manifest.command)
    given = [after for word, after in itertools.pairwise(words) if word == "--weights"]
    file = Path(given[0] if given else manifest.weights).expanduser()
    if not file.is_file():
        raise DataError(
            f"the run was trained on features of {manifest.encoder} with weights {manifest.weights}, and {file} is not "
            "there; pass --weights FILE"
        )
    return file


def text_reader(origin: Origin) -> Callable[[Sequence[str]], View]:
    """Return what turns sentences into the text view of a run.

    Raises:
        DataError: If a tokenizer or encoder is not to be had; the view raises it for an empty sentence.
    """
    settings: Mapping[str, Any] = origin.settings
    if origin.kind == "tokens":
        vocabulary = words.Vocabulary.of(settings)
        return lambda texts: words.TokenView(texts, vocabulary, settings["max_words"])
    if origin.kind == "subwords":
        prompt = settings.get("prompt", "")
        return lambda texts: words.SubwordView(texts, settings["tokenizer"], settings["max_words"], prompt)
    if origin.kind not in ("fitted", "encoder"):
        raise CmrBenchError(f"texts made as '{origin.kind}' are unknown here: update cmr-bench")
    name = settings["name"]
    if origin.kind == "encoder" and settings.get("checksum", "") not in ("", now := model_checksum(name)):
        raise DataError(
            f"the text encoder {name} has checksum {now[:12] or 'unknown'}, the run learned from vectors of "
            f"{settings['checksum'][:12]}; put that encoder back, or train the run again"
        )
    encode = fitting.Fitted.of(origin).encoder() if origin.kind == "fitted" else fitting.pretrained(name)
    return lambda texts: ArrayView(encode(texts), name)
