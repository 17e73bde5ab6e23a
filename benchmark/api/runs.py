"""Trained runs: their results, and encoding, scoring and searching with their weights."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from cmr_bench.datamodules.images.photos import as_photo
from cmr_bench.models.scoring import Encoded, assemble
from cmr_bench.results.record import RESULT_FILE, Result, read_result
from cmr_bench.search.answers import Hit, Side, find_photos, hit_of
from cmr_bench.search.embed import encoded_photos, encoded_texts
from cmr_bench.search.index import Collection, has_faiss
from cmr_bench.search.trained import TrainedRun
from cmr_bench.search.trained import load_run as load_trained
from cmr_bench.support.devices import choose_device
from cmr_bench.support.errors import DataError, UsageError
from cmr_bench.support.places import cache_dir

if TYPE_CHECKING:
    from cmr_bench.datamodules.images.photos import Photo

Picture = str | Path | Image.Image | NDArray[Any]


class Run:
    """A stored run. Its result is read at once, its weights when they are first needed.

    Args:
        folder: Run folder.
        device: cpu, cuda, cuda:1, mps, or auto for a GPU if there is one.
        weights: Weights file of the encoder of stored features, where it has moved.
        trust: Run the code of a class outside of the suite that the folder names.
        batch_size: Items encoded at once.

    Attributes:
        folder: Run folder.
        result: What ``result.json`` says; None where the run did not finish.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        device: str = "auto",
        weights: str | Path | None = None,
        trust: bool = False,
        batch_size: int = 32,
    ) -> None:
        self.folder = Path(folder)
        file = self.folder / RESULT_FILE
        if not file.is_file() and not (self.folder / "config.yaml").is_file():
            raise UsageError(f"no run in {folder}: it has no config.yaml; pass runs/<data>/<method>/<run id>")
        self.result: Result | None = read_result(file) if file.is_file() else None
        self._device, self._trust, self._batch_size = device, trust, batch_size
        self._weights = None if weights is None else Path(weights).expanduser()

    def __repr__(self) -> str:
        """Return the folder and what was measured."""
        if self.result is None:
            return f"Run('{self.folder}', unfinished)"
        shown = ", ".join(f"{name} {self.metrics[name]:.4g}" for name in ("rsum", "map") if name in self.metrics)
        return f"Run('{self.folder}', {self.result.method} on {self.result.data}{shown and f': {shown}'})"

    @property
    def metrics(self) -> dict[str, float]:
        """Every metric of the test split, unrounded; recalls in percent, mAP in 0..1; empty where unfinished."""
        return {} if self.result is None else self.result.metrics

    @property
    def intervals(self) -> dict[str, tuple[float, float]]:
        """Bootstrap interval (low, high) of the metrics that have one."""
        return {} if self.result is None else self.result.intervals

    @cached_property
    def trained(self) -> TrainedRun:
        """The method with its weights, and how its inputs are made; ``trained.module`` is a LightningModule.

        Raises:
            DataError: If the folder holds no weights, or what the method reads cannot be made.
        """
        return load_trained(self.folder, choose_device(self._device), self._trust)

    def encode_images(self, images: Sequence[Picture]) -> Encoded:
        """Encode photographs.

        Args:
            images: Paths, Pillow images, or arrays (height, width, 3) of uint8 or of 0..1.

        Returns:
            Vectors (n, dim) on the CPU; of methods that compare parts, a tuple of such tensors, (n, parts, dim).

        Raises:
            DataError: For an image that cannot be read, and for runs whose features raw images do not give.
        """
        photos: list[Photo] = [as_photo(image) for image in _several(images)]
        pieces = []
        for rows, encoded, broken in encoded_photos(self.trained, photos, self._weights, self._batch_size):
            if broken:
                raise DataError(broken[0][1])
            pieces.append((rows, encoded))
        return _whole(pieces, len(photos), "images")

    def encode_texts(self, texts: Sequence[str]) -> Encoded:
        """Encode texts.

        Args:
            texts: The texts.

        Returns:
            Vectors (n, dim) on the CPU; of methods that compare parts, a tuple of such tensors.

        Raises:
            DataError: For an empty text, and for runs whose features raw texts do not give.
        """
        given = list(_several(texts))
        return _whole(list(encoded_texts(self.trained, given, self._batch_size)), len(given), "texts")

    def similarity(self, images: Encoded | Sequence[Picture], texts: Encoded | Sequence[str]) -> NDArray[np.float32]:
        """Score every image with every text by the method's own similarity.

        Args:
            images: What :meth:`encode_images` returned, or what it takes.
            texts: What :meth:`encode_texts` returned, or what it takes.

        Returns:
            Scores (n_images, n_texts); higher is closer.
        """
        one = images if _is_encoded(images) else self.encode_images(images)  # type: ignore[arg-type]
        other = texts if _is_encoded(texts) else self.encode_texts(texts)  # type: ignore[arg-type]
        with torch.inference_mode():
            source = self.trained.module.scores(one, other)  # type: ignore[arg-type]
            block = source.block(slice(0, source.n_images), slice(0, source.n_texts))
        return np.asarray(block.float().cpu().numpy())

    def search(
        self,
        query: Picture,
        *,
        images: str | Path | Sequence[str | Path] | None = None,
        texts: Sequence[str] | None = None,
        top: int = 10,
    ) -> list[Hit]:
        """Rank images for a text, or texts for an image. Embeddings of what is searched are cached.

        Args:
            query: A text where ``images`` are searched; a path, Pillow image or array where ``texts`` are.
            images: A folder, searched recursively, or files.
            texts: Texts.
            top: Number of answers.

        Returns:
            Answers, best first, each with ``rank``, ``score``, and ``file`` or ``caption``.

        Raises:
            UsageError: If neither or both are to be searched.
            DataError: If nothing that is searched can be read.
        """
        if (images is None) == (texts is None):
            raise UsageError("search takes either images=FOLDER or texts=[...]")
        if top < 1:
            raise UsageError(f"top must be at least 1, not {top}")
        side = Side(self.trained, self._weights, self._batch_size)
        if texts is not None:
            names, found = list(texts), side.embed_sentences(list(texts))
            asked = self.encode_images([query])
        else:
            files = _files(images)
            names, found = [str(file) for file in files], side.embed(files)
            asked = self.encode_texts([str(query)])
        if not found.rows:
            raise DataError(f"nothing to search: {found.skipped[0][1] if found.skipped else 'no items were given'}")
        whole = Collection(self.trained, side.cache, found.keys, "images" if texts is None else "texts", has_faiss())
        scores, places = whole.best(asked, top)
        return [
            hit_of(names[found.rows[place]], texts is None, rank, score)
            for rank, (score, place) in enumerate(zip(scores.tolist(), places.tolist(), strict=True), start=1)
        ]


