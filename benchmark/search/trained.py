"""A trained run, loaded from its folder and ready to encode photographs and sentences from raw files."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from cmr_bench import registry
from cmr_bench.datamodules import raw
from cmr_bench.datamodules.batches import ImageBatch, TextBatch
from cmr_bench.datamodules.module import RetrievalDataModule
from cmr_bench.datamodules.views import DataSpec, Origin, View, ViewSpec
from cmr_bench.experiment import recipe
from cmr_bench.experiment.checkpoints import Checkpoints
from cmr_bench.experiment.trainer import quiet
from cmr_bench.models.base import RetrievalModule
from cmr_bench.models.scoring import Encoded
from cmr_bench.results.record import FAILURE_FILE, WEIGHTS_FILE
from cmr_bench.support import foreign
from cmr_bench.support.errors import CmrBenchError, DataError, UsageError, brief


@dataclass(frozen=True)
class TrainedRun:
    """A method with the weights that a run chose, and what it reads.

    Attributes:
        folder: The run folder.
        method: Short name of the method.
        dataset: Short name of the data set it learned from.
        module: The method in evaluation mode.
        inputs: How its inputs are made of raw files.
        checksum: SHA-256 of the weights and of the inputs: what an embedding depends on beside the item.
    """

    folder: Path
    method: str
    dataset: str
    module: RetrievalModule
    inputs: raw.Inputs
    checksum: str

    def photo_reader(self, weights: Path | None = None) -> raw.PhotoReader:
        """Return what turns photographs into the image view; raises DataError where nothing can."""
        origin = self._origin(self.inputs.image, self.inputs.spec.image, "images", "photographs")
        return raw.photo_reader(origin, weights, self.module.device)

    def encode_photos(self, reader: raw.PhotoReader, photos: torch.Tensor) -> Encoded:
        """Encode decoded photographs, (b, 3, H, W) as uint8."""
        batch = ImageBatch(torch.arange(len(photos)), **reader.fields(photos))
        with torch.inference_mode():
            return self.module.encode_images(self.module.transfer_batch_to_device(batch, self.module.device, 0))

    def text_reader(self) -> Callable[[Sequence[str]], View]:
        """Return what turns sentences into the text view; raises DataError where nothing can."""
        return raw.text_reader(self._origin(self.inputs.text, self.inputs.spec.text, "texts", "sentences"))

    def encode_texts(self, reader: Callable[[Sequence[str]], View], texts: Sequence[str]) -> Encoded:
        """Encode sentences, (b,)."""
        batch = TextBatch(torch.arange(len(texts)), **reader(texts).fetch(np.arange(len(texts))))
        with torch.inference_mode():
            return self.module.encode_texts(self.module.transfer_batch_to_device(batch, self.module.device, 0))

    def _origin(self, origin: Origin | None, spec: ViewSpec, side: str, files: str) -> Origin:
        if origin is None:
            raise DataError(
                f"{self.folder} reads {side} as the arrays '{spec.source}' of {self.dataset}, which {files} do not "
                f"give; search with a run on {_ALTERNATIVE[side]}"
            )
        return origin


_ALTERNATIVE = {
    "images": "pixels or on features made by `cmr-bench data features`",
    "texts": "words or on --data.text_features tfidf, doc2vec or hf:NAME",
}


def load_run(folder: Path, device: str = "cpu", trust: bool = False) -> TrainedRun:
    """Load a run from its folder.

    Args:
        folder: Run folder with ``config.yaml`` and ``checkpoints/best.ckpt``.
        device: Where the method runs.
        trust: Run the code of a class outside of the suite that the folder names.

    Raises:
        UsageError: If the folder is no run folder.
        DataError: If it holds no weights, or what the method reads cannot be made.
    """
    config, trained, checkpoint = configuration(folder, trust)
    with quiet():
        module, data, _ = recipe.instantiate(config)
        assert isinstance(module, RetrievalModule)
        inputs = _inputs(folder, module, data)
        load_weights(module, inputs.spec, checkpoint, trained, inputs.content)
    return TrainedRun(
        folder,
        config.method_label,
        config.data_label,
        module.eval().to(device),
        inputs,
        _checksum([checkpoint, folder / raw.INPUTS_FILE]),
    )


def configuration(folder: Path, trust: bool = False) -> tuple[recipe.RunConfig, recipe.RunConfig, Path]:
    """Read the configuration of a trained run.

    Args:
        folder: Run folder.
        trust: Run the code of a class outside of the suite that the folder names.

    Returns:
        The configuration to load it with, the one that it was trained with, and the file of the weights that it chose.

    Raises:
        UsageError: If the folder is no run folder.
        DataError: If it holds no weights.
    """
    if not (folder / "config.yaml").is_file():
        what = "has no config.yaml" if folder.is_dir() else "is not there"
        raise UsageError(
            f"no run in {folder}: it {what}; pass a folder runs/<data>/<method>/<run id> of `cmr-bench run`"
        )
    checkpoint = folder / "checkpoints" / "best.ckpt"
    if not checkpoint.is_file() and (folder / WEIGHTS_FILE).is_file():
        checkpoint = folder / WEIGHTS_FILE
    if not checkpoint.is_file():
        raise DataError(_why_no_weights(folder, checkpoint))
    foreign.check_folder(folder)
    saved = recipe.read_yaml(folder / "config.yaml")
    if trust:
        registry.trust(saved.get("method"), saved.get("dataset"))
    config = recipe.resolve(str(saved.get("method")), str(saved.get("dataset")), config=saved)
    if config.data.get("seed") is None:
        config.data["seed"] = config.seed
    trained = deepcopy(config)
    if config.model.get("image_view") == "pixels" and "cnn_weights" in config.model:
        # The checkpoint holds the network that reads pixels, so the file that it began with is not needed.
        config.model["cnn_weights"] = "random"
    return config, trained, checkpoint


def load_weights(
    module: RetrievalModule, spec: DataSpec, checkpoint: Path, trained: recipe.RunConfig, content: Mapping[str, str]
) -> None:
    """Build a method and load the weights of a run.

    Args:
        module: The method.
        spec: What it knows of its data.
        checkpoint: File of the weights.
        trained: Configuration that the run was trained with.
        content: Checksums of what it reads now.

    Raises:
        DataError: If the weights are damaged or not its own.
    """
    reader = Checkpoints(trained, content, "train the run again")
    try:
        stored = reader.load_checkpoint(checkpoint)
        module.build(spec)
        module.load_state(stored["state_dict"])
    except CmrBenchError:
        raise
    except Exception as error:  # a damaged file and foreign weights have errors of many kinds
        reason = brief(error)
        raise DataError(f"cannot load the weights {checkpoint}: {reason}; repeat the run") from error


def _why_no_weights(folder: Path, checkpoint: Path) -> str:
    failed = folder / FAILURE_FILE
    if failed.is_file():
        with contextlib.suppress(OSError, CmrBenchError, KeyError, TypeError):
            reason = foreign.read_json(failed, within=folder)["reason"]
            return f"{folder} failed in training ({reason}) and has no checkpoint; use another run"
    return f"{folder} has no checkpoint {checkpoint.relative_to(folder)}: resume with `cmr-bench run --resume {folder}`"


def _inputs(folder: Path, module: RetrievalModule, data: RetrievalDataModule) -> raw.Inputs:
    """Read what the run left, or make it from the data set, for runs that an older version or a kill left without."""
    kept = raw.load(folder)
    if kept is not None:
        return kept
    try:
        data.load(module.image_view, module.text_view, module.tokenizer, photo_fit=module.photo_fit)
    except CmrBenchError as error:
        raise DataError(f"{folder} has no {raw.INPUTS_FILE}, which its data set would give, and: {error}") from error
    inputs = raw.describe(data)
    with contextlib.suppress(CmrBenchError):
        raw.save(folder, inputs)
    return inputs


def _checksum(files: Sequence[Path]) -> str:
    digest = hashlib.sha256()
    for file in files:
        if file.is_file():
            with file.open("rb") as stream:
                digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()
