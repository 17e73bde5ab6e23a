"""The base class of every method."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import lightning as L
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import StepLR

from cmr_bench.datamodules.batches import ImageBatch, PairBatch, TextBatch
from cmr_bench.datamodules.module import RetrievalDataModule
from cmr_bench.datamodules.split import Split
from cmr_bench.datamodules.views import DataSpec, ViewKind
from cmr_bench.evaluation.options import EvaluationOptions
from cmr_bench.evaluation.protocol import Evaluation, Protocol, evaluate
from cmr_bench.evaluation.ranks import EmbeddingScores, ScoreSource
from cmr_bench.evaluation.sharing import sharing
from cmr_bench.models.distributed import everywhere, gather, world_size
from cmr_bench.models.means import EpochMeans
from cmr_bench.models.scoring import Encoded, PairScores, assemble, spread
from cmr_bench.support.errors import UsageError
from cmr_bench.support.transfer import to_host, wait

LabelSource = Literal["auto", "category", "identity"]

if TYPE_CHECKING:
    from cmr_bench.datamodules.images.photos import PhotoFit


@dataclass(frozen=True)
class Tested:
    """What a test left behind.

    Attributes:
        evaluation: Everything measured.
        scores: The scores behind it, block by block.
        encode_seconds: Wall time of encoding the test items.
        score_seconds: Wall time of scoring and ranking them.
    """

    evaluation: Evaluation
    scores: ScoreSource
    encode_seconds: float
    score_seconds: float


class RetrievalModule(L.LightningModule):
    """A retrieval method: two encoders, a similarity, and a loss or a closed form.

    A method overrides :meth:`build`, :meth:`encode_images`, :meth:`encode_texts` and :meth:`loss` (or :meth:`fit_split`
    where it is solved in closed form), and :meth:`similarity` where the score is not a cosine.

    On several devices each encodes its shard of a batch, :meth:`gather` concatenates the shards in order, and
    every device computes the loss of the global batch: negatives, batch statistics and loss are those of one device.
    Shards may differ by one pair; a device without any encodes a placeholder that is ignored. A loss therefore
    compares and averages gathered items only. Accumulated batches do not share negatives. The one exception
    is batch normalisation inside a fine-tuned CNN: its statistics are those of a device's shard.

    Args:
        image_view: Image view that the encoder reads.
        text_view: Text view that the encoder reads.
        lr: Learning rate.
        weight_decay: Weight decay; above 0 the optimiser is AdamW instead of Adam.
        lr_decay_every: Epochs between decays of the learning rate; 0 disables.
        lr_decay: Factor by which the learning rate is multiplied at each decay.
    """

    labels: ClassVar[Literal["ignored", "optional", "required"]] = "ignored"
    closed_form: bool = False
    image_views: ClassVar[tuple[ViewKind, ...]] = ("vector",)
    text_views: ClassVar[tuple[ViewKind, ...]] = ("vector",)
    betas: ClassVar[tuple[float, float]] = (0.9, 0.999)
    label_source: LabelSource = "auto"

    def __init__(
        self,
        image_view: ViewKind = "vector",
        text_view: ViewKind = "vector",
        lr: float = 2e-4,
        weight_decay: float = 0.0,
        lr_decay_every: int = 0,
        lr_decay: float = 0.1,
    ) -> None:
        super().__init__()
        for side, chosen, possible in (
            ("image", image_view, self.image_views),
            ("text", text_view, self.text_views),
        ):
            if chosen not in possible:
                raise UsageError(f"--model.{side}_view {chosen}: {type(self).__name__} reads {' or '.join(possible)}")
        self.image_view, self.text_view = image_view, text_view
        self.lr, self.weight_decay = lr, weight_decay
        self.lr_decay_every, self.lr_decay = lr_decay_every, lr_decay
        self.spec: DataSpec | None = None
        self.tested: Tested | None = None
        self.selection: Literal["rsum", "map"] = "rsum"
        self.spread: dict[str, float] = {}
        self._epoch = EpochMeans()
        self._encode_seconds = 0.0
        self._pieces: tuple[list[Any], list[Any]] = ([], [])

    @property
    def tokenizer(self) -> str | None:
        """Name or folder of the transformers tokenizer for subwords; None for other views."""
        return None

    @property
    def photo_fit(self) -> PhotoFit | None:
        """How photographs are to be fitted to a square, for methods that know it; None leaves it to the data set."""
        return None

    @property
    def label_space(self) -> str:
        """What the method uses as labels: ``none``, ``category`` or ``identity``, by default each image its own."""
        if self.labels == "ignored":
            return "none"
        if self.label_source != "auto":
            return self.label_source
        return "category" if self.spec is not None and self.spec.n_classes else "identity"

    def labels_of(self, identity: Tensor, labels: Tensor | None) -> Tensor:
        """Return the label of each pair: its identity (b,), or its categories."""
        if self.label_space == "identity":
            return identity
        assert labels is not None
        return labels

    @property
    def evaluation(self) -> Evaluation | None:
        """What the last test measured."""
        return None if self.tested is None else self.tested.evaluation

    def attach(self, data: RetrievalDataModule, evaluation: EvaluationOptions | None = None) -> None:
        """Load a data set in the views that this method reads, and build the layers for it.

        This is the one place where a run says how it is evaluated; afterwards the options stand in ``data.evaluation``.

        Args:
            data: The data set.
            evaluation: How the run is evaluated; None chooses weights on validation by the criterion of the data set.

        Raises:
            DataError: If the data set cannot deliver the views.
            UsageError: If it lacks the labels that the method learns from.
        """
        reading = (self.image_view, self.text_view, self.tokenizer, self.photo_fit)
        if evaluation is None and data.spec is not None and data.reading == reading:
            data.evaluation = data.usual_evaluation()
            self.build(data.spec)
        else:
            self.build(data.load(*reading[:3], evaluation, reading[3]))
        # A closed form is fitted without a Trainer that knows the data.
        self.selection = data.evaluation.criterion

    def setup(self, stage: str) -> None:
        """Build the layers where a Trainer is handed the method and the data set without :meth:`attach`.

        Raises:
            UsageError: If the method is solved in closed form, which no Trainer does.
        """
        data = getattr(self.trainer, "datamodule", None)
        if not isinstance(data, RetrievalDataModule):
            return
        reading = (self.image_view, self.text_view, self.tokenizer, self.photo_fit)
        if self.spec is None:
            if self.closed_form and stage == "fit":
                name = type(self).__name__
                raise UsageError(f"{name} is solved in closed form: use cmr_bench.train, or attach and fit_split")
            self.attach(data)
            if stage == "fit":
                self.prepare_training(data.splits["train"])
        elif data.reading != reading:
            data.load(*reading[:3], photo_fit=reading[3])

    def build(self, spec: DataSpec) -> None:
        """Build the layers, now that the dimensions of the views are known; call ``super().build(spec)`` first."""
        self.spec = spec
        if self.labels == "required" and spec.n_classes == 0:
            raise UsageError(f"{type(self).__name__} needs category labels and this data set has none")
        if self.label_source == "category" and spec.n_classes == 0:
            raise UsageError("--model.label_source category: this data set has none; pass identity")

    def encode_images(self, images: ImageBatch) -> Encoded:
        """Encode images, (b, d)."""
        raise NotImplementedError

    def encode_texts(self, texts: TextBatch) -> Encoded:
        """Encode texts, (b, d)."""
        raise NotImplementedError

    def similarity(self, images: Encoded, texts: Encoded) -> Tensor:
        """Score every image with every text, (n_images, n_texts), higher is closer; cosine unless overridden."""
        assert isinstance(images, Tensor)
        assert isinstance(texts, Tensor)
        return F.normalize(images, dim=-1) @ F.normalize(texts, dim=-1).T

    def loss(self, batch: PairBatch) -> dict[str, Tensor]:
        """Return the loss as ``loss`` and its terms by name for logging, each a scalar."""
        raise NotImplementedError

    def collapse_loss(self) -> float | None:
        """Return the loss per pair when all scores are equal, if this epoch's loss could get stuck there.

        Where ``loss`` is not the mean over the pairs, the method logs that mean as the term ``pair``.
        """
        return None

    def gather(
        self, images: Encoded, texts: Encoded, batch: PairBatch
    ) -> tuple[Encoded, Encoded, Tensor, Tensor | None]:
        """Gather an encoded batch to the global batch, so that negatives are the same on one device and on many.

        Args:
            images: Encoded images of this process.
            texts: Encoded texts of this process.
            batch: The batch they come from.

        Returns:
            Images and texts of all processes, with gradient, and the identity and labels of their pairs.
        """
        if world_size() == 1:
            return images, texts, batch.identity, batch.labels

        def widen(share: Tensor) -> Tensor:
            # A placeholder leaves nothing but the graph, in which every parameter gets a zero gradient.
            return gather(share[:0] if batch.stand_in else share)

        sides = [
            widen(side) if isinstance(side, Tensor) else tuple(widen(part) for part in side) for side in (images, texts)
        ]
        labels = None if batch.labels is None else widen(batch.labels)
        return sides[0], sides[1], widen(batch.identity), labels

    def prepare_training(self, train: Split) -> None:
        """Read the training split once before training, for what cannot be learned from batches."""

    def fit_split(self, train: Split, val: Split) -> None:
        """Fit in closed form on the training split; options may be selected on the validation split."""
        raise NotImplementedError

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return the parameter groups of the optimiser; override for several learning rates."""
        return [{"params": [p for p in self.parameters() if p.requires_grad]}]

    def make_optimizer(self) -> Optimizer:
        """Return the optimiser, Adam unless overridden."""
        kind = torch.optim.AdamW if self.weight_decay else torch.optim.Adam
        # Lightning clips no gradients in mixed precision for an optimiser that may unscale them itself.
        trainer = self._trainer
        fused = trainer is None or not (trainer.gradient_clip_val and "mixed" in str(trainer.precision))
        return kind(self.parameter_groups(), self.lr, self.betas, weight_decay=self.weight_decay, fused=fused)

    def configure_optimizers(self) -> Any:
        """Configure Adam with step decay of the learning rate."""
        optimizer = self.make_optimizer()
        if not self.lr_decay_every:
            return optimizer
        return {"optimizer": optimizer, "lr_scheduler": StepLR(optimizer, self.lr_decay_every, self.lr_decay)}

    def training_step(self, batch: PairBatch, batch_idx: int) -> Tensor:
        """Compute the loss; its terms are logged as means over the pairs of the epoch."""
        terms = self.loss(batch)
        self._epoch.add(terms, batch.whole or len(batch))
        return terms["loss"]

    def on_train_batch_end(self, outputs: Any, batch: PairBatch, batch_idx: int) -> None:
        """Log the losses of the epoch after its last batch, and for a progress bar that of every batch."""
        if self.trainer.progress_bar_callback is not None and "loss" in self._epoch.last:
            self.log("loss", self._epoch.last["loss"], prog_bar=True, logger=False, batch_size=1)
        if self.trainer.is_last_batch:
            self._log_epoch()

    def on_train_epoch_start(self) -> None:
        """Forget the losses of an epoch that was interrupted."""
        self._epoch.take()

    def on_train_epoch_end(self) -> None:
        """Log the losses of an epoch that ended before its last batch, as by ``max_steps``."""
        self._log_epoch()

    def _log_epoch(self) -> None:
        means = {f"train/{name}": value for name, value in self._epoch.take().items()}
        self.log_dict(means, on_step=False, on_epoch=True, batch_size=1)

    def scores(self, images: Encoded, texts: Encoded) -> ScoreSource:
        """Return a source of score blocks for all encoded images and texts."""
        if type(self).similarity is RetrievalModule.similarity:
            assert isinstance(images, Tensor)
            assert isinstance(texts, Tensor)
            return EmbeddingScores(images.float(), texts.float(), normalize=True, device=self.device)
        return PairScores(self, images, texts)

    def protocol(self, split: Split) -> Protocol:
        """Return the evaluation protocol of a split, for testing or for checkpoint selection."""
        data = self._datamodule()
        test = self.trainer.testing
        return Protocol(
            folds=data.folds if test else None,
            subsets=data.evaluation.subsets if test else (),
            category=split.labels is not None,
            bootstrap=data.evaluation.bootstrap if test else 0,
            postprocess=data.evaluation.postprocess if test else None,
        )

    def _datamodule(self) -> RetrievalDataModule:
        data = getattr(self.trainer, "datamodule", None)
        assert isinstance(data, RetrievalDataModule)
        return data

    def _encode(self, batch: ImageBatch | TextBatch) -> None:
        if len(batch) == 0:
            return
        images = isinstance(batch, ImageBatch)
        started = time.perf_counter()
        encoded = self.encode_images(batch) if isinstance(batch, ImageBatch) else self.encode_texts(batch)
        parts = (encoded,) if isinstance(encoded, Tensor) else encoded
        kept = tuple(to_host(part.float() if part.is_floating_point() else part) for part in parts)
        self._pieces[0 if images else 1].append((batch.rows.cpu(), kept))
        self._encode_seconds += time.perf_counter() - started

    def _evaluate(self, split: Split) -> Tested:
        wait(self.device)
        sides: list[Encoded] = []
        for pieces, n_items, what in (
            (self._pieces[0], split.n_images, "images"),
            (self._pieces[1], split.n_texts, "texts"),
        ):
            parts = assemble(everywhere(pieces), n_items, what)
            sides.append(parts[0] if len(parts) == 1 else parts)
        self._pieces = ([], [])
        self.spread = {
            what: spread(side)
            for what, side in zip(("images", "texts"), sides, strict=True)
            if isinstance(side, Tensor) and side.ndim == 2 and len(side) > 1
        }
        source = self.scores(*sides)
        started = time.perf_counter()
        evaluation = evaluate(
            source,
            split.image_of_text,
            split.labels,
            identity=split.identity,
            protocol=self.protocol(split),
            sharing=sharing(),
        )
        return Tested(evaluation, source, self._encode_seconds, time.perf_counter() - started)

    def on_validation_epoch_start(self) -> None:
        """Drop the encodings of an earlier, possibly interrupted, validation."""
        self._pieces = ([], [])

    def validation_step(self, batch: ImageBatch | TextBatch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Encode a batch of validation images or texts."""
        self._encode(batch)

    def on_validation_epoch_end(self) -> None:
        """Evaluate the selection split and log every metric; the criterion is ``val/selection``."""
        if self.trainer.sanity_checking:
            self._pieces = ([], [])
            return
        data = self._datamodule()
        metrics: Mapping[str, float] = self._evaluate(data.splits[data.evaluation.select_on]).evaluation.metrics
        self.log_dict({f"val/{name}": value for name, value in metrics.items()}, rank_zero_only=False)
        self.log("val/selection", metrics[data.evaluation.criterion], prog_bar=True)

    def on_test_epoch_start(self) -> None:
        """Start the timer of the test."""
        self._pieces = ([], [])
        self._encode_seconds = 0.0

    def test_step(self, batch: ImageBatch | TextBatch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Encode a batch of test images or texts."""
        self._encode(batch)

    def on_test_epoch_end(self) -> None:
        """Evaluate the test split; the result is kept in ``tested``."""
        self.tested = self._evaluate(self._datamodule().splits["test"])
        self.log_dict({f"test/{name}": value for name, value in self.tested.evaluation.metrics.items()})

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Load weights into a built method; tensors of a closed form take the stored shape."""
        if self.closed_form:
            for name, value in state.items():
                self.register_buffer(name, torch.empty_like(value))
        self.load_state_dict(dict(state))