def load_run(
    run: str | Path,
    *,
    device: str = "auto",
    weights: str | Path | None = None,
    trust: bool = False,
    batch_size: int = 32,
) -> Run:
    """Open a run for encoding and search. Nothing in the folder is executed.

    Args:
        run: Run folder ``runs/<data>/<method>/<run id>``, or ``hf://user/name`` of the Hugging Face Hub, with
            ``/<data>/<method>/<run id>`` behind it where there are several.
        device: cpu, cuda, cuda:1, mps, or auto for a GPU if there is one.
        weights: Weights file of the encoder of stored features, where it has moved.
        trust: Run the code of a class outside of the suite that the folder names.
        batch_size: Items encoded at once.

    Raises:
        UsageError: If it is no run.
        CmrBenchError: If the hub does not give it.
    """
    if str(run).startswith("hf://"):
        from cmr_bench.exchange.places import fetch, repository

        run = fetch(str(run), cache_dir("hub") / repository(str(run)).name.replace("/", "--"))
    return Run(run, device=device, weights=weights, trust=trust, batch_size=batch_size)


def _several(items: Sequence[Any]) -> Sequence[Any]:
    if isinstance(items, str | Path | Image.Image):
        raise UsageError(f"pass a list, [{type(items).__name__}, ...], for a single item too")
    if not len(items):
        raise UsageError("nothing to encode: the list is empty")
    return items


def _is_encoded(given: object) -> bool:
    return isinstance(given, Tensor) or (isinstance(given, tuple) and all(isinstance(one, Tensor) for one in given))


def _whole(pieces: Sequence[tuple[list[int], Encoded]], n_items: int, what: str) -> Encoded:
    parts = [
        (torch.tensor(rows), tuple(_kept(one) for one in ((encoded,) if isinstance(encoded, Tensor) else encoded)))
        for rows, encoded in pieces
    ]
    whole = assemble(parts, n_items, what)
    return whole[0] if len(whole) == 1 else whole


def _kept(part: Tensor) -> Tensor:
    return part.float().cpu() if part.is_floating_point() else part.cpu()


def _files(images: str | Path | Sequence[str | Path] | None) -> list[Path]:
    assert images is not None
    if isinstance(images, str | Path):
        return find_photos(Path(images).expanduser())
    return [Path(image).expanduser() for image in images]
