"""The embeddings or scores of a trained run on its test split, as files that any other program can score."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cmr_bench.datamodules.batches import ImageBatch, TextBatch
from cmr_bench.datamodules.module import RetrievalDataModule
from cmr_bench.evaluation.scores import EmbeddingScores, ScoreSource, as_numpy, full_precision, slices
from cmr_bench.experiment import recipe
from cmr_bench.experiment.identity import file_content
from cmr_bench.experiment.trainer import quiet
from cmr_bench.models.base import RetrievalModule
from cmr_bench.models.scoring import Encoded, assemble
from cmr_bench.search.trained import configuration, load_weights
from cmr_bench.support.files import replacing, write_atomic

_SIDES = ("images.npy", "texts.npy")
_ROWS = 256


def export(run: Path, out: Path, device: str = "cpu", trust: bool = False) -> list[str]:
    """Encode the test split of a run once more and write what it is scored by.

    ``images.npy`` and ``texts.npy`` (n, dim), compared by cosine or inner product, or where the method compares
    otherwise ``similarity.npy`` (n_images, n_texts); ``image_of_text.npy`` (n_texts,); ``labels.npy`` and
    ``identities.npy`` where there are such; ``image_ids.txt`` and ``text_ids.txt``, one a line, in the order of the
    rows.

    Args:
        run: Run folder.
        out: Folder to write.
        device: Where the method runs.
        trust: Run the code of a class outside of the suite that the folder names.

    Returns:
        The words of the command that scores them as the run was scored.

    Raises:
        DataError: If the run has no weights, or its data set is not there as it was.
    """
    config, _, data, sides, source = encoded_again(run, device, trust)
    split = data.splits["test"]
    arrays: dict[str, NDArray[Any]] = {"image_of_text.npy": split.image_of_text}
    if split.labels is not None:
        arrays["labels.npy"] = split.labels
    if split.identity is not None:
        arrays["identities.npy"] = split.identity
    if isinstance(source, EmbeddingScores):
        # As they are where whoever scores them brings them to unit length.
        scored = sides if source.cosine else (source.images, source.texts)
        arrays |= {name: as_numpy(side) for name, side in zip(_SIDES, scored, strict=True) if isinstance(side, Tensor)}
    else:
        _write_matrix(out / "similarity.npy", source)
    for name, values in arrays.items():
        with replacing(out / name) as stream:
            np.save(stream, values, allow_pickle=False)
    for name, ids in (("image_ids.txt", split.image_ids), ("text_ids.txt", split.text_ids)):
        write_atomic(out / name, "".join(f"{one}\n" for one in ids))
    words = ["--image-of-text", "image_of_text.npy"]
    words += [] if split.labels is None else ["--labels", "labels.npy"]
    words += [] if split.identity is None else ["--identities", "identities.npy"]
    if isinstance(source, EmbeddingScores):
        words = ["--images", "images.npy", "--texts", "texts.npy", *words]
        words += [] if source.cosine else ["--no-normalize"]
    else:
        words = ["--similarity", "similarity.npy", *words]
    words += [] if data.folds is None else ["--folds", str(data.folds)]
    given = data.test_subsets(config.trainer.get("subsets"))
    words += ["--subsets", ",".join(map(str, given))] if given else []
    postprocess = config.trainer.get("postprocess")
    words += [] if postprocess is None else ["--postprocess", str(postprocess)]
    return ["cmr-bench", "eval", *(str(out / word) if word.endswith(".npy") else word for word in words)]


def encoded_again(
    run: Path, device: str = "cpu", trust: bool = False
) -> tuple[recipe.RunConfig, RetrievalModule, RetrievalDataModule, tuple[Encoded, Encoded], ScoreSource]:
    """Encode the test split of a run once more with the weights that it chose.

    Returns:
        Its configuration, method and data, images and texts as encoded, and what scores them.

    Raises:
        DataError: If the run has no weights, or its data set is not there as it was.
    """
    config, trained, checkpoint = configuration(run, trust)
    with quiet():
        module, data, _ = recipe.instantiate(config)
        assert isinstance(module, RetrievalModule)
        assert isinstance(data, RetrievalDataModule)
        spec = data.load(module.image_view, module.text_view, module.tokenizer, photo_fit=module.photo_fit)
        content = data.content(module.image_view, module.text_view, module.tokenizer) | file_content(trained)
        load_weights(module, spec, checkpoint, trained, content)
        module.eval().to(device)
        data.num_workers = 0
        images, texts = data.item_loaders("test")
        split = data.splits["test"]
        sides = _encoded(module, images, split.n_images), _encoded(module, texts, split.n_texts)
    return config, module, data, sides, module.scores(*sides)


def _encoded(module: RetrievalModule, batches: Iterable[ImageBatch | TextBatch], n_items: int) -> Encoded:
    pieces = []
    with torch.inference_mode():
        for batch in batches:
            moved = module.transfer_batch_to_device(batch, module.device, 0)
            encoded = module.encode_images(moved) if isinstance(batch, ImageBatch) else module.encode_texts(moved)
            parts = (encoded,) if isinstance(encoded, Tensor) else encoded
            kept = tuple(part.float().cpu() if part.is_floating_point() else part.cpu() for part in parts)
            pieces.append((batch.rows, kept))
    whole = assemble(pieces, n_items, "items")
    return whole[0] if len(whole) == 1 else whole


def _write_matrix(file: Path, source: ScoreSource) -> None:
    """Write all scores, float32, some rows at a time: the matrix may be larger than the memory."""
    header = {"descr": "<f4", "fortran_order": False, "shape": (source.n_images, source.n_texts)}
    with replacing(file) as stream, full_precision():
        np.lib.format.write_array_header_1_0(stream, header)
        for rows in slices(source.n_images, _ROWS):
            stream.write(as_numpy(source.block(rows, slice(0, source.n_texts))).astype("<f4").tobytes())
